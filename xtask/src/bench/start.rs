// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long it takes until a guest runs programs: from power-on, from a snapshot, after a finding.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use abi::layout::canary;
use anyhow::{Context, Result, bail};
use harness::{
    console::console_path,
    det::{self, BOOT_LIMIT, Limits},
    epoch::{Epoch, EpochEnd, EpochOutcome},
    guest::{Execution, GuestConfig, Leaks, Memory, Plan, Start, Watch},
    machine::{Machine, MachineEnd},
    par::Stream,
    program::Program,
    snapshot::{self, Snapshot},
};

use super::{
    Bench, engine_name,
    figure::{Aim, Figure, Spread},
    one_yield, well,
};

/// Argument to PID 1, behind the kernel's own: end the machine at once.
const BARE: &str = "-- bare";
/// First words of the report that the canary provokes.
const REPORT: &[u8] = b"BUG: KASAN";
/// How often the console is looked at for them.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Power-on to the end of a batch of one `yield`, against the same machine with a PID 1 that does nothing.
pub fn boot(bench: &Bench<'_>) -> Result<Figure> {
    let (mut full, mut bare) = (Vec::new(), Vec::new());
    // In turns, so that a burst of other work does not fall on one of them alone.
    for _ in 0..bench.args.times {
        bare.push(bare_boot(bench)?.as_secs_f64());
        full.push(full_boot(bench)?.as_secs_f64());
    }
    Ok(Figure::new("power-on to first op", engine_name(bench.execution), 1, "s", Spread::of(full))
        .against("bare boot of the kernel", Spread::of(bare))
        .aiming(Aim::AtMost(1.3)))
}

fn full_boot(bench: &Bench<'_>) -> Result<Duration> {
    let (guest, run_dir) = (&bench.prepared.machine.config, bench.run_dir.path().join("full"));
    let (epoch, limits) = (one_yield(), Limits::default());
    let outcome = match bench.execution {
        Execution::Deterministic => det::run_from_power_on(guest, bench.schedule, &epoch, limits, &run_dir),
        execution => Stream::new(guest.clone(), bench.schedule, execution, run_dir).run_epoch(&epoch, limits),
    };
    Ok(well(outcome)?.wall)
}

fn bare_boot(bench: &Bench<'_>) -> Result<Duration> {
    let config = &bench.prepared.machine.config;
    let guest = GuestConfig { append: format!("{} {BARE}", config.append), ..config.clone() };
    let plan = Plan { memory: &Memory::Private, start: Start::Boot, ..plan(bench, &guest) };
    let started = Instant::now();
    let mut machine = Machine::start(plan, &bench.run_dir.path().join("bare"), |_| Ok(()))?;
    match machine.wait(BOOT_LIMIT) {
        MachineEnd::Agent => Ok(started.elapsed()),
        end => bail!("the bare boot ended otherwise: {end:?}"),
    }
}

/// Start of QEMU to the end of an epoch of one `yield` from a snapshot.
pub fn restore(bench: &Bench<'_>) -> Result<Figure> {
    let snapshot = snapshot(bench)?;
    let (mut full, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..bench.args.times {
        bare.push(start_and_quit(bench, &snapshot)?.as_secs_f64());
        full.push(well(restored(bench, &snapshot, &one_yield()))?.wall.as_secs_f64());
    }
    Ok(Figure::new("snapshot load to first op", engine_name(bench.execution), 1, "s", Spread::of(full))
        .against("QEMU started and told to quit", Spread::of(bare)))
}

fn snapshot(bench: &Bench<'_>) -> Result<Snapshot> {
    let cache = bench.prepared.cache.dir("snapshots")?;
    snapshot::open(&bench.prepared.machine.config, bench.schedule, Leaks::Ignore, &cache).context("snapshot")
}

fn restored(bench: &Bench<'_>, snapshot: &Snapshot, epoch: &Epoch) -> EpochOutcome {
    let run_dir = bench.run_dir.path().join("restored");
    det::run_epoch(&bench.prepared.machine.config, snapshot, epoch, Limits::default(), &run_dir)
}

fn start_and_quit(bench: &Bench<'_>, snapshot: &Snapshot) -> Result<Duration> {
    let memory = Memory::CopyOnWrite(&snapshot.dir);
    let plan =
        Plan { memory: &memory, start: Start::Incoming, ..plan(bench, &bench.prepared.machine.config) };
    let started = Instant::now();
    let mut machine = Machine::start(plan, &bench.run_dir.path().join("quit"), |_| Ok(()))?;
    machine.qmp.command("quit", serde_json::json!({})).context("tell QEMU to quit")?;
    match machine.wait(BOOT_LIMIT) {
        MachineEnd::Reset => Ok(started.elapsed()),
        end => bail!("QEMU was told to quit and ended otherwise: {end:?}"),
    }
}

fn plan<'a>(bench: &Bench<'_>, guest: &'a GuestConfig) -> Plan<'a> {
    Plan {
        guest,
        schedule: bench.schedule,
        execution: bench.execution,
        leaks: Leaks::Ignore,
        start: Start::Boot,
        memory: &Memory::Private,
        watch: Watch::Nothing,
    }
}

/// First words of a report on the console to the end of the first program of the next epoch.
pub fn after_finding(bench: &Bench<'_>, fresh_guest: Spread) -> Result<Figure> {
    let times: Result<Vec<f64>> =
        (0..bench.args.times).map(|_| Ok(one_finding(bench)?.as_secs_f64())).collect();
    Ok(Figure::new("finding to next program done", engine_name(bench.execution), 1, "s", Spread::of(times?))
        .against("a fresh guest", fresh_guest))
}

fn one_finding(bench: &Bench<'_>) -> Result<Duration> {
    let program: Program = "thread cpu=0\n drop_caches what=slab".parse()?;
    let crash = Epoch { programs: vec![program], canary: canary::USE_AFTER_FREE, ..Epoch::default() };
    let run_dir = bench.run_dir.path().join("restored");
    let mut run: Box<dyn FnMut(&Epoch) -> EpochOutcome> = match bench.execution {
        Execution::Deterministic => {
            let snapshot = snapshot(bench)?;
            Box::new(move |epoch| restored(bench, &snapshot, epoch))
        }
        execution => {
            let guest = bench.prepared.machine.config.clone();
            let mut stream = Stream::new(guest, bench.schedule, execution, run_dir.clone());
            Box::new(move |epoch| stream.run_epoch(epoch, Limits::default()))
        }
    };
    well(run(&one_yield()))?;
    let (outcome, seen) = watched(&console_path(&run_dir), || run(&crash));
    let (EpochEnd::Kernel, Some(seen)) = (&outcome.end, seen) else {
        bail!("the canary did not make the kernel report: {:?}", outcome.end);
    };
    well(run(&one_yield()))?;
    Ok(seen.elapsed())
}

/// Runs `body` and notes when the report appeared on the console.
fn watched(console: &Path, body: impl FnOnce() -> EpochOutcome) -> (EpochOutcome, Option<Instant>) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut len = 0;
            while !over.load(Ordering::SeqCst) {
                let grown = fs::metadata(console).map_or(0, |meta| meta.len());
                if grown != len {
                    len = grown;
                    let text = fs::read(console).unwrap_or_default();
                    if text.windows(REPORT.len()).any(|window| window == REPORT) {
                        return Some(Instant::now());
                    }
                }
                thread::sleep(LOOK_EVERY);
            }
            None
        });
        // On this thread: QEMU dies with the thread that started it.
        let outcome = body();
        over.store(true, Ordering::SeqCst);
        (outcome, watch.join().ok().flatten())
    })
}
