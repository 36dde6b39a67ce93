// SPDX-License-Identifier: MIT OR Apache-2.0
//! Snapshots: a machine that has booted and waits for a batch, as the machine state beside the guest's memory in plain
//! files. Who has one open holds its lock, shared; so nobody takes it away.

mod room;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use abi::shm::{SHM_BYTES, flag, state};
use serde::{Deserialize, Serialize};

use crate::{
    det::{BOOT_LIMIT, STATE_LIMIT, tail},
    guest::{Execution, GuestConfig, Leaks, Memory, Plan, Start, Watch},
    machine::{Machine, MachineEnd, MachineError},
    oracle,
    program::Schedule,
};

/// Wall time between the last sign of a QEMU and its end.
const END_LIMIT: Duration = Duration::from_secs(2);
/// Name of the machine state in a snapshot folder.
const STATE_FILE: &str = "state";
/// Name of what the guest printed while it booted.
const BOOT_LOG: &str = "boot.log";
/// Name of the manifest; written last.
const MANIFEST: &str = "manifest.yaml";
/// How the name of a folder ends in which a snapshot is being taken.
const PARTIAL: &str = ".partial";

/// A machine that has booted and waits for a batch.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Folder with state, memory and manifest.
    pub dir: PathBuf,
    /// What the folder says of itself.
    pub manifest: SnapshotManifest,
    /// Locked.
    _held: Arc<File>,
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

/// The snapshot of a guest and schedule, taken now unless `cache` has it. Safe against a second process: it waits. What was
/// not used for long goes to make room.
///
/// # Errors
/// When the guest does not boot to ready, or files cannot be written.
pub fn open(
    guest: &GuestConfig,
    schedule: Schedule,
    leaks: Leaks,
    cache: &Path,
) -> Result<Snapshot, MachineError> {
    let io = |what: &Path| {
        let what = what.display().to_string();
        move |error| MachineError::io(what, error)
    };
    fs::create_dir_all(cache).map_err(io(cache))?;
    let tracking = if leaks == Leaks::Track { "-leaks" } else { "" };
    let name = format!("{}-v{}s{}{tracking}", guest.key, schedule.vcpus, schedule.shift);
    let (dir, partial) = (cache.join(&name), cache.join(format!("{name}{PARTIAL}")));
    loop {
        let held = lock_file(cache, &name).map_err(io(cache))?;
        held.lock_shared().map_err(io(cache))?;
        if let Some(manifest) = manifest(&dir) {
            room::note_use(&dir.join(MANIFEST));
            return Ok(Snapshot { dir, manifest, _held: Arc::new(held) });
        }
        drop(held);
        let alone = lock_file(cache, &name).map_err(io(cache))?;
        alone.lock().map_err(io(cache))?;
        if manifest(&dir).is_some() {
            continue;
        }
        room::make_room(cache, room::Bounds::default(), u64::from(guest.memory_mib) << 20)
            .map_err(io(cache))?;
        let _ = fs::remove_dir_all(&partial);
        let taken = take(guest, schedule, leaks, &partial)?;
        let yaml =
            serde_yaml::to_string(&taken).map_err(|e| MachineError::io("manifest", io::Error::other(e)))?;
        fs::write(partial.join(MANIFEST), yaml).map_err(io(&partial))?;
        let _ = fs::remove_dir_all(&dir);
        fs::rename(&partial, &dir).map_err(io(&dir))?;
    }
}

/// The file whose lock says that a snapshot is used, or taken.
fn lock_file(cache: &Path, name: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).open(lock_path(cache, name))
}

fn lock_path(cache: &Path, name: &str) -> PathBuf {
    cache.join(format!("{name}.lock"))
}

impl Snapshot {
    /// The machine state.
    pub fn state(&self) -> PathBuf {
        self.dir.join(STATE_FILE)
    }

    /// What the guest printed while it booted.
    pub fn boot_console(&self) -> Vec<u8> {
        fs::read(self.dir.join(BOOT_LOG)).unwrap_or_default()
    }
}

/// What a folder says of itself, if it is a snapshot.
pub fn manifest(dir: &Path) -> Option<SnapshotManifest> {
    serde_yaml::from_str(&fs::read_to_string(dir.join(MANIFEST)).ok()?).ok()
}

fn take(
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
