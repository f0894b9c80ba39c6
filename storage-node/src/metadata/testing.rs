//! For tests of this and other crates: metadata without consensus.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use holdfast_placement::consensus::Groups;
use holdfast_placement::directory::{Directory, placement_machine};
use holdfast_placement::ids::{DriveId, GroupId, NodeId};
use holdfast_placement::map::{ClusterMap, SharedMap};
use holdfast_placement::protection::Protection;
use holdfast_placement::seams::{Clock, Index, MemoryIndex, Rng, SystemClock, UnixMillis};
use holdfast_placement::testing::{self, DirectGroups, Hook, HookedGroups, SplitGroups};

use super::{Metadata, lifecycle_actions, metadata_machine, query_runner};

/// A directory and metadata groups over one index, decided at once.
pub struct TestMetadata {
    pub groups: Arc<DirectGroups>,
    pub directory: Arc<Directory>,
    pub metadata: Metadata,
}

impl TestMetadata {
    /// Over an index in memory.
    pub fn new(clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Self {
        Self::over(Arc::new(MemoryIndex::new()), 16, clock, rng)
    }

    /// Over `index`, with so many metadata groups for the 16 lanes of a bucket.
    pub fn over(
        index: Arc<dyn Index>,
        metadata_groups: u32,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
    ) -> Self {
        let groups = Arc::new(DirectGroups::new(
            index,
            Arc::new(|group, _| match group {
                GroupId::PLACEMENT => placement_machine(),
                group => metadata_machine(group),
            }),
        ));
        Self::of(groups.clone(), groups, metadata_groups, clock, rng)
    }

    /// Another process over the same groups, with caches of its own, for which the groups are led at three nodes: see
    /// [`SplitGroups`].
    pub fn split(
        &self,
        metadata_groups: u32,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        seed: u64,
        trouble: u64,
    ) -> Self {
        let split = SplitGroups::new(self.groups.clone(), query_runner(), seed, trouble);
        let direct = self.groups.clone();
        Self::of(direct, Arc::new(split), metadata_groups, clock, rng)
    }

    /// Another process over the same groups, whose commands go by `hook`: see [`HookedGroups`].
    pub fn hooked(
        &self,
        metadata_groups: u32,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        hook: Hook,
    ) -> Self {
        let hooked = HookedGroups::new(self.groups.clone(), hook);
        let direct = self.groups.clone();
        Self::of(direct, Arc::new(hooked), metadata_groups, clock, rng)
    }

    fn of(
        direct: Arc<DirectGroups>,
        groups: Arc<dyn Groups>,
        metadata_groups: u32,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
    ) -> Self {
        Self {
            directory: Arc::new(Directory::new(groups.clone(), clock.clone(), rng.clone())),
            metadata: Metadata::new(groups, map_of(metadata_groups), clock, rng),
            groups: direct,
        }
    }
}

/// Real time, in which nobody sleeps: for those who wait for each other and not for time.
pub struct HastyClock;

impl Clock for HastyClock {
    fn wall(&self) -> UnixMillis {
        SystemClock.wall()
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::task::yield_now())
    }
}

/// A map with so many metadata groups and 16 lanes a bucket, and nothing else.
pub fn map_of(metadata_groups: u32) -> SharedMap {
    SharedMap::new(ClusterMap {
        metadata_groups,
        ..testing::map_of(&[], Protection::NONE)
    })
}

/// A node of an earlier version comes into the cluster that `metadata` knows.
pub fn add_older_node(metadata: &Metadata) {
    let drives = [(DriveId(1), NodeId(1))];
    let mut map = ClusterMap::clone(&metadata.map.load());
    map.nodes = testing::map_of(&drives, Protection::NONE).nodes;
    map.nodes[0].feature = lifecycle_actions::LEVEL - 1;
    map.epoch.0 += 1;
    metadata.map.update(map);
}
