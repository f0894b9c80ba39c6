//! Renames within groups and between them: what is promised, at every step at which one may be left.

use std::collections::BTreeMap;

use holdfast_placement::ids::{GroupId, UploadId};
use holdfast_placement::seams::{Rng, SystemRng};

use super::*;
use crate::metadata::apply_rename::Intent;
use crate::metadata::command::{Command, Outcome, RenameVerdict};
use crate::metadata::store::WriteError;
use crate::metadata::{
    BucketVersioning, ListObjects, ListVersions, MissedSlot, Rename, RenameCondition, RenameId,
    RenameToken, Versioning,
};

fn same(key: &str, others: &[&str], metadata: &Metadata) -> Option<String> {
    let group = metadata.place(BUCKET, key).group;
    (0..10_000)
        .map(|number| format!("s{number}"))
        .find(|other| {
            metadata.place(BUCKET, other).group == group && !others.contains(&other.as_str())
        })
}

fn other(key: &str, metadata: &Metadata) -> String {
    let group = metadata.place(BUCKET, key).group;
    (0..10_000)
        .map(|number| format!("o{number}"))
        .find(|other| metadata.place(BUCKET, other).group != group)
        .unwrap()
}

fn plain() -> Rename {
    Rename::default()
}

fn token(token: u8, request: u8) -> Rename {
    Rename {
        token: Some(RenameToken {
            token: [token; 16],
            request: [request; 16],
        }),
        ..Rename::default()
    }
}

async fn keys_of(metadata: &Metadata) -> Vec<String> {
    let list = ListObjects {
        max: 1000,
        ..ListObjects::default()
    };
    let page = metadata.list(BUCKET, &list).await.unwrap();
    let keys = page.entries.into_iter().map(|entry| entry.key).collect();
    let versions = ListVersions {
        max: 1000,
        ..ListVersions::default()
    };
    let versions = metadata.list_versions(BUCKET, &versions).await.unwrap();
    let versions: Vec<_> = versions
        .entries
        .into_iter()
        .map(|entry| entry.key)
        .collect();
    assert_eq!(versions, keys);
    keys
}

#[tokio::test]
async fn an_object_keeps_all_but_its_key() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    for (at, to) in [
        ("k", same("k", &["k"], metadata).unwrap()),
        ("l", other("l", metadata)),
    ] {
        let mut new = inline_version(1, "bytes");
        new.tags = vec![("t".to_owned(), "v".to_owned())];
        new.headers.content_type = Some("text/x-test".to_owned());
        metadata.put(BUCKET, at, new, &any()).await.unwrap();
        let before = metadata.get(BUCKET, at).await.unwrap().unwrap();
        fixture.clock.advance(std::time::Duration::from_secs(5));
        // What is there already goes.
        let old = chunked_version(9, 100);
        metadata.put(BUCKET, &to, old, &any()).await.unwrap();
        metadata.rename(BUCKET, at, &to, &plain()).await.unwrap();
        assert!(metadata.get(BUCKET, at).await.unwrap().is_none());
        let after = metadata.get(BUCKET, &to).await.unwrap().unwrap();
        assert_eq!(after.inline, "bytes");
        assert_eq!(
            after.record.summary.modified,
            before.record.summary.modified
        );
        assert_eq!(after.record.summary.etag, before.record.summary.etag);
        assert_eq!(after.record.tags, before.record.tags);
        assert_eq!(after.record.headers, before.record.headers);
        assert!(fixture.reclaimable().await.contains(&set(9)));
        assert_eq!(keys_of(metadata).await, [to.as_str()]);
        let missing = metadata.rename(BUCKET, at, &to, &plain()).await;
        assert!(matches!(missing, Err(WriteError::NoSuchKey)));
        metadata.delete(BUCKET, &to, &any()).await.unwrap();
    }
}

