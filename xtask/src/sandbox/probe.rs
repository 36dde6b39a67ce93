// SPDX-License-Identifier: MIT OR Apache-2.0
//! Does the sandbox work on this machine? Tried, not concluded; when it does not, what forbids it and the mend.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use super::{Limits, Sandbox};

/// Starting one takes a few hundredths of a second.
const PROBE_SECONDS: u64 = 30;

/// Switches of the kernel that forbid user namespaces.
#[derive(Clone, Debug, Default)]
struct Switches {
    unprivileged_userns_clone: Option<String>,
    apparmor_restrict_unprivileged_userns: Option<String>,
    max_user_namespaces: Option<String>,
}

/// Runs a program in a sandbox that does nothing.
///
/// # Errors
/// When that fails: what the kernel forbids, and the mend.
pub fn probe() -> Result<()> {
    let limits = Limits { wall_seconds: PROBE_SECONDS, ..Limits::default() };
    let mut command = Sandbox { limits, ..Sandbox::default() }.command(Path::new("true"))?;
    command.env_clear().env("PATH", "/usr/bin:/bin");
    let output = command.output().context("cannot start a sandbox")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches("sandbox: ");
    bail!("no sandbox on this machine: {said} ({})\nmend: {}", output.status, mend(&Switches::read(), said))
}

impl Switches {
    fn read() -> Switches {
        let read =
            |name: &str| Some(fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().into());
        Switches {
            unprivileged_userns_clone: read("kernel/unprivileged_userns_clone"),
            apparmor_restrict_unprivileged_userns: read("kernel/apparmor_restrict_unprivileged_userns"),
            max_user_namespaces: read("user/max_user_namespaces"),
        }
    }
}

/// What to do where a sandbox failed with these words.
fn mend(switches: &Switches, said: &str) -> String {
    let is = |switch: &Option<String>, value: &str| switch.as_deref() == Some(value);
    let mut mends = Vec::new();
    if is(&switches.max_user_namespaces, "0") {
        mends.push("sysctl user.max_user_namespaces=10000");
    }
    if is(&switches.unprivileged_userns_clone, "0") {
        mends.push("sysctl kernel.unprivileged_userns_clone=1");
    }
    if is(&switches.apparmor_restrict_unprivileged_userns, "1") {
        mends.push(
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for this program that \
             allows userns",
        );
    }
    if mends.is_empty() && said.contains("EPERM") {
        mends.push(
            "in a container, allow it user namespaces and mounts (docker: --security-opt seccomp=unconfined \
             --security-opt apparmor=unconfined --security-opt systempaths=unconfined)",
        );
    }
    if mends.is_empty() {
        mends.push("a kernel with user, PID, network, IPC, UTS and mount namespaces");
    }
    mends.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_that_forbids_namespaces_has_its_mend() {
        let with = |change: fn(&mut Switches)| {
            let mut switches = Switches::default();
            change(&mut switches);
            mend(&switches, "cannot make a user namespace: EPERM: Operation not permitted")
        };
        for (text, word) in [
            (with(|s| s.max_user_namespaces = Some("0".into())), "user.max_user_namespaces="),
            (with(|s| s.unprivileged_userns_clone = Some("0".into())), "unprivileged_userns_clone=1"),
            (with(|s| s.apparmor_restrict_unprivileged_userns = Some("1".into())), "AppArmor"),
            (with(|_| ()), "container"),
            (mend(&Switches::default(), "cannot make a user namespace: EINVAL"), "a kernel with user"),
        ] {
            assert!(text.contains(word), "{word} not in {text}");
            assert!(!text.contains(';'), "one cause, several mends: {text}");
        }
    }

    #[test]
    fn switches_that_allow_namespaces_are_not_to_blame() {
        let switches = Switches {
            unprivileged_userns_clone: Some("1".into()),
            apparmor_restrict_unprivileged_userns: Some("0".into()),
            max_user_namespaces: Some("96365".into()),
        };
        assert!(mend(&switches, "EPERM").starts_with("in a container"));
    }
}
