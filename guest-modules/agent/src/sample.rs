// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where do tasks wait? `shrinktorture.sample_ms=N` on the kernel's command line has the kernel print the stacks of blocked
//! tasks every N ms while programs run, for `xtask regress`.

use std::{fs, thread, time::Duration};

use crate::boot::put;

const ARGUMENT: &str = "shrinktorture.sample_ms=";

/// Begins to sample, where that is asked for. To be called after the workers were forked.
pub fn start() {
    let arguments = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let asked = arguments.split_whitespace().find_map(|word| word.strip_prefix(ARGUMENT)?.parse().ok());
    let Some(period_ms) = asked.filter(|&ms: &u64| ms > 0) else { return };
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_millis(period_ms));
            let _ = put("/proc/sysrq-trigger", "w");
        }
    });
}
