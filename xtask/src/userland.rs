// SPDX-License-Identifier: MIT OR Apache-2.0
//! An initramfs of this machine's own programs, with the libraries that they need, and a shell script for PID 1.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use abi::shm::{EXIT_DONE, PORT_EXIT};
use anyhow::{Context, Result, bail};
use harness::{
    guest::{Execution, GuestConfig, Leaks, Memory, Plan, Start, Watch},
    machine::{Machine, MachineEnd, MachineError},
    program::Schedule,
};

use crate::{
    initramfs::{self, Entry},
    proc,
};

/// A machine that runs such an archive.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// Kernel, archive and memory.
    pub guest: &'a GuestConfig,
    /// CPUs.
    pub schedule: Schedule,
    /// Engine.
    pub execution: Execution,
    /// Is kmemleak on?
    pub leaks: Leaks,
    /// Longest wall time.
    pub limit: Duration,
}

impl Boot<'_> {
    /// Boots in a folder and waits for the end; what the guest printed, and how it ended.
    ///
    /// # Errors
    /// When QEMU does not start.
    pub fn run(self, folder: &Path) -> Result<(Vec<u8>, MachineEnd), MachineError> {
        let plan = Plan {
            guest: self.guest,
            schedule: self.schedule,
            execution: self.execution,
            leaks: self.leaks,
            start: Start::Boot,
            memory: &Memory::Private,
            watch: Watch::Nothing,
        };
        let mut machine = Machine::start(plan, folder, |_| Ok(()))?;
        let end = machine.wait(self.limit);
        machine.kill();
        Ok((machine.console.take(), end))
    }
}

/// What the script itself calls, beside its shell.
const OWN: [&str; 5] = ["sh", "mount", "printf", "stty", "dd"];

/// Adds programs of this machine, each with the libraries that the loader would take for it.
///
/// # Errors
/// When one is not on this machine.
pub fn add_programs(files: &mut BTreeMap<String, Entry>, names: &[&str]) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
    let shell = proc::shell()?;
    for name in names {
        let Some(path) = proc::which(name) else { bail!("{name} is not installed") };
        files.insert(format!("bin/{name}"), Entry::File(read(&path)?, true));
        let libraries = proc::read(xshell::cmd!(shell, "ldd {path}")).unwrap_or_default();
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            let name = library.trim_start_matches('/').to_owned();
            files.insert(name, Entry::File(read(Path::new(library))?, true));
        }
    }
    Ok(())
}

/// The archive: PID 1 mounts what there is to mount, runs `script`, and ends the machine.
///
/// # Errors
/// When a program that takes is not on this machine.
pub fn archive(mut files: BTreeMap<String, Entry>, script: &str) -> Result<Vec<u8>> {
    add_programs(&mut files, &OWN)?;
    // The machine is gone with the last instruction: stty changes nothing before what was printed is out.
    let init = format!(
        "#!/bin/sh\nexport PATH=/bin\nmount -t proc proc /proc\nmount -t sysfs sysfs /sys\n\
         mount -t devtmpfs devtmpfs /dev 2> /dev/null\n{script}\
         stty -echo < /dev/console 2> /dev/null\n\
         printf '\\{EXIT_DONE:03o}' | dd of=/dev/port bs=1 seek={PORT_EXIT} conv=notrunc 2> /dev/null\n"
    );
    files.insert("init".to_owned(), Entry::File(init.into_bytes(), true));
    let mut entries: Vec<(String, Entry)> =
        ["dev", "proc", "sys", "tmp"].map(|dir| (dir.to_owned(), Entry::Dir)).into();
    // The kernel opens it for PID 1 before devtmpfs is mounted.
    entries.push(("dev/console".to_owned(), Entry::Device { major: 5, minor: 1 }));
    let mut folders: Vec<String> = files
        .keys()
        .flat_map(|name| Path::new(name).ancestors().skip(1).map(|dir| dir.display().to_string()))
        .filter(|dir| !dir.is_empty())
        .collect();
    folders.sort();
    folders.dedup();
    entries.extend(folders.into_iter().map(|dir| (dir, Entry::Dir)));
    entries.extend(files);
    let mut archive = Vec::new();
    initramfs::write(&mut archive, &entries)?;
    Ok(archive)
}
