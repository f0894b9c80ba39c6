use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Bucket, CreateBucket, Directory, Expected, IDENTITIES_MAX, Identity, PutIdentity, PutWebhook,
    SETTING_LEN_MAX, SetSetting, Setting, WEBHOOKS_MAX, Webhook, placement_machine, run_query,
};
use crate::consensus::{Groups, QueryRunner};
use crate::ids::{Epoch, GroupId};
use crate::map::ClusterMap;
use crate::protection::Protection;
use crate::query::States;
use crate::seams::{ManualClock, MemoryIndex, Rng, SeededRng, UnixMillis};
use crate::testing::{DirectGroups, SplitGroups, map_of};

struct Runner;

#[async_trait]
impl QueryRunner for Runner {
    async fn run(&self, states: &States, query: &[u8]) -> Result<Bytes, String> {
        run_query(states, query).await
    }
}

/// Its group is led here and at other nodes in turn.
fn directory() -> (Directory, Arc<DirectGroups>, ManualClock) {
    let groups = Arc::new(DirectGroups::new(
        Arc::new(MemoryIndex::new()),
        Arc::new(|_, _| placement_machine()),
    ));
    let clock = ManualClock::at(UnixMillis(1_000_000));
    let split = SplitGroups::new(groups.clone(), Arc::new(Runner), 1, 3);
    let directory = Directory::new(
        Arc::new(split),
        Arc::new(clock.clone()),
        Arc::new(SeededRng::new(1)),
    );
    (directory, groups, clock)
}

fn names(buckets: &[Arc<super::Bucket>]) -> Vec<&str> {
    buckets.iter().map(|bucket| bucket.name.as_str()).collect()
}

#[tokio::test]
async fn a_name_is_given_once_and_ids_are_never_reused() {
    let (directory, groups, _) = directory();
    assert_eq!(directory.bucket("b").await.unwrap(), None);
    let CreateBucket::Created(first) = directory.create_bucket("b", "me", "eu").await.unwrap()
    else {
        panic!("the name was free");
    };
    assert_eq!(
        directory.create_bucket("b", "you", "us").await.unwrap(),
        CreateBucket::Exists(first.clone())
    );
    groups.restart();
    assert_eq!(directory.bucket("b").await.unwrap(), Some(first.clone()));
    let deleting = directory.begin_delete("b").await.unwrap().unwrap();
    assert!(directory.finish_delete(&deleting).await.unwrap());
    assert_eq!(directory.bucket("b").await.unwrap(), None);
    let CreateBucket::Created(second) = directory.create_bucket("b", "me", "eu").await.unwrap()
    else {
        panic!("the name was free");
    };
    assert!(second.id > first.id);
    assert_eq!(directory.bucket("b").await.unwrap(), Some(second));
}

#[tokio::test]
async fn only_the_deletion_under_way_can_finish() {
    let (directory, _, clock) = directory();
    directory.create_bucket("b", "me", "eu").await.unwrap();
    let first = directory.begin_delete("b").await.unwrap().unwrap();
    clock.advance(Duration::from_secs(5));
    let second = directory.begin_delete("b").await.unwrap().unwrap();
    assert!(second.deleting_since > first.deleting_since);
    assert!(!directory.finish_delete(&first).await.unwrap());
    assert!(!directory.cancel_delete(&first).await.unwrap());
    assert!(directory.cancel_delete(&second).await.unwrap());
    assert!(!directory.finish_delete(&second).await.unwrap());
    let bucket = directory.bucket("b").await.unwrap().unwrap();
    assert_eq!((bucket.deleting_since, bucket.deletions), (None, 2));
    assert_eq!(directory.begin_delete("none").await.unwrap(), None);
}

