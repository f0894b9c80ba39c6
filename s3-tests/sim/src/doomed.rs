//! Buckets that are deleted while somebody writes into them: either the write or the deletion happens, never both.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use holdfast_placement::seams::SeededRng;
use holdfast_s3_tests::request::Request;
use tokio::time::sleep;

use crate::client::Client;
use crate::net::{Host, Wires};
use crate::workload::Shared;

/// Keys that are written at a time, in some of the bucket's lanes.
const WRITERS: u64 = 3;

/// Makes buckets and races their deletion with writes, until the time is `end`.
pub async fn race(shared: Arc<Shared>, seed: u64, own: Host, wires: Wires, end: Duration) {
    let rng = SeededRng::new(seed ^ 0xB0C3E7);
    let mut number = 0;
    while shared.trace.now() < end {
        number += 1;
        round(&shared, &rng, own, &wires, number).await;
        sleep(Duration::from_millis(rng.below(1500))).await;
    }
}

async fn round(shared: &Arc<Shared>, rng: &SeededRng, own: Host, wires: &Wires, number: u64) {
    let bucket = format!("/doomed-{number}");
    let some_node = || shared.some_node(rng);
    let mut client = Client::new(own, wires.clone());
    let made = client.send(some_node(), Request::put(&bucket)).await;
    if !matches!(made, Ok(answer) if answer.status == 200) {
        return;
    }
    let writes = (0..WRITERS).map(|writer| {
        let (mut client, node) = (Client::new(own, wires.clone()), some_node());
        let key = format!("{bucket}/key-{}", writer + number * WRITERS);
        let pause = Duration::from_millis(rng.below(40));
        async move {
            sleep(pause).await;
            let put = Request::put(&key).body(b"here".to_vec());
            let answer = client.send(node, put).await;
            matches!(answer, Ok(answer) if answer.status == 200).then_some(key)
        }
    });
    let deletion = {
        let (mut client, node) = (Client::new(own, wires.clone()), some_node());
        let (request, pause) = (Request::delete(&bucket), rng.below(40));
        async move {
            sleep(Duration::from_millis(pause)).await;
            let answer = client.send(node, request).await;
            matches!(answer, Ok(answer) if answer.status == 204)
        }
    };
    let (written, deleted) = join(join_all(writes), deletion).await;
    let written: Vec<String> = written.into_iter().flatten().collect();
    shared.trace.note(format_args!(
        "bucket {number}: deleted {deleted}, written {}",
        written.len()
    ));
    for key in written {
        if deleted {
            shared.violated(format!("{key} was written, and its bucket deleted"));
        }
        // It may not be said now; what is said must be right.
        if let Ok(answer) = client.send(some_node(), Request::get(&key)).await
            && answer.status == 404
        {
            shared.violated(format!("{key} was written, and is gone: {}", answer.code()));
        }
    }
}
