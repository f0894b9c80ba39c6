use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};
use holdfast_placement::consensus::ProposeError;
use holdfast_placement::directory::CreateBucket;
use holdfast_placement::ids::{BucketId, GroupId};
use holdfast_placement::seams::SeededRng;

use super::{Fixture, any, inline_version, new_upload, part, set};
use crate::metadata::{
    BucketVersioning, CloseBucket, DeleteBucket, Deletion, MetadataError, Versioning, WriteError,
    delete_bucket, settle_refused_write,
};

async fn create(fixture: &Fixture) -> BucketId {
    match fixture.test.directory.create_bucket("b", "me", "eu").await {
        Ok(CreateBucket::Created(bucket)) => bucket.id,
        other => panic!("{other:?}"),
    }
}

async fn put(fixture: &Fixture, bucket: BucketId, key: &str) -> Result<(), WriteError> {
    let new = inline_version(1, "x");
    let put = fixture.metadata().put(bucket, key, new, &any()).await;
    put.map(|_| ())
}

#[tokio::test]
async fn only_an_empty_bucket_is_deleted_and_then_takes_no_write() {
    let fixture = Fixture::new();
    let (directory, metadata) = (&fixture.test.directory, fixture.metadata());
    let bucket = create(&fixture).await;
    put(&fixture, bucket, "k").await.unwrap();
    let deleted = delete_bucket(directory, metadata, "b").await.unwrap();
    assert_eq!(deleted, DeleteBucket::NotEmpty);
    metadata.delete(bucket, "k", &any()).await.unwrap();
    let upload = metadata
        .create_upload(bucket, "k", new_upload())
        .await
        .unwrap();
    let put_part = |body| metadata.put_part(bucket, "k", upload, part(1, body, 10));
    put_part(7).await.unwrap();
    let deleted = delete_bucket(directory, metadata, "b").await.unwrap();
    assert_eq!(deleted, DeleteBucket::Deleted);
    let deleted = delete_bucket(directory, metadata, "b").await.unwrap();
    assert_eq!(deleted, DeleteBucket::NoSuchBucket);
    for key in ["k", "l", "m"] {
        let late = put(&fixture, bucket, key).await;
        assert!(matches!(late, Err(WriteError::NoSuchBucket)));
    }
    // The upload went with the bucket.
    assert_eq!(fixture.reclaimable().await, [set(7)]);
    let late = put_part(8).await;
    assert!(matches!(late, Err(WriteError::NoSuchBucket)));
    let late = metadata.create_upload(bucket, "k", new_upload()).await;
    assert!(matches!(late, Err(WriteError::NoSuchBucket)));
    let settled = settle_refused_write(directory, metadata, "b").await;
    assert!(settled.unwrap().is_none());
    let next = create(&fixture).await;
    assert!(next > bucket);
    put(&fixture, next, "k").await.unwrap();
}

#[tokio::test]
async fn a_write_between_look_and_close_keeps_the_bucket() {
    let fixture = Fixture::new();
    let (directory, metadata) = (&fixture.test.directory, fixture.metadata());
    let bucket = create(&fixture).await;
    let deleting = directory.begin_delete("b").await.unwrap().unwrap();
    put(&fixture, bucket, "k").await.unwrap();
    let closed = metadata.close_bucket(bucket, deleting.deletions).await;
    assert_eq!(closed.unwrap(), CloseBucket::NotEmpty);
    directory.cancel_delete(&deleting).await.unwrap();
    metadata
        .reopen_bucket(bucket, deleting.deletions)
        .await
        .unwrap();
    for key in 0..50 {
        put(&fixture, bucket, &key.to_string()).await.unwrap();
    }
}

#[tokio::test]
async fn a_delete_marker_keeps_the_bucket() {
    let fixture = Fixture::new();
    let (directory, metadata) = (&fixture.test.directory, fixture.metadata());
    let bucket = create(&fixture).await;
    let versioning = BucketVersioning {
        change: 1,
        versioning: Versioning::Enabled,
        lock: None,
    };
    metadata.set_versioning(bucket, versioning).await.unwrap();
    let deleted = metadata.delete(bucket, "k", &any()).await.unwrap();
    let refused = delete_bucket(directory, metadata, "b").await.unwrap();
    assert_eq!(refused, DeleteBucket::NotEmpty);
    // Also where it was not seen before the lanes are closed.
    let deleting = directory.begin_delete("b").await.unwrap().unwrap();
    let closed = metadata.close_bucket(bucket, deleting.deletions).await;
    assert_eq!(closed.unwrap(), CloseBucket::NotEmpty);
    directory.cancel_delete(&deleting).await.unwrap();
    metadata
        .reopen_bucket(bucket, deleting.deletions)
        .await
        .unwrap();
    let marker = Deletion {
        key: "k".to_owned(),
        version: deleted.marker,
        ..Deletion::default()
    };
    metadata.delete_version(bucket, &marker).await.unwrap();
    let deleted = delete_bucket(directory, metadata, "b").await.unwrap();
    assert_eq!(deleted, DeleteBucket::Deleted);
}

