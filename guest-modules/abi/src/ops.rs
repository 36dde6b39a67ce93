// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The op table: every op, its arguments and their ranges. Text form, generator, mutators and `fixup` are driven by
//! it, so adding an op is one entry here and one arm where it is executed (agent or module).

use crate::layout::{MEMCG_ROOT, N_BARRIERS, N_NODES, N_SLOTS, Op, behave, delay, kind, lru_mode};

/// Which field of [`Op`] an argument lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// [`Op::slot`]
    Slot,
    /// [`Op::memcg`]
    Memcg,
    /// [`Op::nid`]
    Nid,
    /// [`Op::a`]
    A,
    /// [`Op::b`]
    B,
    /// [`Op::c`]
    C,
}

/// How an argument is written and which values it may have.
#[derive(Clone, Copy, Debug)]
pub enum Domain {
    /// A number in `min..=max`.
    Number {
        /// Smallest value.
        min: u32,
        /// Largest value.
        max: u32,
    },
    /// One of the names; the value is its index.
    Name(&'static [&'static str]),
    /// Any of the names joined by `|`, or `0`; bit i is name i.
    Flags(&'static [&'static str]),
}

/// One argument.
#[derive(Clone, Copy, Debug)]
pub struct ArgSpec {
    /// Key in the text form.
    pub name: &'static str,
    /// Where it is stored.
    pub field: Field,
    /// Values.
    pub domain: Domain,
}

/// One op.
#[derive(Clone, Copy, Debug)]
pub struct OpSpec {
    /// A [`kind`] constant.
    pub kind: u8,
    /// First word of the text form.
    pub name: &'static str,
    /// How often the generator picks it, relative to the others.
    pub weight: u32,
    /// Arguments in the order of the text form.
    pub args: &'static [ArgSpec],
    /// What it does, in words for a report; `{name}` stands for an argument.
    pub doc: &'static str,
}

