// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask run PROGRAM…`: runs program files as one batch and shows what each op returned and what the kernel
//! said.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use harness::{
    det,
    epoch::{Epoch, EpochEnd, EpochOutcome},
    guest::Execution,
    oracle,
    program::{OpText, Program},
};

use crate::{
    exit::{Exit, Outcome},
    fuzz::canary_kind,
    prepare::{self, MachineArgs, Prepared},
    usage,
};

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// Program files in text form, run in order; all with the same schedule
    #[arg(required = true)]
    programs: Vec<PathBuf>,
    /// Run each program so many times in the batch
    #[arg(long, default_value_t = 1)]
    repeat: usize,
    /// Arm a canary
    #[arg(long, value_name = "KIND")]
    canary: Option<String>,
    /// Scan for leaks afterwards
    #[arg(long)]
    leak_scan: bool,
    /// Boot for this run instead of starting from a snapshot (deterministic engine)
    #[arg(long)]
    power_on: bool,
    /// Print the whole console
    #[arg(long)]
    console: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// When a program cannot be read or the machine cannot be made ready.
pub fn run(args: &RunArgs) -> Outcome {
    let programs = args.programs.iter().map(read_program).collect::<Result<Vec<Program>>>()?;
    if programs.iter().any(|program| program.schedule != programs[0].schedule) {
        return Err(usage!("the programs of one run must have the same schedule"));
    }
    let canary = args.canary.as_deref().map(canary_kind).transpose()?.unwrap_or(0);
    let repeated: Vec<Program> =
        programs.into_iter().flat_map(|program| std::iter::repeat_n(program, args.repeat)).collect();
    let epoch = Epoch { programs: repeated, canary, leak_scan: args.leak_scan, ..Epoch::default() };
    let prepared = prepare::prepare(&args.machine)?;
    let outcome = run_epoch(&prepared, &epoch, args.power_on)?;
    show(&epoch, &outcome, args.console);
    judge(&outcome)
}

/// Reads a program file.
///
/// # Errors
/// When it cannot be read or is no program; with file and line.
pub fn read_program(path: &PathBuf) -> Result<Program> {
    let text = fs::read_to_string(path).map_err(|e| usage!("cannot read {}: {e}", path.display()))?;
    text.parse().map_err(|e| usage!("{}: {e}", path.display()))
}

fn run_epoch(prepared: &Prepared, epoch: &Epoch, power_on: bool) -> Result<EpochOutcome> {
    if !power_on || prepared.execution != Execution::Deterministic {
        return Ok(prepared.pool()?.run(epoch.clone()));
    }
    let run_dir = tempfile::tempdir().context("folder for the machine")?;
    let (guest, schedule) = (&prepared.machine.config, epoch.programs[0].schedule);
    Ok(det::run_from_power_on(guest, schedule, epoch, det::Limits::default(), run_dir.path()))
}

fn show(epoch: &Epoch, outcome: &EpochOutcome, whole_console: bool) {
    for (idx, (program, result)) in epoch.programs.iter().zip(&outcome.programs).enumerate() {
        let state = match (result.started, result.finished) {
            (_, true) => "done",
            (true, false) => "did not end",
            (false, _) => "not reached",
        };
        println!(
            "program {idx}: {state}, {:?} of guest time, {} edges",
            result.guest_time,
            result.cover.len()
        );
        let mut results = result.ops.iter();
        for thread in &program.threads {
            println!("thread cpu={}", thread.cpu);
            for op in &thread.ops {
                let text = match results.next() {
                    Some(Some(op)) => {
                        let us = |ns: u32| f64::from(ns) / 1e3;
                        format!("{}, {:.0} to {:.0} us", op.result, us(op.start_ns), us(op.end_ns))
                    }
                    _ => "-".to_owned(),
                };
                println!("  {} -> {text}", OpText(op));
            }
        }
    }
    if whole_console {
        println!("{}", String::from_utf8_lossy(&outcome.console));
    }
    println!("end: {:?}, {:.2} s", outcome.end, outcome.wall.as_secs_f64());
}

fn judge(outcome: &EpochOutcome) -> Outcome {
    let reports = oracle::judge(&outcome.console);
    for report in &reports {
        println!("{}", report.title);
    }
    match &outcome.end {
        EpochEnd::Harness(why) => Err(anyhow::Error::new(crate::exit::Bug(why.clone()))),
        EpochEnd::Machine(why) => anyhow::bail!("{why}"),
        EpochEnd::Done if reports.is_empty() => Ok(Exit::Pass),
        _ => Ok(Exit::Finding),
    }
}
