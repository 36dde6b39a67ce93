// SPDX-License-Identifier: MIT OR Apache-2.0
//! CPU time of this thread or of a command: what a busy machine changes little.

use std::{
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::wait::{Id, WaitPidFlag, waitid},
    time::ClockId,
    unistd::Pid,
};

/// What something gives, and the CPU seconds this thread takes for it.
///
/// # Errors
/// Its own, or that the clock cannot be read.
pub fn of<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let start = seconds(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    let result = work()?;
    Ok((result, seconds(ClockId::CLOCK_THREAD_CPUTIME_ID)? - start))
}

/// How a command ends, and the CPU seconds it takes. What it prints goes to a file that nobody reads: into the null device
/// grep would print nothing, and so read no further than the first match.
///
/// # Errors
/// When it cannot be run.
pub fn of_command(command: &mut Command) -> Result<(ExitStatus, f64)> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(tempfile::tempfile().context("file for output")?)
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let pid = Pid::from_raw(child.id().try_into()?);
    // Its clock is there until it is waited for in earnest.
    waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
        .with_context(|| format!("wait for {name}"))?;
    let taken = seconds(ClockId::pid_cpu_clock_id(pid).with_context(|| format!("the clock of {name}"))?)?;
    Ok((child.wait().with_context(|| format!("wait for {name}"))?, taken))
}

fn seconds(clock: ClockId) -> Result<f64> {
    Ok(Duration::from(clock.now().context("read a clock")?).as_secs_f64())
}
