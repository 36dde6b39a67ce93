// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask …`: the one command line. Parse, match, hand over; each subcommand is one file.

mod accel;
mod apt;
mod config;
mod doctor;
mod exit;
mod kernel;
mod lock;
mod matrix;
mod patch;
mod paths;
mod proc;
mod setup;
mod source;
mod tools;
mod tree;

use clap::{Parser, Subcommand};

use crate::exit::Outcome;

/// Boots Linux kernels in QEMU and tortures their memory-reclaim shrinkers.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what is missing or slow on this machine, and the mend.
    Doctor(doctor::Args),
    /// Install what is missing.
    Setup(setup::Args),
    /// Build kernels.
    Kernel(kernel::Args),
}

fn main() -> std::process::ExitCode {
    exit::code_of(|| match Cli::try_parse() {
        Ok(cli) => dispatch(cli.command),
        Err(error) => exit::usage_from_clap(&error),
    })
}

fn dispatch(command: Command) -> Outcome {
    match command {
        Command::Doctor(args) => doctor::run(args),
        Command::Setup(args) => setup::run(args),
        Command::Kernel(args) => kernel::run(args),
    }
}
