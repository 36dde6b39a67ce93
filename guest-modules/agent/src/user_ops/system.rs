// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ops on CPUs, modules and slab caches' files.

use std::{
    fs::{self, File},
    io,
};

use abi::layout::{Op, SLAB_FILES};
use nix::{
    kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module},
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use super::{Hands, read, write};

const CPUS: &str = "/sys/devices/system/cpu";
/// The module that programs load and unload.
const UNLOADABLE: &std::ffi::CStr = c"st_unload";

/// Pins the calling process to a CPU.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}

/// Moves the thread to a CPU, modulo those that are there.
pub(super) fn move_to(cpu: u32, hands: &mut Hands) -> io::Result<i32> {
    hands.is_elsewhere = true;
    let n_cpus = last_cpu()? + 1;
    pin(cpu as usize % n_cpus).map(|()| 0)
}

/// Takes the last CPU offline and brings it back. Threads that are pinned to it are moved by the kernel, and are pinned
/// anew by their next program. CPU 0 stays.
pub(super) fn cycle_last_cpu(hands: &mut Hands) -> io::Result<i32> {
    hands.is_elsewhere = true;
    let cpu = last_cpu()?;
    if cpu == 0 {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    let offline = write(format!("{CPUS}/cpu{cpu}/online"), "0");
    // Another thread may do the same; whoever comes last leaves it online.
    write(format!("{CPUS}/cpu{cpu}/online"), "1")?;
    offline
}

/// Brings the last CPU back, in case that failed.
pub(super) fn restore_cpus() {
    if let Ok(cpu) = last_cpu() {
        let _ = write(format!("{CPUS}/cpu{cpu}/online"), "1");
    }
}

/// The highest CPU there is, online or not.
fn last_cpu() -> io::Result<usize> {
    let text = fs::read_to_string(format!("{CPUS}/present"))?;
    let last = text.trim().rsplit(['-', ',']).next().and_then(|last| last.parse().ok());
    last.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Loads the module.
pub(super) fn load_unloadable() -> io::Result<i32> {
    let file = File::open("/st_unload.ko")?;
    finit_module(&file, c"", ModuleInitFlags::empty())?;
    Ok(0)
}

/// Unloads the module.
pub(super) fn unload_unloadable() -> io::Result<i32> {
    delete_module(UNLOADABLE, DeleteModuleFlags::O_NONBLOCK)?;
    Ok(0)
}

/// Writes or reads a file of a slab cache.
pub(super) fn slab_file(op: &Op) -> io::Result<i32> {
    let file = SLAB_FILES[op.b as usize % SLAB_FILES.len()];
    let path = format!("/sys/kernel/slab/st-cache-{}/{file}", op.a);
    match file {
        "shrink" | "validate" => write(path, "1"),
        _ => read(path.into()),
    }
}
