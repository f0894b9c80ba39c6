//! Going through an extent record by record.

use std::sync::Arc;

use super::disk::{DiskError, DiskFile, PAGE_LEN};
use super::record::{Header, Location, Nonce};
use crate::buffer::{Buffer, BufferPool};

/// How much is read at once where no record is found, bytes.
const WINDOW_LEN: usize = 256 * 1024;

/// How often a read that fails is tried again: an error that passes must not cost a record.
const READ_ATTEMPTS: usize = 3;

/// Finds the records of an extent, in order. Where there is no valid header (a torn write, a hole, a bad sector) it
/// looks at each page until there is one.
pub(super) struct Walk {
    file: Arc<dyn DiskFile>,
    extent: u64,
    nonce: Nonce,
    pool: BufferPool,
    at: u64,
    end: u64,
    window: Option<Window>,
    /// The last page was not a header: many that follow may not be either.
    lost: bool,
    /// Pages that could not be read.
    pub unreadable_pages: u64,
    /// From here on there was nothing but zeros.
    pub data_end: u64,
}

struct Window {
    start: u64,
    buffer: Buffer,
}

impl Walk {
    /// Records at `from` or later that begin before `end`, bytes.
    pub fn new(
        file: Arc<dyn DiskFile>,
        extent: u64,
        nonce: Nonce,
        pool: &BufferPool,
        from: u64,
        end: u64,
    ) -> Self {
        Self {
            file,
            extent,
            nonce,
            pool: pool.clone(),
            at: from,
            end,
            window: None,
            lost: false,
            unreadable_pages: 0,
            data_end: from,
        }
    }

    /// The next record's header; its payload may still be torn, but lies within the extent.
    pub async fn next(&mut self) -> Result<Option<Header>, DiskError> {
        while self.at + PAGE_LEN as u64 <= self.end {
            let location = Location {
                extent: self.extent,
                offset: self.at,
            };
            let nonce = self.nonce;
            let mut blank = false;
            let mut header = None;
            // Where a record should begin, what is wrong once may be right when read again.
            for _ in 0..READ_ATTEMPTS {
                let page = self.page().await?;
                blank = page.is_some_and(|page| page.iter().all(|byte| *byte == 0));
                header = page.and_then(|page| Header::decode(page, location, &nonce).ok());
                if self.lost || blank || header.is_some() {
                    break;
                }
                self.window = None;
            }
            if let Some(header) = header {
                let next = self.at + header.shard.record_len();
                if next <= self.end {
                    self.at = next;
                    self.data_end = next;
                    self.lost = false;
                    return Ok(Some(header));
                }
            }
            self.at += PAGE_LEN as u64;
            self.lost = true;
            if !blank {
                self.data_end = self.at;
            }
        }
        Ok(None)
    }

    /// The page at hand; `None` if it cannot be read.
    async fn page(&mut self) -> Result<Option<&[u8]>, DiskError> {
        if self.window_page().is_none() {
            let wanted = if self.lost { WINDOW_LEN } else { PAGE_LEN };
            let len = (self.end - self.at).min(wanted as u64) as usize / PAGE_LEN * PAGE_LEN;
            self.window = None;
            self.window = self.read(len).await?;
            if self.window.is_none() && len > PAGE_LEN {
                self.window = self.read(PAGE_LEN).await?;
            }
            if self.window.is_none() {
                self.unreadable_pages += 1;
            }
        }
        Ok(self.window_page())
    }

    fn window_page(&self) -> Option<&[u8]> {
        let window = self.window.as_ref()?;
        let start = self.at.checked_sub(window.start)? as usize;
        window.buffer.payload().get(start..start + PAGE_LEN)
    }

    async fn read(&self, len: usize) -> Result<Option<Window>, DiskError> {
        for _ in 0..READ_ATTEMPTS {
            let buffer = self.pool.acquire(len).await;
            let buffer = buffer.map_err(|error| DiskError::Io(error.to_string()))?;
            match self.file.read(buffer, self.at, len).await {
                Ok(buffer) => {
                    return Ok(Some(Window {
                        start: self.at,
                        buffer,
                    }));
                }
                Err(gone @ DiskError::Gone(_)) => return Err(gone),
                Err(_) => {}
            }
        }
        Ok(None)
    }
}
