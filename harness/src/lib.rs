// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boots one virtual machine, runs programs in it and says what happened.
//!
//! In data-flow order: a [`program`] is what runs; an [`epoch`] is a batch of programs and what became of it; a
//! [`guest`] is what it runs on; [`machine`] is one QEMU process, talked to over [`qmp`] and [`shm`], with its
//! [`console`] and, when deterministic, kept in [`lockstep`]; [`det`] and
//! [`par`] are the two engines, the first of which begins at a [`snapshot`], [`pool`] runs several guests; the [`oracle`] reads the console, [`symbolize`] adds source
//! lines, [`coverage`] knows what could have been reached, [`exec_log`] what ran, [`debug`] has a debugger look, [`plain`]
//! makes text of a guest safe to show.

pub mod console;
pub mod coverage;
pub mod debug;
pub mod det;
pub mod epoch;
pub mod exec_log;
pub mod guest;
pub mod lockstep;
pub mod machine;
pub mod oracle;
pub mod par;
pub mod plain;
pub mod pool;
pub mod program;
pub mod qmp;
pub mod run_dir;
pub mod shm;
pub mod snapshot;
pub mod symbolize;
