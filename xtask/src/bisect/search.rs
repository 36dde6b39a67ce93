// SPDX-License-Identifier: MIT OR Apache-2.0
//! The search for the first bad commit: which commit is run how often, when that is a verdict, and how sure the answer
//! is. What runs commits is behind [`World`]; all that is known is in [`State`], so that a killed search goes on.
//!
//! A run that shows the finding settles it: bad. Silence is good only after as many runs as make a miss unlikely, all
//! verdicts of the search together. A run that ends in another bug says neither.

use std::{collections::BTreeMap, time::Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::git::History;
use crate::{rerun, usage};

/// Runs of one commit at most.
pub const RUNS_MAX: u32 = 400;
/// The rate is measured until the finding has shown this often.
const SAME_MIN: u32 = 5;

/// What one run showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The finding, under this title.
    Same(String),
    /// Something that may have kept the finding from showing.
    Other(String),
    /// It ran to its end, and nothing showed.
    Silent,
}

/// What came of running a commit.
#[derive(Clone, Debug)]
pub enum Ran {
    /// What each run showed.
    Seen(Vec<Seen>),
    /// It cannot be run, and why.
    Unfit(String),
}

/// What the search has to do with.
pub trait World {
    /// Runs a commit some more times, `n_runs` of which there were before, and looks for these titles.
    ///
    /// # Errors
    /// For reasons that are not the commit's.
    fn run(&mut self, commit: &str, n_runs: u32, titles: &[String]) -> Result<Ran>;
    /// Keeps the state.
    ///
    /// # Errors
    /// When it cannot be written.
    fn save(&mut self, state: &State) -> Result<()>;
    /// Tells of a verdict, and how many commits may be the first bad one after it, where that is known.
    fn tell(&mut self, step: &Step, n_suspects: Option<usize>);
}

/// What the runs of a commit have shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// The commit.
    pub commit: String,
    /// Runs.
    pub runs: u32,
    /// Those that showed the finding.
    pub same: u32,
    /// Those that showed nothing.
    pub silent: u32,
    /// What the rest showed, and in how many runs.
    pub others: BTreeMap<String, u32>,
    /// Time it took, builds and boots included.
    pub seconds: f64,
}

/// What a commit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It shows the finding.
    Bad,
    /// It does not.
    Good,
    /// Nobody knows.
    Skip,
}

/// What a commit is, and why nobody knows.
type Known = (Verdict, Option<String>);

/// A commit and what it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What it is.
    pub verdict: Verdict,
    /// Why nobody knows.
    pub why: Option<String>,
    /// Its runs.
    pub tally: Tally,
}

/// All that a search has learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The good end.
    pub good: String,
    /// The bad end.
    pub bad: String,
    /// Runs that measure the rate, unless it takes more.
    pub times: u32,
    /// The chance of a wrong answer that is put up with.
    pub doubt: f64,
    /// Names of the finding; none, for a program.
    pub titles: Vec<String>,
    /// The names under which the bad end showed it.
    pub shown: Vec<String>,
    /// Silent runs that make a commit good; none, until the rate at the bad end was measured.
    pub silent_needed: Option<u32>,
    /// Commits in the order they were tested, the bad end first, the good end second.
    pub steps: Vec<Step>,
    /// The commit that is being tested.
    pub current: Option<Tally>,
}

/// How a search ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// One of these is the first bad commit; they all were skipped, but for the last that showed it.
    Found(Vec<String>),
    /// The bad end did not show it.
    NotReproduced,
    /// An end cannot be tested, and why.
    Untestable(String, String),
    /// The good end, or the last commit that good and bad have in common, shows it.
    GoodShows(String),
}

impl State {
    /// Nothing learned yet.
    pub fn new(good: String, bad: String, titles: Vec<String>, times: u32, doubt: f64) -> State {
        State {
            good,
            bad,
            times,
            doubt,
            titles,
            shown: Vec::new(),
            silent_needed: None,
            steps: Vec::new(),
            current: None,
        }
    }