const fn number(name: &'static str, field: Field, min: u32, max: u32) -> ArgSpec {
    ArgSpec { name, field, domain: Domain::Number { min, max } }
}
const fn named(name: &'static str, field: Field, names: &'static [&'static str]) -> ArgSpec {
    ArgSpec { name, field, domain: Domain::Name(names) }
}
const SLOT: ArgSpec = number("slot", Field::Slot, 0, N_SLOTS as u32 - 1);
const NID: ArgSpec = number("nid", Field::Nid, 0, N_NODES as u32 - 1);
const GROUP: ArgSpec = number("memcg", Field::Memcg, 0, MEMCG_ROOT as u32 - 1);
const MEMCG: ArgSpec = named("memcg", Field::Memcg, &["0", "1", "2", "3", "root"]);
const BEHAVE: ArgSpec = named("returns", Field::A, &["honest", "zero", "stop", "lie", "half"]);
const DELAY: ArgSpec = named("delay", Field::B, &["none", "sleep", "spin", "yield", "alloc"]);
const DELAY_NS: ArgSpec = number("ns", Field::C, 0, 500_000);

/// Every op there is, by kind.
pub static OPS: &[OpSpec] = &[
    OpSpec {
        kind: kind::ALLOC,
        name: "alloc",
        weight: 10,
        args: &[
            SLOT,
            ArgSpec { name: "flags", field: Field::A, domain: Domain::Flags(&["numa", "memcg", "nonslab"]) },
            number("name", Field::B, 0, 7),
        ],
        doc: "shrinker_alloc({flags}) into slot {slot}",
    },
    OpSpec {
        kind: kind::SET_SEEKS,
        name: "set_seeks",
        weight: 2,
        args: &[SLOT, number("seeks", Field::A, 0, 16)],
        doc: "set seeks of the unregistered shrinker in slot {slot} to {seeks}",
    },
    OpSpec {
        kind: kind::SET_BATCH,
        name: "set_batch",
        weight: 2,
        args: &[SLOT, number("batch", Field::A, 0, 4096)],
        doc: "set batch of the unregistered shrinker in slot {slot} to {batch}",
    },
    OpSpec {
        kind: kind::REGISTER,
        name: "register",
        weight: 10,
        args: &[SLOT],
        doc: "shrinker_register() the shrinker in slot {slot}",
    },
    OpSpec {
        kind: kind::FREE,
        name: "free",
        weight: 10,
        args: &[SLOT],
        doc: "shrinker_free() the shrinker in slot {slot}",
    },
    OpSpec {
        kind: kind::ADD_OBJECTS,
        name: "add_objects",
        weight: 6,
        args: &[SLOT, NID, number("n", Field::A, 1, 4096)],
        doc: "the cache of slot {slot} gains {n} objects on node {nid}",
    },
    OpSpec {
        kind: kind::DEL_OBJECTS,
        name: "del_objects",
        weight: 2,
        args: &[SLOT, NID, number("n", Field::A, 1, 4096)],
        doc: "the cache of slot {slot} loses {n} objects on node {nid}",
    },
    OpSpec {
        kind: kind::SET_COUNT,
        name: "set_count",
        weight: 4,
        args: &[SLOT, BEHAVE, DELAY, DELAY_NS],
        doc: "count_objects() of slot {slot} returns {returns} after delay {delay} of {ns} ns",
    },
    OpSpec {
        kind: kind::SET_SCAN,
        name: "set_scan",
        weight: 4,
        args: &[SLOT, BEHAVE, DELAY, DELAY_NS],
        doc: "scan_objects() of slot {slot} returns {returns} after delay {delay} of {ns} ns",
    },
    OpSpec {
        kind: kind::LRU_ADD,
        name: "lru_add",
        weight: 8,
        args: &[SLOT, NID, named("by", Field::A, &["obj", "memcg"]), number("n", Field::B, 1, 16)],
        doc: "list_lru_add() {n} items to the lru of slot {slot}, filed by {by} (node {nid})",
    },
    OpSpec {
        kind: kind::LRU_DEL,
        name: "lru_del",
        weight: 4,
        args: &[SLOT, number("n", Field::A, 1, 16)],
        doc: "list_lru_del_obj() {n} items of slot {slot}",
    },
    OpSpec {
        kind: kind::LRU_WALK,
        name: "lru_walk",
        weight: 2,
        args: &[SLOT, NID, number("n", Field::A, 1, 64)],
        doc: "list_lru_walk_node() over node {nid} of slot {slot}, isolating {n} items",
    },
    OpSpec {
        kind: kind::PREEMPT,
        name: "preempt",
        weight: 4,
        args: &[number("ns", Field::A, 100, 2_000_000), number("hold", Field::B, 0, 200_000)],
        doc: "a timer interrupts this CPU in {ns} ns and holds it for {hold} ns",
    },
    OpSpec {
        kind: kind::MEMCG_CREATE,
        name: "memcg_create",
        weight: 4,
        args: &[GROUP],
        doc: "mkdir of cgroup {memcg}",
    },
    OpSpec {
        kind: kind::MEMCG_REMOVE,
        name: "memcg_remove",
        weight: 3,
        args: &[GROUP],
        doc: "rmdir of cgroup {memcg}",
    },
    OpSpec {
        kind: kind::MEMCG_ENTER,
        name: "memcg_enter",
        weight: 4,
        args: &[MEMCG],
        doc: "this thread moves into cgroup {memcg}",
    },
    OpSpec {
        kind: kind::MEMCG_RECLAIM,
        name: "memcg_reclaim",
        weight: 4,
        // Of the root group it takes a hundred times as long; drop_caches reaches the same shrinkers.
        args: &[GROUP, number("kib", Field::A, 4, 4096)],
        doc: "write {kib} KiB to memory.reclaim of cgroup {memcg}",
    },
    OpSpec {
        kind: kind::MEMCG_MAX,
        name: "memcg_max",
        weight: 1,
        args: &[GROUP, number("kib", Field::A, 512, 4096)],
        doc: "set memory.max of cgroup {memcg} to {kib} KiB",
    },
    OpSpec {
        kind: kind::DROP_CACHES,
        name: "drop_caches",
        weight: 8,
        args: &[named("what", Field::A, &["slab", "pages", "all"])],
        doc: "write to drop_caches ({what})",
    },
    OpSpec {
        kind: kind::PRESSURE,
        name: "pressure",
        weight: 2,
        args: &[number("kib", Field::A, 64, 4096)],
        doc: "touch {kib} KiB of anonymous memory",
    },
    OpSpec {
        kind: kind::FILES,
        name: "files",
        weight: 2,
        args: &[number("n", Field::A, 1, 8)],
        doc: "create and forget {n} files on tmpfs",
    },
    OpSpec {
        kind: kind::DEBUGFS_COUNT,
        name: "debugfs_count",
        weight: 3,
        args: &[SLOT],
        doc: "read the debugfs count file of slot {slot}",
    },
    OpSpec {
        kind: kind::DEBUGFS_SCAN,
        name: "debugfs_scan",
        weight: 3,
        args: &[SLOT, MEMCG, NID, number("n", Field::A, 1, 4096)],
        doc: "debugfs scan of slot {slot}: cgroup {memcg}, node {nid}, {n} objects",
    },
    OpSpec {
        kind: kind::DEBUGFS_WALK,
        name: "debugfs_walk",
        weight: 1,
        args: &[],
        doc: "walk the debugfs tree",
    },
    OpSpec {
        kind: kind::BARRIER,
        name: "barrier",
        weight: 3,
        args: &[number("id", Field::A, 0, N_BARRIERS as u32 - 1)],
        doc: "wait for the other threads at barrier {id}",
    },
    OpSpec {
        kind: kind::SLEEP,
        name: "sleep",
        weight: 2,
        args: &[number("us", Field::A, 1, 5000)],
        doc: "sleep {us} us",
    },
    OpSpec {
        kind: kind::SPIN,
        name: "spin",
        weight: 2,
        args: &[number("us", Field::A, 1, 200)],
        doc: "spin {us} us",
    },
    OpSpec { kind: kind::YIELD, name: "yield", weight: 1, args: &[], doc: "sched_yield()" },
];

const _: () = assert!(behave::N == 5 && delay::N == 5 && lru_mode::N == 2);

/// The entry of an op kind.
pub fn spec(kind: u8) -> Option<&'static OpSpec> {
    OPS.iter().find(|spec| spec.kind == kind)
}

