// SPDX-License-Identifier: MIT OR Apache-2.0
//! An epoch: a batch of programs handed to a guest, and what became of it. Plain data; both engines speak it.

use std::time::Duration;

use abi::shm::flag;

use crate::{guest::Leaks, machine::MachineError, program::Program};

/// What a guest is asked to do.
#[derive(Clone, Debug, Default)]
pub struct Epoch {
    /// Programs in order; all have the same schedule.
    pub programs: Vec<Program>,
    /// A canary kind (`abi::layout::canary`) to arm before the first program; 0: none.
    pub canary: u32,
    /// Scan for leaked memory after the last program.
    pub leak_scan: bool,
    /// What to bring back of what the programs covered.
    pub coverage: Coverage,
}

/// What coverage tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coverage {
    /// The fuzzer's edge map.
    #[default]
    Edges,
    /// Program counters, which have names.
    Pcs,
}

impl Epoch {
    /// The kind of guest this epoch needs.
    pub fn leaks(&self) -> Leaks {
        Leaks::of_scan(self.leak_scan)
    }

    /// What it asks of the agent, as bits of `abi::shm::flag`.
    pub fn flags(&self) -> u32 {
        let leaks = if self.leak_scan { flag::LEAK_SCAN } else { 0 };
        leaks | if self.coverage == Coverage::Pcs { flag::PCS } else { 0 }
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct EpochOutcome {
    /// How it ended.
    pub end: EpochEnd,
    /// Everything the guest printed during the epoch.
    pub console: Vec<u8>,
    /// What it printed before, while it booted. Told once for each boot; empty otherwise.
    pub boot: Vec<u8>,
    /// One per program of the batch, in order; programs that were not reached included.
    pub programs: Vec<ProgramOutcome>,
    /// Index of the program in flight when the epoch ended early.
    pub in_flight: Option<usize>,
    /// Wall time from the request to the answer.
    pub wall: Duration,
    /// Wall time in which the guest ran programs (as opposed to being started, restored, torn down).
    pub in_guest: Duration,
}

impl EpochOutcome {
    /// The outcome of an epoch of `n` programs that never ran, for want of a machine.
    pub fn no_machine(error: MachineError, n: usize) -> EpochOutcome {
        let why = error.to_string();
        let boot = match error {
            MachineError::NotReady { console, .. } | MachineError::NotRun { console, .. } => console,
            _ => Vec::new(),
        };
        EpochOutcome { boot, ..EpochOutcome::failed(EpochEnd::Machine(why), n) }
    }

    /// The outcome of an epoch of `n` programs that never ran.
    pub fn failed(end: EpochEnd, n: usize) -> EpochOutcome {
        EpochOutcome {
            end,
            console: Vec::new(),
            boot: Vec::new(),
            programs: vec![ProgramOutcome::default(); n],
            in_flight: None,
            wall: Duration::ZERO,
            in_guest: Duration::ZERO,
        }
    }
}

/// How an epoch ended. Whose fault it is, is in the type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EpochEnd {
    /// Every program ran.
    Done,
    /// The kernel complained, panicked or hung; the console says what.
    Kernel,
    /// An op passed its deadline of guest time; blocked tasks are on the console.
    Deadline,
    /// The guest stopped answering within its wall-clock limit: silent lockup, or a host that is far too slow.
    Lost(String),
    /// The agent reported a failure of its own (`HARNESSFAIL:`).
    Harness(String),
    /// QEMU died or could not be talked to.
    Machine(String),
}

/// What became of one program.
#[derive(Clone, Debug, Default)]
pub struct ProgramOutcome {
    /// It was begun.
    pub started: bool,
    /// It ran to its end.
    pub finished: bool,
    /// Ops executed.
    pub n_ops: u32,
    /// Ops that returned an error.
    pub n_errors: u32,
    /// Guest time it took.
    pub guest_time: Duration,
    /// Coverage: (index into the edge map of `abi::shm::MAP_ENTRIES` entries, hit count), each index once.
    pub cover: Vec<(u16, u16)>,
    /// Low halves of the program counters covered, sorted, each once; with [`Coverage::Pcs`], and then `cover` is empty.
    pub pcs: Vec<u32>,
    /// Each op, thread after thread; `None` when it did not run to its end.
    pub ops: Vec<Option<OpOutcome>>,
    /// What callbacks saw: numbers of `abi::layout::situation`, sorted, each once.
    pub situations: Vec<u16>,
}

/// What became of one op.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpOutcome {
    /// What it returned; negative: an errno.
    pub result: i32,
    /// When it began, ns of guest time since the program did. Later than 4.3 s is not told apart.
    pub start_ns: u32,
    /// When it ended, likewise.
    pub end_ns: u32,
    /// Instrumented basic blocks that it entered.
    pub n_edges: u32,
    /// How often it woke another thread of the program.
    pub n_wakes: u32,
}