#[tokio::test]
async fn bodies_in_chunks_stay_where_they_are() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let to = other("k", metadata);
    let mut new = chunked_version(1, 100);
    new.missed = vec![MissedSlot { chunk: 0, slot: 0 }];
    metadata.put(BUCKET, "k", new, &any()).await.unwrap();
    let (from_group, to_group) = (
        metadata.place(BUCKET, "k").group,
        metadata.place(BUCKET, &to).group,
    );
    metadata.rename(BUCKET, "k", &to, &plain()).await.unwrap();
    assert!(fixture.reclaimable().await.is_empty());
    // What is to be made whole goes along, and what is counted.
    let open = |group: GroupId| metadata.repairs(group, None, 10);
    assert_eq!(open(from_group).await.unwrap().len(), 0);
    assert_eq!(open(to_group).await.unwrap().len(), 1);
    let usage = metadata.usage(from_group).await.unwrap();
    assert_eq!((usage.chunked.len(), usage.repairs_open), (0, 0));
    let usage = metadata.usage(to_group).await.unwrap();
    assert_eq!((usage.chunked.len(), usage.repairs_open), (1, 1));
    // Whoever looks for references in the one group, then in the other, finds them in both for a while.
    for group in [from_group, to_group] {
        let suspects = [set(1)].into_iter().collect();
        let left = metadata.clear_referenced(group, suspects).await.unwrap();
        assert!(left.is_empty(), "{group}");
    }
    metadata.delete(BUCKET, &to, &any()).await.unwrap();
    assert_eq!(fixture.reclaimable().await, [set(1)]);
}

#[tokio::test]
async fn parts_go_along_and_come_back() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let upload = metadata
        .create_upload(BUCKET, "k", new_upload())
        .await
        .unwrap();
    for number in 1..=70 {
        let part = part(number, u64::from(number), 5);
        metadata.put_part(BUCKET, "k", upload, part).await.unwrap();
    }
    let list = crate::metadata::ListParts {
        upload,
        after: 0,
        max: 100,
    };
    let parts = metadata
        .list_parts(BUCKET, "k", &list)
        .await
        .unwrap()
        .unwrap()
        .parts;
    let complete = completion(upload, parts);
    metadata
        .complete_upload(BUCKET, "k", complete, &any())
        .await
        .unwrap();
    let to = other("k", metadata);
    let mut key = "k".to_owned();
    for next in [to.clone(), "k".to_owned(), to] {
        let before = metadata.head(BUCKET, &key).await.unwrap().unwrap();
        metadata
            .rename(BUCKET, &key, &next, &plain())
            .await
            .unwrap();
        // A reader of the object as it was still finds its parts.
        let Body::Multipart { table, .. } = before.body else {
            unreachable!()
        };
        let parts = metadata
            .parts_in_range(BUCKET, &key, table, 0..350)
            .await
            .unwrap();
        assert_eq!(parts.len(), 70);
        key = next;
    }
    // Old tables are dropped, and take nothing with them.
    assert!(fixture.reclaimable().await.is_empty());
    for group in (1..=16).map(GroupId) {
        let waiting = metadata
            .reclaimable(group, UnixMillis(u64::MAX), 100)
            .await
            .unwrap();
        let ids = waiting.into_iter().map(|entry| entry.id).collect();
        metadata.reclaimed(group, ids).await.unwrap();
    }
    let record = metadata.head(BUCKET, &key).await.unwrap().unwrap();
    let Body::Multipart { table, parts } = record.body else {
        unreachable!()
    };
    assert_eq!(parts, 70);
    let found = metadata
        .parts_in_range(BUCKET, &key, table, 0..350)
        .await
        .unwrap();
    let sets: Vec<_> = found
        .iter()
        .map(|(offset, part)| (*offset, part.body.clone()))
        .collect();
    let expected: Vec<_> = (0..70).map(|at| (at * 5, chunked(at + 1, 5))).collect();
    assert_eq!(sets, expected);
    metadata.delete(BUCKET, &key, &any()).await.unwrap();
    assert_eq!(fixture.reclaimable().await.len(), 70);
    for group in (1..=16).map(GroupId) {
        assert_eq!(metadata.usage(group).await.unwrap(), Default::default());
    }
}

