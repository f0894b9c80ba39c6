//! S3's XML: a writer for responses, fast enough for listings, and a strict reader for request bodies.

pub mod lifecycle;
pub mod notification;
mod reader;
pub mod requests;
pub mod versions;
pub mod website;
mod writer;

pub use reader::{Element, Limits, parse};
pub use writer::{XmlWriter, encode_uri_into};

/// The namespace of S3's documents (API reference, "Common data types").
pub const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";
