// SPDX-License-Identifier: MIT OR Apache-2.0
//! A real kernel under the deterministic engine: a good kernel stays clean, and the same epoch gives the same console
//! and the same results, byte for byte, however busy the host is.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use ::fuzz::corpus::SEEDS;
use anyhow::{Context, Result, ensure};
use harness::{
    det::{self, Limits},
    epoch::{Epoch, EpochEnd, EpochOutcome},
    oracle,
    pool::Pool,
    program::{Audit, Program, Schedule},
};

use super::checks::Checks;
use crate::prepare::Prepared;

/// Names of the checks.
pub const NAMES: &[&str] = &[
    "clean epoch: the seeds run to their end and the kernel says nothing",
    "the same epoch twice is identical, on a busy host too",
    "the same power-on twice is identical",
];

/// Runs them.
pub fn run(checks: &mut Checks, prepared: &Prepared) {
    checks.check(NAMES[0], || clean(prepared));
    checks.check(NAMES[1], || identical_under_load(prepared));
    checks.check(NAMES[2], || identical_from_power_on(prepared));
}

/// Of so many programs one is audited in depth.
const DEEP_EVERY: usize = 3;

/// The seeds, each so many times, under the default schedule.
///
/// # Errors
/// When a seed is no program.
pub fn seeds(n_times: usize) -> Result<Epoch> {
    let mut programs = Vec::new();
    for (name, text) in SEEDS {
        let mut program: Program = text.parse().with_context(|| format!("seed {name}"))?;
        program.schedule = Schedule::default();
        programs.push(program);
    }
    let n = n_times * programs.len();
    let mut programs: Vec<Program> = programs.into_iter().cycle().take(n).collect();
    for program in programs.iter_mut().step_by(DEEP_EVERY) {
        program.audit = Audit::Deep;
    }
    Ok(Epoch { programs, ..Epoch::default() })
}

/// Fails unless every program ran and the kernel said nothing.
///
/// # Errors
/// What was amiss, with the end of the console.
pub fn ensure_clean(outcome: &EpochOutcome) -> Result<()> {
    let titles: Vec<String> =
        oracle::judge(&outcome.console).into_iter().map(|report| report.title).collect();
    ensure!(
        outcome.end == EpochEnd::Done && titles.is_empty(),
        "ended {:?} with reports {titles:?}; {}",
        outcome.end,
        det::tail(&outcome.console)
    );
    let unfinished = outcome.programs.iter().position(|program| !program.finished);
    ensure!(unfinished.is_none(), "program {unfinished:?} did not finish");
    Ok(())
}

fn clean(prepared: &Prepared) -> Result<()> {
    let epoch = seeds(4)?;
    let outcome = prepared.pool()?.run(epoch);
    ensure_clean(&outcome)?;
    let covered = outcome.programs.iter().filter(|program| !program.cover.is_empty()).count();
    ensure!(
        covered == outcome.programs.len(),
        "only {covered} of {} programs have coverage",
        outcome.programs.len()
    );
    Ok(())
}

fn identical_under_load(prepared: &Prepared) -> Result<()> {
    let epoch = seeds(8)?;
    let mut pool = prepared.pool()?;
    let quiet = pool.run(epoch.clone());
    ensure_clean(&quiet)?;
    let busy = under_load(|| both(&mut pool, &epoch));
    for outcome in &busy {
        ensure_same(&quiet, outcome)?;
    }
    ensure!(busy.len() == 2, "{} of 2 runs answered", busy.len());
    Ok(())
}

fn identical_from_power_on(prepared: &Prepared) -> Result<()> {
    let (epoch, dirs) = (seeds(1)?, [tempfile::tempdir()?, tempfile::tempdir()?]);
    let runs: Vec<EpochOutcome> = thread::scope(|scope| {
        let run = |dir| {
            let guest = &prepared.machine.config;
            det::run_from_power_on(guest, Schedule::default(), &epoch, Limits::default(), dir)
        };
        let runs: Vec<_> = dirs.iter().map(|dir| scope.spawn(move || run(dir.path()))).collect();
        runs.into_iter().filter_map(|run| run.join().ok()).collect()
    });
    let [one, two] = &runs[..] else { anyhow::bail!("{} of 2 runs answered", runs.len()) };
    ensure_clean(one)?;
    ensure_same(one, two)
}

/// The epoch in two guests side by side.
fn both(pool: &mut Pool, epoch: &Epoch) -> Vec<EpochOutcome> {
    let wait = 2 * Limits::default().wall;
    pool.submit(epoch.clone());
    pool.submit(epoch.clone());
    [pool.next(wait), pool.next(wait)].into_iter().flatten().collect()
}

/// Runs `body` while every core has other things to do.
fn under_load<T>(body: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    let n_cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..n_cores {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let result = body();
        stop.store(true, Relaxed);
        result
    })
}

/// Fails unless everything the guest can influence is the same.
fn ensure_same(one: &EpochOutcome, two: &EpochOutcome) -> Result<()> {
    ensure!(one.end == two.end, "one ended {:?}, the other {:?}", one.end, two.end);
    if one.console != two.console {
        let at = one.console.iter().zip(&two.console).take_while(|(a, b)| a == b).count();
        let lengths = (one.console.len(), two.console.len());
        anyhow::bail!(
            "the consoles ({lengths:?} bytes) differ from byte {at} on; {}",
            det::tail(&two.console)
        );
    }
    for (idx, (a, b)) in one.programs.iter().zip(&two.programs).enumerate() {
        ensure!(a.ops == b.ops, "program {idx}: {:?} against {:?}", a.ops, b.ops);
        ensure!(a.guest_time == b.guest_time, "program {idx} took {:?} and {:?}", a.guest_time, b.guest_time);
        ensure!(a.cover == b.cover, "program {idx} covered {} and {} edges", a.cover.len(), b.cover.len());
    }
    Ok(())
}
