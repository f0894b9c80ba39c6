//! The seams behind which time, chance, the network and ordered storage can be simulated.
//!
//! The fifth seam, `Disk`, lives with the shard store. Library code asks these instead of the operating
//! system; `clippy.toml` names what is banned.

mod clock;
mod index;
mod memory_index;
mod net;
mod rng;
mod rocks_index;

pub use clock::{Clock, ManualClock, SystemClock, UnixMillis};
pub use index::{Batch, Cursor, Durability, Index, IndexError, IndexView, Keyspace, Op, flush};
pub use memory_index::MemoryIndex;
pub(crate) use net::is_single_threaded;
pub use net::{Connection, Net, SystemNet, blocking, spawn};
pub use rng::{Rng, SeededRng, SystemRng};
pub use rocks_index::{RocksIndex, RocksMemory};
