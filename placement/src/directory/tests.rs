use std::sync::Arc;
use std::time::Duration;

use super::{CreateBucket, Directory, placement_machine};
use crate::consensus::Groups;
use crate::ids::{Epoch, GroupId};
use crate::map::ClusterMap;
use crate::protection::Protection;
use crate::seams::{ManualClock, MemoryIndex, Rng, SeededRng, UnixMillis};
use crate::testing::{DirectGroups, map_of};

fn directory() -> (Directory, Arc<DirectGroups>, ManualClock) {
    let groups = Arc::new(DirectGroups::new(
        Arc::new(MemoryIndex::new()),
        Arc::new(|_, _| placement_machine()),
    ));
    let clock = ManualClock::at(UnixMillis(1_000_000));
    let directory = Directory::new(
        groups.clone(),
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
