// SPDX-License-Identifier: MIT OR Apache-2.0
//! The deterministic engine: a fresh QEMU process per epoch, restored from a snapshot, with its batch in place before
//! the first instruction. From one snapshot and one batch, every run prints the same console, byte for byte.
//!
//! A snapshot is the machine state beside the guest's memory in plain files. Restoring maps those files copy-on-write:
//! nothing is read that the guest does not touch, and guests side by side share the page cache.

use std::{
    fs::{self, File},
    io::{self, Read},
    ops::Range,
    path::{Path, PathBuf},
    process::ChildStdout,
    thread,
    time::{Duration, Instant},
};

use abi::shm::{SHM_BYTES, flag, state};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::{
    console::console_path,
    epoch::{Epoch, EpochEnd, EpochOutcome},
    guest::{Execution, GuestConfig, Leaks, Memory, Plan, Start, Watch},
    machine::{Machine, MachineEnd, MachineError},
    oracle,
    program::Schedule,
};

/// Wall time a guest may take to boot and get ready: ten times what one that tracks leaks takes on an idle host.
pub const BOOT_LIMIT: Duration = Duration::from_secs(600);
/// Wall time between the last sign of a QEMU and its end.
const END_LIMIT: Duration = Duration::from_secs(2);
/// Wall time saving or loading the machine state may take.
const STATE_LIMIT: Duration = Duration::from_secs(60);
/// Name of the machine state in a snapshot folder.
pub(crate) const STATE_FILE: &str = "state";
/// Name of what the guest printed while it booted.
const BOOT_LOG: &str = "boot.log";
/// Name of the manifest; written last.
const MANIFEST: &str = "manifest.yaml";

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

/// A machine that has booted and waits for a batch.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Folder with state, memory and manifest.
    pub dir: PathBuf,
    /// What the folder says of itself.
    pub manifest: SnapshotManifest,
}

/// What identifies a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotManifest {
    /// Hash of state and memory: two snapshots with one id replay the same findings.
    pub id: String,
    /// [`GuestConfig::key`].
    pub guest: String,
    /// vCPUs and icount shift.
    pub schedule: Schedule,
    /// Wall time from power-on to ready, ms.
    pub boot_ms: u64,
    /// Wall time of saving, ms.
    pub save_ms: u64,
}

/// The snapshot of a guest and schedule, taken now unless `cache` has it. Safe against a second process: it waits.
///
/// # Errors
/// When the guest does not boot to ready, or files cannot be written.
pub fn snapshot(
    guest: &GuestConfig,
    schedule: Schedule,
    leaks: Leaks,
    cache: &Path,
) -> Result<Snapshot, MachineError> {
    let tracking = if leaks == Leaks::Track { "-leaks" } else { "" };
    let name = format!("{}-v{}s{}{tracking}", guest.key, schedule.vcpus, schedule.shift);
    let dir = cache.join(&name);
    if let Some(found) = open_snapshot(&dir) {
        return Ok(found);
    }
    let io = |what: &Path| {
        let what = what.display().to_string();
        move |error| MachineError::io(what, error)
    };
    fs::create_dir_all(cache).map_err(io(cache))?;
    let lock_path = cache.join(format!("{name}.lock"));
    let lock = File::create(&lock_path).map_err(io(&lock_path))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, error)| MachineError::io(lock_path.display().to_string(), error.into()))?;
    if let Some(found) = open_snapshot(&dir) {
        return Ok(found);
    }
    let partial = cache.join(format!("{name}.partial"));
    let _ = fs::remove_dir_all(&partial);
    let manifest = take_snapshot(guest, schedule, leaks, &partial)?;
    let yaml =
        serde_yaml::to_string(&manifest).map_err(|e| MachineError::io("manifest", io::Error::other(e)))?;
    fs::write(partial.join(MANIFEST), yaml).map_err(io(&partial))?;
    let _ = fs::remove_dir_all(&dir);
    fs::rename(&partial, &dir).map_err(io(&dir))?;
    Ok(Snapshot { dir, manifest })
}

impl Snapshot {
    /// What the guest printed while it booted.
    pub fn boot_console(&self) -> Vec<u8> {
        fs::read(self.dir.join(BOOT_LOG)).unwrap_or_default()
    }
}

fn open_snapshot(dir: &Path) -> Option<Snapshot> {
    let text = fs::read_to_string(dir.join(MANIFEST)).ok()?;
    Some(Snapshot { dir: dir.to_owned(), manifest: serde_yaml::from_str(&text).ok()? })
}

