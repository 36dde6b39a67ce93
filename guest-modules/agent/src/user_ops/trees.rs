// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ops on superblocks, dentries and inodes.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::symlink,
};

use abi::layout::{N_MOUNTS, Op, entry, fs as file_system, kind, umount as how};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{Hands, SCRATCH};
use crate::ext4;

/// Content of a file of [`entry::DATA`].
const DATA: [u8; 4096] = [b'd'; 4096];
/// Entries of one mount point that ops name.
const ENTRIES_MAX: u32 = 64;
/// File systems stacked on one mount point at the end of a program at most.
const STACKED_MAX: usize = 256;
/// Bounds of a file system in memory, so that a program cannot fill the memory.
const TMPFS_OPTIONS: &str = "size=1m,nr_inodes=256";

/// Makes the folders to mount on.
pub fn make_mount_points() -> io::Result<()> {
    (0..N_MOUNTS as u32).try_for_each(|mount| fs::create_dir_all(point(mount)))
}

/// Executes one of them.
pub(super) fn run(op: &Op, hands: &mut Hands) -> io::Result<i32> {
    match op.kind {
        kind::FILES => files(op.a),
        kind::MOUNT => mount_on(op.a, op.b),
        kind::UMOUNT => {
            let flags = match op.b {
                how::LAZY => MntFlags::MNT_DETACH,
                how::FORCE => MntFlags::MNT_FORCE,
                _ => MntFlags::empty(),
            };
            umount2(point(op.a).as_str(), flags)?;
            Ok(0)
        }
        kind::REMOUNT => {
            let read_only = if op.b == 0 { MsFlags::MS_RDONLY } else { MsFlags::empty() };
            let flags = MsFlags::MS_REMOUNT | read_only;
            mount(None::<&str>, point(op.a).as_str(), None::<&str>, flags, None::<&str>)?;
            Ok(0)
        }
        kind::TREE_MAKE => count(0..ENTRIES_MAX, op.b, |idx| make(&name(op.a, idx), op.c)),
        kind::TREE_REMOVE => count(0..ENTRIES_MAX, op.b, |idx| {
            let name = name(op.a, idx);
            fs::remove_file(&name).or_else(|_| fs::remove_dir(&name))
        }),
        kind::TREE_LOOK => {
            let missing = |idx| fs::metadata(format!("{}/missing-{idx}", point(op.a))).is_err();
            Ok((0..op.b).filter(|&idx| missing(idx)).count() as i32)
        }
        _ => {
            let place = hands.handles.get_mut(op.a as usize).ok_or(io::ErrorKind::InvalidInput)?;
            *place = Some(File::open(name(op.b, op.c))?);
            Ok(0)
        }
    }
}

/// Unmounts everything that programs mounted; what is still in use goes when it no longer is.
pub(super) fn umount_all() {
    for mount in 0..N_MOUNTS as u32 {
        for _ in 0..STACKED_MAX {
            if umount2(point(mount).as_str(), MntFlags::MNT_DETACH).is_err() {
                break;
            }
        }
    }
}

fn point(mount: u32) -> String {
    format!("/mnt/{mount}")
}

fn name(mount: u32, idx: u32) -> String {
    format!("{}/{idx}", point(mount))
}

fn mount_on(mount_idx: u32, kind: u32) -> io::Result<i32> {
    let point = point(mount_idx);
    let none = None::<&str>;
    match kind {
        file_system::TMPFS => {
            mount(Some("st"), point.as_str(), Some("tmpfs"), MsFlags::empty(), Some(TMPFS_OPTIONS))?;
        }
        file_system::RAMFS => mount(Some("st"), point.as_str(), Some("ramfs"), MsFlags::empty(), none)?,
        _ => {
            let device = format!("/dev/ram{mount_idx}");
            // Refused while it is mounted.
            ext4::format(&device)?;
            mount(Some(device.as_str()), point.as_str(), Some("ext4"), MsFlags::empty(), none)?;
        }
    }
    Ok(0)
}

fn make(name: &str, kind: u32) -> io::Result<()> {
    match kind {
        entry::DATA => File::options().write(true).create_new(true).open(name).and_then(|mut file| {
            use io::Write;
            file.write_all(&DATA)
        }),
        entry::FOLDER => fs::create_dir(name),
        entry::LINK => symlink("missing", name),
        _ => File::options().write(true).create_new(true).open(name).map(drop),
    }
}

/// Does something with names until it worked `n` times; how often it did, or why it never did.
fn count(
    names: std::ops::Range<u32>,
    n: u32,
    mut once: impl FnMut(u32) -> io::Result<()>,
) -> io::Result<i32> {
    let (mut n_done, mut error) = (0, None);
    for idx in names {
        if n_done == n as i32 {
            break;
        }
        match once(idx) {
            Ok(()) => n_done += 1,
            // Names that others have, or have not, are passed over; anything else goes wrong with every name.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::ENOENT)) => error = Some(e),
            Err(e) => {
                error = Some(e);
                break;
            }
        }
    }
    match error {
        Some(error) if n_done == 0 => Err(error),
        _ => Ok(n_done),
    }
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
