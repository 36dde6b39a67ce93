// SPDX-License-Identifier: GPL-2.0

//! The slots that programs name, and the only code that calls the shrinker API. Whatever ioctls come, in whatever order,
//! on however many threads, the API is used as its contract asks; an op that does not fit the slot's state gets `EAGAIN`.
//!
//! # States
//!
//! ```text
//! Empty -> Allocating -> Allocated -> Registering -> Registered
//!   ^          |          |    ^ \ \__________________   |
//!   |__________|          v    |  (failed: back)      \  |  ^ \
//!   |  (failed)      Configuring (seeks, batch, name)  |  |  \ v
//!   |                                                  |  |  Renaming
//!   |                                                  v  v
//!   |___________________________ Closing <----------- Freeing
//! ```
//!
//! When no program runs the audit takes a slot from `Registered` to `Auditing` and back.
//!
//! State and number of users live in one word, so both are judged at once. Whoever moves a slot into `Allocating`,
//! `Configuring`, `Registering`, `Renaming`, `Freeing` or `Closing` owns it until moving it on:
//!
//! - `shrinker` is touched by the owner only. So are the parts of the slot's ledger (`model.rs`) that are not atomic.
//! - `cache` is set by the owner in `Allocating` and taken in `Closing`, after the last user has gone. Users are
//!   admitted from `Allocated` to `Freeing`, so objects and items come and go while `shrinker_free()` waits, as
//!   they do in a filesystem that is unmounted. In `Closing` no user is admitted any more.
//!
//! # Order of freeing
//!
//! 1. `shrinker_free()`; it never waits for users.
//! 2. The callbacks' private data, at once: whoever runs later touches freed memory.
//! 3. Users go. They never wait for 1.
//! 4. Items, `list_lru_destroy()`, cache.
//!
//! No lock is held over any of it.

use crate::cache::{Cache, Callbacks};
use crate::layout::{alloc_flag, N_SLOTS};
use crate::model::NAME_BYTES;
use crate::shrinker::{Flags, Methods, RegisteredShrinker, UnregisteredShrinker};
use crate::{clock, model, model_audit};
use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering::*};
use kernel::bindings;
use kernel::prelude::*;

const EMPTY: u32 = 0;
const ALLOCATING: u32 = 1;
const ALLOCATED: u32 = 2;
const CONFIGURING: u32 = 3;
const REGISTERING: u32 = 4;
const REGISTERED: u32 = 5;
const RENAMING: u32 = 6;
const FREEING: u32 = 7;
const CLOSING: u32 = 8;
/// Registered, and being looked at by the audit.
const AUDITING: u32 = 9;
/// The state's bits in the word; users are counted above.
const STATE_MASK: u32 = 0xff;
const ONE_USER: u32 = 0x100;

/// How often `reset` looks whether a slot that some thread owns is released, 1 ms apart.
const RESET_TRIES_MAX: u32 = 1000;
/// Between two looks at the number of users.
const USERS_POLL_NS: u64 = 50_000;

static SLOTS: [Slot; N_SLOTS] = [const { Slot::new() }; N_SLOTS];

enum Held {
    Nothing,
    Unregistered(UnregisteredShrinker),
    Registered(RegisteredShrinker<Callbacks>),
}

/// One slot.
///
/// # Invariants
///
/// As in the head of the file. `cache` is null or came from `KBox::into_raw()`.
pub(crate) struct Slot {
    word: AtomicU32,
    shrinker: UnsafeCell<Held>,
    cache: AtomicPtr<Cache>,
}

// SAFETY: `shrinker` is only touched by the slot's owner, and ownership passes through `word` (acquire, release).
unsafe impl Sync for Slot {}

/// The slot of that number.
pub(crate) fn get(slot_idx: u8) -> Result<&'static Slot> {
    SLOTS.get(usize::from(slot_idx)).ok_or(EINVAL)
}

/// Slots that are not empty.
pub(crate) fn n_held() -> u32 {
    SLOTS.iter().filter(|slot| slot.word.load(Relaxed) & STATE_MASK != EMPTY).count() as u32
}

/// Runs `f` on a slot's shrinker if that is registered. Meant for when no other thread executes ops.
pub(crate) fn with_registered<R>(slot_idx: usize, f: impl FnOnce(&bindings::shrinker) -> R) -> Result<R> {
    let slot = SLOTS.get(slot_idx).ok_or(EINVAL)?;
    slot.go(REGISTERED, AUDITING)?;
    // SAFETY: we own the slot.
    let result = match unsafe { &*slot.shrinker.get() } {
        // SAFETY: registered and not freed while we own the slot; what reclaim changes in it are atomics.
        Held::Registered(shrinker) => Ok(f(unsafe { &*shrinker.as_ptr() })),
        _ => Err(EAGAIN),
    };
    slot.release(AUDITING, REGISTERED);
    result
}

