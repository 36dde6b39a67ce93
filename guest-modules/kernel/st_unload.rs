// SPDX-License-Identifier: GPL-2.0

//! A module with shrinkers whose code goes away: its init registers them, its exit frees them and the text of their
//! callbacks is unmapped. Programs load and unload it while the kernel reclaims.

#[macro_use]
#[allow(dead_code, reason = "shared with shrinktorture.rs")]
mod compat;
#[allow(dead_code, reason = "shared with shrinktorture.rs")]
mod shrinker;

use core::ffi::CStr;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use kernel::prelude::*;
use shrinker::{
    CountObjects, Flags, Methods, RegisteredShrinker, ScanObjects, ShrinkControl, Shrinker,
    UnregisteredShrinker,
};

declare_module! {
    type: UnloadModule,
    name: "st_unload",
    description: "Has shrinkers and is unloaded, for shrinktorture",
}

/// What each shrinker has to shrink when it is registered.
const N_THINGS: usize = 512;

struct UnloadModule {
    /// Freed in this order when the module is unloaded.
    _global: RegisteredShrinker<Things>,
    _by_group: RegisteredShrinker<Things>,
}

/// What a shrinker shrinks.
struct Things(AtomicUsize);

impl Shrinker for Things {
    fn count_objects(&self, _sc: &ShrinkControl<'_>) -> CountObjects {
        CountObjects::new(self.0.load(Relaxed))
    }

    fn scan_objects(&self, sc: &mut ShrinkControl<'_>) -> ScanObjects {
        let wanted = sc.nr_to_scan();
        let take = |now: usize| Some(now - wanted.min(now));
        let before = self.0.fetch_update(Relaxed, Relaxed, take).unwrap_or_else(|now| now);
        if before == 0 {
            return ScanObjects::STOP;
        }
        ScanObjects::new(wanted.min(before))
    }
}

fn register(flags: Flags, name: &CStr) -> Result<RegisteredShrinker<Things>> {
    let shrinker = UnregisteredShrinker::alloc(flags, name)?;
    let things = KBox::new(Things(AtomicUsize::new(N_THINGS)), GFP_KERNEL)?;
    Ok(shrinker.register(things, Methods::CountAndScan))
}

impl kernel::Module for UnloadModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        Ok(UnloadModule {
            _global: register(Flags::NUMA_AWARE, c"st-unload-global")?,
            _by_group: register(Flags::MEMCG_AWARE.with(Flags::NONSLAB), c"st-unload-memcg")?,
        })
    }
}
