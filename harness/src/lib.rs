// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boots one virtual machine, runs programs in it and says what happened.
//!
//! In data-flow order: a [`program`] is what runs, an [`epoch`] is a batch of programs and what became of it,
//! and the [`oracle`] reads the console.

pub mod epoch;
pub mod oracle;
pub mod program;
