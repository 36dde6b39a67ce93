// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the host, the agent and the kernel module agree on. No dependencies, no allocation.
//!
//! [`layout`] is also compiled into the kernel modules (by `#[path]`), so it uses nothing but `core`.
#![no_std]

pub mod layout;
pub mod ops;
pub mod program;
pub mod shm;
