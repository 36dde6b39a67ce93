// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the blocks that ran to the functions that were entered: what the checks of a debugging kernel do besides is left out,
//! and what comes after the report begins.

use std::collections::{HashMap, VecDeque};

use harness::{exec_log::Block, symbolize::layout::Function};

/// Entries kept; older ones are forgotten.
const ENTRIES_MAX: usize = 1 << 18;

/// Where a report begins.
const REPORTERS: &[&str] = &[
    "kasan_report",
    "kasan_report_invalid_free",
    "kfence_report_error",
    "kcsan_report_known_origin",
    "kcsan_report_unknown_origin",
    "__warn",
    "__report_bug",
    "oops_begin",
    "die",
    "die_addr",
    "slab_bug",
    "object_err",
    "bad_page",
    "print_circular_bug",
    "print_usage_bug",
    "print_deadlock_bug",
    "print_bad_irq_dependency",
    "print_unlock_imbalance_bug",
    "spin_dump",
    "__schedule_bug",
    "debug_print_object",
    "sched_show_task",
    "dump_stack",
    "dump_stack_lvl",
    "panic",
    "vpanic",
];

/// Source files of what looks at the kernel rather than being looked at.
const NOISE_FILES: &[&str] = &[
    "mm/kasan/",
    "mm/kfence/",
    "mm/kmemleak.c",
    "mm/page_ext.c",
    "mm/page_owner.c",
    "kernel/kcov.c",
    "kernel/kcsan/",
    "kernel/locking/lockdep",
    "kernel/trace/",
    "kernel/stacktrace.c",
    "kernel/extable.c",
    "kernel/context_tracking.c",
    "kernel/rcu/update.c",
    "lib/stackdepot.c",
    "lib/debugobjects.c",
    "lib/smp_processor_id.c",
    "lib/string",
    "lib/bug.c",
    "lib/list_debug.c",
    "arch/x86/kernel/stacktrace.c",
    "arch/x86/kernel/unwind_",
    "arch/x86/lib/",
    "arch/x86/mm/physaddr.c",
    "arch/x86/kernel/dumpstack.c",
    "kernel/locking/irqflag-debug.c",
    "include/",
];

/// Functions likewise, of other files.
const NOISE: &[&str] = &[
    "__asan_",
    "__kasan_",
    "__sanitizer_",
    "__tsan_",
    "__ubsan_",
    "__might_resched",
    "__might_sleep",
    "__might_fault",
    "debug_lockdep_",
    "rcu_read_lock_",
    "rcu_is_watching",
    "rcu_lockdep_",
    "preempt_count_",
    "in_task_stack",
    "get_stack_info",
    "is_module_",
    "__module_",
    "is_bpf_",
    "core_kernel_text",
    "kernel_text_address",
    "__kernel_text",
    "memset",
    "memcpy",
    "memmove",
    "__memset",
    "__memcpy",
    "ret_from_",
    "__x86_",
    "srso_",
    "entry_ibpb",
    "should_fail",
    "irqentry_",
    "in_lock_functions",
    "mod_find",
    "__cond_resched",
];

/// A function was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of the vCPU.
    pub cpu: u32,
    /// Index into [`Recorder::functions`].
    pub function: usize,
    /// How often it had been entered, on whichever vCPU, this time included: with the function the coordinate of a moment.
    pub kth: u64,
    /// How often it was entered with nothing else in between.
    pub times: u64,
}

/// Takes block after block.
pub struct Recorder<'a> {
    lookup: &'a (dyn Fn(u64) -> Option<Function> + Sync),
    known: HashMap<u64, Option<usize>>,
    kinds: Vec<Kind>,
    counts: Vec<u64>,
    /// Functions that were entered, and where they begin.
    pub functions: Vec<(u64, Function)>,
    /// What was entered, the oldest first.
    pub entries: VecDeque<Entry>,
    /// The entry that begins the report.
    pub report: Option<Entry>,
    /// Blocks that ran.
    pub n_blocks: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Noise,
    Reporter,
}

