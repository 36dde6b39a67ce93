// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guests made of a small deterministic model instead of a kernel. The loop is under test here; real guests are tested
//! where they live.

use std::{collections::BTreeMap, time::Duration};

use abi::layout::{alloc_flag, kind, lru_mode};
use anyhow::Result;
use fuzz::guests::{Guests, Provenance};
use harness::{
    epoch::{Epoch, EpochEnd, EpochOutcome, OpOutcome, ProgramOutcome},
    oracle::Report,
    program::{Program, Schedule},
};

/// Title of the bug that takes a life: memcg-aware, an item filed by memcg, that group reclaimed, freed.
pub const HANG: &str = "INFO: task hung in shrinker_free";
/// Title of the bug that takes two threads on one slot.
pub const RACE: &str = "KASAN: use-after-free Read in shrink_slab";
/// Title of the bug that shows only when the batch is over.
pub const LEAK: &str = "memory leak in shrinker_debugfs_add";

/// Title of what the kernel complains of while it boots.
pub const BOOT: &str = "WARNING in start_kernel";

/// A pool with a model in it.
pub struct FakeGuests {
    waiting: BTreeMap<u64, Epoch>,
    n_submitted: u64,
    /// Epochs answered.
    pub n_answered: u64,
    /// Programs of every epoch that was answered.
    pub sizes: Vec<usize>,
    /// What happens to an epoch of that number in place of being run.
    pub trouble: fn(u64) -> Trouble,
}

/// What happens to an epoch.
pub enum Trouble {
    /// It runs.
    None,
    /// QEMU dies.
    Machine,
    /// It runs, in a guest whose kernel complained while it booted.
    Boot,
    /// The kernel complains while it boots, and does not get ready.
    NoBoot,
    /// The whole fuzzer is killed.
    Kill,
}

impl FakeGuests {
    pub fn new(trouble: fn(u64) -> Trouble) -> FakeGuests {
        FakeGuests { waiting: BTreeMap::new(), n_submitted: 0, n_answered: 0, sizes: Vec::new(), trouble }
    }

    pub fn healthy() -> FakeGuests {
        FakeGuests::new(|_| Trouble::None)
    }
}

impl Guests for FakeGuests {
    fn submit(&mut self, epoch: Epoch) -> Result<u64> {
        let schedule = epoch.programs[0].schedule;
        assert!(epoch.programs.iter().all(|program| program.schedule == schedule), "one schedule an epoch");
        self.n_submitted += 1;
        self.waiting.insert(self.n_submitted, epoch);
        Ok(self.n_submitted)
    }

    fn answer(&mut self, number: u64, _wait: Duration) -> Result<Option<EpochOutcome>> {
        let Some(epoch) = self.waiting.remove(&number) else { return Ok(None) };
        self.n_answered += 1;
        self.sizes.push(epoch.programs.len());
        match (self.trouble)(self.n_answered) {
            Trouble::None => Ok(Some(run(&epoch))),
            Trouble::Boot => Ok(Some(EpochOutcome { boot: boot(), ..run(&epoch) })),
            Trouble::NoBoot => {
                let outcome = outcome(EpochEnd::Machine("not ready".into()), &epoch, String::new());
                Ok(Some(EpochOutcome { boot: boot(), ..outcome }))
            }
            Trouble::Kill => panic!("killed"),
            Trouble::Machine => {
                let outcome = outcome(EpochEnd::Machine("exit status 1".into()), &epoch, String::new());
                Ok(Some(EpochOutcome { in_flight: Some(0), ..outcome }))
            }
        }
    }

    fn cancel(&mut self) {
        self.waiting.clear();
    }

    fn provenance(&self, schedule: Schedule, _: harness::guest::Leaks) -> Provenance {
        let snapshot = Some(format!("{}-{}", schedule.vcpus, schedule.shift));
        Provenance { instance: "fake".into(), engine: "det".into(), snapshot, ..Provenance::default() }
    }
}

/// Reads the console of a fake guest: a line a complaint.
pub fn judge(console: &[u8]) -> Vec<Report> {
    let text = String::from_utf8_lossy(console);
    let report = |title: &str| {
        let kind = if title == LEAK { "LEAK".into() } else { String::new() };
        Report { title: title.into(), kind, end: console.len(), ..Report::default() }
    };
    text.lines().filter_map(|line| line.strip_prefix("complaint: ")).map(report).collect()
}

fn boot() -> Vec<u8> {
    format!("complaint: {BOOT}\n").into_bytes()
}

