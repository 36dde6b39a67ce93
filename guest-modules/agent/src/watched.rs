// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls whose effect on shrinkers is known beforehand: the module is told what is about to happen, so that the
//! callbacks can judge it (`model_watch.rs`). The files are opened first, so that nothing else happens meanwhile.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
};

use abi::layout::{
    MEMCG_ROOT, Op, ioc,
    model::{NODES, Watch, watch},
};

use crate::{sys, user_ops};

/// A longer count file makes the kernel ask twice.
const ONE_PAGE: usize = 4096;

/// Writes to drop_caches; `what` is 0 for slab, 1 for pages, 2 for both, as in the op table.
pub fn drop_caches(device: &File, what: u32) -> io::Result<i32> {
    // The file counts pages, slab, both from 1.
    let text = ["2", "1", "3"][what as usize % 3];
    let mut file = File::options().write(true).open("/proc/sys/vm/drop_caches")?;
    let kind = if text == "1" { watch::DROP_PAGES } else { watch::DROP_SLAB };
    watched(device, Watch { kind, ..Watch::default() }, |_| file.write_all(text.as_bytes()))?;
    Ok(0)
}

/// Reads a debugfs count file; its length.
pub fn debugfs_count(device: &File, mut file: File) -> io::Result<i32> {
    let request = Watch { kind: watch::DEBUGFS_COUNT, ..Watch::default() };
    let len = watched(device, request, |watch| {
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        sum_up(&text, watch);
        if text.len() < ONE_PAGE { Ok(text.len()) } else { Err(io::ErrorKind::FileTooLarge.into()) }
    });
    len.map(|len| len as i32)
}

/// Writes to a debugfs scan file.
pub fn debugfs_scan(device: &File, op: &Op, mut file: File) -> io::Result<i32> {
    // 0 stands for "no memcg", which is what shrinkers that are not memcg-aware want.
    let memcg = if op.memcg == MEMCG_ROOT { 0 } else { fs::metadata(user_ops::group(op.memcg))?.ino() };
    let request = Watch {
        kind: watch::DEBUGFS_SCAN,
        slot: op.slot.into(),
        nid: op.nid.into(),
        memcg,
        n: op.a.into(),
        ..Watch::default()
    };
    let text = format!("{memcg} {} {}", op.nid, op.a);
    watched(device, request, |_| file.write_all(text.as_bytes()))?;
    Ok(0)
}

fn watched<T>(
    device: &File,
    mut request: Watch,
    body: impl FnOnce(&mut Watch) -> io::Result<T>,
) -> io::Result<T> {
    sys::ioctl_struct(device, ioc::WATCH_BEGIN, &mut request)?;
    let result = body(&mut request);
    request.ok = u32::from(result.is_ok());
    sys::ioctl_struct(device, ioc::WATCH_END, &mut request)?;
    result
}

/// Lines `<inode> <objects on node 0> <on node 1> ...`.
fn sum_up(text: &str, watch: &mut Watch) {
    for line in text.lines() {
        let mut numbers = line.split(' ').filter_map(|number| number.parse::<u64>().ok());
        let inode = numbers.next().unwrap_or(0);
        for (nid, n) in numbers.enumerate() {
            watch.n_columns = watch.n_columns.max(nid as u64 + 1);
            watch.by_memcg = watch.by_memcg.wrapping_add(inode.wrapping_mul(n));
            if nid < NODES {
                watch.columns[nid] = watch.columns[nid].wrapping_add(n);
            }
        }
    }
}
