//! One end of a freight line.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Landing;
use crate::ids::Epoch;
use crate::rpc::line::{Frame, FrameReader, FrameWriter, LINE_HEAD_LEN_MAX, LineKeys};
use crate::rpc::{HEAD_LEN_MAX, in_time};
use crate::seams::{Clock, Connection};

/// Bytes that are read while the beginning of a frame is waited for: frames are short, and what is read of the payload behind
/// one has to be copied.
const FRAME_ROOM: usize = 512;

/// Bytes that are read of a payload at a time, at most: what has come is still in the cache when it lands.
const PIECE_LEN_MAX: usize = 512 * 1024;

/// A payload's length, `u32`, big endian: it stands before the head in a frame.
const LEN_LEN: usize = 4;

/// One end of a freight line. Its calls and answers take turns.
pub(in crate::rpc) struct End {
    connection: Box<dyn Connection>,
    clock: Arc<dyn Clock>,
    writer: FrameWriter,
    frames: FrameReader,
    /// Bytes of the payload at hand that have not been taken.
    coming: usize,
    /// Number of the next call.
    call: u32,
}

/// A call or an answer.
pub(in crate::rpc) struct Arrived {
    /// Number of the call.
    pub call: u32,
    /// A verdict in answers, 0 in calls.
    pub kind: u8,
    pub epoch: Epoch,
    /// The service in calls, nothing in answers.
    pub name: Bytes,
    pub head: Bytes,
}

/// A call got no answer.
pub(in crate::rpc) struct Unanswered {
    /// Nothing of it was sent.
    pub unsent: bool,
    pub reason: String,
}

/// Where an end goes that was lent for a payload, unless it is no good any more.
#[derive(Clone, Default)]
pub(in crate::rpc) struct Back(Arc<Mutex<Option<End>>>);

impl Back {
    pub fn give(&self, end: End) {
        *self.0.lock() = Some(end);
    }

    pub fn take(&self) -> Option<End> {
        self.0.lock().take()
    }
}

impl End {
    /// The end that calls.
    pub fn of_caller(
        connection: Box<dyn Connection>,
        keys: &LineKeys,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let reader = FrameReader::new(keys.answers, LEN_LEN + HEAD_LEN_MAX);
        Self::new(connection, FrameWriter::new(keys.calls), reader, clock)
    }

    /// The end that answers.
    pub fn of_answerer(
        connection: Box<dyn Connection>,
        keys: &LineKeys,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let reader = FrameReader::new(keys.calls, LEN_LEN + LINE_HEAD_LEN_MAX + 255);
        Self::new(connection, FrameWriter::new(keys.answers), reader, clock)
    }

