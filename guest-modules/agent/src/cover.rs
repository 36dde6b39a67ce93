// SPDX-License-Identifier: MIT OR Apache-2.0
//! The edge map of one thread: KCOV's program counters folded as AFL does, plus which op gave which result.

use std::{collections::BTreeSet, hint::black_box};

use abi::{layout::Op, shm::MAP_ENTRIES};

use crate::sys::Kcov;

/// More entries than a program touches as a rule.
const TOUCHED_USUAL: usize = 4096;

/// Hit counts by edge, and which entries are not zero.
pub struct EdgeMap {
    counts: Vec<u16>,
    touched: Vec<u16>,
}

impl EdgeMap {
    /// An empty map, all its pages present: else every epoch faults them in again after the snapshot.
    pub fn new() -> EdgeMap {
        let counts = (0..MAP_ENTRIES).map(|_| black_box(0)).collect();
        EdgeMap { counts, touched: Vec::with_capacity(TOUCHED_USUAL) }
    }

    /// Adds `count` hits to an entry.
    pub fn hit(&mut self, index: u16, count: u16) {
        let entry = &mut self.counts[usize::from(index)];
        if *entry == 0 && count > 0 {
            self.touched.push(index);
        }
        *entry = entry.saturating_add(count);
    }

    /// Folds what KCOV recorded during one op and clears it.
    pub fn fold(&mut self, kcov: &Kcov) {
        let mut previous = 0;
        for pc in kcov.pcs() {
            let current = hash(pc);
            self.hit(current ^ previous, 1);
            previous = current >> 1;
        }
        kcov.clear();
    }

    /// Notes that an op had a result: which errors are reached is coverage too.
    pub fn note_result(&mut self, op: &Op, result: i32) {
        let class = if result > 0 { 1 } else { result };
        self.hit(hash(u64::from(op.kind) << 32 | u64::from(class as u32)), 1);
    }

    /// The records `index << 16 | count`, and forgets them.
    pub fn drain(&mut self) -> impl Iterator<Item = u32> + '_ {
        self.touched.drain(..).map(|index| {
            let count = std::mem::take(&mut self.counts[usize::from(index)]);
            u32::from(index) << 16 | u32::from(count)
        })
    }
}

/// The program counters of one thread, low halves, each once: for reports, not for fuzzing.
#[derive(Default)]
pub struct PcSet(BTreeSet<u32>);

impl PcSet {
    /// Adds what KCOV recorded during one op and clears it.
    pub fn take(&mut self, kcov: &Kcov) {
        self.0.extend(kcov.pcs().map(|pc| pc as u32));
        kcov.clear();
    }

    /// The program counters, and forgets them.
    pub fn drain(&mut self) -> impl Iterator<Item = u32> + use<> {
        std::mem::take(&mut self.0).into_iter()
    }
}

/// Fibonacci hashing to 16 bits.
fn hash(value: u64) -> u16 {
    (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u16
}
