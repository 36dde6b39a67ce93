// SPDX-License-Identifier: GPL-2.0

//! What callbacks saw since the agent asked last: feedback for the fuzzer, judged by nobody. Bits only, so that many tasks
//! may note at once and a program's set does not depend on their order.

use crate::compat;
use crate::layout::model::NODES;
use crate::layout::situation::{self, Answer, Call, Context, Seen, WORDS};
use crate::layout::N_SLOTS;
use crate::model::{self, Caller};
use crate::slots;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

static SEEN: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

fn note(number: u32) {
    if let Some(word) = SEEN.get(number as usize / 64) {
        word.fetch_or(1 << (number % 64), Relaxed);
    }
}

/// A callback answers.
pub(crate) fn answered(call: &model::Call, answer: Answer, again: bool) {
    let context = match call.caller {
        Caller::DropSlab => Context::DropSlab,
        Caller::Debugfs => Context::Debugfs,
        Caller::Unknown => Context::Other,
        Caller::Reclaim if compat::is_kthread() => Context::Background,
        Caller::Reclaim if call.memcg.is_null() || call.memcg_is_root() => Context::Direct,
        Caller::Reclaim => Context::Memcg,
    };
    let ledger = call.ledger;
    let dying = !ledger.registered.load(Relaxed);
    let in_company = ledger.in_flight.load(Relaxed) > 1;
    note(Call { context, answer, kind: ledger.kind(), dying, in_company, again }.number());
}

/// What was seen, with the deferred work that there is now; forgotten then. Called by the agent when no program runs.
pub(crate) fn take() -> Seen {
    for slot_idx in 0..N_SLOTS {
        let ledger = model::ledger(slot_idx);
        if ledger.memcg_aware() {
            continue;
        }
        let _ = slots::with_registered(slot_idx, |shrinker| {
            for nid in (0..NODES).filter(|nid| compat::node_possible(*nid)) {
                // SAFETY: the slot is owned, the node is possible, and the shrinker is not memcg-aware.
                let n = unsafe { compat::nr_deferred(shrinker, nid, core::ptr::null_mut()) };
                note(situation::deferred(ledger.kind(), nid, n.unwrap_or(0).unsigned_abs()));
                if !ledger.numa_aware() {
                    break;
                }
            }
        });
    }
    Seen { words: core::array::from_fn(|idx| SEEN[idx].swap(0, Relaxed)) }
}
