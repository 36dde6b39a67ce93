// SPDX-License-Identifier: GPL-2.0

//! Items of a `list_lru`: slab objects that are charged to the memcg of the task that allocates them.

use crate::compat;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering::*};
use kernel::bindings;
use kernel::prelude::*;

/// List items allocated now, all slots.
pub(crate) static N_ITEMS: AtomicU32 = AtomicU32::new(0);

/// `kmem_cache` of the items; set while the module is loaded.
static CACHE: AtomicPtr<bindings::kmem_cache> = AtomicPtr::new(ptr::null_mut());

/// An item. `entry_idx` and `tag` belong to `lru.rs` and do not change.
#[repr(C)]
pub(crate) struct Item {
    /// First, so that the addresses of node and item are the same.
    node: bindings::list_head,
    /// Which entry says who owns it.
    pub(crate) entry_idx: usize,
    /// How it is filed.
    pub(crate) tag: usize,
}

/// Creates the items' cache, accounted to the memcg of whoever allocates. Called once, before the first op.
pub(crate) fn create_cache() -> Result {
    // SAFETY: all zeroes are the defaults (include/linux/slab.h).
    let mut args: bindings::kmem_cache_args = unsafe { compat::zeroed() };
    args.align = 8;
    let size = size_of::<Item>() as u32;
    // SAFETY: name and arguments live for the call; the name is copied.
    let cache = unsafe {
        bindings::__kmem_cache_create_args(
            c"shrinktorture_item".as_ptr().cast(),
            size,
            &mut args,
            compat::SLAB_ACCOUNT,
        )
    };
    if cache.is_null() {
        return Err(ENOMEM);
    }
    CACHE.store(cache, Release);
    Ok(())
}

/// Destroys the items' cache. Called once, after the last lru is gone.
pub(crate) fn destroy_cache() {
    // SAFETY: created by `create_cache()` or null, and no item is left.
    unsafe { bindings::kmem_cache_destroy(CACHE.swap(ptr::null_mut(), AcqRel)) };
}

/// An item on no list, charged to the caller's memcg, whose lists on `lru` exist now.
pub(crate) fn alloc(
    lru: *mut bindings::list_lru,
    entry_idx: usize,
    tag: usize,
    gfp: bindings::gfp_t,
) -> Result<*mut Item> {
    let cache = CACHE.load(Acquire);
    // SAFETY: the cache lives as long as the module, the lru is initialised; ops run in process context, lock-free.
    let item: *mut Item = unsafe { bindings::kmem_cache_alloc_lru_noprof(cache, lru, gfp) }.cast();
    if item.is_null() {
        return Err(ENOMEM);
    }
    N_ITEMS.fetch_add(1, Relaxed);
    // SAFETY: fresh memory of the right size and alignment. An empty list head points to itself.
    unsafe {
        item.write(Item {
            node: bindings::list_head { next: item.cast(), prev: item.cast() },
            entry_idx,
            tag,
        })
    };
    Ok(item)
}

/// Frees an item.
///
/// # Safety
///
/// From [`alloc`], on no lru, and nobody else uses it.
pub(crate) unsafe fn free(item: *mut Item) {
    // SAFETY: from this cache by the caller's promise.
    unsafe { bindings::kmem_cache_free(CACHE.load(Acquire), item.cast()) };
    N_ITEMS.fetch_sub(1, Relaxed);
}
