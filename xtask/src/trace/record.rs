// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the blocks that ran to the functions that were entered: what the checks of a debugging kernel do besides is left out,
//! and what comes after the report begins.

use std::collections::{HashMap, VecDeque};

use harness::{exec_log::Block, symbolize::layout::Function};

/// Entries kept; older ones are forgotten.
const ENTRIES_MAX: usize = 1 << 18;

/// Where a report begins.
pub const REPORTERS: &[&str] = &[
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
    "__rcu_read_",
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
    "do_raw_",
    "fs_reclaim_",
    "__printk_deferred_",
    "__cant_",
    "slab_obj_exts",
    "fixup_red_left",
];

/// A place in a function: its index in [`Recorder::functions`], and the offset.
pub type Place = (usize, u64);

/// The function that an address is in, and where in it.
pub type Lookup<'a> = &'a dyn Fn(u64) -> Option<(Function, u64)>;

/// A function was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of the vCPU.
    pub cpu: u32,
    /// Index into [`Recorder::functions`].
    pub function: usize,
    /// The code that ran before it on that vCPU: a call, or what was interrupted.
    pub from: Option<Place>,
    /// How often it had been entered, on whichever vCPU, this time included: with the function the coordinate of a moment.
    pub kth: u64,
    /// How often it was entered, from the same place, with nothing else and nothing new in between.
    pub times: u64,
    /// The last block up to this one that had never run before: a breakpoint there stops the run for the first time in it.
    pub anchor: u64,
}

impl Entry {
    fn is_repeated_by(&self, next: &Entry) -> bool {
        let what = |entry: &Entry| (entry.cpu, entry.function, entry.from, entry.anchor);
        what(self) == what(next)
    }
}

/// Takes block after block.
#[derive(Default)]
pub struct Recorder {
    /// Places by address.
    places: HashMap<u64, Option<Place>>,
    /// Functions by where they begin.
    starts: HashMap<u64, usize>,
    kinds: Vec<Kind>,
    counts: Vec<u64>,
    /// The last block that had never run before.
    anchor: u64,
    /// Where each vCPU was last.
    last: HashMap<u32, Place>,
    /// Functions that ran, and where they begin.
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
    /// Not told.
    Noise,
    /// Not told, nor what it calls.
    Check,
    Reporter,
}

impl Recorder {
    /// The next block.
    pub fn block(&mut self, block: Block, lookup: Lookup<'_>) {
        self.n_blocks += 1;
        if self.report.is_some() {
            return;
        }
        let Some((function, offset)) = self.place(block.pc, lookup) else { return };
        let from = self.last.insert(block.cpu, (function, offset));
        if offset == 0 {
            self.enter(block.cpu, function, from);
        }
    }

    fn enter(&mut self, cpu: u32, function: usize, from: Option<Place>) {
        self.counts[function] += 1;
        let entry = Entry { cpu, function, from, kth: self.counts[function], times: 1, anchor: self.anchor };
        let is_check = from.is_some_and(|(caller, _)| self.kinds[caller] == Kind::Check);
        match (self.kinds[function], self.entries.back_mut()) {
            (Kind::Reporter, _) => self.report = Some(entry),
            (Kind::Noise | Kind::Check, _) => {}
            (Kind::Plain, _) if is_check => {}
            (Kind::Plain, Some(last)) if last.is_repeated_by(&entry) => last.times += 1,
            (Kind::Plain, _) => {
                if self.entries.len() == ENTRIES_MAX {
                    self.entries.pop_front();
                }
                self.entries.push_back(entry);
            }
        }
    }

    fn place(&mut self, pc: u64, lookup: Lookup<'_>) -> Option<Place> {
        if let Some(known) = self.places.get(&pc) {
            return *known;
        }
        self.anchor = pc;
        let found = lookup(pc).map(|(function, offset)| {
            let start = pc - offset;
            let idx = *self.starts.entry(start).or_insert_with(|| {
                self.kinds.push(kind(&function));
                self.counts.push(0);
                self.functions.push((start, function));
                self.functions.len() - 1
            });
            (idx, offset)
        });
        self.places.insert(pc, found);
        found
    }

    /// The index in [`Self::entries`] of the k-th entry of a function.
    pub fn nth_entry(&self, symbol: &str, k: u64) -> Option<usize> {
        let is = |entry: &Entry| {
            (entry.kth..entry.kth + entry.times).contains(&k)
                && self.functions[entry.function].1.symbol == symbol
        };
        self.entries.iter().position(is)
    }

    /// How often the function of an entry is entered between its anchor and the entry.
    pub fn since_anchor(&self, at: usize) -> u64 {
        let entry = &self.entries[at];
        let before = self.entries.range(..at).rev().take_while(|other| other.anchor == entry.anchor);
        before.filter(|other| other.function == entry.function).map(|other| other.times).sum()
    }

