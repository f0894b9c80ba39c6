//! What the tests from outside share: a server process, requests signed and then bent byte by byte, bodies that can
//! be made again from a seed.
//!
//! The binary is taken from `HOLDFAST_BIN`, else from the build directory that the test itself came from.
//! Directories are made under `HOLDFAST_TEST_DIR`, else under the system's temporary directory.

pub mod chunked;
pub mod client;
pub mod cluster;
pub mod connection;
pub mod content;
pub mod damage;
pub mod liar;
pub mod linearizable;
pub mod load;
pub mod race;
pub mod request;
pub mod scratch;
pub mod server;
pub mod traffic;

pub use client::Client;
pub use cluster::{Cluster, ClusterOptions};
pub use connection::{Connection, Response};
pub use content::{Content, Seed};
pub use request::{Keys, Request, Wire};
pub use scratch::Scratch;
pub use server::{Server, ServerOptions};
