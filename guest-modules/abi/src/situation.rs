// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Situations that callbacks see and coverage of code does not tell: who called which kind of shrinker in which state, and
//! how much deferred work there was. Each is a number below [`SITUATIONS`].

/// Situations that can be told apart.
pub const SITUATIONS: usize = 4096;
/// Words of a set of them.
pub const WORDS: usize = SITUATIONS / 64;

/// What [`super::ioc::SITUATIONS`] fills: bit `n % 64` of word `n / 64` for each situation seen since the last time.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The set.
    pub words: [u64; WORDS],
}

impl Default for Seen {
    fn default() -> Self {
        Seen { words: [0; WORDS] }
    }
}

impl Seen {
    /// The situations, in order.
    pub fn all(&self) -> impl Iterator<Item = u32> + '_ {
        (0..SITUATIONS as u32).filter(|n| self.words[*n as usize / 64] >> (n % 64) & 1 != 0)
    }
}

/// Who calls a callback.
#[derive(Clone, Copy)]
pub enum Context {
    /// kswapd, or another thread of the kernel that reclaims.
    Background,
    /// Reclaim by a task that allocates, for the whole machine.
    Direct,
    /// Reclaim for a memcg: its limits, `memory.reclaim`.
    Memcg,
    /// `drop_caches`.
    DropSlab,
    /// A debugfs file.
    Debugfs,
    /// Not known.
    Other,
}

/// What a callback answers.
#[derive(Clone, Copy)]
pub enum Answer {
    /// `count_objects`: some.
    Some,
    /// `count_objects`: 0, "cannot tell".
    Zero,
    /// `count_objects`: `SHRINK_EMPTY`.
    Empty,
    /// `scan_objects`: some were freed.
    Freed,
    /// `scan_objects`: none was.
    Kept,
    /// `scan_objects`: `SHRINK_STOP`.
    Stop,
}

/// A call of a callback.
#[derive(Clone, Copy)]
pub struct Call {
    /// Who.
    pub context: Context,
    /// What it answers.
    pub answer: Answer,
    /// Kind of shrinker: bit 0 NUMA-aware, 1 memcg-aware, 2 non-slab.
    pub kind: u32,
    /// Somebody has begun to free the shrinker.
    pub dying: bool,
    /// Another callback of the shrinker is running.
    pub in_company: bool,
    /// The pass has scanned before.
    pub again: bool,
}

impl Call {
    /// Its number.
    pub const fn number(self) -> u32 {
        let bits = self.dying as u32 | (self.in_company as u32) << 1 | (self.again as u32) << 2;
        ((self.context as u32 * 8 + self.answer as u32) * 8 + (self.kind & 7)) * 8 + bits
    }
}

/// The number of "a shrinker of that kind has so much deferred work on a node"; amounts are told apart by their length in
/// bits.
pub const fn deferred(kind: u32, nid: usize, n: u64) -> u32 {
    let length = 64 - n.leading_zeros();
    let length = if length > 15 { 15 } else { length };
    const CONTEXTS: u32 = 6;
    (CONTEXTS * 8 * 8 * 8) + (((kind & 7) * 2 + (nid as u32 & 1)) * 16 + length)
}

const _: () = {
    let call = Call {
        context: Context::Other,
        answer: Answer::Stop,
        kind: 7,
        dying: true,
        in_company: true,
        again: true,
    };
    assert!(call.number() < deferred(0, 0, 0) && (deferred(7, 1, u64::MAX) as usize) < SITUATIONS);
    assert!(size_of::<Seen>() == SITUATIONS / 8);
};
