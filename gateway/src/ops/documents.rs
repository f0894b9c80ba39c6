//! Memory for XML: request documents while they are worked on, long listings until they are sent. Bodies of objects have
//! the buffer pool; without a bound of their own, documents could take more than all of it.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::{Either, select};
use holdfast_placement::seams::Clock;
use http::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::response;
use crate::error::{Code, S3Error};

/// How long a request waits for memory before it is refused.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Memory that a request document takes with everything that is made of it, in multiples of its length.
const DOCUMENT_FACTOR: usize = 4;

/// Responses up to so many bytes are not counted while they are sent; connections are bounded themselves.
const SMALL_LEN: usize = 64 * 1024;

/// A budget, in KiB.
pub struct DocumentMemory {
    free: Arc<Semaphore>,
    total: usize,
}

/// A share of the budget.
pub struct Share(OwnedSemaphorePermit);

/// A request document, and the memory for it.
pub struct Document {
    bytes: Bytes,
    _share: Share,
}

impl Deref for Document {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1024).max(1)
}

impl DocumentMemory {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        let total = kib(bytes).min(Semaphore::MAX_PERMITS >> 1);
        Self {
            free: Arc::new(Semaphore::new(total)),
            total,
        }
    }

    /// Takes a share of `bytes`, first come, first served; `SlowDown` if there is none in time.
    pub async fn share(&self, bytes: usize, clock: &dyn Clock) -> Result<Share, S3Error> {
        let wanted = kib(bytes).min(self.total) as u32;
        if let Ok(permit) = self.free.clone().try_acquire_many_owned(wanted) {
            return Ok(Share(permit));
        }
        let waiting = std::pin::pin!(self.free.clone().acquire_many_owned(wanted));
        match select(waiting, clock.sleep(WAIT_MAX)).await {
            Either::Left((Ok(permit), _)) => Ok(Share(permit)),
            Either::Left((Err(_), _)) | Either::Right(_) => Err(S3Error::new(Code::SlowDown)),
        }
    }

    /// A share for a request document of `len` bytes.
    pub async fn share_for_request(&self, len: usize, clock: &dyn Clock) -> Result<Share, S3Error> {
        self.share(len.saturating_mul(DOCUMENT_FACTOR), clock).await
    }
}

impl Share {
    /// The document that the share was taken for.
    pub fn of(self, bytes: Bytes) -> Document {
        Document {
            bytes,
            _share: self,
        }
    }

    /// A response that keeps as much of the share as it needs until it is sent.
    pub fn respond(mut self, document: Bytes) -> Response<Body> {
        if document.len() <= SMALL_LEN {
            return response::xml(document);
        }
        let needed = kib(document.len()).min(self.0.num_permits());
        match self.0.split(needed) {
            Some(permit) => response::xml(Bytes::from_owner(Sending {
                document,
                _permit: permit,
            })),
            None => response::xml(document),
        }
    }
}

/// Lives as long as bytes of the document wait to be sent.
struct Sending {
    document: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Sending {
    fn as_ref(&self) -> &[u8] {
        &self.document
    }
}

#[cfg(test)]
mod tests {
    use holdfast_placement::seams::ManualClock;

    use super::*;

    #[tokio::test]
    async fn is_bounded() {
        // Its sleeps are over at once.
        let clock = ManualClock::default();
        let memory = DocumentMemory::new(400 * 1024);
        let share = memory.share_for_request(90 * 1024, &clock).await.unwrap();
        let document = share.of(Bytes::from_static(b"x"));
        let refused = memory.share(41 * 1024, &clock).await;
        assert_eq!(refused.err().unwrap().code, Code::SlowDown);
        drop(document);
        // More than there is means all.
        let all = memory.share(usize::MAX, &clock).await.unwrap();
        let sent = all.respond(Bytes::from(vec![0; 100 * 1024]));
        assert_eq!(memory.free.available_permits(), 300);
        drop(sent);
        assert_eq!(memory.free.available_permits(), 400);
    }
}