/// The entry of an op name.
pub fn by_name(name: &str) -> Option<&'static OpSpec> {
    OPS.iter().find(|spec| spec.name == name)
}

impl Domain {
    /// Smallest and largest value.
    pub fn range(&self) -> (u32, u32) {
        match self {
            Domain::Number { min, max } => (*min, *max),
            Domain::Name(names) => (0, names.len() as u32 - 1),
            Domain::Flags(names) => (0, (1 << names.len()) - 1),
        }
    }
}

impl Op {
    /// Value of one field.
    pub fn get(&self, field: Field) -> u32 {
        match field {
            Field::Slot => self.slot.into(),
            Field::Memcg => self.memcg.into(),
            Field::Nid => self.nid.into(),
            Field::A => self.a,
            Field::B => self.b,
            Field::C => self.c,
        }
    }

    /// Sets one field; a value too large for a byte field is cut to 255.
    pub fn set(&mut self, field: Field, value: u32) {
        let byte = value.min(255) as u8;
        match field {
            Field::Slot => self.slot = byte,
            Field::Memcg => self.memcg = byte,
            Field::Nid => self.nid = byte,
            Field::A => self.a = value,
            Field::B => self.b = value,
            Field::C => self.c = value,
        }
    }

    /// The same op with every argument in range and every other field zero; an unknown kind becomes `yield`.
    /// Total, deterministic, idempotent: wraps a value that is too large, so mutated bits still matter.
    pub fn fixup(self) -> Op {
        let Some(spec) = spec(self.kind) else {
            return Op { kind: kind::YIELD, ..Op::default() };
        };
        let mut out = Op { kind: self.kind, ..Op::default() };
        for arg in spec.args {
            let (min, max) = arg.domain.range();
            let value = self.get(arg.field);
            let fixed = if (min..=max).contains(&value) { value } else { min + value % (max - min + 1) };
            out.set(arg.field, fixed);
        }
        out
    }
}