    fn new(
        connection: Box<dyn Connection>,
        writer: FrameWriter,
        frames: FrameReader,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            connection,
            clock,
            writer,
            frames,
            coming: 0,
            call: 0,
        }
    }

    /// Whether an idle line can be used: the other side has neither ended it nor said anything unasked.
    pub fn is_usable(&mut self) -> bool {
        let mut unasked = [0];
        self.coming == 0
            && self.frames.buffer.is_empty()
            && self.connection.read(&mut unasked).now_or_never().is_none()
    }

    /// Makes a call; the answer's payload is to be taken afterwards.
    pub async fn call(
        &mut self,
        name: &str,
        epoch: Epoch,
        head: &[u8],
        payload: Bytes,
    ) -> Result<Arrived, Unanswered> {
        let call = self.call;
        self.call = self.call.wrapping_add(1);
        self.send((call, 0, epoch), name, head, payload).await?;
        let silent = |reason| Unanswered {
            unsent: false,
            reason,
        };
        let clock = self.clock.clone();
        let arrived = in_time(&clock, self.receive()).await;
        let arrived = arrived.map_err(silent)?;
        let arrived = arrived.ok_or_else(|| silent("the connection was closed".to_owned()))?;
        match arrived.call == call {
            true => Ok(arrived),
            false => Err(silent("the answer is that of another call".to_owned())),
        }
    }

    /// Sends a call or an answer.
    pub async fn send(
        &mut self,
        fixed: (u32, u8, Epoch),
        name: &str,
        head: &[u8],
        payload: Bytes,
    ) -> Result<(), Unanswered> {
        let Ok(payload_len) = u32::try_from(payload.len()) else {
            return Err(Unanswered {
                unsent: true,
                reason: "the payload is too long".to_owned(),
            });
        };
        let mut body = Vec::with_capacity(LEN_LEN + head.len());
        body.extend_from_slice(&payload_len.to_be_bytes());
        body.extend_from_slice(head);
        let mut frame = Vec::new();
        self.writer.push(&mut frame, fixed, name, &body);
        let mut rest = Buf::chain(&frame[..], payload);
        let len = rest.remaining();
        let (clock, connection) = (&self.clock, &mut self.connection);
        let sent = in_time(clock, async {
            match connection.write_all_buf(&mut rest).await {
                Ok(()) => connection.flush().await,
                Err(error) => Err(error),
            }
            .map_err(|error| error.to_string())
        });
        let sent = sent.await;
        sent.map_err(|reason| Unanswered {
            unsent: rest.remaining() == len,
            reason,
        })
    }

    /// What the other side says next, the last payload having been taken; `None` if it has ended the line.
    pub async fn receive(&mut self) -> Result<Option<Arrived>, String> {
        loop {
            let damaged = |_| "what came was damaged".to_owned();
            if let Some(frame) = self.frames.next().map_err(damaged)? {
                return self.arrived(frame).map(Some);
            }
            let wanted = self.frames.missing().max(FRAME_ROOM);
            let buffer = &mut self.frames.buffer;
            buffer.reserve(wanted);
            let read = self.connection.read_buf(&mut buffer.limit(wanted)).await;
            match read.map_err(|error| error.to_string())? {
                0 if self.frames.buffer.is_empty() => return Ok(None),
                0 => return Err("the connection was closed".to_owned()),
                _ => {}
            }
        }
    }

    fn arrived(&mut self, frame: Frame) -> Result<Arrived, String> {
        let mut head = frame.head;
        if head.len() < LEN_LEN {
            return Err("a message of no known form came".to_owned());
        }
        self.coming = head.get_u32() as usize;
        Ok(Arrived {
            call: frame.call,
            kind: frame.kind,
            epoch: frame.epoch,
            name: frame.name,
            head,
        })
    }

    /// Whether all of the payload has been taken.
    pub fn is_through(&self) -> bool {
        self.coming == 0
    }

    /// Takes the rest of the payload to where it is to lie; `false` where there is no room for all of it.
    pub async fn land(&mut self, landing: &mut dyn Landing) -> Result<bool, String> {
        while self.coming > 0 {
            let room = landing.room();
            if room.is_empty() {
                return Ok(false);
            }
            let len = room.len().min(PIECE_LEN_MAX);
            let landed = self.read(&mut room[..len]).await?;
            landing.landed(landed);
        }
        Ok(true)
    }

    /// The next bytes of the payload; `None` at its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        if self.coming == 0 {
            return Ok(None);
        }
        let mut bytes = BytesMut::zeroed(self.coming.min(64 * 1024));
        let len = self.read(&mut bytes).await?;
        bytes.truncate(len);
        Ok(Some(bytes.freeze()))
    }

    /// Takes what is left of the payload and throws it away.
    pub async fn discard(&mut self) -> Result<(), String> {
        while self.next().await?.is_some() {}
        Ok(())
    }

    /// Says that nothing more will be said.
    pub async fn close(mut self) {
        let _ended = self.connection.shutdown().await;
    }

    /// Some bytes of the payload, at least one.
    async fn read(&mut self, room: &mut [u8]) -> Result<usize, String> {
        let len = room.len().min(self.coming);
        let room = &mut room[..len];
        let ahead = &mut self.frames.buffer;
        let read = if ahead.is_empty() {
            let connection = &mut self.connection;
            in_time(&self.clock, async {
                let read = connection.read(room).await;
                read.map_err(|error| error.to_string())
            })
            .await
        } else {
            let len = len.min(ahead.len());
            ahead.copy_to_slice(&mut room[..len]);
            Ok(len)
        };
        match read? {
            0 => Err("the payload broke off".to_owned()),
            len => {
                self.coming -= len;
                Ok(len)
            }
        }
    }
}
