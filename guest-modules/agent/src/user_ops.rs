// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ops that a process performs: cgroups, reclaim, debugfs, memory, files. One arm of [`run`] each.
//!
//! A result is 0 or a count, or a negative errno; an error is an outcome like any other.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::Duration,
};

use abi::{
    layout::{MEMCG_ROOT, N_MEMCGS, Op, kind},
    program::WireThread,
};

use crate::{control::Control, sys};

/// Where the unified hierarchy is mounted.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// Parent of the groups that programs make.
pub const CGROUP_PARENT: &str = "/sys/fs/cgroup/st";
/// A tmpfs for [`kind::FILES`].
pub const SCRATCH: &str = "/scratch";
const SHRINKERS: &str = "/sys/kernel/debug/shrinker";

/// Folder of a program's memory cgroup.
pub fn group(memcg: u8) -> PathBuf {
    if memcg >= MEMCG_ROOT { CGROUP_ROOT.into() } else { format!("{CGROUP_PARENT}/{memcg}").into() }
}

/// Executes one op that is not the module's.
pub fn run(op: &Op, control: &Control) -> i32 {
    let result = match op.kind {
        kind::MEMCG_CREATE => fs::create_dir(group(op.memcg)).map(|()| 0),
        kind::MEMCG_REMOVE => fs::remove_dir(group(op.memcg)).map(|()| 0),
        kind::MEMCG_ENTER => enter(op.memcg),
        kind::MEMCG_RECLAIM => write(group(op.memcg).join("memory.reclaim"), &format!("{}K", op.a)),
        kind::MEMCG_MAX => write(group(op.memcg).join("memory.max"), &format!("{}K", op.a)),
        // The table counts from 0, the file from 1: pages, slab, both.
        kind::DROP_CACHES => write("/proc/sys/vm/drop_caches".into(), ["2", "1", "3"][op.a as usize % 3]),
        kind::PRESSURE => sys::touch_anonymous(op.a as usize * 1024).map(|()| 0),
        kind::FILES => files(op.a),
        kind::DEBUGFS_COUNT => debugfs(op.slot, "count").and_then(read),
        kind::DEBUGFS_SCAN => debugfs_scan(op),
        kind::DEBUGFS_WALK => debugfs_walk(),
        kind::BARRIER => Ok(i32::from(control.barrier(op.a as usize))),
        kind::SLEEP => {
            std::thread::sleep(Duration::from_micros(op.a.into()));
            Ok(0)
        }
        kind::SPIN => {
            let until = sys::now_ns() + u64::from(op.a) * 1000;
            while sys::now_ns() < until {
                std::hint::spin_loop();
            }
            Ok(0)
        }
        kind::YIELD => {
            std::thread::yield_now();
            Ok(0)
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    };
    result.unwrap_or_else(|error| -error.raw_os_error().unwrap_or(libc::ENOSYS))
}

/// Moves the calling process into a group.
pub fn enter(memcg: u8) -> io::Result<i32> {
    write(group(memcg).join("cgroup.procs"), "0")
}

/// Groups that programs may have left. Asking the kernel costs more than a short program.
#[derive(Debug, Default)]
pub struct Groups([bool; N_MEMCGS]);

impl Groups {
    /// Notes which groups a program may make.
    pub fn note(&mut self, threads: &[WireThread<'_>]) {
        let ops = threads.iter().flat_map(WireThread::ops);
        for op in ops.filter(|op| op.kind == kind::MEMCG_CREATE) {
            if let Some(made) = self.0.get_mut(usize::from(op.memcg)) {
                *made = true;
            }
        }
    }

    /// Removes them; what is still in use stays noted.
    pub fn remove(&mut self) {
        for (memcg, made) in self.0.iter_mut().enumerate().filter(|(_, made)| **made) {
            let removed = fs::remove_dir(group(memcg as u8));
            *made = removed.is_err_and(|error| error.kind() != io::ErrorKind::NotFound);
        }
    }
}

fn write(path: PathBuf, text: &str) -> io::Result<i32> {
    File::options().write(true).open(path)?.write_all(text.as_bytes())?;
    Ok(0)
}

fn read(path: PathBuf) -> io::Result<i32> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes.len() as i32)
}

fn files(n: u32) -> io::Result<i32> {
    let pid = std::process::id();
    for i in 0..n {
        let path = format!("{SCRATCH}/{pid}-{i}");
        File::create(&path)?;
        fs::remove_file(&path)?;
        // A negative dentry stays behind for the superblock's shrinker.
        let _ = fs::metadata(&path);
    }
    Ok(n as i32)
}

/// A file of the slot's debugfs folder; the module names shrinkers `st<slot>…`.
fn debugfs(slot: u8, file: &str) -> io::Result<PathBuf> {
    let prefix = format!("st{slot}-");
    for entry in fs::read_dir(SHRINKERS)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            return Ok(entry.path().join(file));
        }
    }
    Err(io::Error::from_raw_os_error(libc::ENOENT))
}

fn debugfs_scan(op: &Op) -> io::Result<i32> {
    let path = debugfs(op.slot, "scan")?;
    // 0 stands for "no memcg", which is what shrinkers that are not memcg-aware want.
    let inode = if op.memcg == MEMCG_ROOT { 0 } else { fs::metadata(group(op.memcg))?.ino() };
    write(path, &format!("{inode} {} {}", op.nid, op.a))
}

fn debugfs_walk() -> io::Result<i32> {
    let mut n = 0;
    for entry in fs::read_dir(SHRINKERS)? {
        // Folders may vanish under the walk; that is the point.
        let count = File::open(entry?.path().join("count"));
        n += i32::from(count.is_ok_and(|mut file| file.read(&mut [0; 256]).is_ok()));
    }
    Ok(n)
}
