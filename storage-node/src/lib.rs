//! Keeps bytes and records: shard store, object metadata, erasure coding, repair.

pub mod buffer;
pub mod cluster_shards;
pub mod erasure;
pub mod lifecycle;
pub mod lookup;
pub mod memory_shards;
pub mod metadata;
pub mod node;
pub mod put_gate;
pub mod repair;
pub mod shard_store;
pub mod shards;
