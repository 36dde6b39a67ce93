// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chooses the next program. The only crate that knows LibAFL.
//!
//! In data-flow order: [`generate`] (with [`stories`]) and [`mutate`] make programs, [`input`] is how LibAFL sees one, [`observe`] what it
//! sees of a run (with [`situations`]), [`scheduler`] which program it goes back to, [`walk`] under which schedules, [`faults`]
//! with which allocation failing; [`chooser`] puts these together. [`campaign`] is the loop:
//! [`config`] is what it is told, [`guests`] what it asks of the machines, [`batches`] what makes an epoch, [`reduce`] and
//! [`minimize`] how a finding gets small, [`corpus`], [`findings`] (with [`report`]) and [`stored`] what it keeps on [`disk`], [`status`]
//! what it tells.
//!
//! Absences: nothing here starts a process or knows QEMU; nothing below [`campaign`] knows both LibAFL and the disk.

pub mod batches;
pub mod campaign;
pub mod chooser;
pub mod config;
pub mod corpus;
pub mod disk;
pub mod distill;
pub mod faults;
pub mod findings;
pub mod generate;
pub mod guests;
pub mod input;
pub mod minimize;
pub mod mutate;
pub mod observe;
pub mod reduce;
pub mod report;
pub mod scheduler;
pub mod situations;
pub mod standalone;
pub mod status;
pub mod stored;
pub mod stories;
pub mod walk;

pub use campaign::run;
