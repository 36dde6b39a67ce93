// SPDX-License-Identifier: MIT OR Apache-2.0
//! The deterministic engine under a debugger: restored like any epoch, and set going by the debugger.

use std::{path::Path, time::Duration};

use crate::{
    det::{self, Limits},
    epoch::{Epoch, EpochOutcome},
    guest::{Execution, GuestConfig, Memory, Plan, Start, Watch},
    machine::{Machine, MachineError},
    snapshot::Snapshot,
};
use abi::shm::flag;

/// A restored machine with its batch in place whose vCPUs stand. gdb says `target remote SOCKET` and `continue`.
///
/// # Errors
/// When QEMU does not come up or the snapshot cannot be loaded.
pub fn start(
    guest: &GuestConfig,
    snapshot: &Snapshot,
    epoch: &Epoch,
    limits: Limits,
    run_dir: &Path,
    socket: &Path,
) -> Result<Machine, MachineError> {
    let plan = Plan {
        guest,
        schedule: snapshot.manifest.schedule,
        execution: Execution::Deterministic,
        leaks: epoch.leaks(),
        start: Start::Incoming,
        memory: &Memory::CopyOnWrite(&snapshot.dir),
        watch: Watch::Debugger(socket),
    };
    let mut machine = Machine::start(plan, run_dir, |shm| {
        shm.put_batch(epoch, 1, flag::EXIT_WHEN_DONE | epoch.flags(), limits.op_deadline)
    })?;
    det::restore(&mut machine, &snapshot.state())?;
    Ok(machine)
}

/// Waits for its end, at most so long, and says what became of it.
pub fn end(machine: &mut Machine, epoch: &Epoch, run_dir: &Path, limit: Duration) -> EpochOutcome {
    let end = machine.wait(limit);
    det::outcome_of(machine, end, epoch, run_dir)
}