impl<'a> Recorder<'a> {
    /// `lookup`: the function that begins at an address.
    pub fn new(lookup: &'a (dyn Fn(u64) -> Option<Function> + Sync)) -> Recorder<'a> {
        Recorder {
            lookup,
            known: HashMap::new(),
            kinds: Vec::new(),
            counts: Vec::new(),
            functions: Vec::new(),
            entries: VecDeque::new(),
            report: None,
            n_blocks: 0,
        }
    }

    /// The next block.
    pub fn block(&mut self, block: Block) {
        self.n_blocks += 1;
        if self.report.is_some() {
            return;
        }
        let Some(function) = self.function(block.pc) else { return };
        self.counts[function] += 1;
        let entry = Entry { cpu: block.cpu, function, kth: self.counts[function], times: 1 };
        match (self.kinds[function], self.entries.back_mut()) {
            (Kind::Noise, _) => {}
            (Kind::Reporter, _) => self.report = Some(entry),
            (Kind::Plain, Some(last)) if (last.cpu, last.function) == (entry.cpu, function) => {
                last.times += 1;
            }
            (Kind::Plain, _) => {
                if self.entries.len() == ENTRIES_MAX {
                    self.entries.pop_front();
                }
                self.entries.push_back(entry);
            }
        }
    }

    fn function(&mut self, pc: u64) -> Option<usize> {
        if let Some(known) = self.known.get(&pc) {
            return *known;
        }
        let found = (self.lookup)(pc).map(|function| {
            self.kinds.push(kind(&function));
            self.counts.push(0);
            self.functions.push((pc, function));
            self.functions.len() - 1
        });
        self.known.insert(pc, found);
        found
    }

    /// The index in [`Self::entries`] of the last call of a function that came from another: of the two innermost functions
    /// of a stack of the past.
    pub fn last_call(&self, symbol: &str, caller: Option<&str>) -> Option<usize> {
        let is = |entry: &Entry, symbol: &str| self.functions[entry.function].1.symbol == symbol;
        (0..self.entries.len()).rev().find(|&at| {
            let entry = &self.entries[at];
            let called = |caller: &str| {
                let mut before = self.entries.range(..at).rev().filter(|other| other.cpu == entry.cpu);
                before.any(|other| is(other, caller))
            };
            is(entry, symbol) && caller.is_none_or(called)
        })
    }
}

fn kind(function: &Function) -> Kind {
    let name = function.name.as_str();
    if REPORTERS.contains(&name) {
        Kind::Reporter
    } else if NOISE_FILES.iter().any(|file| function.file.starts_with(file))
        || NOISE.iter().any(|noise| name.starts_with(noise))
    {
        Kind::Noise
    } else {
        Kind::Plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(pc: u64) -> Option<Function> {
        let (name, file) = match pc {
            1 => ("kfree", "mm/slub.c"),
            2 => ("kasan_save_stack", "mm/kasan/common.c"),
            3 => ("kasan_report", "mm/kasan/report.c"),
            4 => ("shrink_slab", "mm/shrinker.c"),
            5 => ("other", "mm/other.c"),
            _ => return None,
        };
        Some(Function { name: name.into(), symbol: name.into(), file: file.into(), ..Function::default() })
    }

    fn record(blocks: &[(u32, u64)]) -> Vec<(u32, String, u64, u64)> {
        let mut recorder = Recorder::new(&lookup);
        blocks.iter().for_each(|&(cpu, pc)| recorder.block(Block { cpu, pc }));
        let name = |entry: &Entry| recorder.functions[entry.function].1.name.clone();
        recorder.entries.iter().map(|entry| (entry.cpu, name(entry), entry.kth, entry.times)).collect()
    }

    #[test]
    fn functions_are_kept_in_order_and_noise_and_what_follows_the_report_are_not() {
        let blocks = [(0, 4), (0, 9), (0, 2), (1, 1), (1, 1), (1, 2), (1, 1), (0, 1), (0, 3), (0, 4)];
        let expected = [(0, "shrink_slab", 1, 1), (1, "kfree", 1, 3), (0, "kfree", 4, 1)];
        let expected = expected.map(|(cpu, name, kth, times)| (cpu, name.to_owned(), kth, times));
        assert_eq!(record(&blocks), expected);
    }

    #[test]
    fn the_call_that_a_stack_of_the_past_tells_of_is_the_last_of_that_kind() {
        let mut recorder = Recorder::new(&lookup);
        for (cpu, pc) in [(0, 4), (0, 1), (1, 5), (1, 1), (0, 5), (2, 1)] {
            recorder.block(Block { cpu, pc });
        }
        assert_eq!(recorder.last_call("kfree", Some("shrink_slab")), Some(1));
        assert_eq!(recorder.last_call("kfree", Some("other")), Some(3));
        assert_eq!(recorder.last_call("kfree", None), Some(5));
        assert_eq!(recorder.last_call("nonesuch", None), None);
    }
}
