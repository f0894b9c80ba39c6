//! Calls between nodes over loopback.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test, on the system's clock"
)]

mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_placement::ids::{Epoch, NodeId};
use holdfast_placement::rpc::{Answer, CallError, Payload, PeerServer, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use wire::{Wire, lay, secret, until};

const ECHO: Service = Service {
    name: "echo",
    fenced: true,
};
const OPEN: Service = Service {
    name: "open",
    fenced: false,
};
const TIME: Duration = Duration::from_secs(10);

/// Answers the head and the payload; counts its calls.
fn offer_echo(server: &mut PeerServer, service: Service, calls: Arc<AtomicUsize>) {
    server.offer(
        service,
        Box::new(move |mut call| {
            calls.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                let mut payload = Vec::new();
                while let Some(bytes) = call.payload.next().await? {
                    payload.extend_from_slice(&bytes);
                }
                Ok(Answer {
                    head: call.head,
                    payload: Payload::Whole(payload.into()),
                })
            })
        }),
    );
}

/// Two nodes; the second serves.
async fn pair() -> (Wire, Wire, Arc<AtomicUsize>) {
    let (map, mut listeners) = lay(2).await;
    let secret = secret(1);
    let caller = Wire::new(NodeId(1), map.clone(), &secret);
    let mut callee = Wire::new(NodeId(2), map, &secret);
    let calls = Arc::new(AtomicUsize::new(0));
    let mut server = callee.server(&secret);
    offer_echo(&mut server, ECHO, calls.clone());
    offer_echo(&mut server, OPEN, calls.clone());
    callee.serve(listeners.remove(1), server);
    (caller, callee, calls)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_payloads_come_back() {
    let (caller, _callee, calls) = pair().await;
    for len in [0usize, 1, 100, 300_000] {
        let head = Bytes::from(vec![7; len]);
        let back = caller.peers.call(NodeId(2), ECHO, head.clone(), TIME).await;
        assert_eq!(back.unwrap(), head);
    }
    let payload = Bytes::from((0..5_000_000u32).map(|n| n as u8).collect::<Vec<_>>());
    let (tx, rx) = mpsc::channel(1);
    let pieces = payload.clone();
    tokio::spawn(async move {
        for piece in pieces.chunks(70_000) {
            tx.send(Ok(Some(Bytes::copy_from_slice(piece))))
                .await
                .unwrap();
        }
        tx.send(Ok(None)).await.unwrap();
    });
    for sent in [Payload::Whole(payload.clone()), Payload::Pieces(rx)] {
        let head = Bytes::from_static(b"head");
        let mut reply = caller
            .peers
            .send(NodeId(2), ECHO, head, sent)
            .await
            .unwrap();
        let mut back = Vec::new();
        while let Some(bytes) = reply.next().await.unwrap() {
            back.extend_from_slice(&bytes);
        }
        assert_eq!(reply.head, "head");
        assert!(back == payload, "{} bytes came back", back.len());
    }
    assert_eq!(calls.load(Ordering::Relaxed), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_breaks_off_is_an_error() {
    let (caller, _callee, _) = pair().await;
    let (tx, rx) = mpsc::channel(1);
    tokio::spawn(async move {
        tx.send(Ok(Some(Bytes::from(vec![1; 100_000]))))
            .await
            .unwrap();
        // Dropped without an end.
    });
    let sent = caller
        .peers
        .send(NodeId(2), ECHO, Bytes::new(), Payload::Pieces(rx));
    let answer = sent.await;
    assert!(
        matches!(
            answer,
            Err(CallError::NoAnswer { .. } | CallError::Failed { .. })
        ),
        "{:?}",
        answer.err()
    );
    // The next call has another connection.
    caller
        .peers
        .call(NodeId(2), ECHO, Bytes::new(), TIME)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_know_the_secret_gets_nothing() {
    let (caller, callee, calls) = pair().await;
    let stranger = Wire::new(NodeId(1), caller.map.load().as_ref().clone(), &secret(2));
    for service in [ECHO, OPEN] {
        let refused = stranger
            .peers
            .call(NodeId(2), service, Bytes::new(), TIME)
            .await;
        assert!(
            matches!(refused, Err(CallError::Unreachable { .. })),
            "{refused:?}"
        );
    }
    for header in ["", "x-holdfast-peer: 00\r\n", "authorization: Bearer x\r\n"] {
        let mut stream = TcpStream::connect(callee.address).await.unwrap();
        let request = format!(
            "POST /-/peer/open HTTP/1.1\r\nhost: x\r\n{header}content-length: 0\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert!(answer.contains("content-length: 0"), "{answer}");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_with_an_old_map_gets_the_new_one_and_calls_again() {
    let (caller, callee, calls) = pair().await;
    let mut newer = callee.map.load().as_ref().clone();
    newer.epoch = Epoch(5);
    callee.map.update(newer.clone());
    caller
        .peers
        .call(NodeId(2), OPEN, Bytes::new(), TIME)
        .await
        .unwrap();
    assert_eq!(caller.map.load().epoch, Epoch(1));
    caller
        .peers
        .call(NodeId(2), ECHO, Bytes::new(), TIME)
        .await
        .unwrap();
    assert_eq!(caller.map.load().epoch, Epoch(5));
    assert_eq!(calls.load(Ordering::Relaxed), 2);

    // What cannot be sent twice is not done at all.
    newer.epoch = Epoch(6);
    callee.map.update(newer);
    let (tx, rx) = mpsc::channel(1);
    tx.send(Ok(None)).await.unwrap();
    let sent = caller
        .peers
        .send(NodeId(2), ECHO, Bytes::new(), Payload::Pieces(rx));
    assert!(sent.await.err().unwrap().is_void());
    assert_eq!(caller.map.load().epoch, Epoch(6));
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_took_the_address_of_another_does_nothing_for_it() {
    let (caller, _callee, calls) = pair().await;
    let mut map = caller.map.load().as_ref().clone();
    let address = map.node(NodeId(2)).unwrap().address.clone();
    map.nodes[0].address = address;
    map.epoch = Epoch(1);
    let other = Wire::new(NodeId(2), map, &secret(1));
    let refused = other.peers.call(NodeId(1), OPEN, Bytes::new(), TIME).await;
    assert!(
        matches!(refused, Err(CallError::Unreachable { .. })),
        "{refused:?}"
    );
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_gone_is_suspected_and_found_again() {
    let (caller, mut callee, _) = pair().await;
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    tokio::spawn(caller.peers.clone().run_probes(stopped));
    until("a report", || {
        caller.peers.health().report(NodeId(2)) == [1u8][..]
    })
    .await;
    callee.close();
    until("suspected", || caller.peers.health().is_suspect(NodeId(2))).await;
    let refused = caller.peers.call(NodeId(2), ECHO, Bytes::new(), TIME).await;
    assert!(refused.err().unwrap().is_void());
    let listener = TcpListener::bind(callee.address).await.unwrap();
    let mut server = callee.server(&secret(1));
    offer_echo(&mut server, ECHO, Arc::default());
    callee.serve(listener, server);
    until("found again", || {
        !caller.peers.health().is_suspect(NodeId(2))
    })
    .await;
    caller
        .peers
        .call(NodeId(2), ECHO, Bytes::new(), TIME)
        .await
        .unwrap();
}

/// Connections that the other side closed while they were idle cost nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_survive_a_restart_of_the_other_side() {
    let (caller, mut callee, _) = pair().await;
    for _ in 0..3 {
        let call = || caller.peers.call(NodeId(2), ECHO, Bytes::new(), TIME);
        let mut answer = call().await;
        // One that is sent before word of the end has come may have been done: it is not sent again by itself.
        if matches!(answer, Err(CallError::NoAnswer { .. })) {
            answer = call().await;
        }
        answer.unwrap();
        callee.close();
        let mut listener = TcpListener::bind(callee.address).await;
        while listener.is_err() {
            tokio::task::yield_now().await;
            listener = TcpListener::bind(callee.address).await;
        }
        let mut server = callee.server(&secret(1));
        offer_echo(&mut server, ECHO, Arc::default());
        callee.serve(listener.unwrap(), server);
    }
}

/// Small calls share one connection, and none waits for another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_go_over_one_line_and_none_waits_for_another() {
    let (map, mut listeners) = lay(2).await;
    let secret = secret(1);
    let caller = Wire::new(NodeId(1), map.clone(), &secret);
    let mut callee = Wire::new(NodeId(2), map, &secret);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let mut server = callee.server(&secret);
    offer_echo(&mut server, ECHO, Arc::default());
    let opened = gate.clone();
    server.offer(
        OPEN,
        Box::new(move |call| {
            let opened = opened.clone();
            Box::pin(async move {
                let _permit = opened.acquire().await.map_err(|error| error.to_string())?;
                Ok(Answer::head(call.head))
            })
        }),
    );
    callee.serve(listeners.remove(1), server);
    let head = |number: u32| Bytes::copy_from_slice(&number.to_be_bytes());
    let waiting: Vec<_> = (0..100)
        .map(|number| {
            let peers = caller.peers.clone();
            let head = head(number);
            tokio::spawn(async move { peers.call(NodeId(2), OPEN, head, TIME).await })
        })
        .collect();
    let calls = (100..1100).map(|number| {
        let (peers, head) = (&caller.peers, head(number));
        async move { (head.clone(), peers.call(NodeId(2), ECHO, head, TIME).await) }
    });
    for (sent, back) in futures_util::future::join_all(calls).await {
        assert_eq!(back.unwrap(), sent);
    }
    assert!(waiting.iter().all(|call| !call.is_finished()));
    // Who stops takes no more calls, but answers those that it has.
    callee.stop();
    gate.add_permits(1);
    for (number, call) in waiting.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap(), head(number as u32));
    }
    assert_eq!(callee.accepted.load(Ordering::Relaxed), 1);
}

/// What is changed on its way is no call and no answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_somebody_tampers_with_gives_errors_and_no_wrong_answers() {
    let (caller, callee, calls) = pair().await;
    // Between the two: passes everything on, but from the given byte of the given direction on one bit is wrong.
    for (outward, at) in [(true, 700), (false, 400), (true, 900), (false, 612)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut map = caller.map.load().as_ref().clone();
        map.nodes[1].address = listener.local_addr().unwrap().to_string();
        let through = Wire::new(NodeId(1), map, &secret(1));
        let to = callee.address;
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(to).await.unwrap();
                let (near_out, near_in) = near.into_split();
                let (far_out, far_in) = far.into_split();
                tokio::spawn(pass(near_out, far_in, outward.then_some(at)));
                tokio::spawn(pass(far_out, near_in, (!outward).then_some(at)));
            }
        });
        let before = calls.load(Ordering::Relaxed);
        let mut good = 0;
        let mut bad = 0;
        for number in 0..40u32 {
            let head = Bytes::copy_from_slice(&number.to_be_bytes());
            match through
                .peers
                .call(NodeId(2), ECHO, head.clone(), TIME)
                .await
            {
                Ok(back) => {
                    assert_eq!(back, head);
                    good += 1;
                }
                Err(_) => bad += 1,
            }
        }
        assert!(good > 0 && bad > 0, "{good} good, {bad} bad");
        let done = calls.load(Ordering::Relaxed) - before;
        assert!(
            done >= good && done < 40 + 1,
            "{done} done, {good} answered"
        );
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    wrong_at: Option<usize>,
) {
    let mut passed = 0;
    let mut bytes = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut bytes).await {
        if let Some(at) = wrong_at
            && (passed..passed + len).contains(&at)
        {
            bytes[at - passed] ^= 1;
        }
        passed += len;
        if to.write_all(&bytes[..len]).await.is_err() {
            return;
        }
    }
}
