//! Keeps what is stored whole and frees what nobody refers to.

mod census;
mod floor;
mod forget;
mod intents;
mod orphans;
mod queue;
mod rebalance;
mod rebuild;
pub mod reclaim;
mod reclaimer;
mod reencode;
mod scrubber;
mod spoiled;

pub use census::{
    Census, CensusConfig, CensusControl, CensusCount, CensusLeft, GroupCensus, Lives,
};
pub use floor::Floor;
pub use forget::{Forgotten, forget, shards_of};
pub use intents::{IntentsConfig, IntentsDone, IntentsWorker};
pub use orphans::{BODY_AGE_MAX, OrphanScan, OrphansFound, ScanOrphansError};
pub use queue::{Repair, RepairQueue};
pub use rebalance::{MovedAway, Pass, Progress, RebalanceConfig, Rebalancer, TellMovedAway};
pub use rebuild::{RebuildError, Rebuilder, Rebuilt};
pub use reclaimer::{ReclaimConfig, Reclaimed, Reclaimer};
pub use reencode::{ReencodeConfig, ReencodeControl, ReencodeProgress, ReencodeState, Reencoder};
pub use scrubber::{DriveScrub, ScrubConfig, ScrubControl, Scrubber};
pub use spoiled::{Spoiled, SpoiledDone, Unowned};

/// Says which groups this process leads: background work on a group is its leader's.
pub type LedGroups =
    std::sync::Arc<dyn Fn() -> Vec<holdfast_placement::ids::GroupId> + Send + Sync>;