#[tokio::test]
async fn conditions_are_about_either_end() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let to = other("k", metadata);
    let near = same("k", &["k"], metadata).unwrap();
    metadata
        .put(BUCKET, "k", inline_version(1, "one"), &any())
        .await
        .unwrap();
    let tag = |number| Some(etag(number).to_string());
    let of = |if_match, if_none_match| RenameCondition {
        if_match,
        if_none_match,
        ..RenameCondition::default()
    };
    let now = UnixMillis(1_700_000_000_000).secs();
    let since = |modified, unmodified| RenameCondition {
        if_modified_since: modified,
        if_unmodified_since: unmodified,
        ..RenameCondition::default()
    };
    for target in [&to, &near] {
        for source in [
            of(tag(2), None),
            of(None, tag(1)),
            of(None, Some("*".to_owned())),
            since(Some(now), None),
            since(None, Some(now - 1)),
        ] {
            let destination = RenameCondition::default();
            let token = None;
            let rename = Rename {
                source,
                destination,
                token,
            };
            let refused = metadata.rename(BUCKET, "k", target, &rename).await;
            assert!(
                matches!(refused, Err(WriteError::PreconditionFailed)),
                "{rename:?}"
            );
        }
        for destination in [of(tag(2), None), since(Some(0), None)] {
            let source = of(tag(1), tag(2));
            let token = None;
            let rename = Rename {
                source,
                destination,
                token,
            };
            let refused = metadata.rename(BUCKET, "k", target, &rename).await;
            assert!(
                matches!(refused, Err(WriteError::PreconditionFailed)),
                "{rename:?}"
            );
        }
        metadata
            .put(BUCKET, target, inline_version(2, "two"), &any())
            .await
            .unwrap();
        for destination in [of(None, Some("*".to_owned())), of(tag(1), None)] {
            let source = RenameCondition::default();
            let token = None;
            let rename = Rename {
                source,
                destination,
                token,
            };
            let refused = metadata.rename(BUCKET, "k", target, &rename).await;
            assert!(
                matches!(refused, Err(WriteError::PreconditionFailed)),
                "{rename:?}"
            );
        }
        // Nothing of it is left: the source can be written.
        metadata
            .put(BUCKET, "k", inline_version(1, "one"), &any())
            .await
            .unwrap();
        let rename = Rename {
            source: of(tag(1), None),
            destination: of(tag(2), None),
            token: None,
        };
        metadata.rename(BUCKET, "k", target, &rename).await.unwrap();
        metadata
            .rename(BUCKET, target, "k", &plain())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_request_with_a_token_is_done_once() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let to = other("k", metadata);
    let near = same("k", &["k"], metadata).unwrap();
    for (number, target) in [(1, &to), (2, &near)] {
        metadata
            .put(BUCKET, "k", inline_version(1, "one"), &any())
            .await
            .unwrap();
        let request = token(number, 1);
        metadata
            .rename(BUCKET, "k", target, &request)
            .await
            .unwrap();
        metadata
            .rename(BUCKET, "k", target, &request)
            .await
            .unwrap();
        // Also if there is something to rename again: the request was made before that.
        metadata
            .put(BUCKET, "k", inline_version(2, "two"), &any())
            .await
            .unwrap();
        metadata
            .rename(BUCKET, "k", target, &request)
            .await
            .unwrap();
        assert_eq!(
            metadata.get(BUCKET, "k").await.unwrap().unwrap().inline,
            "two"
        );
        assert_eq!(
            metadata.get(BUCKET, target).await.unwrap().unwrap().inline,
            "one"
        );
        let refused = metadata
            .rename(BUCKET, "k", target, &token(number, 2))
            .await;
        assert!(matches!(refused, Err(WriteError::TokenMismatch)));
        metadata.delete(BUCKET, "k", &any()).await.unwrap();
        let refused = metadata
            .rename(BUCKET, "k", target, &token(number, 2))
            .await;
        assert!(matches!(refused, Err(WriteError::TokenMismatch)));
    }
}

#[tokio::test]
async fn not_where_versions_are_kept() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let versioning = BucketVersioning {
        versioning: Versioning::Enabled,
        change: 1,
        ..BucketVersioning::default()
    };
    metadata.set_versioning(BUCKET, versioning).await.unwrap();
    metadata
        .put(BUCKET, "k", inline_version(1, "one"), &any())
        .await
        .unwrap();
    for target in [other("k", metadata), same("k", &["k"], metadata).unwrap()] {
        let refused = metadata.rename(BUCKET, "k", &target, &plain()).await;
        assert!(matches!(refused, Err(WriteError::KeepsVersions)));
    }
}

