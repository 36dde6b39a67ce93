// SPDX-License-Identifier: MIT OR Apache-2.0
//! A finding that a campaign makes smaller: first the programs of its batch that it takes, then the program itself. What
//! suffices is written to its folder at once, so a campaign that is killed goes on from there.

use harness::program::Program;

use super::{Campaign, Job, Purpose};
use crate::{
    batches::Waiting,
    chooser::Choice,
    config::Reduce,
    findings::{self, Evidence, Minimized},
    minimize::{Candidate, Minimizer},
    reduce::{Reduction, Shown},
    status::Event,
};

/// Runs a campaign spends on one program; `minimize` goes on where that was not enough.
const RUNS_MAX: u64 = 300;
/// The same where each run ends with a scan for leaks, which takes much longer than the rest of it.
const RUNS_WITH_SCAN_MAX: u64 = 48;

/// A finding at work.
pub(super) struct Reducing {
    /// Index of the finding.
    pub finding: usize,
    /// As it was found.
    pub first: Evidence,
    /// The best there is; what is in its folder.
    pub best: Evidence,
    search: Search,
    /// Rounds begun; answers of earlier ones come too late.
    round: u64,
    /// Runs of this round that were not submitted yet, last first.
    to_run: Vec<Vec<Program>>,
    /// Runs of this round that were submitted and not answered.
    n_under_way: usize,
}

enum Search {
    /// Which programs of the batch.
    Batch(Reduction),
    /// How little of the last one.
    Program(Shrink),
    /// It is over.
    Done,
}

struct Shrink {
    minimizer: Minimizer,
    /// What runs in this round.
    candidates: Vec<Candidate>,
    /// What they showed so far, in order.
    shown: Vec<Shown>,
    /// What it was before, and what it took until an earlier call ended.
    size: Minimized,
}

impl Reducing {
    /// Begins with a finding, or goes on with one that an earlier call left.
    pub fn new(finding: usize, evidence: Evidence) -> Reducing {
        let batch = Search::Batch(Reduction::new(evidence.batch.len()));
        let search = if evidence.record.confirmed { Search::program(&evidence) } else { batch };
        let (first, best) = (evidence.clone(), evidence);
        Reducing { finding, first, best, search, round: 0, to_run: Vec::new(), n_under_way: 0 }
    }

    /// A batch to run, and the round it belongs to; none while answers are awaited, or when the search is over.
    fn next(&mut self, n_guests: usize, how: Reduce) -> Option<(Vec<Program>, u64)> {
        while self.to_run.is_empty() && self.n_under_way == 0 {
            self.begin_round(n_guests, how)?;
        }
        let batch = self.to_run.pop()?;
        self.n_under_way += 1;
        Some((batch, self.round))
    }

    /// Sets out what to run next; none when the search is over.
    fn begin_round(&mut self, n_guests: usize, how: Reduce) -> Option<()> {
        self.round += 1;
        match &mut self.search {
            Search::Batch(reduction) => match reduction.candidate() {
                Some(set) => {
                    self.to_run = vec![set.iter().map(|&idx| self.first.batch[idx].clone()).collect()]
                }
                // What did not show again cannot be made smaller.
                None if how == Reduce::Batch || !self.best.record.confirmed => return None,
                None => self.search = Search::program(&self.best),
            },
            Search::Program(shrink) => {
                shrink.shown.clear();
                shrink.candidates = shrink.minimizer.candidates(n_guests);
                let runs_max = if self.first.record.leak_scan { RUNS_WITH_SCAN_MAX } else { RUNS_MAX };
                if shrink.candidates.is_empty() || shrink.minimizer.n_runs() >= runs_max {
                    let (runs, size) = (shrink.minimizer.n_runs(), shrink.size.clone());
                    self.best.record.minimized =
                        Some(Minimized { runs: size.runs + runs, finished: true, ..size });
                    self.search = Search::Done;
                    return None;
                }
                let before = &self.best.batch[..self.best.last()];
                let with =
                    |candidate: &Candidate| [before, std::slice::from_ref(&candidate.program)].concat();
                self.to_run = shrink.candidates.iter().rev().map(with).collect();
            }
            Search::Done => return None,
        }
        Some(())
    }

    /// Whether the program is as small as it becomes.
    fn is_minimized(&self) -> bool {
        matches!(self.search, Search::Done)
    }

