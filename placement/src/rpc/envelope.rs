//! The header of calls and answers, and its MAC.

use crate::ids::{ClusterId, Epoch, NodeId};
use crate::rpc::line::{LineKeys, NONCE_LEN};
use crate::rpc::{ClusterSecret, HEAD_LEN_MAX, Verdict};

/// Name of the header that calls and answers carry.
pub const ENVELOPE: &str = "x-holdfast-peer";

/// What is authenticated of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CallEnvelope {
    pub from: NodeId,
    pub to: NodeId,
    pub epoch: Epoch,
    pub head_len: u32,
    /// blake3 of the head.
    pub digest: [u8; 32],
}

/// What is authenticated of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AnswerEnvelope {
    pub verdict: Verdict,
    pub epoch: Epoch,
    pub head_len: u32,
    pub digest: [u8; 32],
}

pub(super) type Mac = [u8; 32];

/// Makes and checks MACs (keyed BLAKE3).
#[derive(Clone)]
pub(super) struct Sealer {
    calls: [u8; 32],
    answers: [u8; 32],
    lines: [u8; 32],
}

const CALL_LEN: usize = 1 + 8 + 8 + 8 + 4 + 32;
const ANSWER_LEN: usize = 1 + 1 + 8 + 4 + 32;
const FORMAT: u8 = 1;

impl Sealer {
    pub fn new(secret: &ClusterSecret) -> Self {
        Self {
            calls: secret.key("holdfast 2026 calls between nodes"),
            answers: secret.key("holdfast 2026 answers between nodes"),
            lines: secret.key("holdfast 2026 lines between nodes"),
        }
    }

    /// The header's value and its MAC. `cluster` is the one that the call is meant for, where the other side looks at that: a
    /// secret may be that of two clusters, one of them begun by mistake.
    pub fn seal_call(
        &self,
        service: &str,
        envelope: &CallEnvelope,
        cluster: Option<ClusterId>,
    ) -> (String, Mac) {
        let mut bytes = [0; CALL_LEN + 32];
        bytes[..CALL_LEN].copy_from_slice(&envelope.bytes());
        let mac = self.call_mac(service, &bytes[..CALL_LEN], cluster);
        bytes[CALL_LEN..].copy_from_slice(&mac);
        (hex::encode(bytes), mac)
    }

