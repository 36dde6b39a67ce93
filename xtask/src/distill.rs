// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask distill CAMPAIGN`: runs a campaign's corpus once more and writes the few programs that reach most of what
//! it reaches, as one text. `fuzz/corpus.txt`, what every campaign begins with, is made this way.

use std::path::PathBuf;

use ::fuzz::{
    distill::{self, Sample},
    observe::observed,
};
use clap::Args;
use harness::epoch::Coverage;

use crate::{
    coverage,
    exit::Outcome,
    paths,
    prepare::{self, MachineArgs},
    usage,
};

/// Options of `distill`.
#[derive(Debug, Args)]
pub struct DistillArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// Campaign folder
    #[arg(value_name = "DIR")]
    campaign: PathBuf,
    /// Programs to keep at most
    #[arg(long, value_name = "N", default_value_t = 64)]
    programs: usize,
    /// Leave out programs with more ops: they are slow where the kernel checks much
    #[arg(long, value_name = "N", default_value_t = 48)]
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
    let (mut kept, mut samples) = (Vec::new(), Vec::new());
    let exit = coverage::run_all(&mut prepared, programs, Coverage::Edges, &mut |program, outcome| {
        if outcome.finished {
            samples.push(Sample { reached: observed(program, outcome), time: outcome.guest_time });
            kept.push(program.clone());
        }
        format!("{} kept", kept.len())
    })?;
    let chosen = distill::distill(&samples, args.programs);
    let head = "# SPDX-License-Identifier: MIT OR Apache-2.0\n# Programs that every campaign begins with: made by `cargo \
                xtask distill`.\n";
    let texts = chosen.iter().map(|&idx| format!("\n{}", kept[idx]));
    let text: String = std::iter::once(head.to_owned()).chain(texts).collect();
    paths::write_whole(&args.out, text.as_bytes())?;
    println!("{} of {} programs -> {}", chosen.len(), kept.len(), args.out.display());
    Ok(exit)
}
