// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that agent and workers share among themselves: barriers, heartbeats, op results, coverage.

use std::{io, sync::atomic::Ordering};

use abi::{
    layout::{N_BARRIERS, N_THREADS},
    program::OPS_MAX,
    shm::{MAP_ENTRIES, OpRecord},
};

use crate::sys::{self, Mapping};

const BARRIERS: usize = 0;
const N_LIVE: usize = BARRIERS + 4 * N_BARRIERS;
const STARTED: usize = N_LIVE + 4;
const EPOCH_NS: usize = 64;
const OP_STARTED_NS: usize = EPOCH_NS + 8;
const RECORDS: usize = OP_STARTED_NS + 8 * N_THREADS;
const COVER: usize = RECORDS + size_of::<OpRecord>() * N_THREADS * OPS_MAX;
/// Per thread: number of records, then the records.
const COVER_STRIDE: usize = 4 * (1 + MAP_ENTRIES);
/// How long a barrier waits for threads that may never come, ns.
const BARRIER_LIMIT_NS: u64 = 2_000_000;
/// How long threads wait for each other before the first op, ns.
const START_LIMIT_NS: u64 = 5_000_000;

/// Handle to the shared control block.
#[derive(Clone, Copy)]
pub struct Control(Mapping);

impl Control {
    /// A fresh block; children forked later share it.
    pub fn new() -> io::Result<Control> {
        Ok(Control(Mapping::anonymous(COVER + N_THREADS * COVER_STRIDE)?))
    }

    /// Prepares for a program of `n_threads` threads.
    pub fn reset(&self, n_threads: usize) {
        self.0.write(EPOCH_NS, sys::now_ns());
        for barrier in 0..N_BARRIERS {
            self.0.write::<u32>(BARRIERS + 4 * barrier, 0);
        }
        self.0.write::<u32>(N_LIVE, n_threads as u32);
        self.0.write::<u32>(STARTED, 0);
        for thread in 0..N_THREADS {
            self.set_op_started(thread, 0);
            self.0.write::<u32>(COVER + thread * COVER_STRIDE, 0);
            for op in 0..OPS_MAX {
                self.set_record(thread, op, OpRecord { result: OpRecord::NOT_RUN, ..OpRecord::default() });
            }
        }
    }

    /// Waits for the other threads of the program before the first op.
    pub fn start_line(&self) {
        let started = self.0.atomic_u32(STARTED);
        started.fetch_add(1, Ordering::SeqCst);
        sys::wait_for(started, self.0.read(N_LIVE), START_LIMIT_NS);
    }

    /// Waits at a barrier; whether everybody came.
    pub fn barrier(&self, id: usize) -> bool {
        let arrivals = self.0.atomic_u32(BARRIERS + 4 * (id % N_BARRIERS));
        let n = self.0.read::<u32>(N_LIVE).max(1);
        let mine = arrivals.fetch_add(1, Ordering::SeqCst);
        sys::wait_for(arrivals, (mine / n + 1) * n, BARRIER_LIMIT_NS)
    }

    /// Guest time at which the op in flight began; 0: none.
    pub fn op_started(&self, thread: usize) -> u64 {
        self.0.read(OP_STARTED_NS + 8 * thread)
    }

    /// Sets what [`Control::op_started`] returns.
    pub fn set_op_started(&self, thread: usize, ns: u64) {
        self.0.write(OP_STARTED_NS + 8 * thread, ns);
    }

    /// What became of an op.
    pub fn record(&self, thread: usize, op: usize) -> OpRecord {
        self.0.read(RECORDS + size_of::<OpRecord>() * (thread * OPS_MAX + op))
    }

    /// Stores what [`Control::record`] returns.
    pub fn set_record(&self, thread: usize, op: usize, record: OpRecord) {
        self.0.write(RECORDS + size_of::<OpRecord>() * (thread * OPS_MAX + op), record);
    }

    /// When the program began, guest time in ns: what the times of its ops are counted from.
    pub fn epoch_ns(&self) -> u64 {
        self.0.read(EPOCH_NS)
    }

    /// Stores a thread's coverage as `index << 16 | count` records.
    pub fn set_cover(&self, thread: usize, records: impl Iterator<Item = u32>) {
        let base = COVER + thread * COVER_STRIDE;
        let mut n = 0;
        for record in records.take(MAP_ENTRIES) {
            n += 1;
            self.0.write(base + 4 * n, record);
        }
        self.0.write(base, n as u32);
    }

    /// A thread's coverage.
    pub fn cover(&self, thread: usize) -> impl Iterator<Item = u32> + '_ {
        let base = COVER + thread * COVER_STRIDE;
        let n = (self.0.read::<u32>(base) as usize).min(MAP_ENTRIES);
        (1..=n).map(move |i| self.0.read(base + 4 * i))
    }
}
