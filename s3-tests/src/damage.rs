//! Damage to the files of drives.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::content::Seed;
use crate::scratch::files_under;

/// Flips one bit in each of `count` places of `path`; false if there is nothing to flip.
pub fn flip(path: &Path, count: u64, seed: &mut Seed) -> bool {
    let mut file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("open");
    // Extents are preallocated: only what was written can be flipped.
    let len = written_length(&mut file);
    if len == 0 {
        return false;
    }
    for _ in 0..count {
        let at = seed.within(0..len);
        let mut byte = [0];
        file.seek(SeekFrom::Start(at)).expect("seek");
        file.read_exact(&mut byte).expect("read");
        byte[0] ^= 1 << seed.within(0..8);
        file.seek(SeekFrom::Start(at)).expect("seek");
        file.write_all(&byte).expect("write");
    }
    true
}

/// Length up to the last block of 64 KiB that is not all zeroes.
fn written_length(file: &mut std::fs::File) -> u64 {
    const BLOCK: u64 = 64 * 1024;
    let len = file.metadata().expect("metadata").len();
    let mut block = vec![0; BLOCK as usize];
    let mut end = len;
    // Searched from the end in blocks; a sparse tail reads as zeroes at the speed of memory.
    while end > 0 {
        let start = (end - 1) / BLOCK * BLOCK;
        let size = (end - start) as usize;
        file.seek(SeekFrom::Start(start)).expect("seek");
        file.read_exact(&mut block[..size]).expect("read");
        if block[..size].iter().any(|byte| *byte != 0) {
            return end;
        }
        end = start;
    }
    0
}

/// Files of a drive whose path has `part` as one of its directories.
pub fn files_in(drive: &Path, part: &str) -> Vec<PathBuf> {
    files_under(&drive.join(part))
}