#[tokio::test]
async fn buckets_are_listed_by_name_in_pages() {
    let (directory, _, _) = directory();
    for name in ["b-2", "a-1", "b-1", "b-3", "c"] {
        directory.create_bucket(name, "me", "eu").await.unwrap();
    }
    let (page, more) = directory.list_buckets("b-", None, 2).await.unwrap();
    assert_eq!((names(&page), more), (vec!["b-1", "b-2"], true));
    let (page, more) = directory.list_buckets("b-", Some("b-2"), 2).await.unwrap();
    assert_eq!((names(&page), more), (vec!["b-3"], false));
    let (page, more) = directory.list_buckets("b-", Some("a"), 3).await.unwrap();
    assert_eq!((names(&page), more), (vec!["b-1", "b-2", "b-3"], false));
    let (page, more) = directory.list_buckets("b-", Some("c"), 3).await.unwrap();
    assert_eq!((names(&page), more), (vec![], false));
    let (page, more) = directory.list_buckets("", None, 100).await.unwrap();
    assert_eq!((page.len(), more), (5, false));
    let (page, more) = directory.list_buckets("", None, 0).await.unwrap();
    assert_eq!((page.len(), more), (0, false));
}

#[tokio::test]
async fn the_map_changes_by_compare_and_set() {
    let (directory, _, _) = directory();
    let map = |epoch| ClusterMap {
        epoch: Epoch(epoch),
        ..map_of(&[], Protection::NONE)
    };
    assert_eq!(directory.map().await.unwrap(), None);
    assert!(!directory.set_map(Some(Epoch(1)), &map(2)).await.unwrap());
    assert!(directory.set_map(None, &map(1)).await.unwrap());
    assert!(!directory.set_map(None, &map(2)).await.unwrap());
    assert!(!directory.set_map(Some(Epoch(1)), &map(1)).await.unwrap());
    assert!(directory.set_map(Some(Epoch(1)), &map(2)).await.unwrap());
    assert_eq!(directory.map().await.unwrap(), Some(map(2)));
}

#[tokio::test]
async fn strange_commands_are_refused_and_change_nothing() {
    let (_, groups, _) = directory();
    let rng = SeededRng::new(7);
    for length in 0..200usize {
        let mut command = vec![0; length];
        rng.fill(&mut command);
        if let Some(first) = command.first_mut() {
            *first = 1 + (length % 2) as u8;
        }
        if length > 25 {
            command[25] = 99;
        }
        let outcome = groups
            .propose(GroupId::PLACEMENT, command.into())
            .await
            .unwrap();
        assert_eq!(outcome[..2], [1, 1]);
    }
    let index = groups.index();
    let mut cursor = index
        .cursor(crate::seams::Keyspace::Records, &[0], &[0xFF])
        .unwrap();
    cursor.seek(&[0]).unwrap();
    assert!(cursor.entry().is_none());
}

fn identity(access_key: &str) -> Identity {
    Identity {
        access_key: access_key.to_owned(),
        secret_key: format!("secret of {access_key}"),
        owner_id: "0123456789abcdef".repeat(4),
        display_name: "Somebody".to_owned(),
    }
}

#[tokio::test]
async fn identities_are_kept_by_access_key() {
    let (directory, groups, _) = directory();
    assert_eq!(directory.identities().await.unwrap(), []);
    for key in ["b", "a", "c"] {
        let stored = directory.put_identity(identity(key)).await.unwrap();
        assert_eq!(stored, PutIdentity::Stored);
    }
    let changed = Identity {
        secret_key: "another".to_owned(),
        ..identity("b")
    };
    let stored = directory.put_identity(changed.clone()).await.unwrap();
    assert_eq!(stored, PutIdentity::Stored);
    groups.restart();
    let found = directory.identity("b").await.unwrap();
    assert_eq!(found, Some(changed.clone()));
    assert_eq!(directory.identity("d").await.unwrap(), None);
    assert!(directory.delete_identity("a").await.unwrap());
    assert!(!directory.delete_identity("a").await.unwrap());
    let all = directory.identities().await.unwrap();
    assert_eq!(all, [changed, identity("c")]);
    assert!(!format!("{all:?}").contains("another"));
}