fn take_snapshot(
    guest: &GuestConfig,
    schedule: Schedule,
    leaks: Leaks,
    dir: &Path,
) -> Result<SnapshotManifest, MachineError> {
    let started = Instant::now();
    let memory = Memory::Shared(dir);
    let plan = Plan {
        guest,
        schedule,
        execution: Execution::Deterministic,
        leaks,
        start: Start::Boot,
        memory: &memory,
        watch: Watch::Nothing,
    };
    fs::create_dir_all(dir).map_err(|e| MachineError::io(dir.display().to_string(), e))?;
    let run_dir = dir.join("run");
    let mut machine = Machine::start(plan, &run_dir, |shm| {
        let known = if leaks == Leaks::Track { flag::LEAK_SCAN } else { 0 };
        shm.set_flags(flag::PAUSE_WHEN_READY | known);
        Ok(())
    })?;
    wait_ready(&mut machine)?;
    let boot_ms = started.elapsed().as_millis() as u64;
    let state_path = dir.join(STATE_FILE);
    let uri = format!("exec:cat > '{}'", state_path.display().to_string().replace('\'', "'\\''"));
    machine.qmp.migrate("migrate", &uri, STATE_LIMIT).map_err(|e| machine.qmp_error(e))?;
    machine.kill();
    let log = dir.join(BOOT_LOG);
    fs::write(&log, machine.console.take()).map_err(|e| MachineError::io(log.display().to_string(), e))?;
    forget_shm_address(&state_path).map_err(|e| MachineError::io(state_path.display().to_string(), e))?;
    let id = hash_files(dir, guest.numa_nodes).map_err(|e| MachineError::io("hash the snapshot", e))?;
    let _ = fs::remove_dir_all(run_dir);
    let save_ms = started.elapsed().as_millis() as u64 - boot_ms;
    Ok(SnapshotManifest { id, guest: guest.key.clone(), schedule, boot_ms, save_ms })
}

/// Lets the state be loaded although the shared memory is a PCI BAR.
///
/// With `x-ignore-shared` QEMU stores the guest address of each block it leaves out and compares it before any device
/// is restored. A BAR has no address by then, so the comparison with the stored one fails; with 0 it holds. The block's
/// entry is its name, its length and its address, each number 64 bits, big endian (`ram_save_setup()`).
fn forget_shm_address(state: &Path) -> io::Result<()> {
    let mut bytes = fs::read(state)?;
    let entry = [b"/shm".as_slice(), &(SHM_BYTES as u64).to_be_bytes()].concat();
    let at = bytes
        .windows(entry.len())
        .position(|window| window == entry)
        .map(|at| at + entry.len())
        .filter(|at| at + 8 <= bytes.len())
        .ok_or_else(|| io::Error::other("the machine state does not name the shared memory"))?;
    bytes[at..at + 8].fill(0);
    fs::write(state, bytes)
}

fn wait_ready(machine: &mut Machine) -> Result<(), MachineError> {
    match machine.qmp.wait_event("GUEST_PANICKED", BOOT_LIMIT) {
        Ok(()) if machine.shm.header().state == state::READY => Ok(()),
        result => {
            // The connection to a QEMU that was killed is closed before its end is told.
            let end = machine.end_within(END_LIMIT);
            machine.kill();
            let console = machine.console.take();
            Err(match (oracle::harness_failure(&console), end, result) {
                (Some(failure), _, _) => {
                    MachineError::NotRun { why: format!("the guest's agent failed: {failure}"), console }
                }
                (None, Some(MachineEnd::Failed(why)), _) => MachineError::NotRun { why, console },
                (None, Some(end), _) => {
                    let why = format!("the guest ended while booting ({end:?}); {}", tail(&console));
                    MachineError::NotReady { why, console }
                }
                (None, None, _) => {
                    let why = format!("the guest did not get ready; {}", tail(&console));
                    MachineError::NotReady { why, console }
                }
            })
        }
    }
}

/// The last lines of a console, for an error.
pub fn tail(console: &[u8]) -> String {
    let text = String::from_utf8_lossy(console);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    format!("console ends: {}", lines[lines.len().saturating_sub(8)..].join("\n"))
}

fn hash_files(dir: &Path, numa_nodes: u32) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let memory = (0..numa_nodes.max(1)).map(|node| format!("ram{node}"));
    for name in std::iter::once(STATE_FILE.to_owned()).chain(memory) {
        let mut file = File::open(dir.join(name))?;
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
        }
    }
    Ok(hasher.finalize().to_hex()[..16].to_owned())
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
    let state = snapshot.dir.join(STATE_FILE);
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
