// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: everything CI runs. Format, lints, cargo's tests, house rules, hostile builds, wrong command
//! lines; then a real kernel in real guests.
//!
//! The last four need things that a cargo test would have to skip when they are not there (a kernel, QEMU, minutes), so
//! they are checks of this command: what they need is made, and they always run.

mod campaign;
mod canaries;
mod checks;
mod cli;
mod det;
mod gate;
mod gate_formats;
mod machines;
mod ops;
mod regress;
mod rust;
mod sandbox;
mod tidy;

use std::{path::PathBuf, thread};

use anyhow::Result;
use clap::CommandFactory;
use harness::guest::Execution;

use self::checks::{Checks, Tally};
use crate::{
    accel::AccelChoice,
    exit::{self, Exit, Outcome},
    kernel::Trust,
    paths,
    prepare::{self, Engine, INSTANCE, MachineArgs, Prepared},
};

/// Options of `test`.
#[derive(Debug, clap::Args)]
pub struct TestArgs {
    /// Without what takes longest: the parallel engine and whole campaigns
    #[arg(long)]
    quick: bool,
    /// Only checks whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Kernel that guests run; CI takes the one that is given here by default
    #[arg(long, default_value = INSTANCE)]
    instance: String,
}

/// Runs the subcommand.
///
/// # Errors
/// None: what goes wrong is printed before the total.
pub fn run(args: &TestArgs) -> Outcome {
    let mut tally = Tally::default();
    let result = run_parts(args, &mut tally);
    // The total comes last whatever happened.
    let exit = match &result {
        Err(error) => {
            println!("error: {error:#}");
            exit::exit_of(error)
        }
        Ok(()) if tally.n_failed() > 0 => Exit::Bug,
        Ok(()) if tally.n_passed() == 0 => {
            println!("error: no check is called `{}`", args.only.as_deref().unwrap_or_default());
            Exit::Usage
        }
        Ok(()) => Exit::Pass,
    };
    tally.print();
    Ok(exit)
}

fn run_parts(args: &TestArgs, tally: &mut Tally) -> Result<()> {
    let only = args.only.as_deref();
    tally.part("house rules", only, house_rules);
    if Checks::any(only, rust::NAMES) {
        rust::ensure_components()?;
    }
    tally.part("rust", only, rust::run);
    tally.part("gate", only, gate_formats::run);
    tally.part("sandbox", only, sandbox::run);
    let of_instance =
        [cli::NAMES, det::NAMES, machines::NAMES, ops::NAMES, canaries::NAMES, campaign::NAMES].concat();
    if Checks::any(only, &of_instance) {
        run_on_instance(args, tally)?;
    }
    if !args.quick {
        tally.part("gate", only, gate::run);
        tally.part("regress", only, regress::run);
    }
    Ok(())
}

/// What runs on the kernel that was asked for.
fn run_on_instance(args: &TestArgs, tally: &mut Tally) -> Result<()> {
    let only = args.only.as_deref();
    let prepared = prepare(&args.instance)?;
    tally.part("command line", only, |checks| cli::run(checks, &prepared));
    thread::scope(|scope| {
        // Guest time is host time there, most of it spent waiting for a hung task to be noticed.
        let slow = (!args.quick)
            .then(|| scope.spawn(|| Checks::collect(only, |checks| canaries::parallel(checks, &prepared))));
        tally.part("boot", only, |checks| {
            machines::run(checks, &prepared);
            det::run(checks, &prepared);
            ops::run(checks, &prepared);
            canaries::deterministic(checks, &prepared);
            if !args.quick {
                campaign::run(checks, &prepared);
            }
        });
        if let Some(Ok(checks)) = slow.map(thread::ScopedJoinHandle::join) {
            tally.add("boot", checks);
        }
    });
    Ok(())
}

fn house_rules(checks: &mut Checks) {
    let command = crate::Cli::command();
    let subcommands: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    let sources = tidy::sources(&paths::repo_root());
    checks.check("tidy", || tidy::check(&sources?, &subcommands));
}

/// The machine that everything below runs on, deterministic engine.
fn prepare(instance: &str) -> Result<Prepared> {
    let args = MachineArgs {
        instance: instance.into(),
        linux: None,
        patch: Vec::new(),
        append: String::new(),
        engine: Engine::Det,
        accel: AccelChoice::Auto,
        jobs: None,
        trust: Trust::Own,
    };
    let prepared = prepare::prepare(&args)?;
    eprintln!("machine {}: {}", prepared.machine.config.key, prepare::phases_text(&prepared.phases));
    debug_assert_eq!(prepared.execution, Execution::Deterministic);
    Ok(prepared)
}

/// This very program.
fn xtask() -> Result<PathBuf> {
    Ok(std::env::current_exe()?)
}