    /// Learns what a run showed; whether it is the best evidence so far.
    fn learn(&mut self, round: u64, shown: Shown) -> bool {
        if round != self.round {
            return false;
        }
        self.n_under_way -= 1;
        match &mut self.search {
            Search::Batch(reduction) => reduction.learn(shown),
            Search::Program(shrink) => {
                shrink.shown.push(shown);
                let is_over = shown == Shown::Same || shrink.shown.len() == shrink.candidates.len();
                if is_over {
                    let (candidates, shown) = (&shrink.candidates, &shrink.shown);
                    shrink.minimizer.learn(&candidates[..shown.len()], shown);
                    // Those behind the one that is taken are of no use any more.
                    self.to_run.clear();
                    (self.n_under_way, self.round) = (0, self.round + 1);
                }
                shown == Shown::Same
            }
            Search::Done => false,
        }
    }

    /// How small the best is, compared with what was found.
    fn size(&self) -> Option<Minimized> {
        let Search::Program(shrink) = &self.search else { return None };
        let size = shrink.size.clone();
        Some(Minimized { runs: size.runs + shrink.minimizer.n_runs(), ..size })
    }
}

impl Search {
    fn program(evidence: &Evidence) -> Search {
        let program = &evidence.batch[evidence.last()];
        let size = evidence.record.minimized.clone().unwrap_or_else(|| Minimized {
            threads: program.threads.len(),
            ops: program.n_ops(),
            batch: evidence.record.reduced_from.unwrap_or(evidence.batch.len()),
            runs: 0,
            finished: false,
        });
        let minimizer = Minimizer::new(program);
        Search::Program(Shrink { minimizer, candidates: Vec::new(), shown: Vec::new(), size })
    }
}

impl Campaign<'_> {
    /// Takes up what an earlier call did not make as small as it becomes.
    pub(super) fn take_up_reductions(&mut self) {
        if self.config.reduce == Reduce::Never {
            return;
        }
        for idx in 0..self.findings.notes().count() {
            let note = self.findings.note(idx);
            let Ok(stored) = findings::load(&note.dir) else { continue };
            let is_small = match self.config.reduce {
                Reduce::Program => stored.record.minimized.as_ref().is_some_and(|size| size.finished),
                _ => stored.record.confirmed,
            };
            if note.known.is_none() && !stored.batch.is_empty() && !is_small {
                let evidence = stored.evidence(self.config.annotate);
                self.reducing.push_back(Reducing::new(idx, evidence));
            }
        }
    }

    /// The next epoch of the reduction at work; those that are over are dropped.
    pub(super) fn next_reduction(&mut self) -> anyhow::Result<Option<Job>> {
        while let Some(reducing) = self.reducing.front_mut() {
            let leak_scan = reducing.first.record.leak_scan;
            if let Some((programs, round)) = reducing.next(self.config.jobs, self.config.reduce) {
                let waiting = |program| Waiting { choice: Choice { program, parent: None }, n_stuck: 0 };
                let programs = programs.into_iter().map(waiting).collect();
                return Ok(Some(Job { purpose: Purpose::Reduce(round), programs, leak_scan }));
            }
            if reducing.n_under_way > 0 {
                return Ok(None);
            }
            let Some(done) = self.reducing.pop_front() else { break };
            if done.is_minimized() {
                self.findings.replace(done.finding, &done.best)?;
            }
            let note = self.findings.note(done.finding).clone();
            if done.is_minimized() {
                (self.events)(Event::Minimized(note));
            } else if !done.best.record.confirmed {
                (self.events)(Event::NotAgain(note));
            }
        }
        Ok(None)
    }

    /// Whether the run of a reduction made the finding smaller; then its evidence is what is kept.
    pub(super) fn learn_reduction(&mut self, round: u64, shown: Shown) -> bool {
        self.reducing.front_mut().is_some_and(|reducing| reducing.learn(round, shown))
    }

    /// Keeps better evidence of the finding at work.
    pub(super) fn keep_reduction(&mut self, mut better: Evidence) -> anyhow::Result<()> {
        let Some(reducing) = self.reducing.front_mut() else { return Ok(()) };
        let first = &reducing.first;
        // The title is that of the console kept; what it was found by is another name of it.
        better.report.add_titles(first.report.titles().map(str::to_owned).collect::<Vec<_>>());
        (better.first_seen, better.execs) = (first.first_seen, first.execs);
        better.record.confirmed = true;
        let n_found = first.record.reduced_from.unwrap_or(first.batch.len());
        better.record.reduced_from = (better.batch.len() < n_found).then_some(n_found);
        better.record.minimized = reducing.size();
        let is_fewer = better.batch.len() < reducing.best.batch.len();
        reducing.best = better;
        let finding = reducing.finding;
        self.findings.replace(finding, &reducing.best)?;
        if is_fewer {
            (self.events)(Event::Reduced(self.findings.note(finding).clone()));
        }
        Ok(())
    }
}