    /// `None`: not by somebody who knows the secret, or meant for another cluster than `cluster`. Who has no cluster yet, and
    /// nodes of earlier versions, mean none.
    pub fn open_call(
        &self,
        service: &str,
        text: &[u8],
        cluster: ClusterId,
    ) -> Option<(CallEnvelope, Mac)> {
        let mut bytes = [0; CALL_LEN + 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        let (sealed, mac) = bytes.split_at(CALL_LEN);
        let mac: Mac = mac.try_into().ok()?;
        // Compared in constant time by `blake3::Hash`.
        let is_right = |cluster| {
            let expected = self.call_mac(service, sealed, cluster);
            blake3::Hash::from_bytes(expected) == blake3::Hash::from_bytes(mac)
        };
        (is_right(Some(cluster)) || is_right(None)).then_some(())?;
        Some((CallEnvelope::parse(sealed)?, mac))
    }

    fn call_mac(&self, service: &str, sealed: &[u8], cluster: Option<ClusterId>) -> Mac {
        let mut hasher = blake3::Hasher::new_keyed(&self.calls);
        hasher.update(sealed);
        hasher.update(service.as_bytes());
        if let Some(cluster) = cluster {
            // No service's name has such a byte.
            hasher.update(&[0]);
            hasher.update(&cluster.0);
        }
        *hasher.finalize().as_bytes()
    }

    /// The header's value for the answer to the call with `call`.
    pub fn seal_answer(&self, call: &Mac, envelope: &AnswerEnvelope) -> String {
        let mut bytes = [0; ANSWER_LEN + 32];
        bytes[..ANSWER_LEN].copy_from_slice(&envelope.bytes());
        let mac = self.answer_mac(call, &bytes[..ANSWER_LEN]);
        bytes[ANSWER_LEN..].copy_from_slice(&mac);
        hex::encode(bytes)
    }

    /// `None`: not the answer to this call by somebody who knows the secret.
    pub fn open_answer(&self, call: &Mac, text: &[u8]) -> Option<AnswerEnvelope> {
        let mut bytes = [0; ANSWER_LEN + 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        let (sealed, mac) = bytes.split_at(ANSWER_LEN);
        let expected = self.answer_mac(call, sealed);
        let mac: Mac = mac.try_into().ok()?;
        (blake3::Hash::from_bytes(expected) == blake3::Hash::from_bytes(mac)).then_some(())?;
        AnswerEnvelope::parse(sealed)
    }

    /// The keys of a line that was opened by the call with `call`, to which the answerer added `nonce`. The call has a random
    /// head, so neither side can be made to believe what was recorded of another line.
    pub fn line_keys(&self, call: &Mac, nonce: &[u8; NONCE_LEN]) -> LineKeys {
        let key = |direction: u8| {
            let mut hasher = blake3::Hasher::new_keyed(&self.lines);
            hasher.update(call);
            hasher.update(nonce);
            hasher.update(&[direction]);
            *hasher.finalize().as_bytes()
        };
        LineKeys {
            calls: key(0),
            answers: key(1),
        }
    }

    fn answer_mac(&self, call: &Mac, sealed: &[u8]) -> Mac {
        let mut hasher = blake3::Hasher::new_keyed(&self.answers);
        hasher.update(sealed);
        hasher.update(call);
        *hasher.finalize().as_bytes()
    }
}

impl CallEnvelope {
    fn bytes(&self) -> [u8; CALL_LEN] {
        let mut bytes = [0; CALL_LEN];
        bytes[0] = FORMAT;
        bytes[1..9].copy_from_slice(&self.from.0.to_be_bytes());
        bytes[9..17].copy_from_slice(&self.to.0.to_be_bytes());
        bytes[17..25].copy_from_slice(&self.epoch.0.to_be_bytes());
        bytes[25..29].copy_from_slice(&self.head_len.to_be_bytes());
        bytes[29..].copy_from_slice(&self.digest);
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let envelope = Self {
            from: NodeId(number(bytes, 1)?),
            to: NodeId(number(bytes, 9)?),
            epoch: Epoch(number(bytes, 17)?),
            head_len: length(bytes, 25)?,
            digest: bytes.get(29..61)?.try_into().ok()?,
        };
        (bytes[0] == FORMAT).then_some(envelope)
    }
}

impl AnswerEnvelope {
    fn bytes(&self) -> [u8; ANSWER_LEN] {
        let mut bytes = [0; ANSWER_LEN];
        bytes[0] = FORMAT;
        bytes[1] = self.verdict.number();
        bytes[2..10].copy_from_slice(&self.epoch.0.to_be_bytes());
        bytes[10..14].copy_from_slice(&self.head_len.to_be_bytes());
        bytes[14..].copy_from_slice(&self.digest);
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let envelope = Self {
            verdict: Verdict::of(*bytes.get(1)?)?,
            epoch: Epoch(number(bytes, 2)?),
            head_len: length(bytes, 10)?,
            digest: bytes.get(14..46)?.try_into().ok()?,
        };
        (bytes[0] == FORMAT).then_some(envelope)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn length(bytes: &[u8], at: usize) -> Option<u32> {
    let length = u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
    (length as usize <= HEAD_LEN_MAX).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::SeededRng;

    fn call() -> CallEnvelope {
        CallEnvelope {
            from: NodeId(1),
            to: NodeId(2),
            epoch: Epoch(7),
            head_len: 3,
            digest: *blake3::hash(b"abc").as_bytes(),
        }
    }

    #[test]
    fn what_was_sealed_is_opened_and_nothing_else() {
        let sealer = Sealer::new(&ClusterSecret::random(&SeededRng::new(1)));
        let other = Sealer::new(&ClusterSecret::random(&SeededRng::new(2)));
        let (ours, theirs) = (ClusterId([1; 16]), ClusterId([2; 16]));
        let (text, mac) = sealer.seal_call("raft", &call(), Some(ours));
        let opened = Some((call(), mac));
        assert_eq!(sealer.open_call("raft", text.as_bytes(), ours), opened);
        assert_eq!(sealer.open_call("raft", text.as_bytes(), theirs), None);
        assert_eq!(sealer.open_call("shard", text.as_bytes(), ours), None);
        assert_eq!(other.open_call("raft", text.as_bytes(), ours), None);
        // Of who knows no cluster yet.
        let (open, mac) = sealer.seal_call("raft", &call(), None);
        let opened = Some((call(), mac));
        assert_eq!(sealer.open_call("raft", open.as_bytes(), theirs), opened);
        for place in 0..text.len() {
            let mut broken = text.clone().into_bytes();
            broken[place] = if broken[place] == b'0' { b'1' } else { b'0' };
            assert_eq!(sealer.open_call("raft", &broken, ours), None, "{place}");
        }
        let answer = AnswerEnvelope {
            verdict: Verdict::Stale,
            epoch: Epoch(9),
            head_len: 0,
            digest: [0; 32],
        };
        let text = sealer.seal_answer(&mac, &answer);
        assert_eq!(sealer.open_answer(&mac, text.as_bytes()), Some(answer));
        assert_eq!(sealer.open_answer(&[0; 32], text.as_bytes()), None);
        assert_eq!(other.open_answer(&mac, text.as_bytes()), None);
    }
}
