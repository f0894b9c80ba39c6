//! Bugs that the simulation must find: each is a promise that the code keeps, broken on purpose.
//!
//! Without the feature `planted-bugs`, which only the simulation asks for, there are none: [`planted`] is `false` where
//! it is compiled, and nothing is left of the question.

/// A bug to plant. One at a time, for the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// Log entries and votes are taken for durable before they are flushed.
    SkipLogFlush = 1,
    /// Shards are taken for durable before they are flushed, and indexed.
    SkipShardFlush,
    /// Entries that a voter could not be sent count as written by it.
    AckBeforeQuorum,
    /// Calls are done whatever map their caller goes by.
    IgnoreEpoch,
    /// A command that is sent again has a new token.
    DropToken,
    /// A leader answers reads however long it has heard of nobody.
    ExpiredLease,
    /// A replica answers reads without leading.
    ReadFromFollower,
    /// A write that missed shards does not say so in its commit.
    ForgetRepairIntent,
    /// A body is acknowledged as soon as it can be read, without the shards that are still under way.
    TooFewShards,
    /// The body that goes onto the reclaim queue is the new version's.
    ReclaimLiveBody,
    /// A condition is looked at before the command is proposed, and not when it is applied.
    ConditionDecidedEarly,
    /// Bucket deletion does not close lanes.
    SkipLaneClose,
    /// The mover deletes what it moved without a second look at the map.
    MoverLooksOnce,
    /// The checksums of what was read are not compared.
    SkipChecksum,
    /// Who reads does not look whether the key is being renamed.
    RenameUnnoted,
    /// What a destination's group decides of a rename is not remembered.
    RenameForgotten,
    /// Where an append is to begin is looked at before it is proposed, and not when it is applied.
    AppendDecidedEarly,
    /// The condition of a completed upload is not looked at.
    CompletionUnconditional,
    /// What a lane uses is added to its share once more.
    ShareCountedTwice,
    /// Aborted uploads count for the quota as before.
    AbortCounts,
    /// Events are forgotten before they are told.
    EventForgottenEarly,
    /// A census takes every shard for found that a drive was asked for.
    CensusBelieves,
    /// A scrub says nothing of what it finds.
    ScrubSilent,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 23] = [
        Bug::SkipLogFlush,
        Bug::SkipShardFlush,
        Bug::AckBeforeQuorum,
        Bug::IgnoreEpoch,
        Bug::DropToken,
        Bug::ExpiredLease,
        Bug::ReadFromFollower,
        Bug::ForgetRepairIntent,
        Bug::TooFewShards,
        Bug::ReclaimLiveBody,
        Bug::ConditionDecidedEarly,
        Bug::SkipLaneClose,
        Bug::MoverLooksOnce,
        Bug::SkipChecksum,
        Bug::RenameUnnoted,
        Bug::RenameForgotten,
        Bug::AppendDecidedEarly,
        Bug::CompletionUnconditional,
        Bug::ShareCountedTwice,
        Bug::AbortCounts,
        Bug::EventForgottenEarly,
        Bug::CensusBelieves,
        Bug::ScrubSilent,
    ];
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Bug;

    static PLANTED: AtomicU8 = AtomicU8::new(0);

    /// Plants `bug` in this process, and no other.
    pub fn plant(bug: Bug) {
        PLANTED.store(bug as u8, Ordering::Relaxed);
    }

    /// Whether the bug is planted.
    pub fn planted(bug: Bug) -> bool {
        PLANTED.load(Ordering::Relaxed) == bug as u8
    }
}

#[cfg(feature = "planted-bugs")]
pub use switch::{plant, planted};

/// Whether the bug is planted.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn planted(_: Bug) -> bool {
    false
}
