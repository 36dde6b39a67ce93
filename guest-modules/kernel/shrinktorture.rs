// SPDX-License-Identifier: GPL-2.0

//! `/dev/shrinktorture`: executes the kernel-side ops of programs for the calling thread.
//!
//! | file | job |
//! |---|---|
//! | `shrinktorture.rs` | device, dispatch of ops |
//! | `slots.rs` | states of the slots; the only caller of the shrinker API |
//! | `cache.rs` | what the shrinkers shrink, the callbacks and their budgets |
//! | `lru.rs` | a `list_lru` and who owns its items |
//! | `item.rs` | allocation of the items |
//! | `model.rs`, `model_watch.rs`, `model_audit.rs`, `model_rules.rs` | whether the kernel keeps the shrinker contract |
//! | `situations.rs` | what callbacks saw, for the fuzzer |
//! | `pads.rs` | shrinkers in bulk, that take ids |
//! | `objects.rs` | objects with a shrinker of their own |
//! | `slabs.rs` | slab caches |
//! | `lock.rs` | a mutex that callbacks take |
//! | `clock.rs` | time and delays |
//! | `preempt.rs` | taking a CPU away at a chosen time |
//! | `trigger.rs` | taking it away at a basic block or a wake-up |
//! | `shrinker.rs` | safe abstraction over shrinkers |
//! | `chrdev.rs` | safe abstraction over an ioctl-only device |
//! | `compat.rs` | what differs between kernels |
//! | `hooks.rs` | the kernel's hooks for debuggers and tracers |
//! | `canary.rs` | another module, which misbehaves |
//! | `st_unload.rs` | another module, which is loaded and unloaded |
//! | `../abi/src/layout.rs` | ops and ioctls, shared with agent and host |
//!
//! Needs CONFIG_MEMCG. Whatever is asked of it the module uses the kernel's interfaces within their contracts and
//! within bounded time, so what the kernel then reports is the kernel's fault.

#[macro_use]
mod compat;
mod cache;
mod chrdev;
mod clock;
mod hooks;
mod item;
#[allow(dead_code, unreachable_pub, reason = "shared with the agent and the host")]
#[path = "../abi/src/layout.rs"]
mod layout;
mod lock;
mod lru;
mod model;
mod model_audit;
mod model_rules;
mod model_watch;
mod objects;
mod pads;
mod preempt;
mod shrinker;
mod situations;
mod slabs;
mod slots;
mod trigger;

use chrdev::{Chrdev, Ioctl};
use core::ffi::CStr;
use core::sync::atomic::Ordering::Relaxed;
use kernel::ffi::c_long;
use kernel::prelude::*;
use layout::model::Audit;
use layout::{ioc, kind, lru_mode, IoctlInfo, IoctlOp, Op};
use lru::FileBy;
use pads::Until;
use preempt::By;

declare_module! {
    type: ShrinktortureModule,
    name: "shrinktorture",
    description: "Executes shrinker operations for shrinktorture",
}

/// Items that one op adds or deletes at most.
const ITEMS_PER_OP_MAX: u32 = lru::ITEMS_MAX as u32;

struct ShrinktortureModule {
    /// Taken on exit, before what its ioctls use.
    device: Option<Chrdev<Device>>,
}

impl kernel::Module for ShrinktortureModule {
    fn init(module: &'static ThisModule) -> Result<Self> {
        item::create_cache()?;
        lock::setup();
        preempt::setup().inspect_err(|_| item::destroy_cache())?;
        trigger::setup();
        let device = Chrdev::register(module).inspect_err(|_| {
            trigger::teardown();
            preempt::teardown();
            item::destroy_cache();
        })?;
        Ok(Self { device: Some(device) })
    }
}

impl Drop for ShrinktortureModule {
    fn drop(&mut self) {
        // No file is open, and from here on none will be.
        drop(self.device.take());
        trigger::teardown();
        preempt::cancel();
        preempt::teardown();
        if reset().is_err() {
            pr_err!("HARNESSFAIL: a slot is in use although no file is open\n");
        }
        item::destroy_cache();
    }
}

struct Device;

impl Ioctl for Device {
    const NAME: &'static CStr = c"shrinktorture";

