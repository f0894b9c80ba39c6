use std::time::Duration;

use holdfast_placement::ids::GroupId;
use holdfast_placement::seams::{Clock, SystemClock, UnixMillis};

use super::{BUCKET, Fixture, any, chunked_version, completion, if_absent, new_upload, part, set};
use crate::metadata::{
    Body, CompleteUploadError, ListParts, ListUploads, Metadata, PartRecord, Seen, WriteError,
};

async fn all_parts(
    metadata: &Metadata,
    key: &str,
    upload: holdfast_placement::ids::UploadId,
) -> Vec<PartRecord> {
    let list = ListParts {
        upload,
        after: 0,
        max: usize::MAX,
    };
    let page = metadata.list_parts(BUCKET, key, &list).await.unwrap();
    page.unwrap().parts
}

#[tokio::test]
async fn an_upload_becomes_its_chosen_parts() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    metadata
        .put(BUCKET, "k", chunked_version(99, 1), &any())
        .await
        .unwrap();
    let upload = metadata
        .create_upload(BUCKET, "k", new_upload())
        .await
        .unwrap();
    let initiated = metadata.upload(BUCKET, "k", upload).await.unwrap();
    let initiated = initiated.unwrap().initiated;
    fixture.clock.advance(Duration::from_secs(100));
    for number in 1..=200u16 {
        let new = part(number, u64::from(number), 10);
        metadata.put_part(BUCKET, "k", upload, new).await.unwrap();
    }
    // Again: the first body of part 7 is let go.
    metadata
        .put_part(BUCKET, "k", upload, part(7, 1007, 20))
        .await
        .unwrap();
    assert_eq!(fixture.reclaimable().await, [set(7)]);
    let mut parts = all_parts(metadata, "k", upload).await;
    parts.retain(|part| part.number != 3);
    let complete = completion(upload, parts.clone());
    let refused = metadata
        .complete_upload(BUCKET, "k", complete.clone(), &if_absent())
        .await;
    assert!(matches!(
        refused,
        Err(CompleteUploadError::Write(WriteError::PreconditionFailed))
    ));
    let mut stale = complete.clone();
    stale.parts[4].md5[0] ^= 1;
    let refused = metadata.complete_upload(BUCKET, "k", stale, &any()).await;
    assert!(matches!(refused, Err(CompleteUploadError::PartsChanged)));
    let written = metadata
        .complete_upload(BUCKET, "k", complete.clone(), &any())
        .await
        .unwrap();
    assert_eq!(written.modified, initiated);
    assert_eq!(written.size, 198 * 10 + 20);

    let found = metadata.get(BUCKET, "k").await.unwrap().unwrap().record;
    assert_eq!(found.summary, written);
    assert_eq!(found.headers, new_upload().headers);
    assert_eq!(found.tags, new_upload().tags);
    let Body::Multipart { table, parts: 199 } = found.body else {
        panic!("{:?}", found.body);
    };
    let again = metadata
        .complete_upload(BUCKET, "k", complete, &any())
        .await;
    assert!(matches!(
        again,
        Err(CompleteUploadError::Write(WriteError::NoSuchUpload))
    ));
    let remembered = metadata.completed(BUCKET, "k", upload).await.unwrap();
    assert_eq!(remembered, Some(written));
    assert_eq!(metadata.completed(BUCKET, "l", upload).await.unwrap(), None);
    assert_eq!(fixture.reclaimable().await, [set(3), set(7), set(99)]);

    let mut offset = 0;
    let placed: Vec<(u64, PartRecord)> = parts
        .into_iter()
        .map(|part| {
            let start = offset;
            offset += part.size;
            (start, part)
        })
        .collect();
    for range in [
        0..1,
        9..10,
        9..11,
        500..1300,
        0..2000,
        1999..2000,
        5..5,
        2000..3000,
    ] {
        let expected: Vec<_> = placed
            .iter()
            .filter(|(start, part)| *start < range.end && start + part.size > range.start)
            .cloned()
            .collect();
        let found = metadata
            .parts_in_range(BUCKET, "k", table, range.clone())
            .await
            .unwrap();
        assert_eq!(found, expected, "{range:?}");
    }
    for (after, max) in [
        (0, 1),
        (0, 1000),
        (2, 2),
        (64, 64),
        (198, 5),
        (200, 5),
        (7, 0),
    ] {
        let expected: Vec<_> = placed
            .iter()
            .filter(|(_, part)| part.number > after)
            .take(max)
            .cloned()
            .collect();
        let found = metadata
            .parts_after(BUCKET, "k", table, after, max)
            .await
            .unwrap();
        assert_eq!(found, expected, "{after} {max}");
    }

    metadata.delete(BUCKET, "k", &any()).await.unwrap();
    assert_eq!(fixture.reclaimable().await.len(), 3 + 199);
}

