// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ops on memory cgroups.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
};

use abi::layout::{MEMCG_ROOT, Op, kind};
use nix::{fcntl::AtFlags, sys::stat::fstatat};

use super::{CGROUP_PARENT, CGROUP_ROOT, Hands, write};

/// Groups there can be beside those that ops name.
const CROWD_MAX: u32 = 256;

/// Executes one of them.
pub(super) fn run(op: &Op, hands: &mut Hands) -> io::Result<i32> {
    let set = |file: &str| write(path(op.memcg).join(file), &format!("{}K", op.a));
    match op.kind {
        kind::MEMCG_CREATE => fs::create_dir(top(op.memcg)).map(|()| 0),
        kind::MEMCG_NEST => nest(op.memcg),
        kind::MEMCG_CROWD => crowd(op.a),
        kind::MEMCG_REMOVE => fs::remove_dir(path(op.memcg)).map(|()| 0),
        kind::MEMCG_ENTER => {
            enter(op.memcg)?;
            hands.is_grouped = op.memcg != MEMCG_ROOT;
            Ok(0)
        }
        kind::MEMCG_RECLAIM => set("memory.reclaim"),
        kind::MEMCG_RECLAIM_SWAP => {
            write(path(op.memcg).join("memory.reclaim"), &format!("{}K swappiness={}", op.a, op.b))
        }
        kind::MEMCG_MAX => set("memory.max"),
        kind::MEMCG_HIGH => set("memory.high"),
        _ => set("memory.swap.max"),
    }
}

/// Folder of a group that lies beside the others.
pub(super) fn top(memcg: u8) -> PathBuf {
    format!("{CGROUP_PARENT}/{memcg}").into()
}

/// Folder of group 2 or 3 when it lies inside group 0 or 1.
pub(super) fn nested(memcg: u8) -> Option<PathBuf> {
    (2..MEMCG_ROOT).contains(&memcg).then(|| format!("{CGROUP_PARENT}/{}/{memcg}", memcg - 2).into())
}

/// Folder of a group, wherever it lies.
pub(super) fn path(memcg: u8) -> PathBuf {
    if memcg >= MEMCG_ROOT {
        return CGROUP_ROOT.into();
    }
    nested(memcg).filter(|path| path.exists()).unwrap_or_else(|| top(memcg))
}

/// Inode of a group; of one that is gone the last that was seen. 0 stands for "no memcg", which is what shrinkers that
/// are not memcg-aware want to see in debugfs.
pub(super) fn inode(memcg: u8, hands: &mut Hands) -> io::Result<u64> {
    let Some(seen) = hands.inodes.get_mut(usize::from(memcg)) else { return Ok(0) };
    match fs::metadata(path(memcg)) {
        Ok(metadata) => *seen = metadata.ino(),
        Err(error) if *seen == 0 => return Err(error),
        Err(_) => {}
    }
    Ok(*seen)
}

/// A group's folder, held open: one that has its name later is another.
#[derive(Debug)]
pub struct Held(File);

impl Held {
    /// The group, if it has that inode and a memory controller of its own.
    pub fn open(memcg: u8, inode: u64) -> Option<Held> {
        let held = Held(File::open(path(memcg)).ok()?);
        (held.0.metadata().ok()?.ino() == inode && held.is_memcg()).then_some(held)
    }

    /// Whether it has a memory controller of its own, whose files go before it does. For any other group the kernel takes that
    /// of a group around it (cgroup_get_e_css()).
    pub fn is_memcg(&self) -> bool {
        fstatat(&self.0, "memory.stat", AtFlags::empty()).is_ok()
    }
}

fn nest(memcg: u8) -> io::Result<i32> {
    let path = nested(memcg).ok_or(io::ErrorKind::InvalidInput)?;
    // Refused while a process is in the outer group; the inner one then has no controller of its own.
    let _ = write(top(memcg - 2).join("cgroup.subtree_control"), "+memory");
    fs::create_dir(path).map(|()| 0)
}

/// Makes `n` groups more.
fn crowd(n: u32) -> io::Result<i32> {
    let mut made = 0;
    for nth in 0..CROWD_MAX {
        if made == n {
            break;
        }
        match fs::create_dir(of_crowd(nth)) {
            // Another thread's, or an earlier op's.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => {
                result?;
                made += 1;
            }
        }
    }
    if made < n { Err(io::Error::from_raw_os_error(libc::ENOSPC)) } else { Ok(made as i32) }
}

/// Removes what [`crowd`] made: each is beside the one before, with no hole between them.
pub(super) fn remove_crowd() {
    for nth in 0..CROWD_MAX {
        if fs::remove_dir(of_crowd(nth)).is_err() {
            break;
        }
    }
}

fn of_crowd(nth: u32) -> PathBuf {
    format!("{CGROUP_PARENT}/crowd{nth}").into()
}

/// Moves the calling process into a group.
pub(super) fn enter(memcg: u8) -> io::Result<i32> {
    write(path(memcg).join("cgroup.procs"), "0")
}
