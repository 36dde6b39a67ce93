// SPDX-License-Identifier: MIT OR Apache-2.0
//! The last stage of a sandbox: gives up every privilege, takes the limits, is refused some calls, becomes the command.
//!
//! In a user namespace further in it is an ordinary user, whose files are the caller's outside: so it owns nothing of
//! the mounts and namespaces around it, and `exec` takes the last capabilities away.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, net::UnixStream, process::CommandExt},
    },
    process::Command,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    sched::{CloneFlags, unshare},
    sys::prctl,
    unistd,
};

use super::{Plan, process};

/// Who the command is, to itself: anybody but root.
const INSIDE: u32 = 1000;

/// Runs the stage, and does not return when all is well.
///
/// # Errors
/// When the sandbox cannot be set up or there is no such program.
pub fn run(plan: &Plan, command: &[OsString]) -> Result<u8> {
    let socket = io::stdin().as_fd().try_clone_to_owned().context("cannot duplicate a descriptor")?;
    let mut init = UnixStream::from(socket);
    unshare(CloneFlags::CLONE_NEWUSER).context("cannot make a second user namespace")?;
    process::map_ids(INSIDE, 0, 0).context("cannot be an ordinary user in the sandbox")?;
    init.write_all(b"!").context("PID 1 is gone")?;
    let mut folder = Vec::new();
    init.read_to_end(&mut folder).context("PID 1 is gone")?;
    ensure!(!folder.is_empty(), "PID 1 is gone");
    drop(init);
    // From here on `/` is the new root.
    let nothing = File::open("/dev/null").context("cannot open /dev/null")?;
    unistd::dup2_stdin(nothing).context("cannot empty standard input")?;
    env::set_current_dir("/").context("cannot change to /")?;
    // The caller's folder need not be one that the command sees.
    let _ = env::set_current_dir(OsStr::from_bytes(&folder));
    process::take_limits(&plan.limits)?;
    prctl::set_no_new_privs().context("cannot forbid new privileges")?;
    process::refuse_calls()?;
    let error = Command::new(&command[0]).args(&command[1..]).exec();
    Err(anyhow!(error).context(format!("cannot run {}", command[0].display())))
}
