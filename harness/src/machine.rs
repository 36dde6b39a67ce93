// SPDX-License-Identifier: MIT OR Apache-2.0
//! One QEMU process: started, watched, ended. It has a deadline, and it dies with us.

use std::{
    fs, io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use abi::shm::EXIT_DONE;
use nix::sys::{prctl, signal::Signal};

use crate::{
    console::{CONSOLE_BYTES_MAX, Console},
    guest::{Execution, Plan, Watch, Wires, arguments},
    lockstep,
    qmp::{Qmp, QmpError},
    shm::Shm,
};

/// How long QEMU may take to open its QMP socket.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a running machine is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A running virtual machine and the files it talks through. Killed when dropped.
pub struct Machine {
    child: Child,
    run_dir: PathBuf,
    /// Control connection.
    pub qmp: Qmp,
    /// Shared memory.
    pub shm: Shm,
    /// What it prints.
    pub console: Console,
    /// What QEMU logs of the code it executes, where that is watched.
    pub log: Option<ChildStdout>,
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineEnd {
    /// The agent ended it.
    Agent,
    /// The guest reset or powered off: a panic, as a rule.
    Reset,
    /// It did not end by itself; what was exceeded.
    Killed(String),
    /// QEMU failed; its words.
    Failed(String),
}

/// QEMU could not be started or talked to.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A file or the process.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The control connection.
    #[error("{source}; qemu says: {stderr}")]
    Qmp {
        /// Why it failed.
        source: QmpError,
        /// The tail of what QEMU printed.
        stderr: String,
    },
    /// The guest did not get ready, by its own doing.
    #[error("{why}")]
    NotReady {
        /// What happened instead.
        why: String,
        /// What it printed.
        console: Vec<u8>,
    },
    /// The guest could not get ready, whatever the kernel does: QEMU failed or was killed, or the agent failed.
    #[error("{why}")]
    NotRun {
        /// What happened.
        why: String,
        /// What it printed.
        console: Vec<u8>,
    },
    /// The deterministic engine cannot work.
    #[error("{} ignores LD_PRELOAD: under the deterministic engine its runs would differ", .0.display())]
    NoLockstep(PathBuf),
}

impl MachineError {
    /// Wraps an IO error.
    pub fn io(what: impl Into<String>, source: io::Error) -> MachineError {
        MachineError::Io { what: what.into(), source }
    }
}

impl Machine {
    /// Starts QEMU in a fresh run folder; `fill` writes the shared memory before the process exists.
    ///
    /// # Errors
    /// When files cannot be made, or QEMU does not come up.
    pub fn start(
        plan: Plan<'_>,
        run_dir: &Path,
        fill: impl FnOnce(&Shm) -> io::Result<()>,
    ) -> Result<Machine, MachineError> {
        fs::create_dir_all(run_dir).map_err(|e| MachineError::io(run_dir.display().to_string(), e))?;
        let (shm_path, console, qmp) = (run_dir.join("shm"), Console::new(run_dir), run_dir.join("qmp"));
        for stale in [console.path(), &qmp] {
            let _ = fs::remove_file(stale);
        }
        let shm = Shm::create(&shm_path).map_err(|e| MachineError::io(shm_path.display().to_string(), e))?;
        fill(&shm).map_err(|e| MachineError::io("write the batch", e))?;
        let wires = Wires { shm: &shm_path, console: console.path(), qmp: &qmp };
        let args = arguments(&plan, &wires);
        let stderr = fs::File::create(stderr_path(run_dir)).map_err(|e| MachineError::io("qemu.log", e))?;
        let mut command = Command::new(&plan.guest.qemu);
        let logs = matches!(plan.watch, Watch::Blocks(_));
        let stdout = if logs { Stdio::piped() } else { Stdio::null() };
        command.args(args).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        if plan.execution == Execution::Deterministic {
            let library = lockstep::install(run_dir).map_err(|e| MachineError::io("lockstep library", e))?;
            command.env(lockstep::PRELOAD, library);
        }
        let mut child = spawn_bound(&mut command)
            .map_err(|e| MachineError::io(format!("start {}", plan.guest.qemu.display()), e))?;
        match Qmp::connect(&qmp, CONNECT_TIMEOUT, || matches!(child.try_wait(), Ok(None))) {
            Ok(qmp) => {
                let log = child.stdout.take();
                let machine = Machine { child, run_dir: run_dir.to_owned(), qmp, shm, console, log };
                if plan.execution == Execution::Deterministic && !lockstep::is_in(machine.pid()) {
                    return Err(MachineError::NoLockstep(plan.guest.qemu.clone()));
                }
                Ok(machine)
            }
            Err(source) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(MachineError::Qmp { source, stderr: stderr_tail(run_dir) })
            }
        }
    }

    /// Wraps a QMP error with what QEMU printed.
    pub fn qmp_error(&self, source: QmpError) -> MachineError {
        MachineError::Qmp { source, stderr: stderr_tail(&self.run_dir) }
    }

    /// Process id of QEMU, for tests that kill it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it ended, and how? Enforces the limit on the console.
    pub fn poll_end(&mut self) -> Option<MachineEnd> {
        match self.child.try_wait() {
            Ok(Some(status)) => return Some(end_of(status, &self.run_dir)),
            Ok(None) => {}
            Err(error) => return Some(MachineEnd::Failed(error.to_string())),
        }
        self.console.is_flooded().then(|| {
            self.kill();
            MachineEnd::Killed(format!("the console exceeded {} MiB", CONSOLE_BYTES_MAX >> 20))
        })
    }

    /// Waits for the end, at most until the deadline, then kills.
    pub fn wait(&mut self, limit: Duration) -> MachineEnd {
        self.end_within(limit).unwrap_or_else(|| {
            self.kill();
            MachineEnd::Killed(format!("no end within {} s of wall time", limit.as_secs()))
        })
    }

    /// Waits for the end, at most until the deadline.
    pub fn end_within(&mut self, limit: Duration) -> Option<MachineEnd> {
        let deadline = Instant::now() + limit;
        loop {
            let end = self.poll_end();
            if end.is_some() || Instant::now() > deadline {
                return end;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Kills QEMU.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What its number means, where it is a signal; a hint, where it is mostly the host's.
fn signal_words(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(Signal::SIGBUS) => format!("{number} (SIGBUS: is the disk full that its memory is on?)"),
        Ok(signal) => format!("{number} ({signal})"),
        Err(_) => number.to_string(),
    }
}

fn stderr_path(run_dir: &Path) -> PathBuf {
    run_dir.join("qemu.log")
}

fn stderr_tail(run_dir: &Path) -> String {
    let text = fs::read(stderr_path(run_dir)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("; ")
}

fn end_of(status: ExitStatus, run_dir: &Path) -> MachineEnd {
    match (status.code(), status.signal()) {
        (Some(0), _) => MachineEnd::Reset,
        // isa-debug-exit: value << 1 | 1.
        (Some(code), _) if code == i32::from(EXIT_DONE) << 1 | 1 => MachineEnd::Agent,
        (Some(code), _) => MachineEnd::Failed(format!("qemu exited {code}: {}", stderr_tail(run_dir))),
        (None, Some(signal)) => MachineEnd::Failed(format!("qemu died of signal {}", signal_words(signal))),
        (None, None) => MachineEnd::Failed(format!("qemu ended with {status}")),
    }
}

/// Spawns a child that the kernel kills when the spawning thread ends.
#[expect(unsafe_code, reason = "pre_exec has no safe form")]
fn spawn_bound(command: &mut Command) -> io::Result<Child> {
    // SAFETY: prctl(PR_SET_PDEATHSIG) is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
    }
    command.spawn()
}
