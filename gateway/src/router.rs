//! From method, host, path and query to a bucket, a key and an operation
//! (user guide, "Virtual hosting of general purpose buckets"; API reference, "Actions").

mod operation;
mod query;
mod target;

#[cfg(test)]
pub use operation::BUCKET_ABSENT;
pub use operation::{Needs, Operation, not_implemented, refuse_unsupported_headers, route};
pub use query::{Query, percent_decode};
pub use target::{KEY_LEN_MAX, Target, validate_bucket_name, validate_key, virtual_bucket};
