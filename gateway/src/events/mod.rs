//! Events of buckets, told to webhooks: what waits in the groups' queues, as S3's messages, over HTTP.

mod courier;
mod message;
mod webhook;

pub use courier::{Courier, CourierConfig, TellProgress};
pub use webhook::{WebhookAddress, WebhookAddressError};
