// SPDX-License-Identifier: MIT OR Apache-2.0
//! A folder that a process needs while it runs: sockets, consoles and shared memory of its machines, the campaign that is only
//! to be judged. Removed when dropped; one whose process was killed is removed by the next that makes one, for it may be in
//! memory.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// How the name begins of a folder that is locked by its owner as long as that lives.
const PREFIX: &str = "shrinktorture-";
/// Name of the lock.
const LOCK: &str = "lock";

/// The folder.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes one; in memory where there is room for that.
    ///
    /// # Errors
    /// When it can be made in neither place.
    pub fn new() -> io::Result<RunDir> {
        RunDir::below(Path::new("/dev/shm")).or_else(|_| RunDir::below(&std::env::temp_dir()))
    }

    /// Makes one in a folder, after removing those whose owner is gone.
    ///
    /// # Errors
    /// When it cannot be made there.
    pub fn below(dir: &Path) -> io::Result<RunDir> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        sweep(dir);
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{n}", process::id());
        // It gets its name once it is locked, so that nobody sweeps it before.
        let (partial, path) = (dir.join(format!(".{name}")), dir.join(name));
        fs::create_dir(&partial)?;
        let lock = File::create(partial.join(LOCK))?;
        lock.lock()?;
        fs::rename(&partial, &path)?;
        Ok(RunDir { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes folders whose lock nobody holds. What cannot be removed is left to its owner.
fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_ours && File::open(entry.path().join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_without_an_owner_are_swept_and_others_are_left() {
        let dir = tempfile::tempdir().unwrap();
        let alive = RunDir::below(dir.path()).unwrap();
        let stale = dir.path().join("shrinktorture-1-0");
        fs::create_dir_all(stale.join("job0")).unwrap();
        File::create(stale.join(LOCK)).unwrap();
        let foreign = dir.path().join("shrinktorture-notes");
        fs::create_dir(&foreign).unwrap();

        let other = RunDir::below(dir.path()).unwrap();
        assert!(!stale.exists() && foreign.exists());
        assert!(alive.path().exists() && other.path().exists() && alive.path() != other.path());
        let path = other.path().to_owned();
        drop(other);
        assert!(!path.exists());
    }
}
