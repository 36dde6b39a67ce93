// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory made scarce for a moment, by raising the watermarks instead of filling the memory: the cheap way to kswapd and
//! to reclaim by whoever allocates, both under `fs_reclaim`.
//!
//! `min_free_kbytes` is dealt out to zones by size. It is set so that what the calling CPU's node has free lies between
//! its minimum and its low watermark. So allocations wake kswapd, and with `zone_reclaim_mode` they reclaim from their
//! node themselves; but none goes without, as one zone stays above its minimum: the OOM killer is not asked.

use std::{fs, io, sync::OnceLock, time::Duration};

use abi::layout::Op;

use super::write;
use crate::sys::{self, Anonymous};

const MIN_FREE: &str = "/proc/sys/vm/min_free_kbytes";
const RECLAIM_MODE: &str = "/proc/sys/vm/zone_reclaim_mode";
/// The minimum as a share of what is free, in percent. The low watermark is a quarter above the minimum.
const MIN_PERCENT: u64 = 92;
/// What stays allocatable at least, KiB: more than all threads touch at once.
const SLACK_KIB: u64 = 24 << 10;

/// `min_free_kbytes` of a fresh guest.
static USUAL: OnceLock<String> = OnceLock::new();

/// Executes the op.
pub(super) fn run(op: &Op) -> io::Result<i32> {
    let usual = usual()?;
    let memory = Anonymous::new(op.b as usize * 1024)?;
    let min = scarce(sys::current_node()?)?;
    let is_direct = op.a != 0;
    if is_direct {
        write(RECLAIM_MODE, "1")?;
    }
    let raised = write(MIN_FREE, &min.to_string());
    if raised.is_ok() {
        memory.touch();
        std::thread::sleep(Duration::from_micros(op.c.into()));
    }
    write(MIN_FREE, usual)?;
    if is_direct {
        write(RECLAIM_MODE, "0")?;
    }
    raised
}

/// Undoes what a thread that was killed may have left.
pub(super) fn restore() {
    if let Ok(usual) = usual() {
        let _ = write(MIN_FREE, usual);
        let _ = write(RECLAIM_MODE, "0");
    }
}

/// Takes the value of a fresh guest, before any op has changed it.
pub(super) fn usual() -> io::Result<&'static str> {
    if let Some(usual) = USUAL.get() {
        return Ok(usual);
    }
    let text = fs::read_to_string(MIN_FREE)?;
    Ok(USUAL.get_or_init(|| text.trim().to_owned()))
}

/// `min_free_kbytes` under which a node is short of memory.
fn scarce(node: u32) -> io::Result<u64> {
    let node = fs::read_to_string(format!("/sys/devices/system/node/node{node}/meminfo"))?;
    let machine = fs::read_to_string("/proc/meminfo")?;
    let (free, of_node) = (kib(&node, "MemFree:"), kib(&node, "MemTotal:"));
    let all = kib(&machine, "MemTotal:");
    let wanted = (free * MIN_PERCENT / 100).min(free.saturating_sub(SLACK_KIB));
    match (wanted * all).checked_div(of_node) {
        Some(min) if min > 0 => Ok(min),
        _ => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
    }
}

/// A value of a `meminfo` file.
fn kib(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.split_once(key)).map_or("", |(_, value)| value);
    line.split_whitespace().next().and_then(|value| value.parse().ok()).unwrap_or(0)
}
