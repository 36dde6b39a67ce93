// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ops on the shrinkers' debugfs files; handles, which may outlive what they were opened from.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    path::PathBuf,
};

use abi::layout::{Op, SCAN_TEXTS, kind};

use super::{Hands, groups, read, write};

const SHRINKERS: &str = "/sys/kernel/debug/shrinker";

/// Executes one of them.
pub(super) fn run(op: &Op, hands: &mut Hands) -> io::Result<i32> {
    match op.kind {
        kind::DEBUGFS_COUNT => find(op.slot, "count").and_then(read),
        kind::DEBUGFS_SCAN => {
            let path = find(op.slot, "scan")?;
            write(path, &format!("{} {} {}", groups::inode(op.memcg, hands)?, op.nid, op.a))
        }
        kind::DEBUGFS_WRITE => {
            let path = find(op.slot, "scan")?;
            let text = SCAN_TEXTS[op.a as usize % SCAN_TEXTS.len()];
            // One write whatever its length; an empty one reaches the kernel too.
            File::options().write(true).open(path)?.write(text.as_bytes()).map(|n| n as i32)
        }
        kind::DEBUGFS_WALK => walk(),
        kind::DEBUGFS_HOLD => hold(op, hands),
        kind::HELD_READ => {
            let file = held(op.a, hands)?;
            file.rewind()?;
            let mut bytes = [0; 8192];
            file.read(&mut bytes).map(|n| n as i32)
        }
        kind::HELD_SCAN => {
            let text = format!("{} {} {}", groups::inode(op.memcg, hands)?, op.nid, op.b);
            held(op.a, hands)?.write(text.as_bytes()).map(|n| n as i32)
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

fn hold(op: &Op, hands: &mut Hands) -> io::Result<i32> {
    let file = if op.b == 0 {
        File::open(find(op.slot, "count")?)?
    } else {
        File::options().write(true).open(find(op.slot, "scan")?)?
    };
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
