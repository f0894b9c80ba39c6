//! The operating system's random bytes, made from the seed.
//!
//! What asks no seam for chance asks the system: the standard library for the keys of its hash tables, and so in which
//! order they are gone through; tokio for where `select!` begins; openraft for how long an election waits. All of it
//! ends in `getrandom`, which here is a generator that the seed sets. The simulation has one thread, so the bytes come
//! in the same order each time.
#![expect(unsafe_code, reason = "the C library's function is replaced by name")]

use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0);

/// From now on the system's random bytes follow from `seed`.
pub fn set(seed: u64) {
    STATE.store(seed ^ 0x5851_F42D_4C95_7F2D, Ordering::Relaxed);
}

/// A splitmix64 step (Steele et al., OOPSLA 2014).
fn next() -> u64 {
    let mut z = STATE
        .fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed)
        .wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// `getrandom(2)`.
///
/// # Safety
/// `buffer` is valid for `len` bytes, as for the function of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, len: usize, _flags: u32) -> isize {
    let mut done = 0;
    while done < len {
        let bytes = next().to_le_bytes();
        let count = bytes.len().min(len - done);
        // SAFETY: the caller gives `len` bytes, and `done + count <= len`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.add(done), count) };
        done += count;
    }
    len as isize
}
