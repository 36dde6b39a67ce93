// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bisect FINDING|PROGRAM --linux GIT --good A --bad B`: the commit that brought a finding. The repository is
//! only read. A killed call is gone on with by the same command.

mod commit;
pub mod git;
mod search;
#[cfg(test)]
mod tests;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args;
use commit::Commits;
use git::History;
use harness::plain;
use search::{Answer, Ran, State, Step, Verdict, World};
use serde::Serialize;

use crate::{
    exit::{Exit, Outcome},
    matrix,
    paths::{self, Cache},
    prepare::Engine,
    rerun::{self, Case, Elsewhere},
    usage,
};

/// Characters of a reason that are shown.
const WHY_CHARS: usize = 160;

/// Options of `bisect`.
#[derive(Debug, Args)]
pub struct BisectArgs {
    /// A finding's folder, or a file with a program
    what: PathBuf,
    /// Git repository with the kernel's history; only read
    #[arg(long, value_name = "GIT")]
    linux: PathBuf,
    /// A commit that does not show it
    #[arg(long, value_name = "COMMIT")]
    good: String,
    /// A commit that shows it
    #[arg(long, value_name = "COMMIT")]
    bad: String,
    /// Kernel instance: options and boot arguments [default: the finding's; for a program kasan-6.12]
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Patch to apply to every commit, mbox or diff; repeatable. Those of the finding are not
    #[arg(long, value_name = "FILE")]
    patch: Vec<PathBuf>,
    /// Extra kernel boot arguments
    #[arg(long, value_name = "ARGS")]
    append: Option<String>,
    /// Engine [default: the finding's]
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// Runs of the bad commit that measure how often it shows, at least
    #[arg(long, default_value_t = 20)]
    times: u32,
    /// Chance of a wrong answer that is put up with, percent, all steps together
    #[arg(long, value_name = "PERCENT", default_value_t = rerun::MISS * 100.0)]
    doubt: f64,
    /// Guests side by side [default: one a core]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Print one JSON object in place of text
    #[arg(long)]
    json: bool,
}

/// The answer, for programs.
#[derive(Debug, Serialize)]
struct Outline<'a> {
    claim: &'static str,
    /// Its hash, where it is one.
    first_bad: Option<&'a str>,
    /// Hash and subject of each that may be the first bad one; of the end that is at fault, where there is no such.
    commits: Vec<String>,
    /// Why nothing can be said.
    why: Option<&'a str>,
    /// The chance that every good verdict is right, at least.
    sureness: Option<f64>,
    /// Names of the finding.
    titles: Vec<String>,
    silent_needed: Option<u32>,
    steps: &'a [Step],
    state: &'a Path,
}

/// Runs the subcommand. Exit codes: 2 the commit is found, 4 it cannot be said which it is or the finding does not show,
/// 1 the good commit shows it, too.
///
/// # Errors
/// When a commit or the finding is not there, or the machine fails.
pub fn run(args: &BisectArgs) -> Outcome {
    if !(args.doubt > 0.0 && args.doubt < 100.0) || args.times == 0 {
        return Err(usage!("--doubt is between 0 and 100 percent, --times at least 1"));
    }
    let (case, _) = Case::read(&args.what)?;
    if let Some(name) = &args.instance {
        matrix::instance(name)?;
    }
    let history = History::open(&Cache::open()?, &args.linux)?;
    let good = history.resolve(&args.linux, &args.good)?;
    let bad = history.resolve(&args.linux, &args.bad)?;
    let path = history.dir().join(format!("{}.json", key(args, &case, &good, &bad)?));
    let mut state = match fs::read(&path) {
        Ok(text) => {
            serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?
        }
        Err(_) => State::new(good, bad, case.titles, args.times, args.doubt / 100.0),
    };
    eprintln!(
        "state: {} (the same command goes on from there; without the file it begins anew)",
        path.display()
    );
    let elsewhere = Elsewhere {
        instance: args.instance.clone(),
        linux: None,
        patch: args.patch.clone(),
        append: args.append.clone(),
        engine: args.engine,
    };
    let commits = Commits::new(&history, &args.what, elsewhere, args.jobs);
    let mut bench = Bench { commits, path, json: args.json, n_told: 0 };
    for step in state.steps.clone() {
        bench.tell(&step, None);
    }
    let answer = search::search(&history, &mut state, &mut bench)?;
    print(&bench, &state, &answer)
}

