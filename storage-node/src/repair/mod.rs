//! Keeps what is stored whole and frees what nobody refers to.

mod forget;
mod queue;
pub mod reclaim;

pub use forget::{Forgotten, forget, shards_of};
pub use queue::{Repair, RepairQueue};
