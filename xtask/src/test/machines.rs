// SPDX-License-Identifier: MIT OR Apache-2.0
//! Machines that fail are not kernels that fail: each failure is told as the machine's, in words, and the next epoch
//! runs.

use std::{
    fs::{self, File},
    mem::offset_of,
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use abi::shm::Header;
use anyhow::{Context, Result, bail, ensure};
use harness::{
    console::{CONSOLE_BYTES_MAX, console_path},
    det::{self, Limits},
    epoch::{EpochEnd, EpochOutcome},
    guest::{GuestConfig, Leaks},
    machine::MachineError,
    program::Schedule,
    snapshot::{self, Snapshot},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{checks::Checks, det::ensure_clean, det::seeds};
use crate::prepare::Prepared;

/// Names of the checks.
pub const NAMES: &[&str] = &[
    "a QEMU that is not there is the machine's failure",
    "a kernel that is not there is the machine's failure",
    "a QEMU killed in an epoch is the machine's failure, and the next epoch runs",
    "a QEMU killed while it boots is the machine's failure, not the kernel's",
    "a console that floods ends the guest",
    "a QEMU that cannot be kept in lockstep is refused",
];

/// How long a guest may take to be in the middle of an epoch.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Runs them.
pub fn run(checks: &mut Checks, prepared: &Prepared) {
    let guest = &prepared.machine.config;
    let gone = || Path::new("/nonexistent/file").to_path_buf();
    checks.check(NAMES[0], || {
        fails_naming(&GuestConfig { qemu: gone(), ..guest.clone() }, "/nonexistent/file")
    });
    checks.check(NAMES[1], || {
        fails_naming(&GuestConfig { kernel: gone(), ..guest.clone() }, "/nonexistent/file")
    });
    checks.check(NAMES[2], || killed(prepared));
    checks.check(NAMES[3], || killed_while_booting(guest));
    checks.check(NAMES[4], || flood(prepared));
    checks.check(NAMES[5], || not_in_lockstep(guest));
}

fn fails_naming(guest: &GuestConfig, words: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let started = Instant::now();
    let outcome =
        det::run_from_power_on(guest, Schedule::default(), &seeds(1)?, Limits::default(), dir.path());
    let EpochEnd::Machine(why) = &outcome.end else { bail!("ended {:?}", outcome.end) };
    ensure!(why.contains(words), "the error does not name {words}: {why}");
    ensure!(started.elapsed() < Duration::from_secs(15), "only after {:?}: {why}", started.elapsed());
    Ok(())
}

/// As if it were static: the dynamic linker is told nothing.
fn not_in_lockstep(guest: &GuestConfig) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let qemu = dir.path().join("deaf-qemu");
    write_script(&qemu, &format!("exec env -u LD_PRELOAD '{}' \"$@\"", guest.qemu.display()))?;
    fails_naming(&GuestConfig { qemu, ..guest.clone() }, "deaf-qemu ignores LD_PRELOAD")
}

fn write_script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{text}\n"))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// A host that is short of memory kills what is large.
fn killed_while_booting(guest: &GuestConfig) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let qemu = dir.path().join("mortal-qemu");
    write_script(&qemu, &format!("(sleep 3; kill -KILL $$) &\nexec '{}' \"$@\"", guest.qemu.display()))?;
    let guest = GuestConfig { qemu, ..guest.clone() };
    match snapshot::open(&guest, Schedule::default(), Leaks::Ignore, dir.path()) {
        Err(MachineError::NotRun { why, .. }) if why.contains("signal 9") => Ok(()),
        Err(error) => bail!("it is told as: {error:?}"),
        Ok(_) => bail!("it booted"),
    }
}

fn killed(prepared: &Prepared) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let outcome = disturbed(prepared, dir.path(), |pid| {
        kill(Pid::from_raw(pid), Signal::SIGKILL).context("kill QEMU")
    })?;
    let EpochEnd::Machine(why) = &outcome.end else { bail!("ended {:?}", outcome.end) };
    ensure!(why.contains("signal 9"), "the error does not tell of the signal: {why}");
    let n_finished = outcome.programs.iter().filter(|program| program.finished).count();
    ensure!(n_finished > 0 && n_finished < outcome.programs.len(), "{n_finished} programs finished");
    let next = det::run_epoch(
        &prepared.machine.config,
        &snapshot(prepared)?,
        &seeds(1)?,
        Limits::default(),
        dir.path(),
    );
    ensure_clean(&next)
}

/// A serial line is too slow to fill the limit in a test's time, so the log is made that long beside QEMU.
fn flood(prepared: &Prepared) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let log = console_path(dir.path());
    let outcome = disturbed(prepared, dir.path(), |_| {
        let file = File::options().write(true).open(&log)?;
        Ok(file.set_len(CONSOLE_BYTES_MAX + 1)?)
    })?;
    let EpochEnd::Lost(why) = &outcome.end else { bail!("ended {:?}", outcome.end) };
    ensure!(why.contains("console exceeded"), "the error does not tell of the console: {why}");
    Ok(())
}

/// Runs a long epoch and does something to its QEMU once the first program is done.
fn disturbed(
    prepared: &Prepared,
    run_dir: &Path,
    disturb: impl FnOnce(i32) -> Result<()>,
) -> Result<EpochOutcome> {
    let (epoch, snapshot) = (seeds(200)?, snapshot(prepared)?);
    thread::scope(|scope| {
        let guest = &prepared.machine.config;
        let run = scope.spawn(|| det::run_epoch(guest, &snapshot, &epoch, Limits::default(), run_dir));
        let disturbed = wait_busy(run_dir).and_then(disturb);
        let outcome = run.join().map_err(|_| anyhow::anyhow!("the epoch panicked"))?;
        disturbed.with_context(|| format!("the epoch ended {:?}", outcome.end))?;
        Ok(outcome)
    })
}

fn snapshot(prepared: &Prepared) -> Result<Snapshot> {
    let cache = prepared.cache.dir("snapshots")?;
    Ok(snapshot::open(&prepared.machine.config, Schedule::default(), Leaks::Ignore, &cache)?)
}

/// Waits until the guest of a run folder has run a program; QEMU's process id.
fn wait_busy(run_dir: &Path) -> Result<i32> {
    let deadline = Instant::now() + START_LIMIT;
    let shm = run_dir.join("shm");
    while Instant::now() < deadline {
        let mut n_done = [0; 4];
        let read = File::open(&shm)
            .and_then(|file| file.read_exact_at(&mut n_done, offset_of!(Header, n_done) as u64));
        if read.is_ok() && u32::from_le_bytes(n_done) > 0 {
            return process_naming(run_dir).context("the guest runs, but no process names its folder");
        }
        thread::sleep(Duration::from_millis(2));
    }
    bail!("the guest ran no program within {} s", START_LIMIT.as_secs())
}

/// A process, other than this one, whose command line names a path.
pub fn process_naming(path: &Path) -> Option<i32> {
    let path = path.as_os_str().as_encoded_bytes();
    let names = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != std::process::id() as i32 && line.windows(path.len()).any(|window| window == path)
    };
    let pids =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| *pid > 1).find(names)
}