/// Begins a rename and leaves it at that.
async fn begin(metadata: &Metadata, id: RenameId, from: &str, to: &str) {
    let command = Command::BeginRename {
        at: metadata.place(BUCKET, from).address,
        condition: RenameCondition::default(),
        intent: Intent {
            id,
            to: to.to_owned(),
            condition: RenameCondition::default(),
            token: None,
            table: UploadId(id.0),
        },
    };
    let group = metadata.place(BUCKET, from).group;
    let outcome = metadata.decide(group, &command, &[]).await.unwrap().1;
    assert_eq!(outcome, Outcome::Renamed(RenameVerdict::Moved));
}

fn id(fixture: &Fixture, number: u8) -> RenameId {
    use holdfast_placement::seams::Clock as _;
    let mut id = [number; 16];
    id[..6].copy_from_slice(&fixture.clock.wall().0.to_be_bytes()[2..]);
    RenameId(id)
}

#[tokio::test]
async fn whoever_meets_a_rename_that_was_left_finishes_it() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let to = other("k", metadata);
    for number in 0..10 {
        metadata
            .put(BUCKET, "k", inline_version(1, "one"), &any())
            .await
            .unwrap();
        begin(metadata, id(&fixture, number), "k", &to).await;
        match number {
            0 => assert!(metadata.get(BUCKET, "k").await.unwrap().is_none()),
            1 => assert!(metadata.head(BUCKET, "k").await.unwrap().is_none()),
            2 => assert_eq!(keys_of(metadata).await, [to.as_str()]),
            3 => {
                let tagged = metadata.set_tags(BUCKET, "k", Vec::new()).await;
                assert!(matches!(tagged, Err(WriteError::NoSuchKey)));
            }
            4 => {
                let new = inline_version(2, "two");
                let put = metadata.put(BUCKET, "k", new, &if_absent()).await;
                put.unwrap();
                metadata.delete(BUCKET, "k", &any()).await.unwrap();
            }
            5 => {
                let deleted = metadata.delete(BUCKET, "k", &any()).await.unwrap();
                assert!(!deleted.existed);
            }
            6 => {
                let new = inline_version(2, "two");
                let put = metadata.put(BUCKET, "k", new, &if_match("*")).await;
                assert!(matches!(put, Err(WriteError::NoSuchKey)));
            }
            7 => {
                let renamed = metadata.rename(BUCKET, "k", "x", &plain()).await;
                assert!(matches!(renamed, Err(WriteError::NoSuchKey)));
            }
            8 => {
                assert!(!metadata.is_empty(BUCKET).await.unwrap());
            }
            _ => {
                // Long ago: then it is not made any more.
                fixture.clock.advance(std::time::Duration::from_secs(3600));
                let found = metadata.get(BUCKET, "k").await.unwrap().unwrap();
                assert_eq!(found.inline, "one");
                assert_eq!(keys_of(metadata).await, ["k"]);
                return;
            }
        }
        let found = metadata.get(BUCKET, &to).await.unwrap().unwrap();
        assert_eq!(found.inline, "one");
        metadata.delete(BUCKET, &to, &any()).await.unwrap();
    }
}

#[tokio::test]
async fn two_keys_that_take_each_others_name_end_as_one() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let to = other("k", metadata);
    metadata
        .put(BUCKET, "k", inline_version(1, "one"), &any())
        .await
        .unwrap();
    metadata
        .put(BUCKET, &to, inline_version(2, "two"), &any())
        .await
        .unwrap();
    begin(metadata, id(&fixture, 1), "k", &to).await;
    begin(metadata, id(&fixture, 2), &to, "k").await;
    let keys = keys_of(metadata).await;
    assert!(!keys.is_empty() && keys.len() <= 2, "{keys:?}");
    metadata
        .put(BUCKET, "k", inline_version(1, "one"), &any())
        .await
        .unwrap();
    metadata
        .put(BUCKET, &to, inline_version(2, "two"), &any())
        .await
        .unwrap();
    let rename = plain();
    let there = metadata.rename(BUCKET, "k", &to, &rename);
    let back = metadata.rename(BUCKET, &to, "k", &rename);
    let outcomes = futures_util::future::join(there, back).await;
    assert!(outcomes.0.is_ok() || outcomes.1.is_ok(), "{outcomes:?}");
    assert_eq!(keys_of(metadata).await.len(), 1);
}