#[tokio::test]
async fn an_aborted_upload_leaves_only_what_waits_to_be_reclaimed() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let upload = metadata
        .create_upload(BUCKET, "k", new_upload())
        .await
        .unwrap();
    for number in [1, 2, 10_000] {
        let new = part(number, u64::from(number), 10);
        metadata.put_part(BUCKET, "k", upload, new).await.unwrap();
    }
    let wrong_key = metadata.put_part(BUCKET, "l", upload, part(1, 50, 1)).await;
    assert!(matches!(wrong_key, Err(WriteError::NoSuchUpload)));
    metadata.abort_upload(BUCKET, "k", upload).await.unwrap();
    let again = metadata.abort_upload(BUCKET, "k", upload).await;
    assert!(matches!(again, Err(WriteError::NoSuchUpload)));
    let late = metadata.put_part(BUCKET, "k", upload, part(3, 3, 1)).await;
    assert!(matches!(late, Err(WriteError::NoSuchUpload)));
    let list = ListParts {
        upload,
        after: 0,
        max: 10,
    };
    let parts = metadata.list_parts(BUCKET, "k", &list).await.unwrap();
    assert!(parts.is_none());
    assert_eq!(fixture.reclaimable().await, [set(1), set(2), set(10_000)]);

    let now = UnixMillis(u64::MAX);
    for group in (1..=16).map(GroupId) {
        let entries = metadata.reclaimable(group, now, 100).await.unwrap();
        let ids = entries.iter().map(|entry| entry.id).collect();
        metadata.reclaimed(group, ids).await.unwrap();
    }
    assert!(fixture.reclaimable().await.is_empty());
    let index = fixture.test.groups.index();
    let records = holdfast_placement::seams::Keyspace::Records;
    let mut cursor = index.cursor(records, &[0], &[0xFF]).unwrap();
    cursor.seek(&[0]).unwrap();
    while let Some((key, _)) = cursor.entry() {
        // What was decided, and how much the group holds: nothing.
        assert!([0xFE, 0x0B].contains(&key[4]), "{key:?} is left behind");
        cursor.next().unwrap();
    }
}

#[tokio::test]
async fn the_reclaim_queue_is_read_oldest_first_up_to_a_time() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    for number in 1..=4 {
        let new = chunked_version(number, 1);
        metadata.put(BUCKET, "k", new, &any()).await.unwrap();
        fixture.clock.advance(Duration::from_secs(10));
    }
    let group = metadata.place(BUCKET, "k").group;
    let all = metadata
        .reclaimable(group, UnixMillis(u64::MAX), 10)
        .await
        .unwrap();
    assert_eq!(all.len(), 3);
    assert!(all.is_sorted_by_key(|entry| entry.since));
    let some = metadata.reclaimable(group, all[2].since, 10).await.unwrap();
    assert_eq!(some, all[..2]);
    let one = metadata.reclaimable(group, all[2].since, 1).await.unwrap();
    assert_eq!(one, all[..1]);
}

#[tokio::test]
async fn old_uploads_are_found_by_age() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let mut uploads = Vec::new();
    for _ in 0..4 {
        let upload = metadata.create_upload(BUCKET, "k", new_upload()).await;
        uploads.push(upload.unwrap());
        fixture.clock.advance(Duration::from_secs(10));
    }
    let group = metadata.place(BUCKET, "k").group;
    let young = metadata.upload(BUCKET, "k", uploads[3]).await.unwrap();
    let before = young.unwrap().initiated;
    let all = metadata.old_uploads(group, before, None, 10).await.unwrap();
    let found: Vec<_> = all.iter().map(|upload| upload.upload).collect();
    assert_eq!(found, uploads[..3]);
    assert!(all.iter().all(|upload| upload.key == "k"));
    let (mut after, mut paged) = (None, Vec::new());
    loop {
        let page = metadata.old_uploads(group, before, after, 1).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.initiated, last.upload));
        paged.extend(page);
    }
    assert_eq!(paged, all);
    metadata
        .abort_upload(BUCKET, "k", uploads[1])
        .await
        .unwrap();
    let left = metadata.old_uploads(group, before, None, 10).await.unwrap();
    assert_eq!(left, [all[0].clone(), all[2].clone()]);
}

#[tokio::test]
async fn completed_uploads_are_remembered_for_a_while() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let mut uploads = Vec::new();
    for _ in 0..1030 {
        let upload = metadata
            .create_upload(BUCKET, "k", new_upload())
            .await
            .unwrap();
        metadata
            .put_part(BUCKET, "k", upload, part(1, 1, 0))
            .await
            .unwrap();
        let parts = all_parts(metadata, "k", upload).await;
        metadata
            .complete_upload(BUCKET, "k", completion(upload, parts), &any())
            .await
            .unwrap();
        uploads.push(upload);
    }
    let mut remembered = Vec::new();
    for upload in &uploads {
        let completed = metadata.completed(BUCKET, "k", *upload).await.unwrap();
        remembered.push(completed.is_some());
    }
    assert!(remembered[..6].iter().all(|remembered| !remembered));
    assert!(remembered[6..].iter().all(|remembered| *remembered));
}

