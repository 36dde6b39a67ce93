// SPDX-License-Identifier: MIT OR Apache-2.0
//! What else the machine is doing: a figure taken on a busy one says so.

use std::{fmt, fs, thread, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

/// How long the processors are watched while we do nothing ourselves.
const WATCH: Duration = Duration::from_secs(2);
/// A machine whose processors do this share of other work is busy.
const BUSY_SHARE: f64 = 0.1;

/// How busy the machine is with other things.
#[derive(Clone, Debug, Serialize)]
pub struct Load {
    /// Load average over one minute.
    pub average: f64,
    /// Processors.
    pub cores: usize,
    /// Share of processor time that others took.
    pub others: f64,
    /// Is that too much for figures to be quoted?
    pub busy: bool,
}

/// Watches for a moment.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn sample() -> Result<Load> {
    let before = ticks()?;
    thread::sleep(WATCH);
    let after = ticks()?;
    let others = share_busy(before, after);
    let text = fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    let average = text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Ok(Load { average, cores, others, busy: others > BUSY_SHARE })
}

/// (all, idle) ticks of all processors since boot.
fn ticks() -> Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    parse(&text).context("/proc/stat has no line of all processors")
}

fn parse(stat: &str) -> Option<(u64, u64)> {
    // cpu user nice system idle iowait irq softirq steal guest guest_nice; guest time is in user already.
    let words: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    (words.len() >= 5).then(|| (words.iter().take(8).sum(), words[3] + words[4]))
}

fn share_busy(before: (u64, u64), after: (u64, u64)) -> f64 {
    let all = after.0.saturating_sub(before.0).max(1) as f64;
    let idle = after.1.saturating_sub(before.1) as f64;
    (1.0 - idle / all).max(0.0)
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "load average {:.1} on {} cores, others take {:.0} %{}",
            self.average,
            self.cores,
            self.others * 100.0,
            if self.busy { ": BUSY, times are too long" } else { "" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_a_disk_is_not_work() {
        let before = parse("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3 4 5\n").unwrap();
        let after = parse("cpu  120 0 60 850 70 0 0 0 0 0\n").unwrap();
        assert_eq!(before, (1000, 850));
        assert!((share_busy(before, after) - 0.3).abs() < 1e-9);
    }
}
