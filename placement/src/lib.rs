//! Who holds what: cluster map, ring, directory and consensus.
//!
//! This crate depends on nothing else of Holdfast; see `ARCHITECTURE.md` for the arrows.

pub mod balance;
pub mod command;
pub mod consensus;
pub mod directory;
pub mod ids;
pub mod map;
#[doc(hidden)]
pub mod planted;
pub mod protection;
pub mod query;
pub mod ring;
pub mod rpc;
pub mod seams;
#[doc(hidden)]
pub mod testing;
pub mod voters;