fn outcome(end: EpochEnd, epoch: &Epoch, console: String) -> EpochOutcome {
    EpochOutcome {
        end,
        console: console.into_bytes(),
        boot: Vec::new(),
        programs: vec![ProgramOutcome::default(); epoch.programs.len()],
        in_flight: None,
        wall: Duration::from_millis(2 * epoch.programs.len() as u64),
        in_guest: Duration::from_millis(epoch.programs.len() as u64),
    }
}

fn run(epoch: &Epoch) -> EpochOutcome {
    let mut out = outcome(EpochEnd::Done, epoch, String::new());
    let mut leaked = false;
    for (idx, program) in epoch.programs.iter().enumerate() {
        let (bug, result) = execute(program);
        out.programs[idx] = ProgramOutcome { finished: bug.is_none(), ..result };
        if let Some(title) = bug {
            out.end = EpochEnd::Kernel;
            out.console = format!("complaint: {title}\n").into_bytes();
            out.in_flight = Some(idx);
            return out;
        }
        leaked |= leaks(program);
    }
    if epoch.leak_scan && leaked {
        out.end = EpochEnd::Kernel;
        out.console = format!("complaint: {LEAK}\n").into_bytes();
        // What the agent looked at last, as real guests say it.
        out.in_flight = Some(epoch.programs.len() - 1);
    }
    out
}

fn leaks(program: &Program) -> bool {
    let ops = program.threads.iter().flat_map(|thread| &thread.ops);
    ops.filter(|op| [kind::DEBUGFS_WALK, kind::DEBUGFS_COUNT, kind::DEBUGFS_SCAN].contains(&op.kind)).count()
        >= 3
}

#[derive(Default)]
struct Slot {
    flags: u32,
    is_registered: bool,
    filed_by_memcg: bool,
    is_reclaimed: bool,
    registered_by: usize,
}

/// Threads run one after the other; edges are pairs of op kinds.
fn execute(program: &Program) -> (Option<&'static str>, ProgramOutcome) {
    let mut slots: BTreeMap<u8, Slot> = BTreeMap::new();
    let mut edges: BTreeMap<u16, u16> = BTreeMap::new();
    let mut results = Vec::new();
    let mut bug = None;
    for (t, thread) in program.threads.iter().enumerate() {
        let mut last = 0_u8;
        for op in &thread.ops {
            *edges.entry(u16::from(last) << 8 | u16::from(op.kind)).or_default() += 1;
            last = op.kind;
            let worked = step(&mut slots, t, op, &mut bug);
            results.push(Some(OpOutcome { result: if worked { 0 } else { -11 }, ..OpOutcome::default() }));
        }
    }
    let result = ProgramOutcome {
        started: true,
        n_ops: results.len() as u32,
        guest_time: Duration::from_micros(10 * results.len() as u64),
        cover: edges.into_iter().collect(),
        ops: results,
        ..ProgramOutcome::default()
    };
    (bug, result)
}

fn step(
    slots: &mut BTreeMap<u8, Slot>,
    thread: usize,
    op: &abi::layout::Op,
    bug: &mut Option<&'static str>,
) -> bool {
    match op.kind {
        kind::ALLOC => {
            let is_free = !slots.contains_key(&op.slot);
            slots.entry(op.slot).or_insert(Slot { flags: op.a, ..Slot::default() });
            is_free
        }
        kind::REGISTER => match slots.get_mut(&op.slot) {
            Some(slot) if !slot.is_registered => {
                (slot.is_registered, slot.registered_by) = (true, thread);
                true
            }
            _ => false,
        },
        kind::LRU_ADD => match slots.get_mut(&op.slot) {
            Some(slot) if slot.flags & alloc_flag::MEMCG != 0 => {
                slot.filed_by_memcg |= op.a == lru_mode::MEMCG && slot.is_registered;
                true
            }
            _ => false,
        },
        kind::MEMCG_RECLAIM => {
            slots.values_mut().for_each(|slot| slot.is_reclaimed |= slot.filed_by_memcg);
            true
        }
        kind::FREE => match slots.remove(&op.slot) {
            Some(slot) => {
                if slot.is_reclaimed && slot.flags & alloc_flag::NONSLAB == 0 {
                    *bug = bug.or(Some(HANG));
                } else if slot.is_registered && slot.registered_by != thread && slot.flags == alloc_flag::NUMA
                {
                    *bug = bug.or(Some(RACE));
                }
                true
            }
            None => false,
        },
        _ => true,
    }
}
