//! Calls with payloads over loopback: one connection, one call at a time.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test, on the system's clock"
)]

mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use holdfast_placement::ids::{Epoch, NodeId};
use holdfast_placement::rpc::{Answer, CallError, Landing, Payload, PeerServer, Reply, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use wire::{Wire, lay, secret, until};

/// Answers head and payload.
const ECHO: Service = Service {
    name: "echo",
    fenced: true,
};
/// Answers without having looked at the payload.
const DEAF: Service = Service {
    name: "deaf",
    fenced: false,
};
/// Waits for leave before it answers.
const SLOW: Service = Service {
    name: "slow",
    fenced: false,
};
const OTHER: NodeId = NodeId(2);

/// Lands in memory.
struct Heap {
    bytes: Vec<u8>,
    len: usize,
}

impl Heap {
    fn new(room: usize) -> Self {
        Self {
            bytes: vec![0; room],
            len: 0,
        }
    }

    fn landed(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Landing for Heap {
    fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.len..]
    }

    fn landed(&mut self, len: usize) {
        self.len += len;
    }
}

struct Pair {
    caller: Wire,
    callee: Wire,
    calls: Arc<AtomicUsize>,
    leave: Arc<Notify>,
}

fn offer(server: &mut PeerServer, calls: &Arc<AtomicUsize>, leave: &Arc<Notify>) {
    let counted = calls.clone();
    server.offer(
        ECHO,
        Box::new(move |mut call| {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                let mut came = Heap::new(8 << 20);
                call.payload.land(&mut came).await?;
                Ok(Answer {
                    head: call.head,
                    payload: Payload::Whole(came.landed().to_vec().into()),
                })
            })
        }),
    );
    server.offer(
        DEAF,
        Box::new(|call| Box::pin(async move { Ok(Answer::head(call.head)) })),
    );
    let (counted, leave) = (calls.clone(), leave.clone());
    server.offer(
        SLOW,
        Box::new(move |call| {
            counted.fetch_add(1, Ordering::Relaxed);
            let leave = leave.clone();
            Box::pin(async move {
                leave.notified().await;
                Ok(Answer::head(call.head))
            })
        }),
    );
}

/// Two nodes; the second serves.
async fn pair() -> Pair {
    let (map, mut listeners) = lay(2).await;
    let secret = secret(1);
    let caller = Wire::new(NodeId(1), map.clone(), &secret);
    let mut callee = Wire::new(OTHER, map, &secret);
    let (calls, leave) = (Arc::default(), Arc::default());
    let mut server = callee.server(&secret);
    offer(&mut server, &calls, &leave);
    callee.serve(listeners.remove(1), server);
    Pair {
        caller,
        callee,
        calls,
        leave,
    }
}

fn content(seed: u32, len: usize) -> Bytes {
    let byte = |at: usize| (at as u32).wrapping_mul(2_654_435_761 ^ seed).to_be_bytes()[1];
    (0..len).map(byte).collect()
}

async fn send(
    wire: &Wire,
    service: Service,
    head: &Bytes,
    payload: &Bytes,
) -> Result<Reply, CallError> {
    let payload = Payload::Whole(payload.clone());
    wire.peers.send(OTHER, service, head.clone(), payload).await
}

