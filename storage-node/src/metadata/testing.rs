//! For tests of this and other crates: metadata without consensus.

use std::sync::Arc;

use holdfast_placement::directory::{Directory, placement_machine};
use holdfast_placement::ids::GroupId;
use holdfast_placement::map::{ClusterMap, SharedMap};
use holdfast_placement::protection::Protection;
use holdfast_placement::seams::{Clock, Index, MemoryIndex, Rng};
use holdfast_placement::testing::{self, DirectGroups};

use super::{Metadata, metadata_machine};

/// A directory and metadata groups over one index, decided at once.
pub struct TestMetadata {
    pub groups: Arc<DirectGroups>,
    pub directory: Directory,
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
        Self {
            directory: Directory::new(groups.clone(), clock.clone(), rng.clone()),
            metadata: Metadata::new(groups.clone(), map_of(metadata_groups), clock, rng),
            groups,
        }
    }
}

/// A map with so many metadata groups and 16 lanes a bucket, and nothing else.
pub fn map_of(metadata_groups: u32) -> SharedMap {
    SharedMap::new(ClusterMap {
        metadata_groups,
        ..testing::map_of(&[], Protection::NONE)
    })
}
