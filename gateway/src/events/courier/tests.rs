//! Webhooks that are removed and made again.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_placement::consensus::ProposeError;
use holdfast_placement::directory::{CreateBucket, PutWebhook};
use holdfast_placement::ids::BucketId;
use holdfast_placement::seams::{Connection, MemoryIndex, SeededRng, SystemClock};
use holdfast_storage_node::metadata::testing::TestMetadata;
use holdfast_storage_node::metadata::{
    Body, Condition, Etag, EventRule, NewVersion, ObjectHeaders, RuleForm, VersionLock,
    change_bucket_events,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;

use super::*;

/// The only group.
const GROUP: GroupId = GroupId(1);

/// A webhook that keeps the keys that it is told of.
#[derive(Clone, Default)]
struct Ear {
    told: Arc<Mutex<Vec<String>>>,
}

impl Ear {
    async fn hear(self, request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let message: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let key = message["Records"][0]["s3"]["object"]["key"].as_str();
        self.told.lock().push(key.unwrap().to_owned());
        Ok(Response::new(Empty::new()))
    }
}

impl Net for Ear {
    fn connect(&self, _: &str) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        let (near, far) = tokio::io::duplex(64 << 10);
        let ear = self.clone();
        let hear = service_fn(move |request| ear.clone().hear(request));
        let serving = http1::Builder::new().serve_connection(TokioIo::new(far), hear);
        spawn(async move {
            // Ends when the courier hangs up.
            let _ended = serving.await;
        });
        Box::pin(std::future::ready(
            Ok(Box::new(near) as Box<dyn Connection>),
        ))
    }
}

fn webhook() -> Webhook {
    Webhook {
        name: "w".to_owned(),
        url: "http://ear/".to_owned(),
        token: None,
    }
}

async fn put(metadata: &Metadata, bucket: BucketId, key: &str) {
    let new = NewVersion {
        size: 0,
        etag: Etag::Md5([1; 16]),
        checksum: None,
        body: Body::Empty,
        inline: Bytes::new(),
        missed: Vec::new(),
        headers: ObjectHeaders::default(),
        tags: Vec::new(),
        lock: VersionLock::default(),
    };
    let put = metadata.put(bucket, key, new, &Condition::default()).await;
    put.unwrap();
}

#[tokio::test]
async fn a_webhook_that_is_made_again_while_its_events_are_dropped_is_told_of_what_comes_then() {
    let (clock, rng) = (Arc::new(SystemClock), Arc::new(SeededRng::new(1)));
    let test = TestMetadata::over(Arc::new(MemoryIndex::new()), 1, clock.clone(), rng.clone());
    let (directory, metadata) = (&test.directory, &test.metadata);
    let made = directory.create_bucket("b", "me", "eu").await.unwrap();
    let CreateBucket::Created(bucket) = made else {
        panic!("the name was free");
    };
    let stored = directory.put_webhook(webhook()).await.unwrap();
    assert_eq!(stored, PutWebhook::Stored);
    let rule = EventRule {
        id: "r".to_owned(),
        form: RuleForm::Queue,
        arn: String::new(),
        target: "w".to_owned(),
        events: vec!["s3:ObjectCreated:*".to_owned()],
        prefix: None,
        suffix: None,
    };
    let changed = change_bucket_events(directory, metadata, &bucket, vec![rule], false).await;
    changed.unwrap();
    for number in 0..5 {
        put(metadata, bucket.id, &format!("k{number}")).await;
    }
    assert!(directory.delete_webhook("w").await.unwrap());

    // The courier is held up when it first drops some.
    let (held, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let is_first = AtomicBool::new(true);
    let (holds, goes_on) = (held.clone(), go_on.clone());
    let hook = move |group| -> BoxFuture<'static, Option<ProposeError>> {
        if group != GROUP || !is_first.swap(false, Ordering::Relaxed) {
            return Box::pin(std::future::ready(None));
        }
        holds.notify_one();
        let goes_on = goes_on.clone();
        Box::pin(async move {
            goes_on.notified().await;
            None
        })
    };
    let couriers = test.hooked(1, clock.clone(), rng.clone(), Box::new(hook));
    let ear = Ear::default();
    let courier = Courier::new(
        couriers.directory,
        couriers.metadata,
        Arc::new(|| vec![GROUP]),
        Arc::new(ear.clone()),
        clock.clone(),
        rng,
        CourierConfig {
            interval: Duration::from_millis(1),
            idle_interval: Duration::from_millis(1),
            webhooks_for: Duration::from_millis(1),
            batch: 2,
            ..CourierConfig::default()
        },
        Arc::new(|_| {}),
    );
    let (stop, stopped) = watch::channel(false);
    let running = spawn(courier.run(stopped));
    held.notified().await;
    let stored = directory.put_webhook(webhook()).await.unwrap();
    assert_eq!(stored, PutWebhook::Stored);
    put(metadata, bucket.id, "late").await;
    go_on.notify_one();

    let empty = async {
        while !metadata.event_queues(GROUP).await.unwrap().is_empty() {
            clock.sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), empty)
        .await
        .unwrap();
    // The first two were dropped while there was no webhook.
    assert_eq!(*ear.told.lock(), ["k2", "k3", "k4", "late"]);
    stop.send(true).unwrap();
    running.await.unwrap();
}