    fn of(&self, verdict: Verdict) -> Vec<String> {
        let those = self.steps.iter().filter(|step| step.verdict == verdict);
        those.map(|step| step.tally.commit.clone()).collect()
    }

    fn find(&self, commit: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.tally.commit == commit)
    }

    /// All names of the finding.
    pub fn names(&self) -> Vec<String> {
        let more = self.shown.iter().filter(|title| !self.titles.contains(title));
        self.titles.iter().chain(more).cloned().collect()
    }

    /// The oldest commit known to be bad.
    fn oldest_bad(&self) -> String {
        self.of(Verdict::Bad).pop().unwrap_or_else(|| self.bad.clone())
    }

    /// The lowest rate at which the finding may show in a bad commit, by what the bad end showed.
    pub fn rate_low(&self) -> f64 {
        self.find(&self.bad).map_or(0.0, |step| rerun::interval(step.tally.same, step.tally.runs).0)
    }

    /// The chance that no good commit was a miss.
    pub fn sureness(&self) -> f64 {
        let miss = |step: &Step| (1.0 - self.rate_low()).powi(step.tally.silent as i32);
        self.steps.iter().filter(|step| step.verdict == Verdict::Good).map(|step| 1.0 - miss(step)).product()
    }
}

impl Tally {
    fn count(&mut self, seen: &Seen) {
        self.runs += 1;
        match seen {
            Seen::Same(_) => self.same += 1,
            Seen::Silent => self.silent += 1,
            Seen::Other(what) => *self.others.entry(what.clone()).or_default() += 1,
        }
    }

    /// What the commit is, as soon as the runs say.
    fn verdict(&self, silent_needed: u32) -> Option<Known> {
        let hidden: u32 = self.others.values().sum();
        if self.same > 0 {
            Some((Verdict::Bad, None))
        } else if self.silent >= silent_needed {
            Some((Verdict::Good, None))
        } else if hidden > 2 * silent_needed {
            let most = self.others.iter().max_by_key(|(_, n)| **n).map_or("", |(what, _)| what);
            Some((Verdict::Skip, Some(format!("another bug may hide it: {most}"))))
        } else {
            None
        }
    }

    /// Whether the rate is known well enough.
    fn is_rate_known(&self, times: u32) -> bool {
        self.runs >= RUNS_MAX || self.runs >= times && (self.same == 0 || self.same >= SAME_MIN.min(times))
    }
}

/// Silent runs that a good verdict takes, so that all verdicts of a search through so many commits are right with a
/// chance of `1 - doubt`.
fn silent_needed(rate_low: f64, doubt: f64, n_ends: usize, n_suspects: usize) -> u32 {
    let n_verdicts = n_ends as u32 + steps_left(n_suspects);
    let miss = 1.0 - (1.0 - doubt).powf(1.0 / f64::from(n_verdicts));
    rerun::runs_needed(rate_low, miss, RUNS_MAX)
}

/// Steps that halving takes until one of so many is left.
pub fn steps_left(n_suspects: usize) -> u32 {
    n_suspects.max(1).next_power_of_two().ilog2()
}

/// Searches until there is an answer.
///
/// # Errors
/// Those of the world and of the history, and when good and bad are the wrong way round.
pub fn search(history: &History, state: &mut State, world: &mut dyn World) -> Result<Answer> {
    let (good, bad) = (state.good.clone(), state.bad.clone());
    let n_suspects = history.suspects(&bad, std::slice::from_ref(&good))?.len();
    if n_suspects == 0 {
        return Err(usage!("--bad is in the history of --good: there is nothing between them"));
    }
    let ends = ends(history, &good, &bad)?;
    if measure(state, world, n_suspects)? != Verdict::Bad {
        let was_run = state.find(&bad).is_some_and(|step| step.tally.runs > 0);
        return Ok(if was_run { Answer::NotReproduced } else { untestable(state, &bad) });
    }
    let needed = silent_needed(state.rate_low(), state.doubt, ends.len(), n_suspects);
    state.silent_needed.get_or_insert(needed);
    for end in ends {
        match test(history, state, world, &end)? {
            Verdict::Good => {}
            Verdict::Bad => return Ok(Answer::GoodShows(end)),
            Verdict::Skip => return Ok(untestable(state, &end)),
        }
    }
    loop {
        let (bad, good, skipped) = (state.oldest_bad(), state.of(Verdict::Good), state.of(Verdict::Skip));
        let suspects = history.suspects(&bad, &good)?;
        if suspects.iter().all(|commit| *commit == bad || skipped.contains(commit)) {
            return Ok(Answer::Found(suspects));
        }
        let next = history.next(&bad, &good, &skipped)?;
        test(history, state, world, &next)?;
    }
}

