// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first stage of a sandbox: makes the namespaces, starts PID 1 in them, waits, and ends it when it must end. It
//! keeps the old root, and no privilege that its caller did not have.

use std::{
    ffi::OsString,
    fs,
    os::unix::process::ExitStatusExt,
    process::{Child, ExitStatus},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::wait::{Id, WaitPidFlag, waitid},
    unistd::{self, Pid},
};

use super::{
    ENDED, INIT, Plan, next_stage, process, say,
    watch::{INTERVAL, INTERVAL_MAX, Watch},
};

/// Runs the stage; returns what to exit with.
///
/// # Errors
/// When the sandbox cannot be set up.
pub fn run(plan: &Plan, command: &[OsString]) -> Result<u8> {
    process::die_with(plan.parent)?;
    process::close_inherited()?;
    // Before anybody else on this machine. As root also for good; whoever is not may take it back.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    let (uid, gid) = (unistd::geteuid().as_raw(), unistd::getegid().as_raw());
    unshare(CloneFlags::CLONE_NEWUSER).context("cannot make a user namespace")?;
    process::map_ids(0, uid, gid).context("cannot be root in a user namespace")?;
    let waiter = Waiter::new();
    let flags = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    unshare(flags).context("cannot make PID, network, IPC and UTS namespaces")?;
    // A kernel without cgroups has none to hide.
    let _ = unshare(CloneFlags::CLONE_NEWCGROUP);
    // New credentials may have undone it.
    process::die_with(plan.parent)?;
    let watch = Watch::new(plan);
    let plan = Plan { parent: std::process::id(), places: plan.places.clone(), limits: plan.limits.clone() };
    let init = next_stage(INIT, &plan, command)?.spawn().context("cannot start PID 1")?;
    wait(init, &waiter, &watch)
}

/// A thread that waits for a process, so that another can wait for that or for a time to pass.
struct Waiter {
    pid: Sender<u32>,
    ended: Receiver<()>,
}

impl Waiter {
    /// To be made between the namespaces: none may enter a user namespace who has threads, and none may have new ones
    /// whose children are to be in another PID namespace.
    fn new() -> Waiter {
        let (pid, of) = mpsc::channel();
        let (to, ended) = mpsc::channel();
        thread::spawn(move || {
            let Ok(pid) = of.recv() else { return };
            let pid = Pid::from_raw(pid as i32);
            // Left to be reaped by the other thread: until then the number is nobody else's, and may be killed.
            while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
            let _ = to.send(());
        });
        Waiter { pid, ended }
    }
}

/// Waits for PID 1, looking at the limits meanwhile. When PID 1 has been waited for, nothing is left of the namespace.
fn wait(mut init: Child, waiter: &Waiter, watch: &Watch) -> Result<u8> {
    waiter.pid.send(init.id()).context("the thread that waits is gone")?;
    let mut pause = INTERVAL;
    while waiter.ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let (why, cost) = watch.look(init.id());
        if let Some(why) = why {
            let _ = init.kill();
            init.wait().context("cannot wait for PID 1")?;
            say(&format!("ended: {why}"));
            return Ok(ENDED);
        }
        // A tenth of one core at most, however many processes this machine has; but none may slow it down much.
        pause = (cost * 10).clamp(INTERVAL, INTERVAL_MAX);
    }
    Ok(code_of(init.wait().context("cannot wait for PID 1")?))
}

/// How a shell would say how a process ended.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn death_by_a_signal_is_128_and_its_number() {
        assert_eq!(code_of(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(code_of(ExitStatus::from_raw(9)), 137);
    }
}
