//! Directories of a test that are gone when it ends.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A directory of one test. Kept when `HOLDFAST_TEST_KEEP` is set.
pub struct Scratch {
    dir: Option<TempDir>,
    path: PathBuf,
}

impl Scratch {
    /// An empty directory whose name starts with `name`.
    pub fn new(name: &str) -> Self {
        let root = root();
        std::fs::create_dir_all(&root).expect("make the directory of the tests");
        let dir = tempfile::Builder::new()
            .prefix(&format!("holdfast-{name}-"))
            .tempdir_in(&root)
            .expect("make a directory for the test");
        let path = dir.path().to_owned();
        Self {
            dir: Some(dir),
            path,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where `name` lies in this directory; nothing is made.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Paths for `count` drives, made as empty directories.
    pub fn drives(&self, count: usize) -> Vec<PathBuf> {
        (0..count)
            .map(|index| {
                let path = self.join(&format!("drive-{index}"));
                std::fs::create_dir_all(&path).expect("make a drive's directory");
                path
            })
            .collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::env::var_os("HOLDFAST_TEST_KEEP").is_some()
            && let Some(dir) = self.dir.take()
        {
            println!("kept {}", dir.keep().display());
        }
    }
}

fn root() -> PathBuf {
    std::env::var_os("HOLDFAST_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// All regular files under `dir`, in order of their paths.
pub fn files_under(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}
