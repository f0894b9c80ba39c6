//! Heads and payloads as bodies of HTTP.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

use super::Payload;

/// A head and a payload as the body of a request or a response.
pub(super) struct CallBody {
    pub head: Option<Bytes>,
    pub payload: Payload,
}

impl Body for CallBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(head) = self.head.take()
            && !head.is_empty()
        {
            return Poll::Ready(Some(Ok(Frame::data(head))));
        }
        match &mut self.payload {
            Payload::None => Poll::Ready(None),
            Payload::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.payload = Payload::None;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Payload::Pieces(pieces) => {
                let piece = ready!(pieces.poll_recv(cx));
                Poll::Ready(match piece {
                    Some(Ok(Some(bytes))) => Some(Ok(Frame::data(bytes))),
                    Some(Ok(None)) => {
                        self.payload = Payload::None;
                        None
                    }
                    Some(Err(error)) => Some(Err(io::Error::other(error))),
                    None => Some(Err(io::Error::other("the payload broke off"))),
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.head.as_ref().is_none_or(Bytes::is_empty)
            && match &self.payload {
                Payload::None => true,
                Payload::Whole(bytes) => bytes.is_empty(),
                Payload::Pieces(_) => false,
            }
    }

    fn size_hint(&self) -> SizeHint {
        let head = self.head.as_ref().map_or(0, Bytes::len) as u64;
        match &self.payload {
            Payload::None => SizeHint::with_exact(head),
            Payload::Whole(bytes) => SizeHint::with_exact(head + bytes.len() as u64),
            Payload::Pieces(_) => SizeHint::default(),
        }
    }
}

/// The first `len` bytes of a body, and what came with them.
pub(super) async fn read_exactly<B>(body: &mut B, len: usize) -> Result<(Bytes, Bytes), String>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut first = Bytes::new();
    while first.is_empty() && len > 0 {
        first = next_bytes(body).await?.ok_or("the message ended early")?;
    }
    if first.len() >= len {
        let head = first.split_to(len);
        return Ok((head, first));
    }
    let mut whole = BytesMut::with_capacity(len);
    whole.extend_from_slice(&first);
    while whole.len() < len {
        let mut next = next_bytes(body).await?.ok_or("the message ended early")?;
        let take = next.len().min(len - whole.len());
        whole.extend_from_slice(&next.split_to(take));
        if whole.len() == len {
            return Ok((whole.freeze(), next));
        }
    }
    Ok((whole.freeze(), Bytes::new()))
}

pub(super) async fn next_bytes<B>(body: &mut B) -> Result<Option<Bytes>, String>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| error.to_string())?;
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            return Ok(Some(data));
        }
    }
    Ok(None)
}
