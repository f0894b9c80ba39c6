//! Lines: one long-lived connection to a node that carries the small calls that nodes make all the time, many at once.
//!
//! A call of its own (see [`super`]) costs a request and a response of HTTP, and a system call or two for each on both
//! sides. On a line what is to be sent while the line is busy leaves together, and answers come as they are ready. A line
//! begins as a call to the service [`LINE`], which has the connection upgraded (RFC 9110, section 7.8); from then on both
//! sides send frames. Calls with payloads, long heads and probes go by connections of their own (payloads by
//! [freight lines](super::freight)), so that nothing large stands in the way of a small call and who answers is seen
//! independently.

mod answerer;
mod caller;
mod frame;

use super::Service;

pub(super) use answerer::Opener;
pub use answerer::{LineServer, LineSlot};
pub(super) use caller::Lines;
pub(super) use frame::{Frame, FrameReader, FrameWriter, LineKeys};

/// The service that makes a connection a line.
pub(super) const LINE: Service = Service {
    name: "line",
    fenced: false,
};

/// What a connection is upgraded to.
pub(super) const PROTOCOL: &str = "holdfast-line";

/// Bytes that each side adds to a line's keys.
pub(super) const NONCE_LEN: usize = 32;

/// Heads of calls that go on a line of either kind, bytes at most.
pub(super) const LINE_HEAD_LEN_MAX: usize = 128 * 1024;

/// Bytes that are asked for of a socket at a time.
const READ_LEN: usize = 64 * 1024;
