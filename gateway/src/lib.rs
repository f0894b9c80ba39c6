//! Speaks S3: HTTP, authentication, operations, and the way of object bodies.

pub mod auth;
pub mod body;
pub mod checksum;
pub mod error;
pub mod events;
pub mod md5_lanes;
pub mod ops;
pub mod payload;
pub mod router;
pub mod server;
pub mod xml;