#[tokio::test]
async fn strange_identities_are_not_stored() {
    let (directory, _, _) = directory();
    let good = identity("a");
    let strange = [
        Identity {
            access_key: String::new(),
            ..good.clone()
        },
        Identity {
            secret_key: String::new(),
            ..good.clone()
        },
        Identity {
            display_name: "x".repeat(257),
            ..good.clone()
        },
        Identity {
            owner_id: "0123456789ABCDEF".repeat(4),
            ..good.clone()
        },
        Identity {
            owner_id: "0".repeat(63),
            ..good
        },
    ];
    for strange in strange {
        let stored = directory.put_identity(strange).await.unwrap();
        assert_eq!(stored, PutIdentity::Malformed);
    }
    assert_eq!(directory.identities().await.unwrap(), []);
}

#[tokio::test]
async fn there_are_only_so_many_identities() {
    let (directory, _, _) = directory();
    for number in 0..IDENTITIES_MAX {
        let stored = directory.put_identity(identity(&number.to_string())).await;
        assert_eq!(stored.unwrap(), PutIdentity::Stored);
    }
    let refused = directory.put_identity(identity("more")).await.unwrap();
    assert_eq!(refused, PutIdentity::TooMany);
    let replaced = directory.put_identity(identity("7")).await.unwrap();
    assert_eq!(replaced, PutIdentity::Stored);
    let all = directory.identities().await.unwrap();
    assert_eq!(all.len() as u64, IDENTITIES_MAX);
    assert!(directory.delete_identity("7").await.unwrap());
    let stored = directory.put_identity(identity("more")).await.unwrap();
    assert_eq!(stored, PutIdentity::Stored);
}

async fn made(directory: &Directory, name: &str, settings: &[(Setting, &[u8])]) -> Arc<Bucket> {
    let made = directory.create_bucket_with(name, "me", "eu", settings);
    match made.await.unwrap() {
        CreateBucket::Created(bucket) => bucket,
        CreateBucket::Exists(_) => panic!("the name was free"),
    }
}

#[tokio::test]
async fn settings_are_kept_by_bucket_and_kind() {
    let (directory, groups, _) = directory();
    let one = made(&directory, "one", &[]).await;
    let two = made(&directory, "two", &[(Setting::Versioning, b"on")]).await;
    let set = |bucket: &Arc<Bucket>, value: Option<&'static [u8]>| {
        let (directory, bucket) = (&directory, bucket.clone());
        async move {
            let cors = Setting::Cors;
            let set = directory.set_setting(&bucket, cors, Expected::Anything, value);
            set.await.unwrap()
        }
    };
    assert_eq!(set(&one, Some(b"a")).await, SetSetting::Done);
    assert_eq!(set(&one, Some(b"b")).await, SetSetting::Done);
    groups.restart();
    let get =
        async |bucket: &Arc<Bucket>, setting| directory.setting(bucket, setting).await.unwrap();
    assert_eq!(get(&one, Setting::Cors).await.as_deref(), Some(&b"b"[..]));
    assert_eq!(get(&one, Setting::Versioning).await, None);
    assert_eq!(get(&two, Setting::Cors).await, None);
    assert_eq!(
        get(&two, Setting::Versioning).await.as_deref(),
        Some(&b"on"[..])
    );
    assert_eq!(set(&one, None).await, SetSetting::Done);
    assert_eq!(get(&one, Setting::Cors).await, None);
}