/// Also where nobody comes by.
#[tokio::test]
async fn a_rename_that_was_left_is_ended_in_the_end() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let to = other("k", metadata);
    let new = inline_version(1, "one");
    metadata.put(BUCKET, "k", new, &any()).await.unwrap();
    begin(metadata, id(&fixture, 1), "k", &to).await;
    let group = metadata.place(BUCKET, "k").group;
    let began = holdfast_placement::seams::Clock::wall(&fixture.clock);
    let settle = |before| metadata.settle_renames_left(group, UnixMillis(before));
    assert_eq!(settle(began.0).await.unwrap(), 0, "it is young");
    let at = metadata.place(BUCKET, "k");
    let question = crate::metadata::rename::FindRename { at };
    let way = metadata.asker.ask(group, &question).await.unwrap();
    assert!(way.is_some());
    assert_eq!(settle(began.0 + 1).await.unwrap(), 1);
    let way = metadata.asker.ask(group, &question).await.unwrap();
    assert!(way.is_none());
    assert_eq!(settle(began.0 + 1).await.unwrap(), 0);
    assert_eq!(keys_of(metadata).await, [to]);
}

/// Bytes at the source that are not as many as its record says are no object; what they were to replace stays.
#[tokio::test]
async fn what_makes_no_sense_replaces_nothing() {
    use holdfast_placement::seams::{Batch, Durability, Keyspace};
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let to = other("k", metadata);
    let new = inline_version(1, "bytes");
    let put = metadata.put(BUCKET, "k", new, &any()).await.unwrap();
    let old = chunked_version(9, 100);
    metadata.put(BUCKET, &to, old, &any()).await.unwrap();
    let group = metadata.place(BUCKET, &to).group;
    let usage = metadata.usage(group).await.unwrap();
    let object = metadata.place(BUCKET, "k").object_key();
    let mut batch = Batch::new();
    let key = crate::metadata::keys::inline(&object, put.version);
    batch.put(Keyspace::Inline, key, "byte");
    let index = fixture.test.groups.index();
    index.write(batch, Durability::Unsynced).unwrap();
    let renamed = metadata.rename(BUCKET, "k", &to, &plain()).await;
    assert!(renamed.is_err());
    let found = metadata.head(BUCKET, &to).await.unwrap();
    assert_eq!(found.unwrap().summary.size, 100);
    assert!(fixture.reclaimable().await.is_empty());
    assert_eq!(metadata.usage(group).await.unwrap(), usage);
}

#[tokio::test]
async fn what_was_decided_is_decided() {
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let to = other("k", metadata);
    metadata
        .put(BUCKET, "k", inline_version(1, "one"), &any())
        .await
        .unwrap();
    let id = id(&fixture, 1);
    begin(metadata, id, "k", &to).await;
    let place = metadata.place(BUCKET, "k");
    let question = crate::metadata::rename::FindRename { at: place };
    let way = metadata.asker.ask(place.group, &question).await;
    let way = way.unwrap().unwrap();
    // Somebody is slow: all has happened, and more, before his step comes.
    metadata
        .settle_rename(&metadata.place(BUCKET, "k"))
        .await
        .unwrap();
    metadata.delete(BUCKET, &to, &any()).await.unwrap();
    metadata
        .put(BUCKET, "k", inline_version(2, "two"), &any())
        .await
        .unwrap();
    let verdict = metadata
        .receive_rename(&metadata.place(BUCKET, "k"), &way)
        .await
        .unwrap();
    assert_eq!(verdict, RenameVerdict::Moved);
    let end = Command::EndRename {
        at: metadata.place(BUCKET, "k").address,
        id,
        has_moved: true,
    };
    let group = metadata.place(BUCKET, "k").group;
    metadata.decide(group, &end, &[]).await.unwrap();
    assert_eq!(keys_of(metadata).await, ["k"]);
    assert_eq!(
        metadata.get(BUCKET, "k").await.unwrap().unwrap().inline,
        "two"
    );
}

