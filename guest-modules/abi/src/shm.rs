// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The shared memory between host and agent (`ivshmem-plain`, PCI BAR 2): where what lies.
//!
//! The host writes a batch of programs, then lets the guest run; the guest writes results and coverage. All
//! numbers are little endian. The host trusts nothing the guest wrote: it copies with volatile reads and checks
//! bounds.

use crate::layout::N_THREADS;

/// Size of the whole region, bytes.
pub const SHM_BYTES: usize = 32 << 20;
/// The batch: [`ProgramRef`] table, then the wire programs.
pub const PROGRAMS_OFFSET: usize = 4 << 10;
/// Bytes for table and programs.
pub const PROGRAMS_BYTES: usize = RESULTS_OFFSET - PROGRAMS_OFFSET;
/// [`ProgramResult`] table.
pub const RESULTS_OFFSET: usize = 4 << 20;
/// Coverage and op results, filled by the guest from here on.
pub const DATA_OFFSET: usize = 5 << 20;
/// Bytes for coverage and op results.
pub const DATA_BYTES: usize = SHM_BYTES - DATA_OFFSET;
/// Programs in one batch.
pub const BATCH_MAX: usize = 4096;
/// Entries of the edge map that coverage records index.
pub const MAP_ENTRIES: usize = 1 << 16;

/// First bytes of the region.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Header {
    /// `ABI_MAGIC`, written by the host.
    pub magic: u32,
    /// `ABI_VERSION`, written by the host.
    pub version: u32,
    /// Number of the batch that waits; the guest runs it when it differs from `done_seq`. Written last.
    pub batch_seq: u32,
    /// Programs in the batch.
    pub n_programs: u32,
    /// A `layout::canary` kind to arm before the batch; 0: none.
    pub canary: u32,
    /// [`flag`] bits.
    pub flags: u32,
    /// An op that runs longer is reported, with the stacks of all blocked tasks; ms of guest time.
    pub op_deadline_ms: u32,
    /// Padding.
    pub reserved: u32,

    /// `ABI_MAGIC`, written by the agent once it is up.
    pub guest_magic: u32,
    /// The agent's `ABI_VERSION`.
    pub guest_version: u32,
    /// A [`state`] value.
    pub state: u32,
    /// Last batch completed.
    pub done_seq: u32,
    /// Programs of the batch completed.
    pub n_done: u32,
    /// Program in flight.
    pub program_idx: u32,
    /// Bytes of the data area in use.
    pub data_used: u32,
    /// Padding.
    pub reserved2: u32,
    /// Per thread: 1 + index of the op in flight, 0 when idle.
    pub thread_op: [u32; N_THREADS],
}

/// Bits of [`Header::flags`].
pub mod flag {
    /// End the virtual machine when the batch is done (deterministic engine).
    pub const EXIT_WHEN_DONE: u32 = 1;
    /// Scan for leaks when the batch is done. At boot: take the leaks of the boot itself as known.
    pub const LEAK_SCAN: u32 = 2;
    /// Ask to be paused when ready, for a snapshot, unless a batch is waiting.
    pub const PAUSE_WHEN_READY: u32 = 4;
    /// Coverage records are the low halves of program counters, each once a thread, instead of edges.
    pub const PCS: u32 = 8;
}

/// Values of [`Header::state`].
pub mod state {
    /// Nothing yet.
    pub const BOOTING: u32 = 0;
    /// Waits for a batch.
    pub const READY: u32 = 1;
    /// Runs programs.
    pub const RUNNING: u32 = 2;
    /// The batch is done.
    pub const DONE: u32 = 3;
    /// The kernel complained (taint, lockdep off, a leak): the batch ended early.
    pub const KERNEL_FINDING: u32 = 4;
    /// An op passed its deadline.
    pub const DEADLINE: u32 = 5;
    /// The agent itself failed; the console says why after `HARNESSFAIL:`.
    pub const HARNESS_FAILURE: u32 = 6;
}

/// Where a program lies, from the start of the region.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ProgramRef {
    /// Offset, bytes.
    pub offset: u32,
    /// Length, bytes.
    pub len: u32,
}

/// What became of one program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ProgramResult {
    /// A [`status`] value.
    pub status: u32,
    /// Ops executed, all threads.
    pub n_ops: u32,
    /// Ops that returned an error.
    pub n_errors: u32,
    /// Coverage records lost for lack of room.
    pub n_lost: u32,
    /// Guest time (CLOCK_MONOTONIC) at the start, ns.
    pub start_ns: u64,
    /// Guest time at the end, ns.
    pub end_ns: u64,
    /// Offset of the first coverage record, from the start of the region.
    pub cover_offset: u32,
    /// Number of coverage records; each is `index << 16 | count` as u32, or a program counter ([`flag::PCS`]).
    pub cover_len: u32,
    /// Offset of the op records, from the start of the region.
    pub results_offset: u32,
    /// Number of [`OpRecord`]s: one per op, thread after thread.
    pub results_len: u32,
    /// Offset of the first situation, from the start of the region.
    pub situations_offset: u32,
    /// Number of situations ([`crate::layout::situation`]), each a u32, in order.
    pub situations_len: u32,
}

/// What became of one op.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpRecord {
    /// What it returned; [`OpRecord::NOT_RUN`] when it did not run to its end.
    pub result: i32,
    /// When it began, ns of guest time since the program did; [`u32::MAX`] is that or later.
    pub start_ns: u32,
    /// When it ended, likewise.
    pub end_ns: u32,
    /// Instrumented basic blocks that it entered.
    pub n_edges: u32,
    /// How often it woke another thread of the program.
    pub n_wakes: u32,
}

impl OpRecord {
    /// Value of `result` when the op did not run.
    pub const NOT_RUN: i32 = i32::MIN;
}

/// Values of [`ProgramResult::status`].
pub mod status {
    /// Not reached.
    pub const NOT_RUN: u32 = 0;
    /// Begun, not ended.
    pub const RUNNING: u32 = 1;
    /// Ended.
    pub const DONE: u32 = 2;
    /// Ended by an op deadline.
    pub const DEADLINE: u32 = 3;
}

/// I/O port of QEMU's `pvpanic`: writing 1 pauses the guest under `-action panic=pause`.
pub const PORT_PVPANIC: u16 = 0x505;
/// I/O port of QEMU's `isa-debug-exit`: writing `v` ends QEMU with exit code `v << 1 | 1`.
pub const PORT_EXIT: u16 = 0xf4;
/// Value for [`PORT_EXIT`] when the batch ran to its end or was ended by the agent.
pub const EXIT_DONE: u8 = 0x31;

const _: () = assert!(size_of::<Header>() == 80 && size_of::<ProgramResult>() == 56);
const _: () = assert!(RESULTS_OFFSET + BATCH_MAX * size_of::<ProgramResult>() <= DATA_OFFSET);
