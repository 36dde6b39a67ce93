// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a gate run found out, and the views of it that terminals, CI systems and mail tools read.

pub mod b4;
pub mod example;
pub mod github;
pub mod html;
pub mod junit;
pub mod kcidb;
pub mod ktap;
pub mod outcome;
pub mod text;
mod view;
