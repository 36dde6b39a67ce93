// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What agent and module tell each other so that the shrinker contract can be checked.

/// NUMA nodes that are told apart; what happens on others is not judged.
pub const NODES: usize = 4;
/// Bytes of a debugfs folder's name, its number included.
pub const ENTRY_BYTES: usize = 128;

/// Argument of [`super::ioc::WATCH_BEGIN`] and [`super::ioc::WATCH_END`], which reads the second half too.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// A [`watch`] value.
    pub kind: u32,
    /// Slot asked for (debugfs).
    pub slot: u32,
    /// Node asked for (debugfs scan).
    pub nid: u32,
    /// At the end: 1 when the system call succeeded.
    pub ok: u32,
    /// Inode of the memcg asked for, 0: none (debugfs scan).
    pub memcg: u64,
    /// Objects asked for (debugfs scan).
    pub n: u64,
    /// Sums of the columns that were printed (debugfs count).
    pub columns: [u64; NODES],
    /// Sum over the lines that were printed: inode times the line's columns, wrapping (debugfs count).
    pub by_memcg: u64,
    /// Most columns of a line (debugfs count).
    pub n_columns: u64,
    /// 1 when the memcg asked for is there after the call: then it was all the time (debugfs scan).
    pub memcg_stays: u64,
}

/// Values of [`Watch::kind`].
pub mod watch {
    /// A write to `drop_caches` that drops slab objects, pages or not.
    pub const DROP_SLAB: u32 = 1;
    /// A write to `drop_caches` that drops pages only. Writers share a variable: it may keep another from dropping slab.
    pub const DROP_PAGES: u32 = 2;
    /// A read of a debugfs `count` file.
    pub const DEBUGFS_COUNT: u32 = 3;
    /// A write to a debugfs `scan` file.
    pub const DEBUGFS_SCAN: u32 = 4;
    /// Any other use of debugfs files: several of them, or what is written is no call for a scan.
    pub const DEBUGFS_OTHER: u32 = 5;
}

/// Argument of [`super::ioc::AUDIT`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Audit {
    /// A [`step`] value.
    pub step: u32,
    /// Slot ([`step::ENTRY`]), or a [`lost`] value ([`step::PROBE`]).
    pub slot: u32,
    /// Out: slots that must have a debugfs folder ([`step::CHECK`]).
    pub with_entry: u32,
    /// Out: slots that hold a registered memcg-aware shrinker ([`step::CHECK`]).
    pub memcg_aware: u32,
    /// Out: slots that hold a registered shrinker ([`step::CHECK`]).
    pub registered: u32,
    /// In: 1 when time is counted in instructions ([`step::PROBE`]). Out: 1 when there is a `scan` file ([`step::ENTRY`]).
    pub flag: u32,
    /// Out: name of the debugfs folder, nul-terminated ([`step::ENTRY`]).
    pub entry: [u8; ENTRY_BYTES],
}

impl Default for Audit {
    fn default() -> Self {
        Audit {
            step: 0,
            slot: 0,
            with_entry: 0,
            memcg_aware: 0,
            registered: 0,
            flag: 0,
            entry: [0; ENTRY_BYTES],
        }
    }
}

/// What is asked about ids that nobody has.
pub mod lost {
    /// Nothing: the kernel may have taken some for shrinkers of its own.
    pub const IGNORE: u32 = 0;
    /// The guest is fresh: these are free.
    pub const FRESH: u32 = 1;
    /// As many must be free as in a fresh guest.
    pub const JUDGE: u32 = 2;
}

/// Values of [`Audit::step`], in the order in which they come. No program runs meanwhile.
pub mod step {
    /// Look at every registered shrinker.
    pub const CHECK: u32 = 1;
    /// Name of a slot's debugfs folder.
    pub const ENTRY: u32 = 2;
    /// From now on callbacks count honestly and scan nothing: `SHRINK_STOP`.
    pub const STOP: u32 = 3;
    /// drop_caches ran; the work that was not done must have been deferred. From now on callbacks are honest.
    pub const HONEST: u32 = 4;
    /// drop_caches ran and every count file was read before and after: lists that were not called for are reported.
    pub const LISTS: u32 = 5;
    /// Callbacks behave as the program left them.
    pub const END: u32 = 6;
    /// After the slots were reset: are ids reused, does freeing an idle shrinker wait?
    pub const PROBE: u32 = 7;
}

const _: () = assert!(size_of::<Watch>() == 88 && size_of::<Audit>() == 24 + ENTRY_BYTES);
