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
//! - the oracle: grep, counting the lines that have a word by which the oracle tells lines worth reading, under LC_ALL=C,
//!   which is as fast as grep gets; for source lines addr2line. In CPU time, for neither waits for anything.

mod campaign;
mod cpu;
mod figure;
pub mod load;
mod oracle;
mod rate;
mod start;
mod symbolize;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use harness::{
    epoch::{Epoch, EpochEnd, EpochOutcome},
    guest::{Execution, Leaks},
    program::{Program, Schedule},
};
use serde::Serialize;

use self::figure::Figure;
use crate::{
    exit::{Exit, Outcome},
    kernel::artifact,
    matrix,
    paths::Cache,
    prepare::{self, Engine, MachineArgs, Prepared},
};

/// A folder of consoles beyond those of the oracle's tests; the tests know it, too.
const LOGS: &str = "SHRINKTORTURE_ORACLE_CASES";

/// Options of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure; everything by default
    #[arg(value_enum)]
    parts: Vec<Part>,
    #[command(flatten)]
    machine: MachineArgs,
    /// Repetitions of each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Length of the campaign of each engine; 0: none
    #[arg(long, default_value = "40s", value_parser = humantime::parse_duration)]
    campaign: Duration,
    /// Consoles (*.log) for the oracle to read; by default those of $SHRINKTORTURE_ORACLE_CASES, else of its own tests
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// Print one JSON object in place of the table
    #[arg(long)]
    json: bool,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// How fast consoles are read and source lines found; needs no guest
    Oracle,
    /// Boots, epochs, programs, a campaign
    Guests,
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
    let measured = all(args, &mut report);
    report.after = Some(load::sample()?);
    // What was measured before something failed is worth having.
    print(&report, args.json)?;
    measured.map(|()| Exit::Pass)
}

fn all(args: &BenchArgs, report: &mut Report) -> Result<()> {
    let wanted = |part| args.parts.is_empty() || args.parts.contains(&part);
    if wanted(Part::Oracle) {
        measure_oracle(args, &mut report.figures)?;
    }
    if wanted(Part::Guests) {
        engines(args.machine.engine).into_iter().try_for_each(|engine| one_engine(args, engine, report))?;
    }
    Ok(())
}

fn measure_oracle(args: &BenchArgs, figures: &mut Vec<Figure>) -> Result<()> {
    eprintln!("bench: oracle: consoles");
    let logs = args.logs.clone().or_else(|| std::env::var_os(LOGS).map(PathBuf::from));
    figures.extend(oracle::figures(args.times, logs.as_deref())?);
    let (cache, instance) = (Cache::open()?, matrix::instance(&args.machine.instance)?);
    let instance = instance.kernel_name();
    match artifact::newest(&cache, instance)? {
        Some(kernel) => {
            eprintln!("bench: oracle: source lines");
            figures.extend(symbolize::figures(args.times, &kernel.vmlinux, &cache)?);
        }
        None => eprintln!("bench: no source lines: `cargo xtask kernel build {instance}` makes a kernel"),
    }
    Ok(())
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
    if !report.qemu.is_empty() {
        println!("{} on {}", report.instance, report.qemu);
    }
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