/// Frees every slot. Meant for when no other thread executes ops; a slot that another one owns for more than a second
/// makes it fail with `EBUSY`.
pub(crate) fn reset() -> Result {
    for slot in &SLOTS {
        let mut n_tries = 0;
        while slot.word.load(Acquire) != EMPTY {
            if slot.free().is_err() {
                n_tries += 1;
                if n_tries > RESET_TRIES_MAX {
                    return Err(EBUSY);
                }
                clock::sleep_ns(1_000_000);
            }
        }
    }
    Ok(())
}

impl Slot {
    const fn new() -> Self {
        Slot {
            word: AtomicU32::new(EMPTY),
            shrinker: UnsafeCell::new(Held::Nothing),
            cache: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Number of the slot.
    fn idx(&self) -> usize {
        (ptr::from_ref(self) as usize - SLOTS.as_ptr() as usize) / size_of::<Slot>()
    }

    /// Moves from one state to another, keeping the users.
    fn go(&self, from: u32, to: u32) -> Result {
        let step = |word: u32| (word & STATE_MASK == from).then_some(word & !STATE_MASK | to);
        self.word.fetch_update(AcqRel, Acquire, step).map(|_| ()).map_err(|_| EAGAIN)
    }

    /// Moves on from a state that the caller owns.
    fn release(&self, from: u32, to: u32) {
        if self.go(from, to).is_err() {
            pr_err!("HARNESSFAIL: a slot changed its state under its owner\n");
        }
    }

    /// `shrinker_alloc()` with flags of [`alloc_flag`] and one of a few names.
    pub(crate) fn alloc(&self, slot_idx: u8, flags: u32, name_seed: u32) -> Result {
        self.go(EMPTY, ALLOCATING)?;
        let result = self.alloc_owned(slot_idx, flags, name_seed);
        self.release(ALLOCATING, if result.is_ok() { ALLOCATED } else { EMPTY });
        result
    }

    fn alloc_owned(&self, slot_idx: u8, bits: u32, name_seed: u32) -> Result {
        let mut buffer = [0; NAME_BYTES];
        let name = name(&mut buffer, slot_idx, name_seed);
        let shrinker = UnregisteredShrinker::alloc(flags(bits), name)?;
        model::ledger(slot_idx.into()).begin(name);
        let methods =
            if bits & alloc_flag::COUNT_ONLY != 0 { Methods::CountOnly } else { Methods::CountAndScan };
        let cache = Cache::new(slot_idx, methods)?;
        // As superblocks do: the lru is tied to the shrinker if that was meant to be memcg-aware, whatever became of it.
        let is_tied = bits & (alloc_flag::MEMCG | alloc_flag::PLAIN_LRU) == alloc_flag::MEMCG;
        let tie = if is_tied { shrinker.as_ptr() } else { ptr::null_mut() };
        // SAFETY: the cache has reached its place, nothing was done with the lru yet, and the shrinker is alive.
        unsafe { cache.lru.init(tie)? };
        self.cache.store(KBox::into_raw(cache), Release);
        // SAFETY: the caller owns the slot.
        unsafe { *self.shrinker.get() = Held::Unregistered(shrinker) };
        Ok(())
    }

    /// Sets a field of the shrinker before it is registered.
    pub(crate) fn configure(&self, set: impl FnOnce(&mut UnregisteredShrinker)) -> Result {
        self.go(ALLOCATED, CONFIGURING)?;
        // SAFETY: we own the slot.
        if let Held::Unregistered(shrinker) = unsafe { &mut *self.shrinker.get() } {
            set(shrinker);
        }
        self.release(CONFIGURING, ALLOCATED);
        Ok(())
    }

    /// `shrinker_register()`.
    pub(crate) fn register(&self) -> Result {
        self.go(ALLOCATED, REGISTERING)?;
        let result = self.register_owned();
        self.release(REGISTERING, if result.is_ok() { REGISTERED } else { ALLOCATED });
        result
    }

    fn register_owned(&self) -> Result {
        let cache = NonNull::new(self.cache.load(Acquire)).ok_or(EAGAIN)?;
        // SAFETY: `free` frees the shrinker before it takes the cache.
        let callbacks =
            |shrinker: &UnregisteredShrinker| unsafe { Callbacks::new(cache, self.idx(), shrinker.as_ptr()) };
        // SAFETY: we own the slot.
        let held = unsafe { &mut *self.shrinker.get() };
        let Held::Unregistered(shrinker) = held else { return Err(EAGAIN) };
        let callbacks = callbacks(shrinker)?;
        let ledger = model::ledger(self.idx());
        // SAFETY: the slot's cache, which we own.
        let lru = unsafe { &cache.as_ref().lru };
        // SAFETY: not registered, so nobody changes it.
        ledger.registering(unsafe { &*shrinker.as_ptr() }, lru.allocations_succeed());
        if let Held::Unregistered(shrinker) = core::mem::replace(held, Held::Nothing) {
            // SAFETY: the cache lives until `free`, and its methods never change.
            let methods = unsafe { cache.as_ref() }.methods;
            *held = Held::Registered(shrinker.register(callbacks, methods));
        }
        lru.registered();
        ledger.registered(lru.allocations_succeed());
        Ok(())
    }

    /// `shrinker_debugfs_rename()`, before registration or after.
    pub(crate) fn rename(&self, slot_idx: u8, name_seed: u32) -> Result {
        let (from, owned) = match self.go(REGISTERED, RENAMING) {
            Ok(()) => (REGISTERED, RENAMING),
            Err(_) => self.go(ALLOCATED, CONFIGURING).map(|()| (ALLOCATED, CONFIGURING))?,
        };
        let mut buffer = [0; NAME_BYTES];
        let name = name(&mut buffer, slot_idx, name_seed);
        let ledger = model::ledger(slot_idx.into());
        let succeeds = self.with_cache(|cache| Ok(cache.lru.allocations_succeed()));
        // SAFETY: we own the slot.
        let (result, shrinker) = match unsafe { &mut *self.shrinker.get() } {
            Held::Unregistered(shrinker) => (shrinker.rename(name), shrinker.as_ptr().cast_const()),
            Held::Registered(shrinker) => (shrinker.rename(name), shrinker.as_ptr()),
            Held::Nothing => (Err(EAGAIN), ptr::null()),
        };
        ledger.renamed(result.is_ok().then_some(name), matches!(succeeds, Ok(true)));
        if !shrinker.is_null() {
            // SAFETY: we own the slot, and what it holds is this shrinker.
            unsafe { model_audit::check_name(slot_idx.into(), shrinker) };
        }
        self.release(owned, from);
        result
    }

    /// `shrinker_free()`, then everything else in the order given in the head of the file.
    pub(crate) fn free(&self) -> Result {
        self.go(REGISTERED, FREEING).or_else(|_| self.go(ALLOCATED, FREEING))?;
        model::ledger(self.idx()).registered.store(false, Release);
        // SAFETY: we own the slot.
        let held = unsafe { core::mem::replace(&mut *self.shrinker.get(), Held::Nothing) };
        drop(held);
        self.release(FREEING, CLOSING);
        while self.word.load(Acquire) != CLOSING {
            clock::sleep_ns(USERS_POLL_NS);
        }
        let cache = self.cache.swap(ptr::null_mut(), AcqRel);
        if !cache.is_null() {
            // SAFETY: from `KBox::into_raw()` (type invariant); shrinker and users are gone.
            drop(unsafe { KBox::from_raw(cache) });
        }
        self.release(CLOSING, EMPTY);
        Ok(())
    }

    /// Runs `f` on the slot's cache, which exists from `Allocated` to `Freeing` and longer if need be.
    pub(crate) fn with_cache<R>(&self, f: impl FnOnce(&Cache) -> Result<R>) -> Result<R> {
        let enter = |word: u32| {
            let admitted = matches!(word & STATE_MASK, ALLOCATED..=FREEING);
            admitted.then_some(word + ONE_USER)
        };
        self.word.fetch_update(Acquire, Relaxed, enter).map_err(|_| EAGAIN)?;
        // SAFETY: set before the slot became `Allocated`, and freed only when there are no users: we are one.
        let result = f(unsafe { &*self.cache.load(Acquire) });
        self.word.fetch_sub(ONE_USER, Release);
        result
    }
}

/// Flags of the API for those of the op.
pub(crate) fn flags(bits: u32) -> Flags {
    let mut flags = Flags::NONE;
    for (bit, flag) in [
        (alloc_flag::NUMA, Flags::NUMA_AWARE),
        (alloc_flag::MEMCG, Flags::MEMCG_AWARE),
        (alloc_flag::NONSLAB, Flags::NONSLAB),
    ] {
        if bits & bit != 0 {
            flags = flags.with(flag);
        }
    }
    flags
}

/// Name of a slot's shrinker: `st<slot>-`, by which debugfs entries are told apart, and a tail that `seed` picks: short,
/// long, longer than debugfs keeps (the entry then loses its number), with what looks like a format, with a slash
/// (there is no entry then), not ASCII, empty.
fn name(buffer: &mut [u8; NAME_BYTES], slot_idx: u8, seed: u32) -> &CStr {
    const TAILS: [&str; 8] = ["a", "b", "%s%n%p", "caf\u{e9} au lait", "a/b", "", "long", "longer"];
    let tail_idx = seed as usize % TAILS.len();
    let tail = TAILS[tail_idx].as_bytes();
    let n_repeat = [1, 1, 1, 1, 1, 1, 24, 27][tail_idx];
    let digits = [b'0' + slot_idx / 10, b'0' + slot_idx % 10];
    let mut n = 0;
    let mut append = |bytes: &[u8]| {
        for (to, from) in buffer[n..NAME_BYTES - 1].iter_mut().zip(bytes) {
            *to = *from;
            n += 1;
        }
    };
    append(b"st");
    append(if slot_idx < 10 { &digits[1..] } else { &digits });
    append(b"-");
    for _ in 0..n_repeat {
        append(tail);
    }
    // The last byte of the buffer is still 0.
    CStr::from_bytes_until_nul(buffer).unwrap_or(c"st-")
}
