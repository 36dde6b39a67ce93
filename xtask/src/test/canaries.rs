// SPDX-License-Identifier: MIT OR Apache-2.0
//! Test the tester: each canary kind gets its title, under both engines.

use std::time::Duration;

use abi::layout::canary;
use anyhow::{Context, Result, ensure};
use harness::{
    det::{self, Limits},
    epoch::{Epoch, EpochEnd, EpochOutcome},
    guest::Execution,
    oracle,
    program::Program,
};

use super::checks::Checks;
use crate::prepare::{self, Prepared};

/// Names of the checks.
pub const NAMES: &[&str] = &[
    "canary use-after-free",
    "canary double-free",
    "canary lock-inversion",
    "canary atomic-sleep",
    "canary hang",
    "canary leak",
    "canary use-after-free, parallel engine",
    "canary lock-inversion, parallel engine",
    "canary hang, parallel engine",
];

/// The titles, in the order of `canary::NAMES`.
const TITLES: [&str; canary::NAMES.len()] = [
    "KASAN: slab-use-after-free Read in canary::use_after_free",
    "KASAN: invalid-free in canary::double_free",
    "possible deadlock in canary::lock_inversion",
    "BUG: sleeping function called from invalid context in canary::atomic_sleep",
    "INFO: task hung in canary::hang",
    "memory leak in canary::leak",
];

/// Calls the canary's shrinker, whatever is armed.
const PROGRAM: &str = "schedule vcpus=4 shift=1\n\
    thread cpu=0\n drop_caches what=slab\n drop_caches what=slab\n drop_caches what=slab\n";

/// Every kind under the deterministic engine; the same twice gives the same console.
pub fn deterministic(checks: &mut Checks, prepared: &Prepared) {
    for (idx, name) in canary::NAMES.iter().enumerate() {
        checks.check(&format!("canary {name}"), || {
            let mut pool = prepared.pool()?;
            let epoch = epoch(idx)?;
            // A scan for leaks takes most of a minute of a busy host, so once is enough there.
            let n_runs = if epoch.leak_scan { 1 } else { 2 };
            for _ in 0..n_runs {
                pool.submit(epoch.clone());
            }
            let mut consoles = Vec::new();
            for _ in 0..n_runs {
                let outcome = pool.next(2 * Limits::default().wall + det::BOOT_LIMIT).context("no answer")?;
                ensure_title(&outcome, TITLES[idx])?;
                consoles.push(outcome.console);
            }
            ensure!(
                consoles.iter().all(|console| *console == consoles[0]),
                "the same epoch gave another console"
            );
            Ok(())
        });
    }
}

/// Three kinds under the parallel engine, multi-threaded TCG: one told by a sanitizer, one by lockdep, one by time.
pub fn parallel(checks: &mut Checks, prepared: &Prepared) {
    for kind in [canary::HANG, canary::USE_AFTER_FREE, canary::LOCK_INVERSION] {
        let idx = kind as usize - 1;
        checks.check(&format!("canary {}, parallel engine", canary::NAMES[idx]), || {
            let mut pool = prepare::pool(&prepared.machine, Execution::Threads, 1, &prepared.snapshots)?;
            pool.submit(epoch(idx)?);
            let wait = Limits::default().wall + det::BOOT_LIMIT + Duration::from_secs(30);
            ensure_title(&pool.next(wait).context("no answer")?, TITLES[idx])
        });
    }
}

fn epoch(idx: usize) -> Result<Epoch> {
    let kind = idx as u32 + 1;
    let program: Program = PROGRAM.parse()?;
    Ok(Epoch { programs: vec![program], canary: kind, leak_scan: kind == canary::LEAK, ..Epoch::default() })
}

fn ensure_title(outcome: &EpochOutcome, title: &str) -> Result<()> {
    let titles: Vec<String> =
        oracle::judge(&outcome.console).into_iter().map(|report| report.title).collect();
    ensure!(
        titles.first().is_some_and(|first| first == title),
        "expected {title:?}, got {titles:?} (ended {:?}); {}",
        outcome.end,
        det::tail(&outcome.console)
    );
    ensure!(matches!(outcome.end, EpochEnd::Kernel | EpochEnd::Deadline), "ended {:?}", outcome.end);
    Ok(())
}
