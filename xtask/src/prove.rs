// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask prove --patch FIX FINDING|PROGRAM`: does the patch fix it? The kernel without it and the kernel with it run
//! the same programs; as often without as asked for, as often with as it takes for silence to mean something.
//!
//! One interleaving proves nothing of a race, and another kernel has another one anyhow. So under the deterministic engine
//! every run is the same programs with another delay before one of their threads; under the other, runs differ by
//! themselves.

use std::{collections::BTreeMap, path::PathBuf};

use ::fuzz::corpus::CorpusDir;
use anyhow::{Context, Result, bail};
use clap::Args;
use harness::{epoch::Epoch, machine::MachineError, oracle, program::Program};
use serde::Serialize;

use crate::{
    exit::{Exit, Outcome},
    rerun::{self, Case, Elsewhere, Rerun, Showing},
    usage,
};

/// Runs with the patch at most.
const RUNS_MAX: u32 = 400;
/// Programs of the corpus, nearest to the finding first, that are run with the patch besides.
const NEAR_MAX: usize = 48;

/// Options of `prove`.
#[derive(Debug, Args)]
pub struct ProveArgs {
    /// A finding's folder, or a file with a program
    what: PathBuf,
    #[command(flatten)]
    elsewhere: Elsewhere,
    /// Runs without the patch
    #[arg(long, default_value_t = 20)]
    times: u32,
    /// Guests side by side [default: one a core]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Print one JSON object in place of text
    #[arg(long)]
    json: bool,
}

/// What is claimed of the patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Claim {
    /// The bug shows without it and not with it, and nothing new shows.
    Fixes,
    /// The bug shows with it, too.
    DoesNotFix,
    /// Something shows with it that does not without.
    MakesWorse,
    /// The bug does not show without it: nothing can be said.
    NotReproduced,
}

/// What the runs of one kernel showed.
#[derive(Clone, Debug, Default, Serialize)]
struct Side {
    /// Runs.
    runs: u32,
    /// Runs that showed the bug.
    same: u32,
    /// What the rate may be, at 95 % confidence.
    rate_low: f64,
    rate_high: f64,
    /// Other titles, and in how many runs they showed.
    others: BTreeMap<String, u32>,
}

/// The whole answer.
#[derive(Debug, Serialize)]
struct Proof {
    claim: Claim,
    /// The bug.
    title: String,
    before: Side,
    after: Side,
    /// Programs of the corpus that were run with the patch.
    near: usize,
    /// What those showed and did not show without it.
    near_new: Vec<String>,
}

/// Runs the subcommand. Exit codes: 0 it fixes the bug, 2 it does not or makes things worse, 4 the bug did not show.
///
/// # Errors
/// When a kernel cannot be built or booted, or a guest fails.
pub fn run(args: &ProveArgs) -> Outcome {
    let Elsewhere { patch, .. } = &args.elsewhere;
    if patch.is_empty() {
        return Err(usage!("prove needs the patch to prove: --patch FILE"));
    }
    let without = Elsewhere { patch: Vec::new(), ..args.elsewhere.clone() };
    let mut before = Rerun::open(&args.what, &without, args.jobs)?;
    let case = before.case.clone();
    if case.batch.is_empty() {
        return Err(usage!(
            "{}: booting shows it; `repro --patch` says what is left of it",
            args.what.display()
        ));
    }
    let mut title = String::new();
    let side_before = side(&mut before, &case, 0..args.times, &mut title)?;
    tell(args, "without the patch", &side_before);
    let mut proof = Proof {
        claim: Claim::NotReproduced,
        title,
        before: side_before,
        after: Side::default(),
        near: 0,
        near_new: Vec::new(),
    };
    if proof.before.same > 0 {
        // A program brings no title of its own: with the patch, too, only the bug it showed is that bug.
        let case = Case { titles: [case.titles.clone(), vec![proof.title.clone()]].concat(), ..case };
        match Rerun::open(&args.what, &args.elsewhere, args.jobs) {
            Ok(mut after) => {
                let n_runs = rerun::runs_needed(proof.before.rate_low, rerun::MISS, RUNS_MAX).max(args.times);
                proof.after = side(&mut after, &case, 0..n_runs, &mut String::new())?;
                tell(args, "with the patch", &proof.after);
                near(&mut before, &mut after, &case, args, &mut proof)?;
            }
            // A kernel that complains and does not boot is the patch's doing.
            Err(error) => proof.near_new.push(boot_complaint(&error).ok_or(error)?),
        }
        proof.claim = claim(&proof);
    }
    print(args, &proof, &before)?;
    Ok(match proof.claim {
        Claim::Fixes => Exit::Pass,
        Claim::DoesNotFix | Claim::MakesWorse => Exit::Finding,
        Claim::NotReproduced => Exit::Skipped,
    })
}

