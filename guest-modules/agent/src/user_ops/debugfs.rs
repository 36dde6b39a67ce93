// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ops on the shrinkers' debugfs files; handles, which may outlive what they were opened from.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    path::PathBuf,
};

use abi::layout::{Op, SCAN_TEXTS, kind};

use super::{Hands, groups};
use crate::watched::{self, Scan};

/// One folder for each shrinker.
pub const SHRINKERS: &str = "/sys/kernel/debug/shrinker";

/// Executes one of them.
pub(super) fn run(op: &Op, device: &File, hands: &mut Hands) -> io::Result<i32> {
    match op.kind {
        kind::DEBUGFS_COUNT => watched::debugfs_count(device, &mut File::open(find(op.slot, "count")?)?),
        kind::DEBUGFS_SCAN => {
            let mut file = scan_file(op.slot)?;
            let memcg = groups::inode(op.memcg, hands)?;
            let scan = Scan { slot: op.slot, memcg, nid: op.nid, n: op.a, group: op.memcg };
            watched::debugfs_scan(device, scan, &mut file).map(|_| 0)
        }
        kind::DEBUGFS_WRITE => {
            let mut file = scan_file(op.slot)?;
            let text = SCAN_TEXTS[op.a as usize % SCAN_TEXTS.len()];
            // One write whatever its length; an empty one reaches the kernel too.
            watched::debugfs_other(device, || file.write(text.as_bytes()).map(|n| n as i32))
        }
        kind::DEBUGFS_WALK => watched::debugfs_other(device, walk),
        kind::DEBUGFS_HOLD => hold(op, hands),
        kind::HELD_READ => {
            let file = held(op.a, hands)?;
            file.rewind()?;
            watched::debugfs_count(device, file)
        }
        kind::HELD_SCAN => {
            let memcg = groups::inode(op.memcg, hands)?;
            let scan = Scan { slot: op.slot, memcg, nid: op.nid, n: op.b, group: op.memcg };
            watched::debugfs_scan(device, scan, held(op.a, hands)?)
        }
        _ => {
            let place = hands.handles.get_mut(op.a as usize).ok_or(io::ErrorKind::InvalidInput)?;
            Ok(i32::from(place.take().is_some()))
        }
    }
}

/// The file behind a handle.
fn held(handle: u32, hands: &mut Hands) -> io::Result<&mut File> {
    let file = hands.handles.get_mut(handle as usize).and_then(Option::as_mut);
    file.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
}

/// A file of the slot's debugfs folder; the module names shrinkers `st<slot>-…`.
fn find(slot: u8, file: &str) -> io::Result<PathBuf> {
    let prefix = format!("st{slot}-");
    for entry in fs::read_dir(SHRINKERS)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            return Ok(entry.path().join(file));
        }
    }
    Err(io::Error::from_raw_os_error(libc::ENOENT))
}

/// The slot's `scan` file, open.
fn scan_file(slot: u8) -> io::Result<File> {
    File::options().write(true).open(find(slot, "scan")?)
}

fn hold(op: &Op, hands: &mut Hands) -> io::Result<i32> {
    let file = if op.b == 0 { File::open(find(op.slot, "count")?)? } else { scan_file(op.slot)? };
    *hands.handles.get_mut(op.a as usize).ok_or(io::ErrorKind::InvalidInput)? = Some(file);
    Ok(0)
}

fn walk() -> io::Result<i32> {
    let mut n = 0;
    for entry in fs::read_dir(SHRINKERS)? {
        // Folders may vanish under the walk; that is the point.
        let count = File::open(entry?.path().join("count"));
        n += i32::from(count.is_ok_and(|mut file| file.read(&mut [0; 256]).is_ok()));
    }
    Ok(n)
}
