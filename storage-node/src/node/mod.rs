//! A node: the drives of one process, the replicas and shards on them, and the watch over both.

mod identity;
mod open;
mod space;
mod status;
mod watch;

pub use identity::{DRIVE_FILE, DriveIdentity, KnownDrive, NodeIdentity, write_durably};
pub use open::{Node, NodeConfig, StartError};
pub use space::SpaceGauge;
pub use status::{DriveStatus, GroupSummary, NodeStatus};
