// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ops that a process performs: cgroups, reclaim, debugfs, memory, file systems, CPUs, modules. One arm of [`run`] each.
//!
//! A result is 0 or a count, or a negative errno; an error is an outcome like any other.

mod debugfs;
mod fault;
pub mod groups;
mod leftovers;
mod memory;
mod system;
mod trees;
mod watermark;

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use abi::layout::{N_HANDLES, N_MEMCGS, Op, kind, zswap};

pub use self::{
    debugfs::SHRINKERS, fault::setup as setup_faults, leftovers::Leftovers, system::pin,
    trees::make_mount_points,
};
use crate::{sys, watched, worker::World};

/// Where the unified hierarchy is mounted.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// Parent of the groups that programs make.
pub const CGROUP_PARENT: &str = "/sys/fs/cgroup/st";
/// A tmpfs for [`kind::FILES`].
pub const SCRATCH: &str = "/scratch";

/// What a thread keeps from one op to the next.
#[derive(Default)]
pub struct Hands {
    handles: [Option<File>; N_HANDLES],
    huge: Option<memory::Huge>,
    /// Inodes of groups as last seen, to name them when they are gone.
    inodes: [u64; N_MEMCGS],
    fault: fault::Fault,
    /// The thread may be on another CPU than it was pinned to, or in a group.
    is_elsewhere: bool,
    is_grouped: bool,
}

impl Hands {
    /// Lets go of everything at the end of a thread; whether it has to be pinned anew.
    pub fn empty(&mut self) -> bool {
        self.handles = Default::default();
        self.huge = None;
        self.fault.disarm();
        if std::mem::take(&mut self.is_grouped) {
            let _ = groups::enter(abi::layout::MEMCG_ROOT);
        }
        std::mem::take(&mut self.is_elsewhere)
    }
}

/// What came of an op.
pub struct Ran {
    /// What it returned; negative: an errno.
    pub result: i32,
    /// Whether the fault that the op before it asked for was met; none when it asked for none.
    pub fault: Option<bool>,
}

/// Executes one op, the module's too (through `in_module`), with the fault that the op before may have asked for.
pub fn run(op: &Op, world: World<'_>, hands: &mut Hands, in_module: impl FnOnce(&Op) -> i32) -> Ran {
    if op.kind == kind::FAIL_NTH {
        return Ran { result: errno(hands.fault.ask(op.a)), fault: None };
    }
    hands.fault.arm();
    let result = if op.kind < kind::USER_FIRST { in_module(op) } else { errno(run_user(op, world, hands)) };
    Ran { result, fault: hands.fault.disarm() }
}

fn errno(result: io::Result<i32>) -> i32 {
    result.unwrap_or_else(|error| -error.raw_os_error().unwrap_or(libc::EINVAL))
}

fn run_user(op: &Op, world: World<'_>, hands: &mut Hands) -> io::Result<i32> {
    match op.kind {
        kind::MEMCG_CREATE
        | kind::MEMCG_NEST
        | kind::MEMCG_CROWD
        | kind::MEMCG_REMOVE
        | kind::MEMCG_ENTER
        | kind::MEMCG_RECLAIM
        | kind::MEMCG_RECLAIM_SWAP
        | kind::MEMCG_MAX
        | kind::MEMCG_HIGH
        | kind::MEMCG_SWAP_MAX => groups::run(op, hands),
        kind::DEBUGFS_COUNT
        | kind::DEBUGFS_SCAN
        | kind::DEBUGFS_WRITE
        | kind::DEBUGFS_WALK
        | kind::DEBUGFS_HOLD
        | kind::HELD_READ
        | kind::HELD_SCAN
        | kind::RELEASE => debugfs::run(op, world.device, hands),
        kind::FILES
        | kind::MOUNT
        | kind::UMOUNT
        | kind::REMOUNT
        | kind::TREE_MAKE
        | kind::TREE_REMOVE
        | kind::TREE_LOOK
        | kind::TREE_HOLD => trees::run(op, hands),
        kind::PRESSURE | kind::SWAP_OUT | kind::THP_SPLIT | kind::THP_PIN | kind::THP_DROP => {
            memory::run(op, hands)
        }
        kind::WATERMARK => watermark::run(op),
        kind::DROP_CACHES => watched::drop_caches(world.device, op.a),
        kind::NODE_RECLAIM => {
            write(format!("/sys/devices/system/node/node{}/reclaim", op.nid), &format!("{}K", op.a))
        }
        kind::ZSWAP => switch_zswap(op.a),
        kind::SLAB_FILE => system::slab_file(op),
        kind::CPU_CYCLE => system::cycle_last_cpu(hands),
        kind::MOVE => system::move_to(op.a, hands),
        kind::MODULE_LOAD => system::load_unloadable(),
        kind::MODULE_UNLOAD => system::unload_unloadable(),
        kind::BARRIER => Ok(i32::from(world.control.barrier(op.a as usize))),
        kind::SLEEP => {
            std::thread::sleep(Duration::from_micros(op.a.into()));
            Ok(0)
        }
        kind::SPIN => {
            let until = sys::now_ns() + u64::from(op.a) * 1000;
            while sys::now_ns() < until {
                std::hint::spin_loop();
            }
            Ok(0)
        }
        kind::YIELD => {
            std::thread::yield_now();
            Ok(0)
        }
        _ => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
    }
}

fn switch_zswap(set: u32) -> io::Result<i32> {
    const PARAMETERS: &str = "/sys/module/zswap/parameters";
    let yes_or_no = |yes: bool| if yes { "Y" } else { "N" };
    write(format!("{PARAMETERS}/shrinker_enabled"), yes_or_no(set == zswap::SHRINKER))?;
    write(format!("{PARAMETERS}/enabled"), yes_or_no(set != zswap::OFF))
}

/// Opens a file and writes to it.
fn write(path: impl AsRef<Path>, text: &str) -> io::Result<i32> {
    File::options().write(true).open(path)?.write_all(text.as_bytes())?;
    Ok(0)
}

/// Reads a file to its end; how many bytes.
fn read(path: PathBuf) -> io::Result<i32> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes.len() as i32)
}