#[tokio::test]
async fn settings_go_with_their_bucket() {
    let (directory, groups, _) = directory();
    let mut all = Vec::new();
    for setting in Setting::ALL {
        all.push((setting, &b"value"[..]));
    }
    let first = made(&directory, "b", &all).await;
    let deleting = directory.begin_delete("b").await.unwrap().unwrap();
    assert!(directory.finish_delete(&deleting).await.unwrap());
    let settings = || {
        let index = groups.index();
        let from = super::state::key(0x15, &[]);
        let to = super::state::key(0x16, &[]);
        let mut cursor = index
            .cursor(crate::seams::Keyspace::Records, &from, &to)
            .unwrap();
        cursor.seek(&from).unwrap();
        cursor.entry().is_some()
    };
    assert!(!settings(), "a setting was left behind");
    let second = made(&directory, "b", &[]).await;
    let set = directory.set_setting(&first, Setting::Cors, Expected::Anything, Some(b"late"));
    assert_eq!(set.await.unwrap(), SetSetting::NoSuchBucket);
    assert_eq!(
        directory.setting(&second, Setting::Cors).await.unwrap(),
        None
    );
    assert!(!settings());
}

#[tokio::test]
async fn settings_change_by_compare_and_set() {
    let (directory, _, _) = directory();
    let bucket = made(&directory, "b", &[]).await;
    let set = async |expected: Expected<'static>, value: Option<&'static [u8]>| {
        let set = directory.set_setting(&bucket, Setting::Quota, expected, value);
        set.await.unwrap()
    };
    let (a, b) = (&b"a"[..], &b"b"[..]);
    assert_eq!(set(Expected::Value(a), Some(b)).await, SetSetting::Changed);
    assert_eq!(set(Expected::Nothing, Some(a)).await, SetSetting::Done);
    assert_eq!(set(Expected::Nothing, Some(b)).await, SetSetting::Changed);
    assert_eq!(set(Expected::Value(a), Some(b)).await, SetSetting::Done);
    assert_eq!(set(Expected::Value(a), None).await, SetSetting::Changed);
    assert_eq!(set(Expected::Value(b), None).await, SetSetting::Done);
    let long = vec![0; SETTING_LEN_MAX + 1];
    let quota = Setting::Quota;
    let refused = directory.set_setting(&bucket, quota, Expected::Anything, Some(&long));
    assert_eq!(refused.await.unwrap(), SetSetting::TooLong);
    assert_eq!(directory.setting(&bucket, quota).await.unwrap(), None);
}

fn webhook(name: &str) -> Webhook {
    Webhook {
        name: name.to_owned(),
        url: "http://127.0.0.1:9/".to_owned(),
        token: Some("hidden".to_owned()),
    }
}

#[tokio::test]
async fn webhooks_are_kept_by_name_and_bounded() {
    let (directory, groups, _) = directory();
    for strange in [
        webhook(""),
        webhook("a/b"),
        webhook(&"n".repeat(65)),
        Webhook {
            url: String::new(),
            ..webhook("a")
        },
        Webhook {
            token: Some("two\nlines".to_owned()),
            ..webhook("a")
        },
    ] {
        let stored = directory.put_webhook(strange).await.unwrap();
        assert_eq!(stored, PutWebhook::Malformed);
    }
    for number in (0..WEBHOOKS_MAX).rev() {
        let stored = directory.put_webhook(webhook(&format!("w{number:03}")));
        assert_eq!(stored.await.unwrap(), PutWebhook::Stored);
    }
    let one_more = directory.put_webhook(webhook("x")).await.unwrap();
    assert_eq!(one_more, PutWebhook::TooMany);
    let changed = Webhook {
        token: None,
        ..webhook("w001")
    };
    let stored = directory.put_webhook(changed.clone()).await.unwrap();
    assert_eq!(stored, PutWebhook::Stored);
    groups.restart();
    assert!(directory.delete_webhook("w000").await.unwrap());
    assert!(!directory.delete_webhook("w000").await.unwrap());
    let all = directory.webhooks().await.unwrap();
    assert_eq!((all.len(), &all[0]), (WEBHOOKS_MAX - 1, &changed));
    assert!(!format!("{all:?}").contains("hidden"));
}
