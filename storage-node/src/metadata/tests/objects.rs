use super::{
    BUCKET, Fixture, any, chunked_version, etag, if_absent, if_match, inline_version, set,
};
use crate::metadata::{Condition, DeleteOutcome, WriteError};

#[tokio::test]
async fn what_was_put_is_found_until_it_is_deleted() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let mut new = inline_version(1, "hello");
    new.headers.content_type = Some("text/plain".to_owned());
    new.headers.user_metadata = vec![("a".to_owned(), "ü".to_owned())];
    new.tags = vec![("k".to_owned(), "v".to_owned())];
    let written = metadata
        .put(BUCKET, "a/b", new.clone(), &any())
        .await
        .unwrap();
    let found = metadata.get(BUCKET, "a/b").await.unwrap().unwrap();
    assert_eq!(found.inline, "hello");
    assert_eq!(found.record.summary, written);
    assert_eq!(found.record.headers, new.headers);
    assert_eq!(found.record.tags, new.tags);
    let head = metadata.head(BUCKET, "a/b").await.unwrap().unwrap();
    assert_eq!(head, found.record);
    assert!(metadata.head(BUCKET, "a/").await.unwrap().is_none());

    let deleted = metadata.delete(BUCKET, "a/b", &any()).await.unwrap();
    assert_eq!(
        deleted,
        DeleteOutcome {
            existed: true,
            marker: None
        }
    );
    let deleted = metadata.delete(BUCKET, "a/b", &any()).await.unwrap();
    assert_eq!(deleted, DeleteOutcome::default());
    assert!(metadata.get(BUCKET, "a/b").await.unwrap().is_none());
}

#[tokio::test]
async fn an_overwrite_queues_the_body_and_drops_inline_bytes() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let put = |new| async { metadata.put(BUCKET, "k", new, &any()).await.unwrap() };
    let first = put(chunked_version(1, 1 << 30)).await;
    assert!(fixture.reclaimable().await.is_empty());
    let second = put(inline_version(2, "two")).await;
    assert!(second.version > first.version);
    assert_eq!(fixture.reclaimable().await, [set(1)]);
    put(inline_version(3, "three")).await;
    put(chunked_version(4, 10)).await;
    metadata.delete(BUCKET, "k", &any()).await.unwrap();
    assert_eq!(fixture.reclaimable().await, [set(1), set(4)]);
    let index = fixture.test.groups.index();
    let inline = holdfast_placement::seams::Keyspace::Inline;
    let mut cursor = index.cursor(inline, &[0], &[0xFF]).unwrap();
    cursor.seek(&[0]).unwrap();
    assert!(cursor.entry().is_none(), "inline bytes are left behind");
}

#[tokio::test]
async fn conditions_are_those_of_s3() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let put = |condition| async move {
        let new = inline_version(1, "x");
        metadata.put(BUCKET, "k", new, &condition).await
    };
    assert!(matches!(
        put(if_match("*")).await,
        Err(WriteError::NoSuchKey)
    ));
    assert!(matches!(
        put(if_match(etag(1))).await,
        Err(WriteError::NoSuchKey)
    ));
    put(if_absent()).await.unwrap();
    assert!(matches!(
        put(if_absent()).await,
        Err(WriteError::PreconditionFailed)
    ));
    assert!(matches!(
        put(if_match(etag(2))).await,
        Err(WriteError::PreconditionFailed)
    ));
    put(if_match(etag(1))).await.unwrap();
    let summary = put(if_match("*")).await.unwrap();

    let delete = |condition| async move { metadata.delete(BUCKET, "k", &condition).await };
    let refused = [
        if_match(etag(2)),
        Condition {
            size: Some(2),
            ..any()
        },
        Condition {
            modified_secs: Some(1),
            ..any()
        },
    ];
    for condition in refused {
        assert!(matches!(
            delete(condition).await,
            Err(WriteError::PreconditionFailed)
        ));
    }
    let all = Condition {
        etag: Some(etag(1).to_string()),
        size: Some(1),
        modified_secs: Some(summary.modified.secs()),
        absent: false,
    };
    assert!(delete(all.clone()).await.unwrap().existed);
    assert!(!delete(all).await.unwrap().existed);
}

#[tokio::test]
async fn many_are_deleted_each_by_its_own_condition() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let mut keys = Vec::new();
    for number in 0..100 {
        let key = format!("k{number}");
        let new = chunked_version(number, 1);
        metadata.put(BUCKET, &key, new, &any()).await.unwrap();
        let condition = if number % 10 == 0 {
            if_match("other")
        } else {
            any()
        };
        keys.push((key, condition));
    }
    keys.push(("none".to_owned(), any()));
    keys.push(("k1".to_owned(), any()));
    keys.push(("k10".to_owned(), any()));
    let outcomes = metadata.delete_many(BUCKET, &keys).await;
    for (number, outcome) in outcomes[..100].iter().enumerate() {
        match outcome {
            Ok(outcome) => assert!(number % 10 != 0 && outcome.existed),
            Err(error) => {
                assert!(number % 10 == 0 && matches!(error, WriteError::PreconditionFailed));
            }
        }
    }
    assert!(!outcomes[100].as_ref().unwrap().existed);
    assert!(!outcomes[101].as_ref().unwrap().existed, "deleted before");
    assert!(
        outcomes[102].as_ref().unwrap().existed,
        "was refused before"
    );
    assert_eq!(fixture.reclaimable().await.len(), 91);
}

#[tokio::test]
async fn tags_change_nothing_else() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let tags = vec![("a".to_owned(), "b".to_owned())];
    let missing = metadata.set_tags(BUCKET, "k", tags.clone()).await;
    assert!(matches!(missing, Err(WriteError::NoSuchKey)));
    metadata
        .put(BUCKET, "k", inline_version(1, "x"), &any())
        .await
        .unwrap();
    let before = metadata.head(BUCKET, "k").await.unwrap().unwrap();
    metadata.set_tags(BUCKET, "k", tags.clone()).await.unwrap();
    let after = metadata.get(BUCKET, "k").await.unwrap().unwrap();
    assert_eq!(after.inline, "x");
    assert_eq!(after.record.tags, tags);
    assert_eq!(after.record.summary, before.summary);
}