/// Renames, writes and deletions at random, of which some are left half-way, against a map. `HOLDFAST_SEED` replays.
#[tokio::test]
async fn against_a_map() {
    let given = std::env::var("HOLDFAST_SEED").ok();
    let seed = given.map_or_else(|| SystemRng.next_u64(), |seed| seed.parse().unwrap());
    println!("HOLDFAST_SEED={seed}");
    let rng = SeededRng::new(seed);
    let fixture = Fixture::new();
    let metadata = fixture.metadata();
    let keys: Vec<String> = (0..6).map(|number| format!("k{number}")).collect();
    let mut model: BTreeMap<String, u64> = BTreeMap::new();
    for step in 1..=400u64 {
        let key = &keys[rng.below(6) as usize];
        let to = &keys[rng.below(6) as usize];
        match rng.below(8) {
            0 | 1 => {
                let new = chunked_version(step, 100 + step);
                metadata.put(BUCKET, key, new, &any()).await.unwrap();
                model.insert(key.clone(), step);
            }
            2 => {
                metadata.delete(BUCKET, key, &any()).await.unwrap();
                model.remove(key);
            }
            3 if key != to
                && model.contains_key(key)
                && metadata.place(BUCKET, key).group != metadata.place(BUCKET, to).group =>
            {
                // One that is half-way at either end would have it refused; `rename` then settles both and begins again.
                for end in [key, to] {
                    metadata.head(BUCKET, end).await.unwrap();
                }
                // Left once it was decided: it is done, though nobody was told.
                let mut number = [0; 16];
                rng.fill(&mut number);
                let mut id = id(&fixture, 0);
                id.0[6..].copy_from_slice(&number[6..]);
                begin(metadata, id, key, to).await;
                let place = metadata.place(BUCKET, key);
                let question = crate::metadata::rename::FindRename { at: place };
                let way = metadata
                    .asker
                    .ask(place.group, &question)
                    .await
                    .unwrap()
                    .unwrap();
                if rng.below(2) == 0 {
                    metadata.receive_rename(&place, &way).await.unwrap();
                    if let Some(own) = model.remove(key) {
                        model.insert(to.clone(), own);
                    }
                } else {
                    metadata.get(BUCKET, key).await.unwrap();
                    if let Some(own) = model.remove(key) {
                        model.insert(to.clone(), own);
                    }
                }
            }
            4..=6 if key != to => {
                let outcome = metadata.rename(BUCKET, key, to, &plain()).await;
                match model.remove(key) {
                    Some(own) => {
                        outcome.unwrap();
                        model.insert(to.clone(), own);
                    }
                    None => assert!(matches!(outcome, Err(WriteError::NoSuchKey)), "step {step}"),
                }
            }
            _ => {}
        }
        let looked_at = &keys[rng.below(6) as usize];
        let found = metadata.head(BUCKET, looked_at).await.unwrap();
        let size = found.map(|record| record.summary.size);
        assert_eq!(
            size,
            model.get(looked_at).map(|own| 100 + own),
            "step {step}"
        );
        if step % 7 == 0 {
            let expected: Vec<&String> = model.keys().collect();
            let listed = keys_of(metadata).await;
            assert_eq!(listed.iter().collect::<Vec<_>>(), expected, "step {step}");
        }
    }
    // What is half-way still lies at both ends, until somebody comes by: a listing does.
    keys_of(metadata).await;
    // Nothing was lost, and nothing is counted twice.
    let mut bodies = 0;
    for group in (1..=16).map(GroupId) {
        let usage = metadata.usage(group).await.unwrap();
        bodies += usage
            .chunked
            .iter()
            .map(|(_, tally)| tally.bodies)
            .sum::<u64>();
    }
    assert_eq!(bodies, model.len() as u64);
    let waiting = fixture.reclaimable().await;
    for own in model.values() {
        assert!(!waiting.contains(&set(*own)));
    }
}
