// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask distill CAMPAIGN`: runs a campaign's corpus once more and writes the few programs that reach most of what
//! it reaches, each made short, as one text. `fuzz/corpus.txt`, what every campaign begins with, is made this way.

use std::path::PathBuf;

use ::fuzz::{
    distill::{self, Reached, Sample, Trim},
    minimize::Candidate,
    observe::observed,
};
use anyhow::Result;
use clap::Args;
use harness::{epoch::Coverage, program::Program};

use crate::{
    coverage,
    exit::{Exit, Outcome},
    many::Many,
    paths,
    prepare::{self, MachineArgs},
    usage,
};

/// Programs that are chosen, and then made short, at a time: what the short ones do not reach any more, later ones may.
const ROUND: usize = 64;

/// Options of `distill`.
#[derive(Debug, Args)]
pub struct DistillArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// Campaign folder
    #[arg(value_name = "DIR")]
    campaign: PathBuf,
    /// Programs to keep at most
    #[arg(long, value_name = "N", default_value_t = 192)]
    programs: usize,
    /// Leave out programs with more ops
    #[arg(long, value_name = "N", default_value_t = 96)]
    ops: usize,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Runs the subcommand. Programs that the kernel complains of are left out.
///
/// # Errors
/// When the machine cannot be made ready, the corpus cannot be read, or a guest fails.
pub fn run(args: &DistillArgs) -> Outcome {
    let mut programs = coverage::corpus(&args.campaign)?;
    programs.retain(|program| program.n_ops() <= args.ops);
    if programs.is_empty() {
        return Err(usage!("{} has no such programs", args.campaign.display()));
    }
    let mut prepared = prepare::prepare(&args.machine)?;
    let mut many = Many::new(&mut prepared)?;
    let ran = samples(&mut many, &programs)?;
    let (kept, samples): (Vec<_>, Vec<_>) =
        programs.into_iter().zip(ran).filter_map(|(program, sample)| Some((program, sample?))).unzip();
    let (mut reached, mut chosen) = (Reached::new(), Vec::new());
    while chosen.len() < args.programs {
        let n_next = ROUND.min(args.programs - chosen.len());
        let next = distill::distill(&samples, &reached, n_next);
        if next.is_empty() {
            break;
        }
        let mut trims = Vec::new();
        let mut so_far = reached.clone();
        for idx in next {
            trims.push(Trim::new(&kept[idx], &samples[idx], &so_far));
            so_far.extend(&samples[idx].reached);
        }
        shorten(&mut many, &mut trims)?;
        for (program, sample) in trims.into_iter().map(Trim::finish) {
            reached.extend(&sample.reached);
            chosen.push(program);
        }
    }
    let head = "# SPDX-License-Identifier: MIT OR Apache-2.0\n# Programs that every campaign begins with: made by `cargo \
                xtask distill`.\n";
    let texts = chosen.iter().map(|program| format!("\n{program}"));
    let text: String = std::iter::once(head.to_owned()).chain(texts).collect();
    paths::write_whole(&args.out, text.as_bytes())?;
    let n_ops: usize = chosen.iter().map(Program::n_ops).sum();
    let out = args.out.display();
    println!("{} of {} programs, {n_ops} ops -> {out}", chosen.len(), kept.len());
    Ok(if many.complaints.is_empty() { Exit::Pass } else { Exit::Finding })
}

/// What each program reaches; none where it did not run to its end.
fn samples(many: &mut Many<'_>, programs: &[Program]) -> Result<Vec<Option<Sample>>> {
    let mut samples = vec![None; programs.len()];
    let mut n_run = 0;
    many.run(programs, Coverage::Edges, &mut |idx, outcome| {
        n_run += 1;
        eprint!("\r{n_run} of {} programs ", programs.len());
        samples[idx] = outcome
            .finished
            .then(|| Sample { reached: observed(&programs[idx], outcome), time: outcome.guest_time });
    })?;
    Ok(samples)
}

/// Makes the programs as short as they get, all of them step by step.
fn shorten(many: &mut Many<'_>, trims: &mut [Trim]) -> Result<()> {
    loop {
        let steps: Vec<(usize, Candidate)> =
            trims.iter().enumerate().filter_map(|(idx, trim)| Some((idx, trim.candidate()?))).collect();
        if steps.is_empty() {
            return Ok(());
        }
        let programs: Vec<Program> = steps.iter().map(|(_, candidate)| candidate.program.clone()).collect();
        let samples = samples(many, &programs)?;
        for ((idx, candidate), sample) in steps.into_iter().zip(samples) {
            trims[idx].learn(candidate, sample);
        }
    }
}
