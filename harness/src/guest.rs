// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest: which kernel, which machine. Plain data, and the QEMU command line made from it, one small function for
//! each concern.

use std::{
    ffi::OsString,
    ops::Range,
    path::{Path, PathBuf},
};

use abi::shm::{PORT_EXIT, PORT_PVPANIC, SHM_BYTES};
use serde::{Deserialize, Serialize};

use crate::program::Schedule;

/// Everything needed to start a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// `qemu-system-x86_64`.
    pub qemu: PathBuf,
    /// What `qemu --version` says; part of a finding's identity.
    pub qemu_version: String,
    /// The kernel image.
    pub kernel: PathBuf,
    /// The initramfs with agent and modules.
    pub initramfs: PathBuf,
    /// Boot arguments beyond [`BASE_APPEND`].
    pub append: String,
    /// Guest memory, MiB.
    pub memory_mib: u32,
    /// NUMA nodes; memory and CPUs are dealt out evenly.
    pub numa_nodes: u32,
    /// Seed of what QEMU gives the guest as entropy at boot.
    pub seed: u32,
    /// Content key of kernel, modules, initramfs, QEMU and the arguments above.
    pub key: String,
}

/// How the virtual CPUs are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// TCG, instruction counting: the guest's course is a function of its inputs.
    Deterministic,
    /// TCG, one host thread a vCPU.
    Threads,
    /// Hardware virtualisation.
    Kvm,
}

/// Does the guest keep track of allocations, to be scanned for lost ones? It halves its speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Leaks {
    /// kmemleak is off.
    Ignore,
    /// kmemleak is on.
    Track,
}

impl Leaks {
    /// What an epoch needs that ends with a scan, or does not.
    pub fn of_scan(leak_scan: bool) -> Leaks {
        if leak_scan { Leaks::Track } else { Leaks::Ignore }
    }
}

/// What the machine does besides running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Power on and run.
    Boot,
    /// Wait for a machine state over QMP, then for `cont`.
    Incoming,
}

/// Guest memory: written through to files (to make a snapshot) or copied on write (to use one).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Memory<'a> {
    /// Anonymous memory.
    Private,
    /// `ram0`, `ram1` … in this folder, changed by the guest.
    Shared(&'a Path),
    /// `ram0`, `ram1` … in this folder, left as they are.
    CopyOnWrite(&'a Path),
}

/// What a machine is to be started with.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Kernel and machine.
    pub guest: &'a GuestConfig,
    /// vCPUs and icount shift.
    pub schedule: Schedule,
    /// Engine.
    pub execution: Execution,
    /// Is kmemleak on?
    pub leaks: Leaks,
    /// Power on or restore.
    pub start: Start,
    /// Where guest memory lives.
    pub memory: &'a Memory<'a>,
    /// What is looked at from outside while it runs.
    pub watch: Watch<'a>,
}

/// What is looked at from outside. Under the deterministic engine the guest's course is the same with it and without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Watch<'a> {
    /// Nothing.
    #[default]
    Nothing,
    /// Every block of code that begins in one of these ranges of addresses, logged as it is executed to
    /// [`crate::machine::Machine::log`].
    Blocks(&'a [Range<u64>]),
    /// What a debugger asks for over a socket at this path. The machine waits for it to say `continue`.
    Debugger(&'a Path),
}

/// Files that host and guest talk through.
#[derive(Clone, Debug)]
pub struct Wires<'a> {
    /// The shared memory.
    pub shm: &'a Path,
    /// The console log.
    pub console: &'a Path,
    /// Socket for QMP.
    pub qmp: &'a Path,
}

/// Boot arguments every guest gets. A kernel that complains stops at once: nothing after the first report is evidence.
pub const BASE_APPEND: &str = "console=ttyS0 nokaslr panic=-1 oops=panic panic_on_warn=1 \
    sysctl.kernel.hung_task_panic=1 sysctl.kernel.softlockup_panic=1 sysctl.kernel.panic_on_rcu_stall=1 \
    sysctl.kernel.hung_task_all_cpu_backtrace=0 printk.devkmsg=on no_hash_pointers";

/// Boot arguments of deterministic guests. The time stamp counter is virtual time, 1 GHz on every vCPU by construction,
/// so nothing is gained by checking it or by timing delay loops against it (4 ms a jiffy), and minutes are lost.
pub const DETERMINISTIC_APPEND: &str = "tsc=reliable lpj=4000000";

