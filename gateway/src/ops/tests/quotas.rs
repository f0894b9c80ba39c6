use std::sync::atomic::AtomicU32;

use holdfast_placement::consensus::ProposeError;
use holdfast_placement::ids::GroupId;
use holdfast_storage_node::metadata::{Quota, set_bucket_quota};

use super::*;

/// The search for room may end with nobody knowing what became of it. The write itself was refused.
#[tokio::test]
async fn a_write_is_refused_for_certain_whatever_becomes_of_the_search_for_room() {
    let seam = Arc::new(ExampleClock);
    let below = TestMetadata::new(seam.clone(), Arc::new(SeededRng::new(3)));
    let lost = Arc::new(AtomicBool::new(false));
    let searches = Arc::new(AtomicU32::new(0));
    let (is_lost, begun) = (lost.clone(), searches.clone());
    let hook = move |group| -> BoxFuture<'static, Option<ProposeError>> {
        let is_lost = group == GroupId::PLACEMENT && is_lost.load(Ordering::Relaxed);
        if is_lost {
            begun.fetch_add(1, Ordering::Relaxed);
        }
        let error = is_lost.then_some(ProposeError::Indeterminate { group });
        Box::pin(std::future::ready(error))
    };
    let rng = Arc::new(SeededRng::new(5));
    let below = below.hooked(16, seam.clone(), rng, Box::new(hook));
    let shards = Arc::new(MemoryShards::new(seam));
    let store = Store::over(below, shards, GatewayConfig::default(), 3);
    store.send(ask("PUT", "/bucket")).await.expect(200);
    let (directory, metadata) = (&store.gateway.directory, &store.gateway.metadata);
    let bucket = directory.bucket_now("bucket").await.unwrap().unwrap();
    let quota = Some(Quota {
        bytes: Some(1 << 20),
        objects: None,
    });
    let set = set_bucket_quota(directory, metadata, &bucket, quota);
    assert!(set.await.unwrap());
    let before = store.shards.len();
    lost.store(true, Ordering::Relaxed);
    // More than a lane's share.
    let put = ask("PUT", "/bucket/key").body(pattern(200_000, 1));
    let refused = store.send(put).await;
    let refused = refused.expect_error(503, "ServiceUnavailable");
    assert_eq!(searches.load(Ordering::Relaxed), 1);
    let message = refused.element("Message").unwrap();
    assert!(message.contains("nothing was changed"), "{message}");
    // What was written of it is freed by a task of its own.
    for _ in 0..1000 {
        if store.shards.len() == before {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(store.shards.len(), before);
    lost.store(false, Ordering::Relaxed);
    store.put("/bucket/key", pattern(200_000, 1)).await;
    let much = ask("PUT", "/bucket/other").body(pattern(1 << 20, 1));
    let refused = store.send(much).await;
    refused.expect_error(403, "QuotaExceeded");
}
