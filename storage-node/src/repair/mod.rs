//! Work in the background that keeps promises: reclaiming what was deleted.

pub mod reclaim;
