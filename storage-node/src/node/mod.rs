//! A node: the drives of one process, the replicas and shards on them, and the watch over both.

mod clocks;
mod config;
mod drives;
mod identity;
mod join;
mod media;
mod mending;
mod open;
mod orders;
mod others;
mod place;
mod report;
mod running;
mod space;
mod status;
mod steward;
mod visitor;
mod watch;

pub use config::{JoinConfig, NodeConfig, Opening, StartError, WorkConfig};
pub use identity::{
    DRIVE_FILE, DriveIdentity, KnownDrive, NodeIdentity, read_secret, write_durably,
};
pub use media::{DriveParts, LocalMedia, Media};
pub use mending::MendingStatus;
pub use open::Node;
pub use orders::{NodeOrder, OrderError};
pub use report::{
    DriveReport, LedGroup, Mending, Redundancy, Report, StoppedReplica, WebhookReport,
};
pub use space::SpaceGauge;
pub use status::{DriveStatus, GroupSummary, MemberStatus, NodeStatus, RingStatus};
pub use visitor::{Visitor, VisitorConfig};