/// What a kernel that did not get ready complained of.
fn boot_complaint(error: &anyhow::Error) -> Option<String> {
    let Some(MachineError::NotReady { console, .. }) = error.downcast_ref() else { return None };
    let report = oracle::judge(console).into_iter().next()?;
    Some(format!("{} (the kernel with the patch does not boot)", report.title))
}

fn claim(proof: &Proof) -> Claim {
    let is_new = |title: &String| !proof.before.others.contains_key(title);
    if proof.after.same > 0 {
        Claim::DoesNotFix
    } else if proof.after.others.keys().any(is_new) || !proof.near_new.is_empty() {
        Claim::MakesWorse
    } else {
        Claim::Fixes
    }
}

/// Runs the case so often on one kernel.
fn side(rerun: &mut Rerun, case: &Case, nth: std::ops::Range<u32>, title: &mut String) -> Result<Side> {
    let mut side = Side { runs: nth.end - nth.start, ..Side::default() };
    let epochs = rerun.epochs(case, nth);
    rerun.run(&epochs, &mut |_, outcome| {
        match case.judge(&outcome.context("a guest did not answer")?) {
            Showing::Same(report) => {
                side.same += 1;
                *title = report.title;
            }
            Showing::Other(report) => *side.others.entry(report.title).or_default() += 1,
            Showing::None => {}
            Showing::Infrastructure(why) => bail!("a guest failed: {why}"),
        }
        Ok(())
    })?;
    (side.rate_low, side.rate_high) = rerun::interval(side.same, side.runs);
    Ok(side)
}

/// Runs what the campaign knows that is most like the finding with the patch, and what complains, without it.
fn near(
    before: &mut Rerun,
    after: &mut Rerun,
    case: &Case,
    args: &ProveArgs,
    proof: &mut Proof,
) -> Result<()> {
    let corpus = args.what.join("../../corpus");
    let Some(target) = case.batch.last().filter(|_| args.what.is_dir() && corpus.is_dir()) else {
        return Ok(());
    };
    let (mut programs, _) = CorpusDir::open(&corpus)?.load()?;
    programs.retain(|program| program.schedule == target.schedule);
    programs.sort_by_cached_key(|program| (likeness(program, target) * -1e6) as i64);
    programs.truncate(NEAR_MAX);
    proof.near = programs.len();
    let epochs: Vec<Epoch> =
        programs.into_iter().map(|program| Epoch { programs: vec![program], ..Epoch::default() }).collect();
    let with = titles(after, &epochs)?;
    for (epoch, title) in epochs.iter().zip(with) {
        let Some(title) = title else { continue };
        let without = titles(before, std::slice::from_ref(epoch))?.remove(0);
        if without.as_ref() != Some(&title) && !proof.near_new.contains(&title) {
            proof.near_new.push(title);
        }
    }
    Ok(())
}

