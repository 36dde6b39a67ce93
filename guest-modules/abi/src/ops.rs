// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The op table: every op, its arguments and their ranges. Text form, generator, mutators, `fixup` and `OPS.md` are
//! driven by it, so adding an op is one entry here and one arm where it is executed (agent or module).

mod args;
mod caches;
mod debugfs;
mod groups;
mod lists;
mod reclaim;
mod shrinkers;
mod timing;
mod trees;

use crate::layout::{Op, kind};

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
    /// Which of so many things of a kind: cache, handle, mount point. Ops of a program mostly mean the same few.
    Place(u32),
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
    /// Takes a debugging kernel 20 to 250 ms of processor time where others take one to five: the generator leaves it
    /// out of more programs and keeps its sizes small.
    pub is_dear: bool,
    /// Arguments in the order of the text form.
    pub args: &'static [ArgSpec],
    /// What it does, in words for a report; `{name}` stands for an argument.
    pub doc: &'static str,
}

/// An op that is not dear.
const fn op(
    kind: u8,
    name: &'static str,
    weight: u32,
    args: &'static [ArgSpec],
    doc: &'static str,
) -> OpSpec {
    OpSpec { kind, name, weight, is_dear: false, args, doc }
}

impl OpSpec {
    const fn dear(self) -> OpSpec {
        OpSpec { is_dear: true, ..self }
    }
}

/// Every op there is, by topic.
pub static TOPICS: &[(&str, &[OpSpec])] = &[
    ("Shrinkers", shrinkers::OPS),
    ("list_lru", lists::OPS),
    ("Memory cgroups", groups::OPS),
    ("Reclaim", reclaim::OPS),
    ("debugfs", debugfs::OPS),
    ("Superblocks", trees::OPS),
    ("Slab caches", caches::OPS),
    ("Time, place, failure", timing::OPS),
];

/// Every op there is.
pub static OPS: &[OpSpec] = &JOINED;

const N_OPS: usize = {
    let (mut n, mut topic) = (0, 0);
    while topic < TOPICS.len() {
        n += TOPICS[topic].1.len();
        topic += 1;
    }
    n
};

static JOINED: [OpSpec; N_OPS] = {
    let mut joined = [shrinkers::OPS[0]; N_OPS];
    let (mut n, mut topic) = (0, 0);
    while topic < TOPICS.len() {
        let mut idx = 0;
        while idx < TOPICS[topic].1.len() {
            joined[n] = TOPICS[topic].1[idx];
            n += 1;
            idx += 1;
        }
        topic += 1;
    }
    joined
};

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
            Domain::Place(n) => (0, *n - 1),
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
