// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the stages of a sandbox do to themselves: die with whoever started them, hold nothing they inherited, map ids,
//! take limits, do without some system calls.

use std::{collections::BTreeMap, env::consts::ARCH, fs, os::fd::RawFd};

use anyhow::{Context, Result, ensure};
use nix::{
    libc,
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
        signal::Signal,
    },
    unistd,
};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::Limits;

/// What the kernel allows in processes past the limit: so the watch sees that it is passed, and ends what would else
/// wait until its time is over.
pub const PROCESSES_MORE: u64 = 32;

/// From now on this process dies with its parent, which must be the one named.
///
/// # Errors
/// When that one is gone already.
pub fn die_with(parent: u32) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("cannot bind this process to its parent's life")?;
    // Not `getppid`: across PID namespaces that is 0.
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let now = status.lines().find_map(|line| line.strip_prefix("PPid:")).map(str::trim);
    ensure!(now == Some(&parent.to_string()), "who started this is gone, or is not who made the command");
    Ok(())
}

/// Closes everything but standard input, output and error: a descriptor that leaked to us reaches past any mount.
///
/// # Errors
/// When there is no `/proc`.
pub fn close_inherited() -> Result<()> {
    let entries = fs::read_dir("/proc/self/fd").context("cannot read /proc/self/fd")?;
    let open: Vec<RawFd> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // One of them was the list itself.
        let _ = unistd::close(fd);
    }
    Ok(())
}

/// In a new user namespace: who we are in it, and who that is outside.
///
/// # Errors
/// When the kernel does not let us.
pub fn map_ids(inside: u32, uid: u32, gid: u32) -> Result<()> {
    // Without this an ordinary user may not map groups.
    for (file, text) in [
        ("setgroups", "deny".to_string()),
        ("uid_map", format!("{inside} {uid} 1")),
        ("gid_map", format!("{inside} {gid} 1")),
    ] {
        fs::write(format!("/proc/self/{file}"), text).with_context(|| format!("cannot write {file}"))?;
    }
    Ok(())
}

/// Limits this process and, each for itself, all that it starts.
///
/// # Errors
/// When the kernel does not let us.
pub fn take_limits(limits: &Limits) -> Result<()> {
    for (resource, value) in [
        // Of private memory; address space is no measure, programs reserve what they never touch.
        (Resource::RLIMIT_DATA, limits.memory_bytes),
        (Resource::RLIMIT_NPROC, limits.processes + PROCESSES_MORE),
        (Resource::RLIMIT_CPU, limits.cpu_seconds),
        (Resource::RLIMIT_FSIZE, limits.file_bytes),
        (Resource::RLIMIT_NOFILE, limits.open_files),
        // This machine may be set up to run a program of its own on cores.
        (Resource::RLIMIT_CORE, 0),
    ] {
        let (_, hard) = getrlimit(resource).with_context(|| format!("cannot read {resource:?}"))?;
        let value = value.min(hard);
        setrlimit(resource, value, value).with_context(|| format!("cannot set {resource:?}"))?;
    }
    Ok(())
}

/// Families of sockets that namespaces hold. `AF_VSOCK` is one that they do not: a virtual machine's way to its host.
const SOCKETS: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// Calls that are refused whatever their arguments are: keyrings are the caller's in every namespace, and rings make sockets
/// without a call.
const REFUSED: [libc::c_long; 4] =
    [libc::SYS_add_key, libc::SYS_io_uring_setup, libc::SYS_keyctl, libc::SYS_request_key];
/// Set in the numbers of calls of the x32 ABI, where there is one.
const X32: libc::c_long = 0x4000_0000;

/// From now on this process, and all that it starts, is refused calls that no namespace holds; a program of another
/// architecture, whose calls have other numbers, is killed.
///
/// # Errors
/// When the kernel has no such filters, or they are not known for this architecture.
pub fn refuse_calls() -> Result<()> {
    let is_other = |family: &libc::c_int| {
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, *family as u64)
    };
    let others = SeccompRule::new(SOCKETS.iter().map(is_other).collect::<Result<_, _>>()?)?;
    let mut rules = BTreeMap::from(REFUSED.map(|call| (call, Vec::new())));
    rules.insert(libc::SYS_socket, vec![others]);
    if cfg!(target_arch = "x86_64") {
        rules.extend(rules.clone().into_iter().map(|(call, rule)| (call | X32, rule)));
    }
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, TargetArch::try_from(ARCH)?)?;
    let program = BpfProgram::try_from(filter)?;
    seccompiler::apply_filter(&program).context("cannot refuse system calls")
}
