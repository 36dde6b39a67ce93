// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chooses the next program. The only crate that knows LibAFL.
//!
//! In data-flow order: [`generate`] and [`mutate`] make programs, [`input`] is how LibAFL sees one, [`config`] is what a
//! campaign is told, [`guests`] what it asks of the machines, and [`status`] what it tells.

pub mod config;
pub mod generate;
pub mod guests;
pub mod input;
pub mod mutate;
pub mod status;
