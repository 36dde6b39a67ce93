// SPDX-License-Identifier: MIT OR Apache-2.0
//! Locks between processes: a lock file that is held, not one that exists. The kernel releases it with the last
//! holder, however that ended.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path,
    process::Stdio,
};

use anyhow::{Context, Result};

/// A held lock.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock, waiting for whoever has it; says so when it waits.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn acquire(path: &Path, what: &str) -> Result<Lock> {
        let name = || format!("cannot lock {}", path.display());
        // Empty, and stays so: children read end-of-file from it, see `as_stdin`.
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).with_context(name)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                eprintln!("waiting for another process that is busy with {what} ({})", path.display());
                file.lock().with_context(name)?;
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(name),
        }
        Ok(Lock { file })
    }

    /// The lock as standard input for a child: it and its children then hold the lock too, so that a child which
    /// outlives us (we were killed) still keeps others out.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn as_stdin(&self) -> Result<Stdio> {
        Ok(self.file.try_clone().context("cannot duplicate a lock's descriptor")?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        process::Command,
        sync::mpsc,
        thread,
        time::{Duration, Instant},
    };

    #[test]
    fn a_second_holder_waits_for_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::acquire(&path, "a test").unwrap();
        let (sender, receiver) = mpsc::channel();
        let second = thread::spawn(move || {
            let _lock = Lock::acquire(&path, "a test").unwrap();
            sender.send(()).unwrap();
        });
        assert!(receiver.recv_timeout(Duration::from_millis(200)).is_err(), "both have the lock");
        drop(first);
        receiver.recv_timeout(Duration::from_secs(10)).unwrap();
        second.join().unwrap();
    }

    #[test]
    fn a_child_that_outlives_the_holder_keeps_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = Lock::acquire(&path, "a test").unwrap();
        let mut child = Command::new("sleep").arg("30").stdin(lock.as_stdin().unwrap()).spawn().unwrap();
        drop(lock);
        let again = File::open(&path).unwrap();
        assert!(matches!(again.try_lock(), Err(TryLockError::WouldBlock)));
        child.kill().unwrap();
        child.wait().unwrap();
        // A child of another test has it, too, until it is another program.
        let until = Instant::now() + Duration::from_secs(10);
        while again.try_lock().is_err() {
            assert!(Instant::now() < until, "nobody has it, and it cannot be had");
            thread::sleep(Duration::from_millis(10));
        }
    }
}