    fn ioctl(command: u32, arg: usize) -> Result<c_long> {
        match command {
            ioc::OP => {
                // SAFETY: integers only.
                let mut request: IoctlOp = unsafe { chrdev::read_user(arg)? };
                request.result = execute(&request.op).unwrap_or_else(|error| error.to_errno().into());
                // SAFETY: 16 + 8 bytes of integers, no padding (asserted in layout.rs).
                unsafe { chrdev::write_user(arg, &request)? };
            }
            ioc::INFO => {
                // SAFETY: four u32 and two u64, no padding (size asserted in layout.rs).
                unsafe { chrdev::write_user(arg, &info())? };
            }
            ioc::RESET => {
                trigger::cancel();
                preempt::cancel();
                reset()?;
                model::reset();
            }
            ioc::WATCH_BEGIN => {
                // SAFETY: integers only.
                model_watch::begin(&unsafe { chrdev::read_user(arg)? });
            }
            ioc::WATCH_END => {
                // SAFETY: integers only.
                model_watch::end(&unsafe { chrdev::read_user(arg)? });
            }
            ioc::AUDIT => {
                // SAFETY: integers only.
                let mut audit: Audit = unsafe { chrdev::read_user(arg)? };
                model_audit::execute(&mut audit)?;
                // SAFETY: six u32 and bytes, no padding (size asserted in model.rs of the ABI).
                unsafe { chrdev::write_user(arg, &audit)? };
            }
            ioc::SITUATIONS => {
                // SAFETY: u64 only.
                unsafe { chrdev::write_user(arg, &situations::take())? };
            }
            ioc::LOCKDEP => compat::lockdep_watch(arg != 0),
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}

/// Frees what programs left. Meant for when no other thread executes ops.
fn reset() -> Result {
    objects::reset();
    pads::reset();
    slabs::reset();
    slots::reset()
}

fn info() -> IoctlInfo {
    IoctlInfo {
        magic: layout::ABI_MAGIC,
        version: layout::ABI_VERSION,
        n_shrinkers: slots::n_held(),
        n_items: item::N_ITEMS.load(Relaxed),
        n_count_calls: cache::N_COUNT_CALLS.load(Relaxed),
        n_scan_calls: cache::N_SCAN_CALLS.load(Relaxed),
    }
}

/// Executes one op; what it counted, or 0. Any bits are a valid argument.
fn execute(op: &Op) -> Result<i64> {
    let n = match op.kind {
        kind::PREEMPT => {
            preempt::arm(op.a, op.b, By::Interrupt);
            Ok(0)
        },
        kind::PREEMPT_TASK => {
            preempt::arm(op.a, op.b.saturating_mul(1000), By::Task);
            Ok(0)
        },
        kind::PREEMPT_EDGE => trigger::at_block(op.a, op.b.saturating_mul(1000)).map(|()| 0),
        kind::PREEMPT_WAKE => trigger::at_wake(op.a, op.b.saturating_mul(1000)).map(|()| 0),
        kind::HOLD_LOCK => {
            lock::hold_ns(u64::from(op.a) * 1000);
            Ok(0)
        },
        kind::PAD_IDS => pads::add(Until::Id(op.a as usize), op.b != 0),
        kind::PAD => pads::add(Until::Count(op.a as usize), op.b != 0),
        kind::UNPAD => Ok(pads::free(op.a as usize, op.b)),
        kind::OBJECT_NEW => objects::make(op.a as usize, slots::flags(op.b), op.c as usize).map(|()| 0),
        kind::OBJECT_FREE => objects::free(op.a as usize).map(|()| 0),
        kind::CACHE_CREATE => slabs::get(op.a)?.create(op.a, op.b, op.c).map(|()| 0),
        kind::CACHE_ALLOC => slabs::get(op.a)?.alloc(op.b as usize),
        kind::CACHE_FREE => slabs::get(op.a)?.free(op.b as usize),
        kind::CACHE_SHRINK => slabs::get(op.a)?.shrink().map(|()| 0),
        kind::CACHE_DESTROY => slabs::get(op.a)?.destroy().map(|()| 0),
        _ => execute_slotted(op),
    };
    n.map(|n| n as i64)
}

/// Executes one op that names a slot.
fn execute_slotted(op: &Op) -> Result<usize> {
    let nid = usize::from(op.nid);
    let slot = slots::get(op.slot)?;
    match op.kind {
        kind::ALLOC => slot.alloc(op.slot, op.a, op.b).map(|()| 0),
        kind::SET_SEEKS => slot.configure(|shrinker| shrinker.set_seeks(op.a as u16)).map(|()| 0),
        kind::SET_BATCH => slot.configure(|shrinker| shrinker.set_batch(op.a as u16)).map(|()| 0),
        kind::REGISTER => slot.register().map(|()| 0),
        kind::RENAME => slot.rename(op.slot, op.a).map(|()| 0),
        kind::FREE => slot.free().map(|()| 0),
        kind::ADD_OBJECTS => slot.with_cache(|cache| cache.add_objects(nid, op.a as usize)),
        kind::DEL_OBJECTS => slot.with_cache(|cache| cache.del_objects(nid, op.a as usize)),
        kind::SET_COUNT => slot.with_cache(|cache| cache.count.set(op.a, op.b, op.c).map(|()| 0)),
        kind::SET_SCAN => slot.with_cache(|cache| cache.scan.set(op.a, op.b, op.c).map(|()| 0)),
        kind::LRU_ADD => {
            let by = match op.a {
                lru_mode::OBJ => FileBy::Obj,
                lru_mode::MEMCG => FileBy::Memcg { nid },
                _ => return Err(EINVAL),
            };
            let n = op.b.min(ITEMS_PER_OP_MAX) as usize;
            slot.with_cache(|cache| cache.lru.add(n, by, compat::GFP_KERNEL))
        }
        kind::LRU_DEL => slot.with_cache(|cache| Ok(cache.lru.del(op.a.min(ITEMS_PER_OP_MAX) as usize))),
        kind::LRU_WALK => slot.with_cache(|cache| Ok(cache.lru.walk(nid, op.a as usize))),
        kind::LRU_WALK_AS => slot.with_cache(|cache| cache.lru.walk_as(nid, op.b as usize, op.a)),
        kind::LRU_MAKE => slot.with_cache(|cache| cache.lru.make(op.a.min(ITEMS_PER_OP_MAX) as usize)),
        kind::LRU_PUT => slot.with_cache(|cache| cache.lru.put(op.a as usize)),
        _ => Err(EINVAL),
    }
}
