//! Groups on one and on many drives: what was acknowledged stays, whatever fails within what the voters allow.

#![allow(clippy::unwrap_used, reason = "a test")]

mod consensus_rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use consensus_rig::{Drive, Rig, append, at, config, list, machines, voters};
use futures_util::future::{BoxFuture, join_all};
use holdfast_placement::consensus::{
    ConsensusConfig, Groups, ProposeError, ReadError, Reading, ReplicaDrive, Replicas,
};
use holdfast_placement::ids::{DriveId, GroupId};
use holdfast_placement::seams::{
    Batch, Clock, Durability, Index, IndexError, Keyspace, SystemClock, UnixMillis, spawn,
};

const GROUP: GroupId = GroupId(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_voter_keeps_what_it_acknowledged_over_a_crash() {
    let mut rig = Rig::new(1, config()).await;
    rig.replicas
        .create_group(GROUP, &voters([1]))
        .await
        .unwrap();
    rig.replicas
        .create_group(GROUP, &voters([1]))
        .await
        .unwrap();
    let mut count = 0;
    for round in 0..4 {
        let tokens = count..count + 150;
        let places: Vec<_> = join_all(tokens.clone().map(|token| rig.propose(GROUP, token))).await;
        let before = rig.list(GROUP).await;
        for (token, place) in tokens.zip(places) {
            assert_eq!(before[place.unwrap() as usize], token);
        }
        count += 150;
        rig.crash(|| round * 7).await;
        rig.reopen().await;
        assert_eq!(rig.list(GROUP).await, before, "round {round}");
    }
    // Tokens are remembered too: nothing takes effect twice.
    for token in [0, 151, 599] {
        let place = rig.propose(GROUP, token).await.unwrap();
        assert_eq!(rig.list(GROUP).await[place as usize], token);
    }
    assert_eq!(rig.list(GROUP).await.len(), 600);
    rig.replicas.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_voter_is_ready_at_once_and_refuses_after_its_end() {
    let mut rig = Rig::new(1, config()).await;
    for group in 0..17 {
        rig.replicas
            .create_group(GroupId(group), &voters([1]))
            .await
            .unwrap();
        rig.propose(GroupId(group), 1).await.unwrap();
    }
    rig.replicas.shutdown().await;
    #[expect(clippy::disallowed_methods, reason = "measures")]
    let start = Instant::now();
    rig.reopen().await;
    assert!(rig.replicas.await_leaders(Duration::from_secs(5)).await);
    for group in 0..17 {
        assert_eq!(rig.list(GroupId(group)).await, [1]);
    }
    println!(
        "17 groups of one voter are readable after {:?}",
        start.elapsed()
    );
    let state = rig.replicas.read(GROUP).await.unwrap();
    rig.drives[&1]
        .log
        .fail(Some(IndexError::Io("broken".into())));
    assert!(matches!(
        rig.propose(GROUP, 2).await,
        Err(ProposeError::Indeterminate { .. })
    ));
    assert!(matches!(
        rig.replicas.read(GROUP).await,
        Err(ReadError::Stopped { .. })
    ));
    assert!(matches!(
        rig.propose(GROUP, 3).await,
        Err(ProposeError::Stopped { .. })
    ));
    drop(state);
    rig.replicas.shutdown().await;
    assert!(matches!(
        rig.replicas.read(GroupId(2)).await,
        Err(ReadError::Stopped { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_voters_outlive_two_drives_and_not_three() {
    // Who takes over from a leader that is known to have ended need not wait for any time to run out.
    let config = ConsensusConfig {
        election_timeout_min: Duration::from_secs(60),
        election_timeout_max: Duration::from_secs(120),
        ..config()
    };
    let rig = Arc::new(Rig::new(5, config).await);
    rig.replicas
        .create_group(GROUP, &voters(1..=5))
        .await
        .unwrap();
    let load = {
        let rig = rig.clone();
        join_all((0..16).map(move |worker| {
            let rig = rig.clone();
            async move {
                let mut acknowledged = Vec::new();
                for i in 0..60 {
                    let token = worker * 1000 + i;
                    acknowledged.push((rig.propose(GROUP, token).await.unwrap(), token));
                }
                acknowledged
            }
        }))
    };
    let failures = {
        let rig = rig.clone();
        async move {
            for _ in 0..2 {
                wait_for(|| rig.replicas.status()[0].leader.is_some()).await;
                let leader = rig.replicas.status()[0].leader.unwrap();
                rig.drives[&leader.0].fail(Some(IndexError::Io("broken".into())));
                rig.replicas.fail_drive(leader).await;
            }
        }
    };
    let (acknowledged, ()) = futures_util::future::join(load, failures).await;
    let now = rig.list(GROUP).await;
    assert_eq!(now.len(), 16 * 60);
    for (place, token) in acknowledged.into_iter().flatten() {
        assert_eq!(now[place as usize], token);
    }
    assert_eq!(rig.replicas.failed_drives().len(), 2);

    let third = rig.replicas.drives()[0];
    rig.replicas.fail_drive(third).await;
    #[expect(clippy::disallowed_methods, reason = "measures")]
    let start = Instant::now();
    let refused = rig.propose(GROUP, 999_999).await;
    assert!(
        matches!(
            refused,
            Err(ProposeError::NoQuorum { .. } | ProposeError::Indeterminate { .. })
        ),
        "{refused:?}"
    );
    assert!(matches!(
        rig.replicas.read(GROUP).await,
        Err(ReadError::NoQuorum { .. })
    ));
    assert!(start.elapsed() < rig.config.deadline * 2 + Duration::from_secs(2));
    rig.replicas.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_voter_gets_everything_and_takes_the_place_of_a_lost_one() {
    let rig = Rig::new(4, config()).await;
    rig.replicas
        .create_group(GROUP, &voters(1..=3))
        .await
        .unwrap();
    let count = 1000;
    for chunk in 0..10 {
        let tokens = chunk * 100..(chunk + 1) * 100;
        for place in join_all(tokens.map(|token| rig.propose(GROUP, token))).await {
            place.unwrap();
        }
    }
    rig.replicas.fail_drive(DriveId(1)).await;
    rig.replicas
        .change_voters(GROUP, &voters(2..=4))
        .await
        .unwrap();
    let status = &rig.replicas.status()[0];
    assert_eq!(status.voters, voters(2..=4));
    assert!(status.learners.is_empty());
    rig.replicas.fail_drive(DriveId(2)).await;
    for token in count..count + 100 {
        rig.propose(GROUP, token).await.unwrap();
    }
    let now = rig.list(GROUP).await;
    assert_eq!(now.len() as u64, count + 100);
    // The newcomer has the same, the part that came by snapshot included.
    rig.replicas
        .transfer_leader(GROUP, DriveId(4))
        .await
        .unwrap();
    assert_eq!(rig.list(GROUP).await, now);
    assert_eq!(list(rig.drives[&4].state.as_ref(), GROUP), now);
    rig.replicas.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drive_that_left_leaves_its_vote_and_how_far_it_was_and_may_come_back() {
    let mut rig = Rig::new(4, config()).await;
    rig.replicas
        .create_group(GROUP, &voters(1..=3))
        .await
        .unwrap();
    for token in 0..200 {
        rig.propose(GROUP, token).await.unwrap();
    }
    let leader = rig.replicas.status()[0].leader.unwrap();
    let others: Vec<_> = voters(1..=4)
        .into_iter()
        .filter(|drive| *drive != leader)
        .collect();
    rig.replicas.change_voters(GROUP, &others).await.unwrap();
    assert!(rig.drives[&leader.0].state.entries().is_empty());
    assert_eq!(
        rig.drives[&leader.0].log.entries().len(),
        2,
        "its vote, and the newest entry that it had"
    );
    rig.propose(GROUP, 200).await.unwrap();
    rig.replicas.change_voters(GROUP, &[leader]).await.unwrap();
    rig.propose(GROUP, 201).await.unwrap();
    assert_eq!(rig.replicas.status()[0].voters, [leader]);
    rig.crash(|| 0).await;
    rig.reopen().await;
    assert_eq!(rig.list(GROUP).await, (0..202).collect::<Vec<_>>());
    rig.replicas.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drive_that_slept_catches_up() {
    let mut rig = Rig::new(3, config()).await;
    rig.replicas
        .create_group(GROUP, &voters(1..=3))
        .await
        .unwrap();
    rig.propose(GROUP, 0).await.unwrap();
    rig.replicas.remove_drive(DriveId(2)).await.unwrap();
    for token in 1..400 {
        rig.propose(GROUP, token).await.unwrap();
    }
    rig.replicas.add_drive(rig.replica_drive(2)).await.unwrap();
    rig.replicas
        .transfer_leader(GROUP, DriveId(2))
        .await
        .unwrap();
    assert_eq!(rig.list(GROUP).await, (0..400).collect::<Vec<_>>());
    rig.replicas.shutdown().await;
    rig.reopen().await;
    assert_eq!(rig.list(GROUP).await, (0..400).collect::<Vec<_>>());
    rig.replicas.shutdown().await;
}

/// Waits for a condition that must come true, at most 10 seconds.
/// A question may go on reading for long after its replica was found to lead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_is_being_read_is_not_taken_away() {
    let rig = Arc::new(Rig::new(2, config()).await);
    rig.replicas
        .create_group(GROUP, &voters([1]))
        .await
        .unwrap();
    for token in 0..5 {
        rig.propose(GROUP, token).await.unwrap();
    }
    let Reading::Here(state) = rig.replicas.read(GROUP).await.unwrap() else {
        panic!("it is led here");
    };
    let moving = {
        let rig = rig.clone();
        spawn(async move { rig.replicas.change_voters(GROUP, &voters([2])).await })
    };
    // The other drive leads, and nothing but the old state is left to be removed.
    wait_for(|| rig.replicas.status()[0].leader == Some(DriveId(2))).await;
    for _ in 0..20 {
        assert_eq!(list(&*state, GROUP), [0, 1, 2, 3, 4]);
        rig.propose(GROUP, 5).await.unwrap();
        tokio::time::timeout(Duration::from_millis(10), std::future::pending::<()>())
            .await
            .unwrap_err();
    }
    assert!(!moving.is_finished(), "somebody reads it still");
    drop(state);
    moving.await.unwrap().unwrap();
    assert!(list(&*rig.drives[&1].state, GROUP).is_empty());
    assert_eq!(rig.list(GROUP).await, [0, 1, 2, 3, 4, 5]);
    rig.replicas.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_cannot_be_started_is_told_of() {
    let mut rig = Rig::new(3, config()).await;
    let created = rig.replicas.create_group(GROUP, &voters(1..=3)).await;
    created.unwrap();
    for token in 0..5 {
        rig.propose(GROUP, token).await.unwrap();
    }
    rig.replicas.shutdown().await;
    let state = &rig.drives[&2].state;
    let mut batch = Batch::default();
    for (keyspace, key, _) in state.entries() {
        batch.put(keyspace, key.to_vec(), b"?".to_vec());
    }
    state.write(batch, Durability::Synced).unwrap();
    rig.reopen().await;
    rig.propose(GROUP, 5).await.unwrap();
    let status = &rig.replicas.status()[0];
    assert_eq!(status.applied.len(), 2);
    let [(drive, reason)] = &status.stopped[..] else {
        panic!("{status:?}");
    };
    assert!(*drive == DriveId(2) && !reason.is_empty(), "{reason}");
    // Its place is another's then.
    let others = voters([1, 3]);
    rig.replicas.change_voters(GROUP, &others).await.unwrap();
    assert!(rig.replicas.status()[0].stopped.is_empty());
    rig.replicas.shutdown().await;
}

type Read = fn(&dyn Index) -> Result<(), IndexError>;

/// Reads one entry, in each of the ways there are.
const WAYS: [Read; 4] = [
    |state| at(state, GROUP, 0).map(drop),
    |state| state.cursor(Keyspace::Objects, b"", b"x")?.seek(b""),
    |state| state.scan(Keyspace::Objects, b"", b"x")?.seek_back(b"w"),
    |state| state.view().get(Keyspace::Objects, b"k").map(drop),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_state_is_damaged_gives_way() {
    for (round, read) in WAYS.into_iter().enumerate() {
        let rig = Rig::new(3, config()).await;
        let created = rig.replicas.create_group(GROUP, &voters(1..=3)).await;
        created.unwrap();
        for token in 0..5 {
            rig.propose(GROUP, token).await.unwrap();
        }
        let leader = rig.replicas.status()[0].leader.unwrap();
        let state = rig.replicas.read(GROUP).await.unwrap().here().unwrap();
        let damage = IndexError::Corrupt("a block's checksum does not hold".into());
        rig.drives[&leader.0].state.fail(Some(damage));
        // When the others have been heard of.
        wait_for(|| matches!(read(state.as_ref()), Err(IndexError::Io(_)))).await;
        drop(state);
        assert_eq!(rig.list(GROUP).await, [0, 1, 2, 3, 4], "way {round}");
        rig.propose(GROUP, 5).await.unwrap();
        let status = &rig.replicas.status()[0];
        assert_ne!(status.leader, Some(leader));
        let (drive, reason) = &status.stopped[0];
        assert!(*drive == leader && reason.contains("damaged"), "{reason}");
        rig.replicas.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_state_that_is_the_only_one_is_read_as_far_as_it_can_be() {
    let rig = Rig::new(1, config()).await;
    let created = rig.replicas.create_group(GROUP, &voters([1])).await;
    created.unwrap();
    rig.propose(GROUP, 7).await.unwrap();
    for read in WAYS {
        let state = rig.replicas.read(GROUP).await.unwrap().here().unwrap();
        let damage = IndexError::Corrupt("a block's checksum does not hold".into());
        rig.drives[&1].state.fail(Some(damage));
        let met = read(state.as_ref());
        assert!(matches!(met, Err(IndexError::Corrupt(_))), "{met:?}");
        rig.drives[&1].state.fail(None);
        assert_eq!(rig.list(GROUP).await, [7]);
    }
    rig.replicas.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drive_whose_log_or_state_cannot_be_written_is_said_to_have_failed() {
    for of_state in [false, true] {
        let rig = Rig::new(3, config()).await;
        let created = rig.replicas.create_group(GROUP, &voters(1..=3)).await;
        created.unwrap();
        rig.propose(GROUP, 0).await.unwrap();
        assert!(rig.replicas.failed_drives().is_empty());
        let error = Some(IndexError::Io("broken".into()));
        match of_state {
            true => rig.drives[&2].state.fail(error),
            false => rig.drives[&2].log.fail(error),
        }
        // One or two may find that their leader is gone.
        for token in 1..20 {
            let _perhaps = rig.propose(GROUP, token).await;
        }
        wait_for(|| !rig.replicas.failed_drives().is_empty()).await;
        let failed = rig.replicas.failed_drives();
        assert!(
            failed.len() == 1 && failed[0].0 == DriveId(2) && failed[0].1.contains("broken"),
            "{failed:?}"
        );
        rig.replicas.shutdown().await;
    }
}

/// What else is on it can be read still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drive_without_room_has_not_failed() {
    for of_state in [false, true] {
        let rig = Rig::new(3, config()).await;
        let created = rig.replicas.create_group(GROUP, &voters(1..=3)).await;
        created.unwrap();
        rig.propose(GROUP, 0).await.unwrap();
        match of_state {
            true => rig.drives[&2].state.fail(Some(IndexError::Full)),
            false => rig.drives[&2].log.fail(Some(IndexError::Full)),
        }
        for token in 1..20 {
            let _perhaps = rig.propose(GROUP, token).await;
        }
        wait_for(|| !rig.replicas.status()[0].stopped.is_empty()).await;
        assert_eq!(rig.replicas.failed_drives(), []);
        rig.replicas.shutdown().await;
    }
}

/// The system's clock, which somebody sets.
#[derive(Default)]
struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(SystemClock.wall().0 + self.0.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        SystemClock.sleep(time)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_by_a_clock_that_was_set_until_it_was_compared() {
    let clock = Arc::new(SetClock::default());
    let drive = Drive::default();
    let drives = vec![ReplicaDrive {
        drive: DriveId(1),
        log: drive.log,
        state: drive.state,
    }];
    let replicas = Replicas::open(drives, machines(), clock.clone(), config(), None).await;
    let replicas = replicas.unwrap();
    let created = replicas.create_group(GROUP, &voters([1])).await;
    created.unwrap();
    replicas.propose(GROUP, append(1, 8)).await.unwrap();
    // What runs away slowly is looked at again and again.
    for _ in 0..5 {
        clock.0.fetch_add(40_000, Ordering::Relaxed);
        replicas.propose(GROUP, append(2, 8)).await.unwrap();
        assert!(!replicas.distrust_clock(false));
    }
    clock.0.fetch_add(365 * 86_400_000, Ordering::Relaxed);
    for token in [3, 4] {
        let refused = replicas.propose(GROUP, append(token, 8)).await;
        assert!(matches!(refused, Err(ProposeError::WrongClock)), "{token}");
    }
    assert!(replicas.distrust_clock(false), "that is news");
    replicas.propose(GROUP, append(5, 8)).await.unwrap();
    replicas.shutdown().await;
}

async fn wait_for(condition: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if condition() {
            return;
        }
        #[expect(clippy::disallowed_methods, reason = "polls for a condition")]
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the condition did not come true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_groups_of_five_are_ready_within_a_second() {
    let mut rig = Rig::new(5, config()).await;
    let created = (0..17).map(|group| {
        let replicas = rig.replicas.clone();
        async move {
            replicas
                .create_group(GroupId(group), &voters(1..=5))
                .await
                .unwrap()
        }
    });
    join_all(created).await;
    for group in 0..17 {
        rig.replicas
            .propose(GroupId(group), append(1, 8))
            .await
            .unwrap();
    }
    rig.replicas.shutdown().await;
    #[expect(clippy::disallowed_methods, reason = "measures")]
    let start = Instant::now();
    rig.reopen().await;
    assert!(rig.replicas.await_leaders(Duration::from_secs(5)).await);
    for group in 0..17 {
        assert_eq!(rig.list(GroupId(group)).await, [1]);
    }
    println!(
        "17 groups of five voters are readable after {:?}",
        start.elapsed()
    );
    let leaders: std::collections::BTreeSet<_> = rig
        .replicas
        .status()
        .iter()
        .map(|status| status.leader.unwrap())
        .collect();
    assert!(leaders.len() > 1, "one drive leads everything");
    rig.replicas.shutdown().await;
}

#[test]
fn the_default_timing_is_consistent() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let rig = Rig::new(1, ConsensusConfig::default()).await;
        rig.replicas.shutdown().await;
    });
}

/// Who asks how a group stands must not wait for who says it, who waits for the one who asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_busy_can_be_asked_how_it_stands() {
    let rig = Rig::new(3, config()).await;
    let created = rig.replicas.create_group(GROUP, &voters(1..=3)).await;
    created.unwrap();
    let ended = Arc::new(AtomicU64::new(0));
    let asking: Vec<_> = (0..2)
        .map(|_| {
            let (replicas, ended) = (rig.replicas.clone(), ended.clone());
            let thread = std::thread::Builder::new().name("asks".to_owned());
            let asks = thread.spawn(move || {
                while ended.load(Ordering::Relaxed) == 0 {
                    assert_eq!(replicas.status()[0].voters.len(), 3);
                }
            });
            asks.unwrap()
        })
        .collect();
    for chunk in 0..100 {
        let tokens = chunk * 20..(chunk + 1) * 20;
        for place in join_all(tokens.map(|token| rig.propose(GROUP, token))).await {
            place.unwrap();
        }
    }
    ended.store(1, Ordering::Relaxed);
    for thread in asking {
        thread.join().unwrap();
    }
    rig.replicas.shutdown().await;
}
