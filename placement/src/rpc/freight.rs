//! Freight lines: connections that carry one call at a time, and its payload.
//!
//! On an exchange of HTTP a payload is read into memory of the HTTP library, handed from task to task in pieces, and copied to
//! where it is wanted. A freight line begins like a [line](super::line), with a call to [`FREIGHT`] that has the connection
//! upgraded; from then on call and answer are frames as on a line, with MACs that say where in the line's order they
//! stand. Each says how long its payload is, which follows as it is, and is read by whoever wants it, to where it is to lie
//! ([`Landing`]). A node has as many freight lines to another as it has calls under way, and keeps some that are idle.
//! A line whose call was given up is closed: what still comes on it is nobody's answer.
//!
//! A node of an earlier version opens no freight lines: it is called by HTTP.

mod answerer;
mod end;
mod yard;

use std::time::Duration;

use super::Service;

pub(super) use answerer::answer_freight;
pub(super) use end::{Back, End};
pub(super) use yard::Yard;

/// The service that makes a connection a freight line.
pub(super) const FREIGHT: Service = Service {
    name: "freight",
    fenced: false,
};

/// What a connection is upgraded to.
pub(super) const FREIGHT_PROTOCOL: &str = "holdfast-freight";

/// How long a caller keeps an idle line: well below what the answerer does, so that it does not end under a call.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// How long an answerer waits for a call.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What is said where a payload is longer than was wanted.
pub(super) const TOO_MUCH: &str = "more came than was asked for";

/// Where a payload goes as it comes.
pub trait Landing: Send {
    /// Where the next bytes are to lie; empty when no more are wanted.
    fn room(&mut self) -> &mut [u8];

    /// The first `len` bytes of the room have come.
    fn landed(&mut self, len: usize);
}

/// Copies bytes to where they are to lie; `false` where there is no room for all of them.
pub(super) fn put_down(mut bytes: &[u8], landing: &mut dyn Landing) -> bool {
    while !bytes.is_empty() {
        let room = landing.room();
        let len = room.len().min(bytes.len());
        let (piece, rest) = bytes.split_at(len);
        if len == 0 {
            return false;
        }
        room[..len].copy_from_slice(piece);
        landing.landed(len);
        bytes = rest;
    }
    true
}
