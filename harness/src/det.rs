// SPDX-License-Identifier: MIT OR Apache-2.0
//! The deterministic engine: a fresh QEMU process per epoch, restored from a snapshot, with its batch in place before
//! the first instruction. From one snapshot and one batch, every run prints the same console, byte for byte.
//!
//! Restoring maps the memory in a snapshot's files copy-on-write: nothing is read that the guest does not touch, and guests
//! side by side share the page cache.

use std::{
    fs,
    ops::Range,
    path::Path,
    process::ChildStdout,
    thread,
    time::{Duration, Instant},
};

use abi::shm::{flag, state};

use crate::{
    console::console_path,
    epoch::{Epoch, EpochEnd, EpochOutcome},
    guest::{Execution, GuestConfig, Memory, Plan, Start, Watch},
    machine::{Machine, MachineEnd, MachineError},
    oracle,
    program::Schedule,
    snapshot::Snapshot,
};

/// Wall time a guest may take to boot and get ready: ten times what one that tracks leaks takes on an idle host.
pub const BOOT_LIMIT: Duration = Duration::from_secs(600);
/// Wall time saving or loading the machine state may take.
pub(crate) const STATE_LIMIT: Duration = Duration::from_secs(60);

/// Limits of one epoch.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Wall time from `cont` to the end.
    pub wall: Duration,
    /// Guest time one op may take.
    pub op_deadline: Duration,
}

impl Default for Limits {
    /// Ops: 90 s of guest time, behind the hung-task detector's 30 to 60 s. Wall: five minutes.
    fn default() -> Self {
        Limits { wall: Duration::from_secs(300), op_deadline: Duration::from_secs(90) }
    }
}

/// The last lines of a console, for an error.
pub fn tail(console: &[u8]) -> String {
    let text = String::from_utf8_lossy(console);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    format!("console ends: {}", lines[lines.len().saturating_sub(8)..].join("\n"))
}

/// Runs an epoch from a snapshot.
///
/// # Errors
/// Never: what goes wrong is the outcome's `end`.
pub fn run_epoch(
    guest: &GuestConfig,
    snapshot: &Snapshot,
    epoch: &Epoch,
    limits: Limits,
    run_dir: &Path,
) -> EpochOutcome {
    run_restored(guest, snapshot, epoch, limits, run_dir, Watch::Nothing, &mut |_| {})
}

/// Runs an epoch as [`run_epoch`] does. Meanwhile `reader` is given QEMU's log of the code in some ranges of addresses; what
/// it made of that comes back, too, unless there was no machine.
pub fn run_traced<T: Send>(
    guest: &GuestConfig,
    snapshot: &Snapshot,
    epoch: &Epoch,
    limits: Limits,
    run_dir: &Path,
    ranges: &[Range<u64>],
    reader: impl FnOnce(ChildStdout) -> T + Send,
) -> (EpochOutcome, Option<T>) {
    thread::scope(|scope| {
        let (mut reader, mut reading) = (Some(reader), None);
        let mut begin = |machine: &mut Machine| {
            if let (Some(log), Some(reader)) = (machine.log.take(), reader.take()) {
                reading = Some(scope.spawn(move || reader(log)));
            }
        };
        let watch = Watch::Blocks(ranges);
        let outcome = run_restored(guest, snapshot, epoch, limits, run_dir, watch, &mut begin);
        (outcome, reading.and_then(|reading| reading.join().ok()))
    })
}

fn run_restored(
    guest: &GuestConfig,
    snapshot: &Snapshot,
    epoch: &Epoch,
    limits: Limits,
    run_dir: &Path,
    watch: Watch<'_>,
    begin: &mut dyn FnMut(&mut Machine),
) -> EpochOutcome {
    let memory = Memory::CopyOnWrite(&snapshot.dir);
    let plan = Plan {
        guest,
        schedule: snapshot.manifest.schedule,
        execution: Execution::Deterministic,
        leaks: epoch.leaks(),
        start: Start::Incoming,
        memory: &memory,
        watch,
    };
    let state = snapshot.state();
    run(plan, Some(&state), epoch, limits, run_dir, begin)
}