/// Names the state of a search: by what decides its course.
fn key(args: &BisectArgs, case: &Case, good: &str, bad: &str) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for patch in &args.patch {
        let text = fs::read(patch).map_err(|error| usage!("cannot read {}: {error}", patch.display()))?;
        hasher.update(blake3::hash(&text).as_bytes());
    }
    let BisectArgs { instance, append, engine, times, doubt, .. } = args;
    let rest = format!("{case:?} {good} {bad} {instance:?} {append:?} {engine:?} {times} {doubt}");
    Ok(hasher.update(rest.as_bytes()).finalize().to_hex()[..16].to_owned())
}

/// Where commits are run, and what is told of them.
struct Bench<'a> {
    commits: Commits<'a>,
    path: PathBuf,
    json: bool,
    n_told: usize,
}

impl World for Bench<'_> {
    fn run(&mut self, commit: &str, n_runs: u32, titles: &[String]) -> Result<Ran> {
        self.commits.run(commit, n_runs, titles)
    }

    fn save(&mut self, state: &State) -> Result<()> {
        let text = serde_json::to_vec_pretty(state).context("cannot encode")?;
        paths::write_whole(&self.path, &text)
    }

    fn tell(&mut self, step: &Step, n_suspects: Option<usize>) {
        self.n_told += 1;
        if self.json {
            return;
        }
        let Step { verdict, why, tally } = step;
        let name = self.commits.name(&tally.commit).unwrap_or_else(|_| tally.commit.clone());
        let word = match verdict {
            Verdict::Bad => "bad",
            Verdict::Good => "good",
            Verdict::Skip => "skipped",
        };
        let why = why.as_ref().map_or(String::new(), |why| format!(": {}", plain::line(why, WHY_CHARS)));
        let left = n_suspects.map_or(String::new(), |n| {
            format!("; {n} commit(s) left, about {} step(s)", search::steps_left(n))
        });
        println!(
            "step {}: {name}: {} of {} runs, {word}{why} ({:.0} s){left}",
            self.n_told, tally.same, tally.runs, tally.seconds
        );
        for (title, n) in &tally.others {
            println!("  and {n} show another: {}", plain::line(title, WHY_CHARS));
        }
    }
}

fn print(bench: &Bench<'_>, state: &State, answer: &Answer) -> Outcome {
    let (claim, those, why) = match answer {
        Answer::Found(commits) if commits.len() == 1 => ("found", commits.clone(), None),
        Answer::Found(commits) => ("one-of", commits.clone(), None),
        Answer::NotReproduced => ("not-reproduced", vec![state.bad.clone()], None),
        Answer::Untestable(commit, why) => ("untestable", vec![commit.clone()], Some(why.as_str())),
        Answer::GoodShows(commit) => ("good-shows", vec![commit.clone()], None),
    };
    let names = those.iter().map(|commit| bench.commits.name(commit)).collect::<Result<Vec<_>>>()?;
    let sureness = matches!(answer, Answer::Found(_)).then(|| state.sureness());
    if bench.json {
        let outline = Outline {
            claim,
            first_bad: (claim == "found").then_some(those[0].as_str()),
            commits: names,
            why,
            sureness,
            titles: state.names(),
            silent_needed: state.silent_needed,
            steps: &state.steps,
            state: &bench.path,
        };
        println!("{}", serde_json::to_string(&outline)?);
    } else {
        explain(state, answer, &names);
    }
    match answer {
        Answer::Found(commits) if commits.len() == 1 => Ok(Exit::Finding),
        Answer::GoodShows(commit) if !bench.json => {
            Err(usage!("{commit} is not good: the finding shows there"))
        }
        Answer::GoodShows(_) => Ok(Exit::Usage),
        _ => Ok(Exit::Skipped),
    }
}

fn explain(state: &State, answer: &Answer, names: &[String]) {
    match answer {
        Answer::Found(commits) if commits.len() == 1 => {
            println!("first bad commit: {}", commits[0]);
            println!("  {}", names[0]);
        }
        Answer::Found(_) => {
            println!("the first bad commit is one of these; all but the last known to be bad were skipped:");
            names.iter().for_each(|name| println!("  {name}"));
        }
        Answer::NotReproduced => println!("the bad commit could not be made to fail: {}", names[0]),
        Answer::Untestable(_, why) => {
            println!("cannot say: {} cannot be tested: {}", names[0], plain::block(why));
        }
        Answer::GoodShows(_) => {}
    }
    if matches!(answer, Answer::Found(_)) {
        let titles: Vec<String> = state.names().iter().map(|title| plain::line(title, WHY_CHARS)).collect();
        println!("it shows: {}", titles.join(", "));
        println!(
            "sure: at least {:.1} %, if bad commits show it in at least {:.0} % of runs as the bad end does (95 %); each good one \
             was silent in {} runs or more",
            (state.sureness() * 1000.0).floor() / 10.0,
            state.rate_low() * 100.0,
            state.silent_needed.unwrap_or_default()
        );
    }
}