/// The kernel's whole command line.
pub fn append(guest: &GuestConfig, execution: Execution, leaks: Leaks) -> String {
    let deterministic = if execution == Execution::Deterministic { DETERMINISTIC_APPEND } else { "" };
    let tracking = if leaks == Leaks::Ignore { "kmemleak=off" } else { "" };
    let parts = [BASE_APPEND, deterministic, tracking, guest.append.as_str()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The whole QEMU command line after the program's name.
pub fn arguments(plan: &Plan<'_>, wires: &Wires<'_>) -> Vec<OsString> {
    let mut args = machine(plan.guest, &append(plan.guest, plan.execution, plan.leaks), plan.start);
    args.extend(cpus(plan.guest, plan.schedule, plan.execution));
    args.extend(ram(plan.guest, plan.schedule, plan.memory));
    args.extend(devices(wires));
    args.extend(watch(plan.watch));
    args
}

fn machine(guest: &GuestConfig, append: &str, start: Start) -> Vec<OsString> {
    let mut args = words(&[
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-nic",
        "none",
        "-machine",
        "pc,usb=off,vmport=off",
        "-no-reboot",
        "-action",
        "panic=pause",
        "-seed",
    ]);
    args.push(guest.seed.to_string().into());
    args.extend(["-kernel".into(), guest.kernel.clone().into()]);
    args.extend(["-initrd".into(), guest.initramfs.clone().into()]);
    args.extend(["-append".into(), append.into()]);
    if start == Start::Incoming {
        args.extend(words(&["-S", "-incoming", "defer"]));
    }
    args
}

fn cpus(guest: &GuestConfig, schedule: Schedule, execution: Execution) -> Vec<OsString> {
    let smp = format!("{0},sockets={0},maxcpus={0}", schedule.vcpus.max(guest.numa_nodes as u8));
    let mut args = words(&["-smp", &smp]);
    args.extend(match execution {
        Execution::Deterministic => {
            let icount = format!("shift={},sleep=off", schedule.shift);
            words(&[
                "-accel",
                "tcg,thread=single",
                "-icount",
                &icount,
                // The guest's clock is virtual time, from a fixed date.
                "-rtc",
                "base=2024-01-01T00:00:00,clock=vm",
                // No entropy from the host. la57: KASAN's shadow is out of reach while a CPU is identified with it.
                "-cpu",
                "max,-rdrand,-rdseed,-la57",
            ])
        }
        Execution::Threads => words(&["-accel", "tcg,thread=multi", "-cpu", "max,-la57"]),
        Execution::Kvm => words(&["-accel", "kvm", "-cpu", "host"]),
    });
    args
}

fn ram(guest: &GuestConfig, schedule: Schedule, memory: &Memory<'_>) -> Vec<OsString> {
    let nodes = guest.numa_nodes.max(1);
    let vcpus = u32::from(schedule.vcpus).max(nodes);
    let mut args = words(&["-m", &format!("{}M", guest.memory_mib)]);
    for node in 0..nodes {
        let size = guest.memory_mib / nodes;
        let object = match memory {
            Memory::Private => format!("memory-backend-ram,id=ram{node},size={size}M"),
            Memory::Shared(dir) => file_memory(dir, node, size, "on"),
            Memory::CopyOnWrite(dir) => file_memory(dir, node, size, "off"),
        };
        let (first, last) = (node * vcpus / nodes, (node + 1) * vcpus / nodes - 1);
        args.extend(words(&["-object", &object, "-numa"]));
        args.push(format!("node,nodeid={node},cpus={first}-{last},memdev=ram{node}").into());
    }
    args
}

fn file_memory(dir: &Path, node: u32, size_mib: u32, share: &str) -> String {
    let path = escape(&dir.join(format!("ram{node}")));
    format!("memory-backend-file,id=ram{node},size={size_mib}M,mem-path={path},share={share}")
}

fn devices(wires: &Wires<'_>) -> Vec<OsString> {
    words(&[
        "-object",
        &format!("memory-backend-file,id=shm,size={SHM_BYTES},mem-path={},share=on", escape(wires.shm)),
        "-device",
        "ivshmem-plain,memdev=shm,master=on",
        "-device",
        &format!("pvpanic,ioport={PORT_PVPANIC}"),
        "-device",
        &format!("isa-debug-exit,iobase={PORT_EXIT:#x},iosize=1"),
        "-chardev",
        &format!("file,id=console,path={}", escape(wires.console)),
        "-serial",
        "chardev:console",
        "-qmp",
        &format!("unix:{},server=on,wait=off", escape(wires.qmp)),
    ])
}

fn watch(watch: Watch<'_>) -> Vec<OsString> {
    match watch {
        Watch::Nothing => Vec::new(),
        Watch::Blocks(ranges) => {
            let ranges: Vec<String> =
                ranges.iter().map(|range| format!("{:#x}..{:#x}", range.start, range.end - 1)).collect();
            // Blocks that jump straight into each other would be logged once.
            words(&["-d", "exec,nochain", "-dfilter", &ranges.join(","), "-D", "/dev/stdout"])
        }
        Watch::Debugger(socket) => words(&["-gdb", &format!("unix:{},server=on,wait=off", escape(socket))]),
    }
}

/// QEMU's option parser wants commas doubled.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}
