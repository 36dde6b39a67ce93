// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest for a stand-alone reproducer: this machine's shell and the few programs that the script calls, with the
//! libraries that they need, and nothing of ours.

use std::{collections::BTreeMap, path::Path, time::Duration};

use ::fuzz::standalone::{MODULE, Reproducer};
use anyhow::{Context, Result};
use harness::{
    guest::{Execution, GuestConfig, Leaks},
    machine::{MachineEnd, MachineError},
    program::Schedule,
};

use crate::{
    initramfs::Entry,
    proc,
    rerun::{Showing, judge},
    userland::{self, Boot},
};

/// What the script calls.
const TOOLS: [&str; 22] = [
    "sh", "cat", "dd", "grep", "head", "id", "insmod", "ln", "mkdir", "mktemp", "mount", "rm", "rmdir",
    "rmmod", "seq", "sleep", "stat", "taskset", "umount", "uname", "true", "printf",
];
/// What it calls for a few ops only.
const TOOLS_IF_THERE: [&str; 1] = ["mkfs.ext4"];
/// Where the reproducer is.
const FOLDER: &str = "reproducer";
/// How the script's end begins on the console; its exit code follows.
const ENDED: &str = "the script has ended: ";

/// The archive. The script runs, and the machine ends when it has ended.
///
/// # Errors
/// When a program that the script calls is not on this machine.
pub fn initramfs(reproducer: &Reproducer, module: &[u8], rounds: u32) -> Result<Vec<u8>> {
    let mut files = BTreeMap::new();
    userland::add_programs(&mut files, &TOOLS).context("the reproducer's script calls it")?;
    let there = TOOLS_IF_THERE.into_iter().filter(|tool| proc::which(tool).is_some());
    userland::add_programs(&mut files, &there.collect::<Vec<_>>())?;
    for (name, text) in reproducer.files() {
        files.insert(format!("{FOLDER}/{name}"), Entry::File(text.as_bytes().to_vec(), false));
    }
    files.insert(format!("{FOLDER}/{MODULE}.ko"), Entry::File(module.to_vec(), false));
    userland::archive(files, &format!("cd /{FOLDER}\nsh repro.sh {rounds}\necho \"{ENDED}$?\"\n"))
}

/// What each boot has in common.
pub struct Boots {
    /// Kernel and machine.
    pub config: GuestConfig,
    /// CPUs.
    pub schedule: Schedule,
    /// Engine.
    pub execution: Execution,
    /// Is kmemleak on?
    pub leaks: Leaks,
    /// Longest wall time.
    pub limit: Duration,
}

impl Boots {
    /// Boots once, in a folder; the console and what it shows.
    pub fn run(&self, seed: u32, titles: &[String], dir: &Path) -> (Vec<u8>, Showing) {
        match self.boot(seed, dir) {
            Ok((console, end)) => {
                let showing = self.showing(&console, &end, titles);
                (console, showing)
            }
            Err(error) => (Vec::new(), Showing::Infrastructure(error.to_string())),
        }
    }

    fn boot(&self, seed: u32, dir: &Path) -> Result<(Vec<u8>, MachineEnd), MachineError> {
        let config = GuestConfig { seed, ..self.config.clone() };
        let boot = Boot {
            guest: &config,
            schedule: self.schedule,
            execution: self.execution,
            leaks: self.leaks,
            limit: self.limit,
        };
        boot.run(&dir.join("guest"))
    }

    fn showing(&self, console: &[u8], end: &MachineEnd, titles: &[String]) -> Showing {
        let showing = judge(console, titles);
        if !matches!(showing, Showing::None) {
            return showing;
        }
        let text = String::from_utf8_lossy(console);
        let ended =
            text.lines().find_map(|line| line.split_once(ENDED)).map(|(_, code)| code.trim().to_owned());
        match (ended.as_deref(), end) {
            (Some("0"), _) => Showing::None,
            // The script was at it until the time was over.
            (None, MachineEnd::Killed(_)) if text.contains("repro.sh: ") => Showing::None,
            _ => Showing::Infrastructure(format!("{end:?}: {}", proc::tail(&text))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn boots() -> Boots {
        Boots {
            config: GuestConfig {
                qemu: PathBuf::new(),
                qemu_version: String::new(),
                kernel: PathBuf::new(),
                initramfs: PathBuf::new(),
                append: String::new(),
                memory_mib: 1,
                numa_nodes: 1,
                seed: 1,
                key: String::new(),
            },
            schedule: Schedule::default(),
            execution: Execution::Deterministic,
            leaks: Leaks::Ignore,
            limit: Duration::ZERO,
        }
    }

    #[test]
    fn a_script_that_refuses_is_no_kernel_that_is_fine() {
        let show = |console: &str, end| boots().showing(console.as_bytes(), &end, &["a bug".to_owned()]);
        let done = "repro.sh: done\nthe script has ended: 0\n";
        assert!(matches!(show(done, MachineEnd::Agent), Showing::None));
        let refused = "repro.sh: must be run by root\nthe script has ended: 1\n";
        assert!(matches!(show(refused, MachineEnd::Agent), Showing::Infrastructure(_)));
        let killed = MachineEnd::Killed("time".into());
        assert!(matches!(show("repro.sh: 1 round(s)\n", killed.clone()), Showing::None));
        assert!(matches!(show("booting\n", killed), Showing::Infrastructure(_)));
        let bug = "[    9.000000][   T42] BUG: KASAN: slab-use-after-free in shrink_slab+0x1/0x2\n";
        assert!(matches!(show(bug, MachineEnd::Reset), Showing::Other(_)));
    }
}