/// The title of the report of each epoch, where there is one.
fn titles(rerun: &mut Rerun, epochs: &[Epoch]) -> Result<Vec<Option<String>>> {
    let any = Case { titles: Vec::new(), ..rerun.case.clone() };
    let mut titles = Vec::new();
    rerun.run(epochs, &mut |_, outcome| {
        titles.push(match any.judge(&outcome.context("a guest did not answer")?) {
            Showing::Same(report) | Showing::Other(report) => Some(report.title),
            Showing::None => None,
            Showing::Infrastructure(why) => bail!("a guest failed: {why}"),
        });
        Ok(())
    })?;
    Ok(titles)
}

/// Share of the kinds of ops of two programs that both have: 0 to 1.
fn likeness(a: &Program, b: &Program) -> f64 {
    let kinds = |program: &Program| -> std::collections::BTreeSet<u8> {
        program.threads.iter().flat_map(|thread| &thread.ops).map(|op| op.kind).collect()
    };
    let (a, b) = (kinds(a), kinds(b));
    a.intersection(&b).count() as f64 / a.union(&b).count().max(1) as f64
}

fn tell(args: &ProveArgs, when: &str, side: &Side) {
    if args.json {
        return;
    }
    println!(
        "{when}: {} of {} runs show it ({:.0} to {:.0} %)",
        side.same,
        side.runs,
        side.rate_low * 100.0,
        side.rate_high * 100.0
    );
    for (title, n) in &side.others {
        println!("  and {n} show another: {title}");
    }
}

fn print(args: &ProveArgs, proof: &Proof, rerun: &Rerun) -> Result<()> {
    if args.json {
        println!("{}", serde_json::to_string(proof)?);
        return Ok(());
    }
    let Proof { title, before, after, .. } = proof;
    println!("near it: {} programs of the corpus, {} new complaints", proof.near, proof.near_new.len());
    proof.near_new.iter().for_each(|title| println!("  new: {title}"));
    match proof.claim {
        Claim::NotReproduced => println!("could not be made to fail, in {} runs", before.runs),
        Claim::DoesNotFix => {
            println!("NOT fixed: {title} shows in {} of {} runs with the patch", after.same, after.runs)
        }
        Claim::MakesWorse => println!("worse: something shows that did not before"),
        Claim::Fixes => print_mail(proof, rerun),
    }
    Ok(())
}

/// What may be said in the thread.
fn print_mail(proof: &Proof, rerun: &Rerun) {
    let Proof { title, before, after, .. } = proof;
    let recipe = &rerun.machine.recipe;
    println!("fixed\n");
    println!(
        "Reproduced with shrinktorture on {} ({} of {} runs):",
        recipe.instance, before.same, before.runs
    );
    println!("  {title}");
    println!("With the patch: 0 of {} runs. Were it as frequent as before, the chance of", after.runs);
    println!("that would be below {:.2} %.", (doubt(proof) * 100.0).max(0.01));
}

/// The chance that nothing shows in the runs with the patch although nothing is mended.
fn doubt(proof: &Proof) -> f64 {
    (1.0 - proof.before.rate_low).powi(proof.after.runs as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(same_after: u32, others: &[&str], near_new: &[&str]) -> Proof {
        let others = others.iter().map(|title| ((*title).to_owned(), 1)).collect();
        let before = Side { others: BTreeMap::from([("old".to_owned(), 2)]), ..Side::default() };
        Proof {
            claim: Claim::NotReproduced,
            title: "bug".into(),
            before,
            after: Side { same: same_after, others, ..Side::default() },
            near: 3,
            near_new: near_new.iter().map(|title| (*title).to_owned()).collect(),
        }
    }

    #[test]
    fn what_is_claimed() {
        assert_eq!(claim(&proof(0, &[], &[])), Claim::Fixes);
        assert_eq!(claim(&proof(0, &["old"], &[])), Claim::Fixes);
        assert_eq!(claim(&proof(1, &[], &["new"])), Claim::DoesNotFix);
        assert_eq!(claim(&proof(0, &["new"], &[])), Claim::MakesWorse);
        assert_eq!(claim(&proof(0, &[], &["new"])), Claim::MakesWorse);
    }
}
