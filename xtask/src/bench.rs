// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`: what boots, epochs and programs cost, each figure beside a bound taken in the same run, so that a
//! figure means the same on a slow machine as on a fast one. Nothing here is asserted: a busy machine is no failure.
//!
//! The bounds, and why they are honest:
//! - boot: the same QEMU arguments, kernel and initramfs; PID 1 writes to the exit port and does nothing else.
//! - programs and ops a second: what the same ops take with no harness work between them. One epoch has [`rate::N_PROGRAMS`]
//!   programs of one cycle of ops, another as many of several such cycles; the difference of their times in the guest is
//!   made of ops alone. KCOV is in it, for its cost is the kernel's.
//! - restoring: QEMU started with the same arguments and told to quit.
//! - from a finding to fuzzing: the start of a guest that has to come in between, from snapshot or power-on.
//! - share of a campaign in programs: all of it. A guest counts while its vCPUs run a batch, which includes what the agent
//!   does between programs; that part shows in the programs a second.

mod campaign;
mod figure;
mod load;
mod rate;
mod start;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use harness::{
    epoch::{Epoch, EpochEnd, EpochOutcome},
    guest::{Execution, Leaks},
    program::{Program, Schedule},
};
use serde::Serialize;

use self::figure::Figure;
use crate::{
    exit::{Exit, Outcome},
    prepare::{self, Engine, MachineArgs, Prepared},
};

/// Options of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// Repetitions of each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Length of the campaign of each engine; 0: none
    #[arg(long, default_value = "40s", value_parser = humantime::parse_duration)]
    campaign: Duration,
    /// Print one JSON object in place of the table
    #[arg(long)]
    json: bool,
}

/// What every measurement needs.
struct Bench<'a> {
    args: &'a BenchArgs,
    prepared: Prepared,
    execution: Execution,
    schedule: Schedule,
    run_dir: tempfile::TempDir,
}

/// Everything measured.
#[derive(Debug, Serialize)]
struct Report {
    instance: String,
    qemu: String,
    before: load::Load,
    after: Option<load::Load>,
    figures: Vec<Figure>,
}

/// Runs the subcommand.
///
/// # Errors
/// When the machine cannot be made ready or a guest does not do what it is asked.
pub fn run(args: &BenchArgs) -> Outcome {
    let before = load::sample()?;
    let mut report = Report {
        instance: args.machine.instance.clone(),
        qemu: String::new(),
        before,
        after: None,
        figures: Vec::new(),
    };
    let measured =
        engines(args.machine.engine).into_iter().try_for_each(|engine| one_engine(args, engine, &mut report));
    report.after = Some(load::sample()?);
    // What was measured before something failed is worth having.
    print(&report, args.json)?;
    measured.map(|()| Exit::Pass)
}

fn one_engine(args: &BenchArgs, engine: Engine, report: &mut Report) -> Result<()> {
    let mut prepared = prepare::prepare(&MachineArgs { engine, ..args.machine.clone() })?;
    report.qemu = prepared.machine.config.qemu_version.clone();
    let (execution, schedule) = (prepared.execution, Schedule::default());
    if execution == Execution::Deterministic {
        prepared.boot(&[schedule], Leaks::Ignore)?;
    }
    let run_dir = tempfile::tempdir().context("folder for machines")?;
    measure(&Bench { args, prepared, execution, schedule, run_dir }, &mut report.figures)
}

fn engines(choice: Engine) -> Vec<Engine> {
    if choice == Engine::Auto { vec![Engine::Det, Engine::Par] } else { vec![choice] }
}

fn measure(bench: &Bench<'_>, figures: &mut Vec<Figure>) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = bench.args.machine.jobs.unwrap_or(cores);
    let say = |what: &str| eprintln!("bench: {}: {what}", engine_name(bench.execution));
    say("boot");
    let boot = start::boot(bench)?;
    let fresh_guest = match bench.execution {
        Execution::Deterministic => {
            say("restore");
            let restore = start::restore(bench)?;
            let time = restore.value;
            figures.extend([boot, restore]);
            time
        }
        _ => {
            let time = boot.value;
            figures.push(boot);
            time
        }
    };
    say("from a finding to fuzzing");
    figures.push(start::after_finding(bench, fresh_guest)?);
    for jobs in if jobs > 1 { vec![1, jobs] } else { vec![1] } {
        say(&format!("programs a second, {jobs} guest(s)"));
        figures.extend(rate::rates(bench, jobs)?);
    }
    if !bench.args.campaign.is_zero() {
        say("campaign");
        figures.extend(campaign::figures(bench)?);
    }
    Ok(())
}

fn print(report: &Report, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
        return Ok(());
    }
    println!("{} on {}", report.instance, report.qemu);
    print!("{}", figure::table(&report.figures));
    println!("machine before: {}", report.before);
    if let Some(after) = &report.after {
        println!("machine after:  {after}");
    }
    Ok(())
}

/// The engine's name on the command line.
fn engine_name(execution: Execution) -> &'static str {
    if execution == Execution::Deterministic { "det" } else { "par" }
}

/// The shortest epoch there is: one program of one op that does nothing.
fn one_yield() -> Epoch {
    let program: Program = "thread cpu=0\n yield".parse().expect("a program");
    Epoch { programs: vec![program], ..Epoch::default() }
}

/// The outcome of an epoch that must have gone well.
fn well(outcome: EpochOutcome) -> Result<EpochOutcome> {
    if outcome.end != EpochEnd::Done {
        bail!("a guest that had to run well ended otherwise: {:?}", outcome.end);
    }
    Ok(outcome)
}
