//! The answering end of freight lines.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{self, Either};

use super::end::Arrived;
use super::{Back, End, SILENCE_MAX};
use crate::ids::NodeId;
use crate::rpc::{CallPayload, Payload, PeerServer, Verdict};
use crate::seams::Clock;

/// Answers one call after the other until the caller ends the line or is silent for long, or `stop` completes: then the call at
/// hand is answered.
pub(in crate::rpc) async fn answer_freight(
    server: &PeerServer,
    from: NodeId,
    mut end: End,
    clock: &Arc<dyn Clock>,
    stop: impl Future<Output = ()>,
) {
    let mut stop = std::pin::pin!(stop);
    let reason = loop {
        let call = {
            let ends = future::select(stop.as_mut(), clock.sleep(SILENCE_MAX));
            let receiving = std::pin::pin!(end.receive());
            match future::select(ends, receiving).await {
                Either::Left(_) => None,
                Either::Right((Ok(call), _)) => call,
                Either::Right((Err(reason), _)) => break reason,
            }
        };
        let Some(call) = call else {
            return end.close().await;
        };
        end = match answer(server, from, end, call).await {
            Ok(end) => end,
            Err(reason) => break reason,
        };
    };
    tracing::debug!(%from, "a freight line has ended: {reason}");
}

/// Answers a call; an error where the line cannot be used any more.
async fn answer(server: &PeerServer, from: NodeId, end: End, call: Arrived) -> Result<End, String> {
    let name = String::from_utf8_lossy(&call.name);
    let back = Back::default();
    let payload = CallPayload::of_freight(end, back.clone());
    let (verdict, answer) = server
        .decide(&name, from, call.epoch, call.head, payload)
        .await;
    let mut end = back.take().ok_or("a payload did not come whole")?;
    // The caller listens when it has sent everything.
    end.discard().await?;
    let (verdict, head, payload) = match answer.payload {
        Payload::None => (verdict, answer.head, Bytes::new()),
        Payload::Whole(bytes) => (verdict, answer.head, bytes),
        Payload::Pieces(_) => {
            let reason = "this service's answers come in pieces: it is not for freight lines";
            (Verdict::Failed, Bytes::from(reason), Bytes::new())
        }
    };
    let fixed = (call.call, verdict.number(), server.epoch());
    let sent = end.send(fixed, "", &head, payload).await;
    sent.map_err(|error| error.reason)?;
    Ok(end)
}
