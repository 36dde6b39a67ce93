// SPDX-License-Identifier: MIT OR Apache-2.0
//! One worker per program thread: a process of its own, because memory cgroups hold processes, not threads.

use std::{
    fs::File,
    io::{self, Read, Write},
};

use abi::{
    layout::{IoctlOp, Op, ioc, kind},
    program::{WireThread, decode},
    shm::{Header, OpRecord, flag},
};
use nix::unistd::{Pid, pipe};

use crate::{
    audit::Folders,
    control::Control,
    cover::{EdgeMap, PcSet},
    sys::{self, Kcov, Mapping},
    user_ops::{self, Hands, Ran},
};

/// Byte offset of `Header::thread_op`.
const THREAD_OP: usize = std::mem::offset_of!(Header, thread_op);

/// What a worker needs from the outside.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// Shared with the host.
    pub shm: Mapping,
    /// Shared with the agent.
    pub control: Control,
    /// `/dev/shrinktorture`.
    pub device: &'a File,
    /// CPUs that are online.
    pub n_cpus: usize,
}

/// The agent's end of a worker.
pub struct Worker {
    /// Process id.
    pub pid: Pid,
    /// Offset and length of a program go in.
    commands: File,
    /// One byte comes out when the thread has run to its end.
    pub done: File,
}

impl Worker {
    /// Forks the worker for thread number `thread`.
    pub fn spawn(thread: usize, world: World<'_>) -> io::Result<Worker> {
        let (command_out, command_in) = pipe()?;
        let (done_out, done_in) = pipe()?;
        // The closure owns the worker's ends, so they are closed here when it is dropped: a dead worker is an EOF.
        let pid = sys::spawn(move || match serve(thread, world, command_out.into(), done_in.into()) {
            Ok(()) => 0,
            Err(error) => {
                crate::log::failure(&format!("worker {thread}: {error}"));
                1
            }
        })?;
        Ok(Worker { pid, commands: command_in.into(), done: done_out.into() })
    }

    /// Starts the worker's thread of the program at `offset`.
    pub fn start(&mut self, offset: u32, len: u32) -> io::Result<()> {
        let mut command = [0; 8];
        command[..4].copy_from_slice(&offset.to_le_bytes());
        command[4..].copy_from_slice(&len.to_le_bytes());
        self.commands.write_all(&command)
    }

    /// Takes the byte that says the thread has ended.
    pub fn finish(&mut self) -> io::Result<()> {
        self.done.read_exact(&mut [0])
    }
}

fn serve(thread: usize, world: World<'_>, mut commands: File, mut done: File) -> io::Result<()> {
    let kcov = Kcov::enable().ok();
    let (mut map, mut pcs) = (EdgeMap::new(), PcSet::default());
    let mut pinned_to = None;
    let mut hands = Hands::default();
    let mut folders = Folders::new();
    loop {
        let mut command = [0; 8];
        commands.read_exact(&mut command)?;
        let word =
            |i: usize| u32::from_le_bytes([command[i], command[i + 1], command[i + 2], command[i + 3]]);
        let program = world.shm.read_bytes(word(0) as usize, word(4) as usize);
        // The agent has decoded the program already.
        let threads = decode(&program).map(|(_, threads)| threads).unwrap_or_default();
        let Some(wire) = threads.get(thread).copied().flatten() else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let cpu = usize::from(wire.cpu) % world.n_cpus;
        // Moving a task costs as much as several ops, staying nothing.
        if pinned_to.replace(cpu) != Some(cpu) {
            user_ops::pin(cpu)?;
        }
        folders.begin(&threads, thread);
        let wants_pcs = world.shm.read::<Header>(0).flags & flag::PCS != 0;
        run_thread(thread, world, &wire, kcov.as_ref(), &mut hands, &mut |op, ran| {
            if wants_pcs {
                kcov.as_ref().inspect(|kcov| pcs.take(kcov));
            } else {
                kcov.as_ref().inspect(|kcov| map.fold(kcov));
                map.note_result(op, ran.result);
            }
            folders.look(world.device, *op, ran.result, ran.fault == Some(true));
        });
        if wants_pcs {
            world.control.set_cover(thread, pcs.drain());
        } else {
            world.control.set_cover(thread, map.drain());
        }
        // A CPU that goes offline unpins everybody.
        let cycles = threads.iter().flatten().flat_map(WireThread::ops).any(|op| op.kind == kind::CPU_CYCLE);
        if hands.empty() || cycles {
            pinned_to = None;
        }
        done.write_all(&[1])?;
    }
}

fn run_thread(
    thread: usize,
    world: World<'_>,
    wire: &WireThread<'_>,
    kcov: Option<&Kcov>,
    hands: &mut Hands,
    note: &mut dyn FnMut(&Op, &Ran),
) {
    world.control.start_line();
    let epoch_ns = world.control.epoch_ns();
    for (op_idx, op) in wire.ops().enumerate() {
        world.shm.write(THREAD_OP + 4 * thread, op_idx as u32 + 1);
        if let Some(kcov) = kcov {
            kcov.clear();
        }
        let started = sys::now_ns();
        world.control.set_op_started(thread, started);
        let ran = user_ops::run(&op, world, hands, |op| in_module(op, world));
        let ended = sys::now_ns();
        let n_edges = kcov.map_or(0, Kcov::n_pcs) as u32;
        let n_wakes = kcov.map_or(0, Kcov::n_wakes) as u32;
        note(&op, &ran);
        let since = |ns: u64| u32::try_from(ns.saturating_sub(epoch_ns)).unwrap_or(u32::MAX);
        let (start_ns, end_ns) = (since(started), since(ended));
        let record = OpRecord { result: ran.result, start_ns, end_ns, n_edges, n_wakes };
        world.control.set_record(thread, op_idx, record);
        // Only now it is known what became of the fault.
        if let (Some(met), Some(asked)) = (ran.fault, op_idx.checked_sub(1)) {
            let record = world.control.record(thread, asked);
            world.control.set_record(thread, asked, OpRecord { result: met.into(), ..record });
        }
    }
    world.control.set_op_started(thread, 0);
    world.shm.write(THREAD_OP + 4 * thread, 0u32);
}

fn in_module(op: &Op, world: World<'_>) -> i32 {
    let mut request = IoctlOp { op: *op, result: 0 };
    match sys::ioctl_struct(world.device, ioc::OP, &mut request) {
        Ok(_) => request.result as i32,
        Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
    }
}
