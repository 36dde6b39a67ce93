// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parallel engine: true concurrency, a guest that lives on, batches streamed into it. Not replayable.
//!
//! Batches are announced and answered in shared memory, which both sides look at: nothing there depends on the guest's
//! interrupts. After anything but a clean batch the guest is thrown away.

use std::{
    mem,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use abi::shm::{Header, flag, state};

use crate::{
    det::{BOOT_LIMIT, Limits, epoch_end, tail},
    epoch::{Epoch, EpochEnd, EpochOutcome},
    guest::{Execution, GuestConfig, Leaks, Memory, Plan, Start, Watch},
    machine::{Machine, MachineEnd, MachineError},
    oracle,
    program::Schedule,
};

/// How often a busy guest is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A guest that streams, booted when first needed.
pub struct Stream {
    guest: GuestConfig,
    schedule: Schedule,
    execution: Execution,
    run_dir: PathBuf,
    live: Option<Live>,
}

struct Live {
    machine: Machine,
    seq: u32,
    leaks: Leaks,
    /// What it printed while it booted, until the first epoch tells it.
    boot: Vec<u8>,
}

impl Stream {
    /// A stream for one schedule; the icount shift means nothing here.
    pub fn new(guest: GuestConfig, schedule: Schedule, execution: Execution, run_dir: PathBuf) -> Stream {
        Stream { guest, schedule, execution, run_dir, live: None }
    }

    /// Runs an epoch in the living guest, booting one if there is none.
    pub fn run_epoch(&mut self, epoch: &Epoch, limits: Limits) -> EpochOutcome {
        let started = Instant::now();
        let outcome = self.try_run(epoch, limits);
        let outcome = outcome.unwrap_or_else(|error| EpochOutcome::no_machine(error, epoch.programs.len()));
        if outcome.end != EpochEnd::Done {
            self.live = None;
        }
        EpochOutcome { wall: started.elapsed(), ..outcome }
    }

    /// Kills the guest; the next epoch boots a fresh one.
    pub fn discard(&mut self) {
        self.live = None;
    }

    fn try_run(&mut self, epoch: &Epoch, limits: Limits) -> Result<EpochOutcome, MachineError> {
        // A guest that keeps track is slow; it serves for the epochs that need it, and no longer.
        let usable = self.live.take().filter(|live| live.leaks == epoch.leaks());
        let live = match usable {
            Some(live) => live,
            None => boot(&self.guest, self.schedule, self.execution, &self.run_dir, epoch.leaks())?,
        };
        let live = self.live.insert(live);
        live.seq += 1;
        let shm = &live.machine.shm;
        shm.put_batch(epoch, live.seq, epoch.flags(), limits.op_deadline)
            .map_err(|e| MachineError::io("write the batch", e))?;
        let running = Instant::now();
        let seq = live.seq;
        let end = wait(live, limits.wall, |header| {
            header.done_seq == seq && ![state::READY, state::RUNNING].contains(&header.state)
        });
        let in_guest = running.elapsed();
        let header = live.machine.shm.header();
        let (boot, console) = (mem::take(&mut live.boot), live.machine.console.take());
        // A batch that was answered is judged by the agent's state, as if the agent had ended the machine.
        let end = epoch_end(end.unwrap_or(MachineEnd::Agent), header.state, &console);
        let in_flight = (end != EpochEnd::Done)
            .then_some((header.program_idx as usize).min(epoch.programs.len().saturating_sub(1)));
        let programs = live.machine.shm.outcomes(epoch);
        Ok(EpochOutcome { end, console, boot, programs, in_flight, wall: in_guest, in_guest })
    }
}

fn boot(
    guest: &GuestConfig,
    schedule: Schedule,
    execution: Execution,
    run_dir: &Path,
    leaks: Leaks,
) -> Result<Live, MachineError> {
    let memory = Memory::Private;
    let plan = Plan {
        guest,
        schedule,
        execution,
        leaks,
        start: Start::Boot,
        memory: &memory,
        watch: Watch::Nothing,
    };
    let machine = Machine::start(plan, run_dir, |shm| {
        let known = if leaks == Leaks::Track { flag::LEAK_SCAN } else { 0 };
        shm.set_flags(known);
        Ok(())
    })?;
    let mut live = Live { machine, seq: 0, leaks, boot: Vec::new() };
    let end = wait(&mut live, BOOT_LIMIT, |header| header.state != state::BOOTING);
    let console = live.machine.console.take();
    match end {
        None if live.machine.shm.header().state == state::READY => Ok(Live { boot: console, ..live }),
        end => {
            let failure = oracle::harness_failure(&console);
            let is_kernel = failure.is_none() && !matches!(end, Some(MachineEnd::Failed(_)));
            let why = failure.unwrap_or_else(|| tail(&console));
            let why = format!("the guest did not get ready ({end:?}): {why}");
            Err(if is_kernel {
                MachineError::NotReady { why, console }
            } else {
                MachineError::NotRun { why, console }
            })
        }
    }
}

/// Waits for what the guest is to write; `Some` when the machine ended or was killed instead.
fn wait(live: &mut Live, limit: Duration, is_there: impl Fn(&Header) -> bool) -> Option<MachineEnd> {
    let deadline = Instant::now() + limit;
    loop {
        if is_there(&live.machine.shm.header()) {
            return None;
        }
        if let Some(end) = live.machine.poll_end() {
            return Some(end);
        }
        if Instant::now() > deadline {
            live.machine.kill();
            return Some(MachineEnd::Killed(format!("no answer within {} s of wall time", limit.as_secs())));
        }
        thread::sleep(LOOK_EVERY);
    }
}
