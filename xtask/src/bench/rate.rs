// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs and ops a second, against the same ops with no harness work between them.

use std::time::{Duration, Instant};

use anyhow::Result;
use harness::{
    epoch::{Epoch, EpochOutcome},
    pool::Pool,
    program::Program,
};

use super::{
    Bench, engine_name,
    figure::{Figure, Spread},
    one_yield, well,
};
use crate::prepare::{self, Prepared};

/// Programs of an epoch, which then takes as long as a campaign's.
pub const N_PROGRAMS: usize = 64;
/// Cycles in the programs that are timed: 32 ops; those of a campaign have 27 on average.
const CYCLES: usize = 2;
/// Cycles in the long programs; with more, their ops exceed what a thread may have.
const CYCLES_LONG: usize = 4;
/// The life of a shrinker, as the generator makes it; leaves nothing behind, so it can be repeated at will.
const CYCLE: &[&str] = &[
    "alloc slot=N flags=numa name=0",
    "register slot=N",
    "add_objects slot=N nid=0 n=16",
    "set_scan slot=N returns=honest delay=none ns=0",
    "drop_caches what=slab",
    "debugfs_count slot=N",
    "del_objects slot=N nid=0 n=16",
    "free slot=N",
];
/// Threads of a program.
const N_THREADS: usize = 2;

/// One measurement.
struct Sample {
    /// Programs a second, epochs and all.
    programs_per_sec: f64,
    /// Programs a second if there were nothing but their ops.
    bound_per_sec: f64,
    /// Time in the guest that a program takes beyond its ops, ms.
    overhead_ms: f64,
}

/// Programs a second, ops a second, and what a program costs beyond its ops, with so many guests side by side.
pub fn rates(bench: &Bench<'_>, jobs: usize) -> Result<Vec<Figure>> {
    let Prepared { machine, snapshots, .. } = &bench.prepared;
    let mut pool = prepare::pool(machine, bench.execution, jobs, snapshots)?;
    // Every guest is up before time is taken.
    side_by_side(&mut pool, &one_yield(), jobs)?;
    let (short, long) = (epoch(bench, CYCLES), epoch(bench, CYCLES_LONG));
    let samples: Result<Vec<Sample>> =
        (0..bench.args.times).map(|_| sample(&mut pool, &short, &long, jobs)).collect();
    let samples = samples?;
    let spread = |value: fn(&Sample) -> f64| Spread::of(samples.iter().map(value).collect());
    let (programs, bound) = (spread(|s| s.programs_per_sec), spread(|s| s.bound_per_sec));
    let n_ops = (CYCLE.len() * CYCLES * N_THREADS) as f64;
    let engine = engine_name(bench.execution);
    let what = "the ops alone";
    Ok(vec![
        Figure::new("programs a second", engine, jobs, "/s", programs).against(what, bound),
        Figure::new("ops a second", engine, jobs, "/s", programs.times(n_ops))
            .against(what, bound.times(n_ops)),
        Figure::new("a program beyond its ops", engine, jobs, "ms", spread(|s| s.overhead_ms)),
    ])
}

fn sample(pool: &mut Pool, short: &Epoch, long: &Epoch, jobs: usize) -> Result<Sample> {
    let (wall, short) = side_by_side(pool, short, jobs)?;
    let (_, long) = side_by_side(pool, long, jobs)?;
    let cycles = (long.as_secs_f64() - short.as_secs_f64()).max(1e-9);
    let program = cycles / N_PROGRAMS as f64 * CYCLES as f64 / (CYCLES_LONG - CYCLES) as f64;
    Ok(Sample {
        programs_per_sec: (N_PROGRAMS * jobs) as f64 / wall.as_secs_f64(),
        bound_per_sec: jobs as f64 / program,
        overhead_ms: (short.as_secs_f64() / N_PROGRAMS as f64 - program) * 1e3,
    })
}

/// Runs an epoch on every guest at once: the wall time of all, and the mean time in the guest.
fn side_by_side(pool: &mut Pool, epoch: &Epoch, jobs: usize) -> Result<(Duration, Duration)> {
    let started = Instant::now();
    for _ in 0..jobs {
        pool.submit(epoch.clone());
    }
    let mut outcomes: Vec<EpochOutcome> = Vec::new();
    while outcomes.len() < jobs {
        if let Some(outcome) = pool.next(Duration::from_secs(60)) {
            outcomes.push(well(outcome)?);
        }
    }
    let in_guest: Duration = outcomes.iter().map(|outcome| outcome.in_guest).sum();
    Ok((started.elapsed(), in_guest / jobs as u32))
}

fn epoch(bench: &Bench<'_>, cycles: usize) -> Epoch {
    let mut program: Program = text(cycles).parse().expect("the cycle is a program");
    program.schedule = bench.schedule;
    Epoch { programs: vec![program; N_PROGRAMS], ..Epoch::default() }
}

/// Threads on CPUs of their own, each with a slot of its own.
fn text(cycles: usize) -> String {
    (0..N_THREADS)
        .map(|thread| {
            let ops = CYCLE.join("\n").replace("slot=N", &format!("slot={thread}"));
            format!("thread cpu={thread}\n{}\n", vec![ops; cycles].join("\n"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_programs_are_the_short_one_repeated() {
        let (short, long): (Program, Program) =
            (text(CYCLES).parse().unwrap(), text(CYCLES_LONG).parse().unwrap());
        assert_eq!(long.n_ops() * CYCLES, short.n_ops() * CYCLES_LONG);
        assert!(long.is_valid());
    }
}