/// Runs an epoch from power-on: slower, but it needs no snapshot, so another machine sees the same.
pub fn run_from_power_on(
    guest: &GuestConfig,
    schedule: Schedule,
    epoch: &Epoch,
    limits: Limits,
    run_dir: &Path,
) -> EpochOutcome {
    let plan = Plan {
        guest,
        schedule,
        execution: Execution::Deterministic,
        leaks: epoch.leaks(),
        start: Start::Boot,
        memory: &Memory::Private,
        watch: Watch::Nothing,
    };
    run(plan, None, epoch, limits, run_dir, &mut |_| {})
}

fn run(
    plan: Plan<'_>,
    state: Option<&Path>,
    epoch: &Epoch,
    limits: Limits,
    run_dir: &Path,
    begin: &mut dyn FnMut(&mut Machine),
) -> EpochOutcome {
    let started = Instant::now();
    match try_run(plan, state, epoch, limits, run_dir, begin) {
        Ok((mut machine, end, in_guest)) => {
            let outcome = outcome_of(&mut machine, end, epoch, run_dir);
            EpochOutcome { wall: started.elapsed(), in_guest, ..outcome }
        }
        Err(error) => EpochOutcome {
            console: fs::read(console_path(run_dir)).unwrap_or_default(),
            wall: started.elapsed(),
            ..EpochOutcome::failed(EpochEnd::Machine(error.to_string()), epoch.programs.len())
        },
    }
}

/// What a machine that has ended leaves behind.
pub(crate) fn outcome_of(
    machine: &mut Machine,
    end: MachineEnd,
    epoch: &Epoch,
    run_dir: &Path,
) -> EpochOutcome {
    machine.kill();
    let console = fs::read(console_path(run_dir)).unwrap_or_default();
    let header = machine.shm.header();
    let end = epoch_end(end, header.state, &console);
    let in_flight = (end != EpochEnd::Done && header.state != state::READY)
        .then_some((header.program_idx as usize).min(epoch.programs.len().saturating_sub(1)));
    let programs = machine.shm.outcomes(epoch);
    EpochOutcome { console, programs, in_flight, ..EpochOutcome::failed(end, 0) }
}

/// Loads a snapshot's machine state; the vCPUs stand.
pub(crate) fn restore(machine: &mut Machine, state: &Path) -> Result<(), MachineError> {
    let uri = format!("exec:cat '{}'", state.display().to_string().replace('\'', "'\\''"));
    machine.qmp.migrate("migrate-incoming", &uri, STATE_LIMIT).map_err(|e| machine.qmp_error(e))
}

fn try_run(
    plan: Plan<'_>,
    state: Option<&Path>,
    epoch: &Epoch,
    limits: Limits,
    run_dir: &Path,
    begin: &mut dyn FnMut(&mut Machine),
) -> Result<(Machine, MachineEnd, Duration), MachineError> {
    let mut machine = Machine::start(plan, run_dir, |shm| {
        shm.put_batch(epoch, 1, flag::EXIT_WHEN_DONE | epoch.flags(), limits.op_deadline)
    })?;
    begin(&mut machine);
    let mut limit = limits.wall + BOOT_LIMIT;
    if let Some(state) = state {
        limit = limits.wall;
        restore(&mut machine, state)?;
        machine.qmp.command("cont", serde_json::json!({})).map_err(|e| machine.qmp_error(e))?;
    }
    let running = Instant::now();
    let end = machine.wait(limit);
    Ok((machine, end, running.elapsed()))
}

/// Whose doing was the end?
pub fn epoch_end(end: MachineEnd, guest_state: u32, console: &[u8]) -> EpochEnd {
    if let Some(failure) = oracle::harness_failure(console) {
        return EpochEnd::Harness(failure);
    }
    match end {
        MachineEnd::Failed(error) => EpochEnd::Machine(error),
        MachineEnd::Killed(why) => EpochEnd::Lost(why),
        MachineEnd::Reset => EpochEnd::Kernel,
        MachineEnd::Agent => match guest_state {
            state::DONE => EpochEnd::Done,
            state::DEADLINE => EpochEnd::Deadline,
            state::KERNEL_FINDING => EpochEnd::Kernel,
            other => EpochEnd::Harness(format!("the agent ended in state {other}")),
        },
    }
}
