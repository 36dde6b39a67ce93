// SPDX-License-Identifier: MIT OR Apache-2.0
//! The second stage of a sandbox: PID 1 inside. It builds the new root, starts the last stage, drops the old root,
//! and reaps until the command ends; with its own end the kernel ends all that is left.
//!
//! The command cannot harm it: PID 1 gets no signal from inside that it does not handle, and its privileges are in a
//! user namespace further out, so it cannot be traced or read.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, net::UnixStream},
    },
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::{
        utsname,
        wait::{WaitStatus, waitpid},
    },
    unistd::{self, Pid},
};

use super::{LAST, Plan, next_stage, process, root};

/// PIDs that the kernel gives away in the first round only.
const RESERVED_PIDS: u64 = 300;
/// The first kernel whose `pid_max` is a PID namespace's own. Before, it is the machine's, and root could change it from
/// here.
const OWN_PID_MAX: (u32, u32) = (6, 14);

/// Runs the stage; returns what to exit with.
///
/// # Errors
/// When the sandbox cannot be set up.
pub fn run(plan: &Plan, command: &[OsString]) -> Result<u8> {
    process::die_with(plan.parent)?;
    // No terminal: else what is written there could be made input of the caller's shell.
    unistd::setsid().context("cannot leave the session")?;
    let folder = env::current_dir().unwrap_or_else(|_| "/".into());
    env::set_current_dir("/").context("cannot change to /")?;
    unistd::sethostname("sandbox").context("cannot set the host's name")?;
    limit_namespaces(plan);
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    root::build(&plan.places, plan.limits.tmp_bytes)?;
    // Before the old root goes, because its `/proc` has the maps of ids; it follows into the new one by itself.
    let (mut ours, theirs) = UnixStream::pair().context("cannot make a pair of sockets")?;
    let mut last = next_stage(LAST, plan, command)?;
    last.stdin(OwnedFd::from(theirs));
    let child = last.spawn().context("cannot start the last stage")?;
    drop(last);
    let is_ready = ours.read_exact(&mut [0]).is_ok();
    if is_ready {
        root::enter()?;
        ours.write_all(folder.as_os_str().as_bytes()).context("the last stage is gone")?;
        ours.shutdown(Shutdown::Write).context("the last stage is gone")?;
    }
    drop(ours);
    reap(Pid::from_raw(child.id() as i32))
}

/// What the kernel counts for these namespaces. Not every kernel does, and the other limits hold without.
fn limit_namespaces(plan: &Plan) {
    // The last stage's is the only one: who could make another would be root in it, with much more of the kernel to
    // attack.
    let _ = fs::write("/proc/sys/user/max_user_namespaces", "1");
    // The other limit on processes does not bind root.
    let release = utsname::uname().ok();
    let version = release.as_ref().and_then(|name| version(name.release().to_str()?));
    if version.is_some_and(|version| version >= OWN_PID_MAX) {
        let most = RESERVED_PIDS + plan.limits.processes + process::PROCESSES_MORE;
        let _ = fs::write("/proc/sys/kernel/pid_max", most.to_string());
    }
}

/// Major and minor number of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Waits for whatever ends until the command does.
fn reap(command: Pid) -> Result<u8> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == command => return Ok(code as u8),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => return Ok(128 + signal as u8),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for the command"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_has_a_version() {
        assert_eq!(version("6.14.0-rc1"), Some((6, 14)));
        assert_eq!(version("6.8-generic"), Some((6, 8)));
        assert_eq!(version("linux"), None);
        assert!(version("7.0").unwrap() >= OWN_PID_MAX && version("6.9.1").unwrap() < OWN_PID_MAX);
    }
}
