//! Putting bytes behind those of an object.

use holdfast_placement::ids::GroupId;

use super::*;
use crate::metadata::store::WriteError;
use crate::metadata::{Appended, NewBytes, VersionId, VersionSummary};

fn chunks(number: u64, len: u64) -> ChunkedBody {
    let Body::Chunked(body) = chunked(number, len) else {
        unreachable!()
    };
    body
}

fn appended(base: &VersionSummary, added: NewBytes, size: u64, number: u64) -> Appended {
    Appended {
        base: base.version,
        added,
        size,
        etag: etag(number),
        checksum: None,
    }
}

/// Another part of 5 bytes.
fn by_part(base: &VersionSummary, number: u64) -> Appended {
    let added = NewBytes::Part {
        size: 5,
        md5: [number as u8; 16],
        checksum: None,
        body: chunks(number, 5),
        missed: Vec::new(),
    };
    appended(base, added, base.size + 5, number)
}

async fn bodies(metadata: &Metadata, key: &str) -> Vec<(u64, u16, Body)> {
    let record = metadata.head(BUCKET, key).await.unwrap().unwrap();
    let Body::Multipart { table, parts } = record.body else {
        panic!("{record:?}");
    };
    let range = 0..record.summary.size;
    let found = metadata
        .parts_in_range(BUCKET, key, table, range)
        .await
        .unwrap();
    assert_eq!(found.len(), usize::from(parts));
    let found = found.into_iter();
    found
        .map(|(offset, part)| (offset, part.number, part.body))
        .collect()
}

#[tokio::test]
async fn only_behind_the_version_that_was_seen() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    for (key, first, second) in [
        (
            "inline",
            inline_version(1, "12345"),
            inline_version(2, "abcde"),
        ),
        ("chunks", chunked_version(1, 5), chunked_version(2, 5)),
    ] {
        let base = metadata.put(BUCKET, key, first, &any()).await.unwrap();
        let more = match key {
            "inline" => {
                let added = NewBytes::Inline("67".into());
                appended(&base, added, 7, 3)
            }
            _ => by_part(&base, 3),
        };
        metadata
            .append(BUCKET, key, more.clone(), &any())
            .await
            .unwrap();
        // Another at the same offset; then what is there is another object of the same size.
        let late = metadata.append(BUCKET, key, more.clone(), &any()).await;
        assert!(matches!(late, Err(WriteError::BaseChanged)), "{late:?}");
        metadata.put(BUCKET, key, second, &any()).await.unwrap();
        let late = metadata.append(BUCKET, key, more.clone(), &any()).await;
        assert!(matches!(late, Err(WriteError::BaseChanged)), "{late:?}");
        metadata.delete(BUCKET, key, &any()).await.unwrap();
        let late = metadata.append(BUCKET, key, more.clone(), &any()).await;
        assert!(matches!(late, Err(WriteError::BaseChanged)), "{late:?}");
        let conditional = metadata.append(BUCKET, key, more, &if_match("*")).await;
        assert!(matches!(conditional, Err(WriteError::NoSuchKey)));
    }
}

#[tokio::test]
async fn inline_bytes_grow_until_they_are_one_body() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let mut new = inline_version(1, "one");
    new.tags = vec![("t".to_owned(), "v".to_owned())];
    let base = metadata.put(BUCKET, "k", new, &any()).await.unwrap();
    // Tags that change meanwhile stay changed.
    let tags = vec![("t".to_owned(), "w".to_owned())];
    metadata.set_tags(BUCKET, "k", tags.clone()).await.unwrap();
    let added = NewBytes::Inline(" two".into());
    let more = appended(&base, added, 7, 2);
    let base = metadata.append(BUCKET, "k", more, &any()).await.unwrap();
    let found = metadata.get(BUCKET, "k").await.unwrap().unwrap();
    assert_eq!(found.inline, "one two");
    assert_eq!(found.record.tags, tags);
    assert_eq!(found.record.summary, base);
    let body = chunks(9, 100);
    let missed = Vec::new();
    let more = appended(&base, NewBytes::Whole { body, missed }, 100, 3);
    metadata.append(BUCKET, "k", more, &any()).await.unwrap();
    let found = metadata.get(BUCKET, "k").await.unwrap().unwrap();
    assert_eq!(
        (found.record.body, found.inline.len()),
        (chunked(9, 100), 0)
    );
    metadata.delete(BUCKET, "k", &any()).await.unwrap();
    assert_eq!(fixture.reclaimable().await, [set(9)]);
    for group in (1..=16).map(GroupId) {
        assert_eq!(metadata.usage(group).await.unwrap(), Default::default());
    }
}

#[tokio::test]
async fn parts_come_one_behind_the_other() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let new = chunked_version(1, 5);
    let mut base = metadata.put(BUCKET, "k", new, &any()).await.unwrap();
    // More than a page of a part table holds.
    for number in 2..=150 {
        let more = by_part(&base, number);
        base = metadata.append(BUCKET, "k", more, &any()).await.unwrap();
        if number % 30 == 0 {
            assert_eq!(bodies(metadata, "k").await.len() as u64, number);
        }
    }
    let expected: Vec<_> = (1..=150u64)
        .map(|number| (5 * (number - 1), number as u16, chunked(number, 5)))
        .collect();
    assert_eq!(bodies(metadata, "k").await, expected);
    assert!(fixture.reclaimable().await.is_empty());
    let sets: Vec<_> = (1..=150).map(set).collect();
    for group in (1..=16).map(GroupId) {
        let mut left: std::collections::HashSet<_> = sets.iter().copied().collect();
        left = metadata.clear_referenced(group, left).await.unwrap();
        let is_here = group == metadata.place(BUCKET, "k").group;
        assert_eq!(left.is_empty(), is_here, "{group}");
    }
    metadata.delete(BUCKET, "k", &any()).await.unwrap();
    assert_eq!(fixture.reclaimable().await, sets);
    for group in (1..=16).map(GroupId) {
        assert_eq!(metadata.usage(group).await.unwrap(), Default::default());
    }
}

#[tokio::test]
async fn ten_thousand_parts_are_enough() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let new = chunked_version(1, 5);
    let mut base = metadata.put(BUCKET, "k", new, &any()).await.unwrap();
    for number in 2..=10_000 {
        let more = by_part(&base, number);
        base = metadata.append(BUCKET, "k", more, &any()).await.unwrap();
    }
    let more = by_part(&base, 10_001);
    let refused = metadata.append(BUCKET, "k", more, &any()).await;
    assert!(matches!(refused, Err(WriteError::TooManyParts)));
    assert_eq!(
        metadata.head(BUCKET, "k").await.unwrap().unwrap().summary,
        base
    );
    assert_ne!(base.version, VersionId::default());
}