/// What must be good: that end, and where the bad one is on another branch, where they parted.
fn ends(history: &History, good: &str, bad: &str) -> Result<Vec<String>> {
    let mut ends = vec![good.to_owned()];
    ends.extend(history.bases(good, bad)?.into_iter().filter(|base| base != good));
    Ok(ends)
}

fn untestable(state: &State, end: &str) -> Answer {
    let why = state.find(end).and_then(|step| step.why.clone()).unwrap_or_default();
    Answer::Untestable(end.to_owned(), why)
}

/// Runs the bad end until the rate is known.
fn measure(state: &mut State, world: &mut dyn World, n_suspects: usize) -> Result<Verdict> {
    let (bad, times) = (state.bad.clone(), state.times);
    let decide = move |tally: &Tally| {
        tally.is_rate_known(times).then(|| match tally.same {
            0 => (Verdict::Skip, Some("the finding does not show".to_owned())),
            _ => (Verdict::Bad, None),
        })
    };
    run_until(state, world, &bad, &decide, &mut |_| Ok(n_suspects))
}

/// Runs a commit until it is known what it is.
fn test(history: &History, state: &mut State, world: &mut dyn World, commit: &str) -> Result<Verdict> {
    let needed = state.silent_needed.unwrap_or(RUNS_MAX);
    let mut suspects =
        |state: &State| Ok(history.suspects(&state.oldest_bad(), &state.of(Verdict::Good))?.len());
    run_until(state, world, commit, &|tally| tally.verdict(needed), &mut suspects)
}

fn run_until(
    state: &mut State,
    world: &mut dyn World,
    commit: &str,
    decide: &dyn Fn(&Tally) -> Option<Known>,
    n_suspects: &mut dyn FnMut(&State) -> Result<usize>,
) -> Result<Verdict> {
    if let Some(step) = state.find(commit) {
        return Ok(step.verdict);
    }
    // What a program shows in the bad end is what is looked for in the others.
    let titles = if commit == state.bad { state.titles.clone() } else { state.names() };
    let begun = state.current.take().filter(|tally| tally.commit == commit);
    let mut tally = begun.unwrap_or_else(|| Tally { commit: commit.to_owned(), ..Tally::default() });
    let (verdict, why) = loop {
        if let Some(known) = decide(&tally) {
            break known;
        }
        let clock = Instant::now();
        let ran = world.run(commit, tally.runs, &titles)?;
        tally.seconds += clock.elapsed().as_secs_f64();
        match ran {
            Ran::Unfit(why) => break (Verdict::Skip, Some(why)),
            Ran::Seen(seen) => seen.iter().for_each(|seen| {
                tally.count(seen);
                if let Seen::Same(title) = seen
                    && commit == state.bad
                    && !state.shown.contains(title)
                {
                    state.shown.push(title.clone());
                }
            }),
        }
        state.current = Some(tally.clone());
        world.save(state)?;
    };
    let step = Step { verdict, why, tally };
    state.current = None;
    state.steps.push(step.clone());
    world.save(state)?;
    let n_suspects = n_suspects(state)?;
    world.tell(&step, Some(n_suspects));
    Ok(verdict)
}