#[tokio::test]
async fn a_deletion_that_died_does_not_leave_the_bucket_stuck() {
    let fixture = Fixture::new();
    let (directory, metadata) = (&fixture.test.directory, fixture.metadata());
    let bucket = create(&fixture).await;
    let dead = directory.begin_delete("b").await.unwrap().unwrap();
    let closed = metadata.close_bucket(bucket, dead.deletions).await.unwrap();
    assert_eq!(closed, CloseBucket::Closed);
    fixture.test.groups.restart();
    let refused = put(&fixture, bucket, "k").await;
    assert!(matches!(refused, Err(WriteError::NoSuchBucket)));
    // As long as it may be alive, nobody comes between.
    let settled = settle_refused_write(directory, metadata, "b").await;
    assert!(matches!(settled, Err(MetadataError::Unavailable(_))));
    fixture.clock.advance(Duration::from_secs(60));
    let settled = settle_refused_write(directory, metadata, "b").await;
    assert_eq!(settled.unwrap().unwrap().id, bucket);
    put(&fixture, bucket, "k").await.unwrap();
    // It was not dead after all: too late.
    let closed = metadata.close_bucket(bucket, dead.deletions).await.unwrap();
    assert_eq!(closed, CloseBucket::Cancelled);
    assert!(!directory.finish_delete(&dead).await.unwrap());
    put(&fixture, bucket, "l").await.unwrap();
}

/// Its uploads live on with the bucket.
#[tokio::test]
async fn a_deletion_that_is_not_finished_ends_no_upload() {
    let fixture = Fixture::new();
    let (directory, metadata) = (&fixture.test.directory, fixture.metadata());
    let bucket = create(&fixture).await;
    let upload = metadata.create_upload(bucket, "k", new_upload()).await;
    let upload = upload.unwrap();
    let put_part = |number| metadata.put_part(bucket, "k", upload, part(number, 7, 10));
    put_part(1).await.unwrap();
    // The placement group notes the deletion, and is gone when it is to be finished.
    let changes = AtomicU32::new(0);
    let hook = move |group| -> BoxFuture<'static, Option<ProposeError>> {
        let is_end = group == GroupId::PLACEMENT && changes.fetch_add(1, Ordering::Relaxed) == 1;
        Box::pin(ready(is_end.then_some(ProposeError::NoQuorum { group })))
    };
    let (clock, rng) = (Arc::new(fixture.clock.clone()), Arc::new(SeededRng::new(7)));
    let troubled = fixture.test.hooked(16, clock, rng, Box::new(hook));
    let deleted = delete_bucket(&troubled.directory, &troubled.metadata, "b").await;
    assert!(matches!(deleted, Err(MetadataError::Unavailable(_))));
    fixture.clock.advance(Duration::from_secs(60));
    let settled = settle_refused_write(directory, metadata, "b").await;
    assert_eq!(settled.unwrap().unwrap().id, bucket);
    put_part(2).await.unwrap();
    assert_eq!(fixture.reclaimable().await, []);
}

#[tokio::test]
async fn opening_does_not_undo_a_later_deletion() {
    let fixture = Fixture::new();
    let (directory, metadata) = (&fixture.test.directory, fixture.metadata());
    let bucket = create(&fixture).await;
    let first = directory.begin_delete("b").await.unwrap().unwrap();
    metadata
        .close_bucket(bucket, first.deletions)
        .await
        .unwrap();
    let second = directory.begin_delete("b").await.unwrap().unwrap();
    let closed = metadata.close_bucket(bucket, second.deletions).await;
    assert_eq!(closed.unwrap(), CloseBucket::Closed);
    metadata
        .reopen_bucket(bucket, first.deletions)
        .await
        .unwrap();
    let refused = put(&fixture, bucket, "k").await;
    assert!(matches!(refused, Err(WriteError::NoSuchBucket)));
    assert!(!directory.finish_delete(&first).await.unwrap());
    assert!(directory.finish_delete(&second).await.unwrap());
}