    /// The index in [`Self::entries`] of the last call of a function, of those from `caller` if there is any.
    pub fn last_call(&self, symbol: &str, caller: &str) -> Option<usize> {
        let is = |function: usize, symbol: &str| self.functions[function].1.symbol == symbol;
        let from = |entry: &Entry| entry.from.is_some_and(|(function, _)| is(function, caller));
        let called = self.entries.iter().rposition(|entry| is(entry.function, symbol) && from(entry));
        called.or_else(|| self.entries.iter().rposition(|entry| is(entry.function, symbol)))
    }
}

fn kind(function: &Function) -> Kind {
    let name = function.name.as_str();
    if REPORTERS.contains(&name) {
        Kind::Reporter
    } else if NOISE_FILES.iter().any(|file| function.file.starts_with(file)) {
        Kind::Check
    } else if NOISE.iter().any(|noise| name.starts_with(noise)) {
        Kind::Noise
    } else {
        Kind::Plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Functions of 16 bytes.
    fn lookup(pc: u64) -> Option<(Function, u64)> {
        let (name, file) = match pc >> 4 {
            1 => ("kfree", "mm/slub.c"),
            2 => ("kasan_save_stack", "mm/kasan/common.c"),
            3 => ("kasan_report", "mm/kasan/report.c"),
            4 => ("shrink_slab", "mm/shrinker.c"),
            5 => ("other", "mm/other.c"),
            _ => return None,
        };
        let name = name.to_owned();
        Some((Function { symbol: name.clone(), name, file: file.into(), ..Function::default() }, pc & 15))
    }

    fn recorder(blocks: &[(u32, u64)]) -> Recorder {
        let mut recorder = Recorder::default();
        blocks.iter().for_each(|&(cpu, pc)| recorder.block(Block { cpu, pc }, &lookup));
        recorder
    }

    #[test]
    fn functions_are_kept_in_order_and_checks_and_what_follows_the_report_are_not() {
        let blocks = [
            (0, 0x40),
            (0, 0x90),
            (0, 0x44),
            (0, 0x20),
            (0, 0x10),
            (0, 0x24),
            (0, 0x48),
            (1, 0x10),
            (1, 0x18),
            (1, 0x10),
            (1, 0x18),
            (1, 0x10),
            (0, 0x10),
            (0, 0x30),
            (0, 0x40),
        ];
        let recorder = recorder(&blocks);
        let told = |entry: &Entry| {
            let name = recorder.functions[entry.function].1.name.clone();
            let from = entry.from.map(|(caller, at)| format!("{}+{at}", recorder.functions[caller].1.name));
            (entry.cpu, name, from, entry.kth, entry.times)
        };
        let found: Vec<_> = recorder.entries.iter().map(told).collect();
        let from = Some("shrink_slab+8".to_owned());
        let expected = [
            (0, "shrink_slab".to_owned(), None, 1, 1),
            (1, "kfree".to_owned(), None, 2, 1),
            (1, "kfree".to_owned(), Some("kfree+8".to_owned()), 3, 2),
            (0, "kfree".to_owned(), from, 5, 1),
        ];
        assert_eq!(found, expected);
        assert_eq!(recorder.report.as_ref().map(|entry| entry.cpu), Some(0));
    }

    #[test]
    fn the_anchor_of_an_entry_is_the_last_block_that_ran_for_the_first_time() {
        let recorder =
            recorder(&[(0, 0x10), (0, 0x40), (0, 0x10), (0, 0x40), (0, 0x10), (0, 0x48), (0, 0x10)]);
        let anchors: Vec<u64> = recorder.entries.iter().map(|entry| entry.anchor).collect();
        assert_eq!(anchors, [0x10, 0x40, 0x40, 0x40, 0x40, 0x48]);
        assert_eq!([0, 2, 4, 5].map(|at| recorder.since_anchor(at)), [0, 0, 1, 0]);
        assert_eq!([1, 3, 5].map(|k| recorder.nth_entry("kfree", k)), [Some(0), Some(4), None]);
    }

    #[test]
    fn the_call_that_a_stack_of_the_past_tells_of_is_the_last_of_that_kind() {
        let recorder = recorder(&[(0, 0x40), (0, 0x10), (1, 0x50), (1, 0x10), (0, 0x50), (2, 0x10)]);
        assert_eq!(recorder.last_call("kfree", "shrink_slab"), Some(1));
        assert_eq!(recorder.last_call("kfree", "other"), Some(3));
        assert_eq!(recorder.last_call("kfree", "nonesuch"), Some(5));
        assert_eq!(recorder.last_call("nonesuch", "other"), None);
    }
}