#[tokio::test]
async fn uploads_are_listed_by_key_then_by_upload() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let mut expected = Vec::new();
    for key in ["a", "a\0", "a\0b", "a/1", "a/2", "ab", "b/1", "ü"] {
        for _ in 0..3 {
            let upload = metadata
                .create_upload(BUCKET, key, new_upload())
                .await
                .unwrap();
            expected.push((key.to_owned(), upload));
        }
    }
    expected.sort();
    for max in [1, 2, 5, 100] {
        let mut list = ListUploads {
            max,
            ..ListUploads::default()
        };
        let mut found = Vec::new();
        loop {
            let page = metadata.list_uploads(BUCKET, &list).await.unwrap();
            assert!(page.uploads.len() <= max);
            found.extend(
                page.uploads
                    .into_iter()
                    .map(|upload| (upload.key, upload.upload)),
            );
            let Some((key, upload)) = page.next else {
                break;
            };
            list.key_marker = Some(key);
            list.upload_marker = upload;
        }
        assert_eq!(found, expected);
    }
    // A key marker alone skips all uploads of the key.
    let list = ListUploads {
        key_marker: Some("a".to_owned()),
        prefix: "a".to_owned(),
        delimiter: Some("/".to_owned()),
        max: 100,
        ..ListUploads::default()
    };
    let page = metadata.list_uploads(BUCKET, &list).await.unwrap();
    let keys: Vec<_> = page.uploads.iter().map(|upload| &upload.key[..]).collect();
    assert_eq!(
        keys,
        [
            "a\0", "a\0", "a\0", "a\0b", "a\0b", "a\0b", "ab", "ab", "ab"
        ]
    );
    assert_eq!(page.common_prefixes, ["a/"]);
    let list = ListUploads {
        key_marker: Some("a/1".to_owned()),
        ..list
    };
    let page = metadata.list_uploads(BUCKET, &list).await.unwrap();
    assert_eq!((page.uploads.len(), page.common_prefixes.len()), (3, 0));
}

#[tokio::test]
async fn ten_thousand_parts_are_completed_by_a_small_command() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let upload = metadata
        .create_upload(BUCKET, "k", new_upload())
        .await
        .unwrap();
    for number in 1..=10_000u16 {
        let new = part(number, u64::from(number), 5 << 20);
        metadata.put_part(BUCKET, "k", upload, new).await.unwrap();
    }
    let parts = all_parts(metadata, "k", upload).await;
    assert_eq!(parts.len(), 10_000);
    let before = fixture.test.groups.bytes_proposed();
    let start = SystemClock.monotonic();
    metadata
        .complete_upload(BUCKET, "k", completion(upload, parts), &any())
        .await
        .unwrap();
    println!("completed in {:?}", SystemClock.monotonic() - start);
    let bytes = fixture.test.groups.bytes_proposed() - before;
    assert!(bytes < 64 << 10, "{bytes} bytes");
    let whole = 10_000 * (5u64 << 20);
    let last = metadata
        .parts_in_range(BUCKET, "k", upload, whole - 1..whole)
        .await
        .unwrap();
    assert_eq!(last.len(), 1);
    assert_eq!((last[0].0, last[0].1.number), (whole - (5 << 20), 10_000));
    let entries = metadata.delete(BUCKET, "k", &any()).await.unwrap();
    assert!(entries.existed);
    assert_eq!(fixture.reclaimable().await.len(), 10_000);
}

#[tokio::test]
async fn a_walk_over_bodies_meets_those_of_an_upload_that_is_completed_meanwhile() {
    for steps in 0..8 {
        let fixture = Fixture::new();
        let metadata = fixture.metadata();
        // One that the walk comes by before.
        metadata
            .put(BUCKET, "k", chunked_version(99, 1), &any())
            .await
            .unwrap();
        let upload = metadata
            .create_upload(BUCKET, "k", new_upload())
            .await
            .unwrap();
        for number in 1..=3u16 {
            let new = part(number, u64::from(number), 10);
            metadata.put_part(BUCKET, "k", upload, new).await.unwrap();
        }
        let parts = all_parts(metadata, "k", upload).await;
        let mut found = Vec::new();
        let mut stepped = 0;
        let mut complete = Some(completion(upload, parts));
        for group in (1..=16).map(GroupId) {
            let mut at = Some(Seen::default());
            while let Some(after) = at {
                let step = metadata.bodies(group, after, 1).await.unwrap();
                // Groups that have nothing do not count.
                stepped += usize::from(!step.bodies.is_empty() || !found.is_empty());
                found.extend(step.bodies.iter().map(|body| body.set));
                at = step.next;
                if stepped > steps
                    && let Some(complete) = complete.take()
                {
                    metadata
                        .complete_upload(BUCKET, "k", complete, &any())
                        .await
                        .unwrap();
                }
            }
        }
        for number in 1..=3 {
            assert!(
                found.contains(&set(number)),
                "after {steps} steps: {found:?}"
            );
        }
    }
}
