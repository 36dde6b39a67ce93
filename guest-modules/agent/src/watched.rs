// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls whose effect on shrinkers is known beforehand: the module is told what is about to happen, so that the
//! callbacks can judge it (`model_watch.rs`). The files are opened first, so that nothing else happens meanwhile.

use std::{
    fs::File,
    io::{self, Read, Write},
};

use abi::layout::{
    ioc,
    model::{NODES, Watch, watch},
};

use crate::{sys, user_ops::groups};

/// A longer count file makes the kernel ask twice.
const ONE_PAGE: usize = 4096;

/// Writes to drop_caches; `what` is 0 for slab, 1 for pages, 2 for both, as in the op table.
pub fn drop_caches(device: &File, what: u32) -> io::Result<i32> {
    // The file counts pages, slab, both from 1.
    let text = ["2", "1", "3"][what as usize % 3];
    let mut file = File::options().write(true).open("/proc/sys/vm/drop_caches")?;
    let kind = if text == "1" { watch::DROP_PAGES } else { watch::DROP_SLAB };
    let request = Watch { kind, ..Watch::default() };
    watched(device, request, |_| file.write(text.as_bytes()).map(|n| (0, n == text.len())))
}

/// Reads a debugfs count file, or what the handle of a program is, from its beginning; its length, of two pages at most.
pub fn debugfs_count(device: &File, file: &mut File) -> io::Result<i32> {
    let request = Watch { kind: watch::DEBUGFS_COUNT, ..Watch::default() };
    watched(device, request, |watch| {
        let mut text = [0; 2 * ONE_PAGE];
        let len = file.read(&mut text)?;
        sum_up(&String::from_utf8_lossy(&text[..len]), watch);
        Ok((len as i32, len < ONE_PAGE))
    })
}

/// What is asked of a debugfs scan file.
#[derive(Clone, Copy, Debug)]
pub struct Scan {
    /// Slot whose file it is, as far as known.
    pub slot: u8,
    /// Inode of the memcg; 0 stands for "no memcg", which is what shrinkers that are not memcg-aware want.
    pub memcg: u64,
    /// Node.
    pub nid: u8,
    /// Objects.
    pub n: u32,
    /// Number of the memcg's group.
    pub group: u8,
}

/// Writes to a debugfs scan file, at once; how many bytes were taken.
pub fn debugfs_scan(device: &File, scan: Scan, file: &mut File) -> io::Result<i32> {
    let request = Watch {
        kind: watch::DEBUGFS_SCAN,
        slot: scan.slot.into(),
        nid: scan.nid.into(),
        memcg: scan.memcg,
        n: scan.n.into(),
        ..Watch::default()
    };
    let text = format!("{} {} {}", scan.memcg, scan.nid, scan.n);
    let group = groups::Held::open(scan.group, scan.memcg);
    watched(device, request, |watch| {
        let n = file.write(text.as_bytes())?;
        watch.memcg_stays = group.is_some_and(|group| group.is_memcg()).into();
        Ok((n as i32, n == text.len()))
    })
}

/// Uses debugfs files in another way; nothing is promised but that callbacks serve debugfs.
pub fn debugfs_other<T>(device: &File, body: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let request = Watch { kind: watch::DEBUGFS_OTHER, ..Watch::default() };
    watched(device, request, |_| body().map(|result| (result, true)))
}

/// Runs `body` under a watch; what it promises is judged when `body` says so beside its result.
fn watched<T>(
    device: &File,
    mut request: Watch,
    body: impl FnOnce(&mut Watch) -> io::Result<(T, bool)>,
) -> io::Result<T> {
    sys::ioctl_struct(device, ioc::WATCH_BEGIN, &mut request)?;
    let result = body(&mut request);
    request.ok = u32::from(matches!(result, Ok((_, true))));
    sys::ioctl_struct(device, ioc::WATCH_END, &mut request)?;
    result.map(|(result, _)| result)
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