/// The echo of a payload.
async fn echo(wire: &Wire, head: &Bytes, payload: &Bytes) -> Result<Vec<u8>, CallError> {
    let mut reply = send(wire, ECHO, head, payload).await?;
    assert_eq!(reply.head, head);
    let mut back = Heap::new(payload.len());
    reply.land(&mut back).await?;
    Ok(back.landed().to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_of_any_length_land_where_they_are_wanted_over_one_connection() {
    let pair = pair().await;
    for (number, len) in [0, 1, 400, 511, 512, 513, 70_000, 5_000_000]
        .into_iter()
        .enumerate()
    {
        let (head, payload) = (content(1, number * 1000), content(2, len));
        assert!(echo(&pair.caller, &head, &payload).await.unwrap() == payload);
        // Likewise in pieces.
        let mut reply = send(&pair.caller, ECHO, &head, &payload).await.unwrap();
        let mut back = Vec::new();
        while let Some(bytes) = reply.next().await.unwrap() {
            back.extend_from_slice(&bytes);
        }
        assert!(back == payload, "{len} bytes");
    }
    assert_eq!(pair.callee.accepted.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_nobody_takes_is_in_nobodys_way() {
    let pair = pair().await;
    let (head, payload) = (Bytes::from_static(b"head"), content(3, 5_000_000));
    for _ in 0..3 {
        let reply = send(&pair.caller, DEAF, &head, &payload).await.unwrap();
        assert_eq!(reply.head, head);
        assert!(echo(&pair.caller, &head, &payload).await.unwrap() == payload);
    }
    // Nor one that is longer than its taker wants.
    let long = content(4, (8 << 20) + 1);
    let refused = send(&pair.caller, ECHO, &head, &long).await;
    assert!(matches!(refused, Err(CallError::Failed { .. })));
    assert!(echo(&pair.caller, &head, &payload).await.unwrap() == payload);
    assert_eq!(pair.callee.accepted.load(Ordering::Relaxed), 1);

    let mut reply = send(&pair.caller, ECHO, &head, &payload).await.unwrap();
    let mut small = Heap::new(1000);
    let landed = reply.land(&mut small).await;
    assert!(matches!(landed, Err(CallError::Failed { .. })));
    assert_eq!(small.landed(), &payload[..1000]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_with_an_old_map_gets_the_new_one_and_calls_again() {
    let pair = pair().await;
    let payload = content(5, 3_000_000);
    let head = Bytes::from_static(b"head");
    for epoch in 5..8 {
        let mut newer = pair.callee.map.load().as_ref().clone();
        newer.epoch = Epoch(epoch);
        pair.callee.map.update(newer);
        assert!(echo(&pair.caller, &head, &payload).await.unwrap() == payload);
        assert_eq!(pair.caller.map.load().epoch, Epoch(epoch));
    }
    assert_eq!(pair.calls.load(Ordering::Relaxed), 3, "none was done twice");
    assert_eq!(pair.callee.accepted.load(Ordering::Relaxed), 1);
}

/// Whatever a caller gives up, the next call gets its own answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_to_a_call_that_was_given_up_is_nobodys() {
    let pair = pair().await;
    for round in 0..20u32 {
        let payload = content(round, 2_000_000);
        let head = Bytes::copy_from_slice(&round.to_be_bytes());
        // A call that was given up before it was heard has left its leave behind: this one's answer must not be let go by it.
        while pair.leave.notified().now_or_never().is_some() {}
        // Given up before the answer.
        let given_up = send(&pair.caller, SLOW, &head, &payload);
        let soon = Duration::from_millis(u64::from(round % 5));
        assert!(tokio::time::timeout(soon, given_up).await.is_err());
        // Given up in the middle of the answer's payload.
        let mut reply = send(&pair.caller, ECHO, &head, &payload).await.unwrap();
        reply.next().await.unwrap().unwrap();
        drop(reply);
        // Only now is the first answered.
        pair.leave.notify_one();
        let payload = content(1000 + round, 100_000);
        let head = Bytes::from(vec![7; round as usize]);
        assert!(echo(&pair.caller, &head, &payload).await.unwrap() == payload);
    }
    assert!(pair.callee.accepted.load(Ordering::Relaxed) > 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_that_the_other_side_closed_cost_nothing() {
    let mut pair = pair().await;
    let (head, payload) = (Bytes::from_static(b"head"), content(6, 100_000));
    let callers: Vec<_> = (0..4)
        .map(|_| echo(&pair.caller, &head, &payload))
        .collect();
    for back in futures_util::future::join_all(callers).await {
        assert!(back.unwrap() == payload);
    }
    pair.callee.close();
    let mut listener = TcpListener::bind(pair.callee.address).await;
    while listener.is_err() {
        tokio::task::yield_now().await;
        listener = TcpListener::bind(pair.callee.address).await;
    }
    let mut server = pair.callee.server(&secret(1));
    offer(&mut server, &pair.calls, &pair.leave);
    pair.callee.serve(listener.unwrap(), server);
    // A first call that is sent before word of the end has come may have been done: it is not sent again by itself.
    let first = echo(&pair.caller, &head, &payload).await;
    assert!(matches!(first, Ok(_) | Err(CallError::NoAnswer { .. })));
    assert!(echo(&pair.caller, &head, &payload).await.unwrap() == payload);
}

/// Who stops answers the call at hand and ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_answers_what_was_asked() {
    let mut pair = pair().await;
    let (head, payload) = (Bytes::from_static(b"head"), content(7, 100_000));
    let asked = {
        let (peers, head, payload) = (
            pair.caller.peers.clone(),
            head.clone(),
            Payload::Whole(payload),
        );
        tokio::spawn(async move { peers.send(OTHER, SLOW, head, payload).await })
    };
    until("asked", || pair.calls.load(Ordering::Relaxed) == 1).await;
    // One that has nothing to do ends at once.
    send(&pair.caller, DEAF, &head, &Bytes::new())
        .await
        .unwrap();
    pair.callee.stop();
    pair.leave.notify_one();
    assert_eq!(asked.await.unwrap().unwrap().head, head);
}

/// A node of a version that knows nothing of freight lines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_opens_no_freight_lines_is_called_by_http() {
    let (map, mut listeners) = lay(2).await;
    let secret = secret(1);
    let caller = Wire::new(NodeId(1), map.clone(), &secret);
    let mut callee = Wire::new(OTHER, map, &secret);
    callee.opens_lines = false;
    let mut server = callee.server(&secret);
    let calls = Arc::default();
    offer(&mut server, &calls, &Arc::default());
    callee.serve(listeners.remove(1), server);
    for len in [0, 100, 5_000_000] {
        let (head, payload) = (Bytes::from_static(b"head"), content(8, len));
        assert!(echo(&caller, &head, &payload).await.unwrap() == payload);
        let mut reply = send(&caller, ECHO, &head, &payload).await.unwrap();
        if len > 0 {
            let landed = reply.land(&mut Heap::new(len - 1)).await;
            assert!(matches!(landed, Err(CallError::Failed { .. })));
        }
    }
    assert_eq!(calls.load(Ordering::Relaxed), 6);
}

/// Between two nodes: passes everything on until it is told otherwise.
struct Between {
    /// Passes nothing more, and says nothing of it.
    silent: Arc<AtomicBool>,
}

/// What becomes of the bytes from the other node.
#[derive(Clone, Copy)]
enum Fate {
    /// From this byte on nothing passes, and both sides hear of it.
    Cut(usize),
    /// From this byte on nothing passes, and nobody hears of it.
    Silence(usize),
    /// One bit of this byte is wrong.
    Wrong(usize),
}

impl Between {
    /// A way to `callee` for a caller with its own connections.
    async fn lay(pair: &Pair, outward: Option<Fate>, inward: Option<Fate>) -> (Self, Wire) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut map = pair.caller.map.load().as_ref().clone();
        map.nodes[1].address = listener.local_addr().unwrap().to_string();
        let caller = Wire::new(NodeId(1), map, &secret(1));
        let silent: Arc<AtomicBool> = Arc::default();
        let (to, hushed) = (pair.callee.address, silent.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(to).await.unwrap();
                let (near_out, near_in) = near.into_split();
                let (far_out, far_in) = far.into_split();
                tokio::spawn(pass(near_out, far_in, outward, hushed.clone()));
                tokio::spawn(pass(far_out, near_in, inward, hushed.clone()));
            }
        });
        (Self { silent }, caller)
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    fate: Option<Fate>,
    silent: Arc<AtomicBool>,
) {
    let mut passed = 0;
    let mut bytes = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut bytes).await {
        let reached = |at: usize| passed + len > at;
        match fate {
            Some(Fate::Cut(at)) if reached(at) => return,
            Some(Fate::Silence(at)) if reached(at) => silent.store(true, Ordering::Relaxed),
            Some(Fate::Wrong(at)) if reached(at) && passed <= at => bytes[at - passed] ^= 1,
            _ => {}
        }
        passed += len;
        if silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if to.write_all(&bytes[..len]).await.is_err() {
            return;
        }
    }
}

/// A payload of which a part is lost is an error at once, or when its sender is suspected of being gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_breaks_off_is_an_error_at_either_end() {
    let pair = pair().await;
    let (head, payload) = (Bytes::from_static(b"head"), content(9, 3_000_000));
    let (_between, cut) = Between::lay(&pair, None, Some(Fate::Cut(1_000_000))).await;
    let mut reply = send(&cut, ECHO, &head, &payload).await.unwrap();
    let mut back = Heap::new(payload.len());
    let landed = reply.land(&mut back).await;
    assert!(matches!(landed, Err(CallError::NoAnswer { .. })));
    assert!(back.landed().len() < 1_000_000 && payload.starts_with(back.landed()));

    let (_between, cut) = Between::lay(&pair, Some(Fate::Cut(1_000_000)), None).await;
    let answer = send(&cut, ECHO, &head, &payload).await;
    assert!(matches!(answer, Err(CallError::NoAnswer { .. })));

    let (between, mute) = Between::lay(&pair, None, Some(Fate::Silence(1_000_000))).await;
    let (_stop, stopped) = watch::channel(false);
    let mut reply = send(&mute, ECHO, &head, &payload).await.unwrap();
    tokio::spawn(mute.peers.clone().run_probes(stopped));
    let landed = reply.land(&mut Heap::new(payload.len())).await;
    assert!(matches!(landed, Err(CallError::NoAnswer { .. })));
    assert!(between.silent.load(Ordering::Relaxed));
    assert!(mute.peers.health().is_suspect(OTHER));
}

/// What is changed on its way is no call and no answer. (Of payloads their services know the checksums.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_was_changed_on_its_way_is_an_error() {
    let pair = pair().await;
    let head = content(10, 3000);
    let (_between, plain) = Between::lay(&pair, None, None).await;
    for _ in 0..20 {
        echo(&plain, &head, &Bytes::new()).await.unwrap();
    }
    // Lines are opened within a thousand bytes; frames have three thousand.
    for (outward, inward) in [
        (Some(Fate::Wrong(2_500)), None),
        (None, Some(Fate::Wrong(2_500))),
        (Some(Fate::Wrong(7_000)), None),
        (None, Some(Fate::Wrong(7_000))),
    ] {
        let (_between, through) = Between::lay(&pair, outward, inward).await;
        let before = pair.calls.load(Ordering::Relaxed);
        let mut errors = 0;
        for _ in 0..5 {
            match echo(&through, &head, &Bytes::new()).await {
                Ok(back) => assert!(back.is_empty()),
                Err(error) => {
                    assert!(matches!(error, CallError::NoAnswer { .. }), "{error}");
                    errors += 1;
                }
            }
        }
        assert!(errors > 0);
        let done = pair.calls.load(Ordering::Relaxed) - before;
        let answered = 5 - errors;
        let lost = if outward.is_some() { 0 } else { errors };
        assert_eq!(done, answered + lost, "what was changed was not done");
    }
}
