// SPDX-License-Identifier: MIT OR Apache-2.0
//! The loop: choose programs, hand epochs to the guests, learn from their answers in order. Guests always have work:
//! twice as many epochs are submitted as there are guests, so what is learned from one answer shows in the epoch after
//! the next.
//!
//! Nothing here depends on the host's timing except the end of the campaign and, by powers of two, the size of an
//! epoch; so one seed gives one campaign where the guests are deterministic.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use harness::{
    epoch::Epoch,
    program::{Audit, Program},
};
use libafl_bolts::rands::StdRand;

mod answer;
mod reducing;

use self::reducing::Reducing;
use crate::{
    batches::{Batches, Pace, Waiting},
    chooser::{Choice, Chooser},
    config::{CampaignConfig, INFRASTRUCTURE_IN_A_ROW_MAX, LeakScan},
    corpus::CorpusDir,
    disk,
    findings::Findings,
    guests::Guests,
    status::{CampaignEnd, Event, FindingNote, Status, Summary},
    stored::{self, Counters, State},
};

/// How long the loop waits for an answer before it looks at clock and stop flag.
const WAIT: Duration = Duration::from_millis(100);
/// Epochs that a program of the corpus waits for a scan for leaks at most.
const SCAN_EPOCHS_MAX: u64 = 256;
/// Epochs that may be answered while a scan for leaks is under way.
const SCAN_WITHIN: u64 = 16;
/// How often the state is stored.
const SAVE_EVERY: Duration = Duration::from_secs(3);
/// How often a status is told.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// Runs a campaign, or goes on with one, until it ends.
///
/// # Errors
/// When the folder cannot be used or the pool of guests breaks. Failures of single epochs are counted instead.
pub fn run(
    config: CampaignConfig<'_>,
    guests: &mut dyn Guests,
    events: &mut dyn FnMut(Event),
) -> Result<Summary> {
    let mut campaign = Campaign::open(&config, events)?;
    let end = campaign.drive(guests);
    guests.cancel();
    // Stored even when the pool broke: what was learned until then is not its fault.
    campaign.save()?;
    let end = end?;
    let status = campaign.status();
    stored::append_stats(&config.dir, &status)?;
    let (known, findings) =
        campaign.findings.notes().cloned().partition(|note: &FindingNote| note.known.is_some());
    Ok(Summary { end, status, findings, known, phases: campaign.phases })
}

struct Campaign<'a> {
    config: &'a CampaignConfig<'a>,
    events: &'a mut dyn FnMut(Event),
    chooser: Chooser,
    batches: Batches,
    pace: Pace,
    corpus: CorpusDir,
    findings: Findings,
    /// Epochs submitted and not answered with their numbers, oldest first.
    under_way: VecDeque<(u64, Job)>,
    /// A scan for leaks, which takes as long as many other epochs, and the count of epochs when its answer is due. Others go on
    /// meanwhile, and yet the order of answers does not hang on who is done first.
    aside: Option<(u64, Job, u64)>,
    /// Epochs to submit before anything new.
    retries: VecDeque<Job>,
    /// Findings that are being made smaller; the first is at work.
    reducing: VecDeque<Reducing>,
    /// Figures of earlier calls and this one; the time is that of earlier calls.
    counters: Counters,
    /// Figures when this call began.
    at_start: Counters,
    in_guest: Duration,
    /// Programs of the corpus that were not run with a scan for leaks yet.
    unscanned: VecDeque<Program>,
    /// Epochs submitted since the last such run.
    since_scan: u64,
    infrastructure_in_a_row: u32,
    /// The kernel complained while it booted, and the guest did not get ready.
    no_boot: bool,
    started: Instant,
    saved: Instant,
    told: Instant,
    phases: Vec<(&'static str, Duration)>,
    _lock: File,
}

/// An epoch under way.
struct Job {
    purpose: Purpose,
    programs: Vec<Waiting>,
    leak_scan: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Programs run for the first time.
    Fuzz,
    /// Programs of the corpus run once more, with a scan for leaks.
    Leaks,
    /// Programs whose epoch was lost.
    Retry,
    /// A smaller form of the finding that is being reduced, in such a round of the search.
    Reduce(u64),
}

impl<'a> Campaign<'a> {
    fn open(config: &'a CampaignConfig<'a>, events: &'a mut dyn FnMut(Event)) -> Result<Campaign<'a>> {
        ensure!(!config.schedules.is_empty(), "a campaign needs a schedule");
        ensure!(config.jobs > 0, "a campaign needs a guest");
        let started = Instant::now();
        disk::make_dir(&config.dir)?;
        let lock = disk::lock(&config.dir)?;
        stored::enter(config)?;
        let (state, warning) = stored::load_state(&config.dir);
        let corpus = CorpusDir::open(&config.dir.join("corpus"))?;
        let (mut programs, broken) = corpus.load()?;
        let (mut findings, odd) = Findings::open(&config.dir.join("findings"))?;
        warning.into_iter().chain(broken).chain(odd).for_each(|warning| events(Event::Warning(warning)));

        let is_new = state.is_none();
        let fresh = State::new(StdRand::with_seed(config.seed), Counters::default(), 0, BTreeMap::new());
        let batch = state.as_ref().map(|state| state.batch);
        let state = state.unwrap_or(fresh);
        state.seen.iter().for_each(|(title, &count)| findings.set_count(title, count));
        if is_new {
            programs.splice(0..0, config.seeds.iter().cloned());
        }
        let mut batches = Batches::default();
        for mut program in programs {
            program.fixup();
            if !config.schedules.contains(&program.schedule) {
                program.schedule = config.schedules[0];
            }
            batches.push(Choice { program, parent: None });
        }
        let mut campaign = Campaign {
            chooser: Chooser::new(state.rand, &config.schedules, config.walk_prob, &config.focus)?,
            batches,
            pace: Pace::new(config.batch, batch),
            corpus,
            findings,
            under_way: VecDeque::new(),
            aside: None,
            retries: VecDeque::new(),
            reducing: VecDeque::new(),
            at_start: state.counters.clone(),
            counters: state.counters,
            in_guest: Duration::ZERO,
            unscanned: VecDeque::new(),
            since_scan: 0,
            infrastructure_in_a_row: 0,
            no_boot: false,
            started,
            saved: started,
            told: started,
            phases: Vec::new(),
            _lock: lock,
            config,
            events,
        };
        campaign.take_up_reductions();
        campaign.phase("load", started);
        Ok(campaign)
    }

    fn drive(&mut self, guests: &mut dyn Guests) -> Result<CampaignEnd> {
        loop {
            if let Some(end) = self.end() {
                return Ok(end);
            }
            let choosing = Instant::now();
            while self.under_way.len() < 2 * self.config.jobs {
                let Some(job) = self.next_job()? else { break };
                let programs = job.programs.iter().map(|waiting| waiting.choice.program.clone()).collect();
                let (canary, leak_scan) = (self.config.canary, job.leak_scan);
                let number = guests.submit(Epoch { programs, canary, leak_scan, ..Epoch::default() })?;
                // The last ones have nothing beside them but each other.
                if job.purpose == Purpose::Leaks && !self.is_enough() {
                    self.aside = Some((number, job, self.counters.epochs + SCAN_WITHIN));
                } else {
                    self.under_way.push_back((number, job));
                }
            }
            self.phase("choose", choosing);
            let waiting = Instant::now();
            if let Some(wanted) = self.wanted() {
                let answer = guests.answer(wanted, WAIT)?;
                self.phase("guests", waiting);
                if let (Some(outcome), Some(job)) = (&answer, answer.as_ref().and_then(|_| self.take(wanted)))
                {
                    self.digest(job, outcome, guests)?;
                }
            }
            self.tick()?;
        }
    }

    /// The epoch whose answer is next.
    fn wanted(&self) -> Option<u64> {
        let front = self.under_way.front().map(|(number, _)| *number);
        let is_due = |due: u64| due <= self.counters.epochs || front.is_none() || self.is_enough();
        self.aside.as_ref().filter(|(_, _, due)| is_due(*due)).map(|(number, _, _)| *number).or(front)
    }

    fn take(&mut self, wanted: u64) -> Option<Job> {
        if let Some((_, job, _)) = self.aside.take_if(|(number, _, _)| *number == wanted) {
            return Some(job);
        }
        self.under_way.pop_front().map(|(_, job)| job)
    }

    fn is_enough(&self) -> bool {
        self.config.execs_max.is_some_and(|max| self.counters.execs >= max)
    }

    fn end(&self) -> Option<CampaignEnd> {
        let is_over = self.config.time_max.is_some_and(|max| self.started.elapsed() >= max);
        // What was found is made small, however many programs that takes.
        let is_busy = self.aside.is_some() || !self.reducing.is_empty();
        let is_scanned = !matches!(self.config.leak_scan, LeakScan::Corpus(_)) || self.unscanned.is_empty();
        let is_enough = self.is_enough() && !is_busy && is_scanned && self.under_way.is_empty();
        if self.no_boot {
            Some(CampaignEnd::NoBoot)
        } else if self.infrastructure_in_a_row >= INFRASTRUCTURE_IN_A_ROW_MAX {
            Some(CampaignEnd::Infrastructure)
        } else if self.config.stop.load(Ordering::Relaxed) {
            Some(CampaignEnd::Stopped)
        } else if is_over {
            Some(CampaignEnd::Time)
        } else {
            is_enough.then_some(CampaignEnd::Execs)
        }
    }

    /// What to submit next; none while a finding is made smaller and its runs are awaited.
    fn next_job(&mut self) -> Result<Option<Job>> {
        if !self.is_enough()
            && let Some(job) = self.retries.pop_front()
        {
            return Ok(Some(job));
        }
        if let Some(job) = self.next_reduction()? {
            return Ok(Some(job));
        }
        if !self.reducing.is_empty() {
            return Ok(None);
        }
        if let Some(programs) = self.next_leak_scan() {
            return Ok(Some(Job { purpose: Purpose::Leaks, programs, leak_scan: true }));
        }
        if self.is_enough() {
            return Ok(None);
        }
        loop {
            if let Some(programs) = self.batches.take(self.pace.n_programs()) {
                self.since_scan += 1;
                let leak_scan = self.config.leak_scan == LeakScan::Every;
                return Ok(Some(Job { purpose: Purpose::Fuzz, programs, leak_scan }));
            }
            let choice = self.chooser.choose()?;
            self.batches.push(choice);
        }
    }

    /// Programs of the corpus to run with a scan for leaks and the whole audit, when there are enough of them, or some have
    /// waited for long. One schedule does: memory is rarely lost by an interleaving, and every other one is a guest more to
    /// boot.
    fn next_leak_scan(&mut self) -> Option<Vec<Waiting>> {
        let LeakScan::Corpus(n_programs) = self.config.leak_scan else { return None };
        if self.aside.is_some() {
            return None;
        }
        // What ran last has joined the corpus by then.
        let is_last = self.is_enough() && self.under_way.iter().all(|(_, job)| job.purpose == Purpose::Leaks);
        let is_late = self.since_scan >= SCAN_EPOCHS_MAX || is_last;
        let n_wanted = if is_late { 1 } else { n_programs };
        if self.unscanned.len() < n_wanted {
            return None;
        }
        self.since_scan = 0;
        let n_taken = self.unscanned.len().min(n_programs);
        let programs = self.unscanned.drain(..n_taken).map(|mut program| {
            program.schedule = self.config.schedules[0];
            program.audit = Audit::Deep;
            Waiting { choice: Choice { program, parent: None }, n_stuck: 0 }
        });
        Some(programs.collect())
    }

    fn tick(&mut self) -> Result<()> {
        if self.told.elapsed() >= STATUS_EVERY {
            self.told = Instant::now();
            let status = self.status();
            stored::append_stats(&self.config.dir, &status)?;
            (self.events)(Event::Status(status));
        }
        if self.saved.elapsed() >= SAVE_EVERY {
            self.save()?;
        }
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        self.saved = Instant::now();
        let counters = Counters { elapsed_secs: self.elapsed().as_secs_f64(), ..self.counters.clone() };
        let seen = self.findings.notes().map(|note| (note.title.clone(), note.count)).collect();
        State::new(*self.chooser.rand(), counters, self.pace.n_programs(), seen).save(&self.config.dir)
    }

    /// Campaign time.
    fn elapsed(&self) -> Duration {
        Duration::try_from_secs_f64(self.at_start.elapsed_secs).unwrap_or_default() + self.started.elapsed()
    }

    fn status(&self) -> Status {
        let secs = self.started.elapsed().as_secs_f64().max(1e-3);
        let (known, findings): (Vec<_>, Vec<_>) =
            self.findings.notes().partition(|note| note.known.is_some());
        Status {
            elapsed_secs: self.elapsed().as_secs_f64(),
            execs: self.counters.execs,
            execs_per_sec: (self.counters.execs - self.at_start.execs) as f64 / secs,
            ops_per_sec: (self.counters.n_ops - self.at_start.n_ops) as f64 / secs,
            epochs: self.counters.epochs,
            corpus: self.chooser.corpus_len(),
            edges: self.chooser.n_edges(),
            findings: findings.len(),
            findings_total: findings.iter().map(|note| note.count).sum(),
            known: known.len(),
            infrastructure: self.counters.infrastructure,
            share_in_programs: self.in_guest.as_secs_f64() / (secs * self.config.jobs as f64),
            batch: self.pace.n_programs(),
        }
    }

    /// Adds the time since `since` to a phase.
    fn phase(&mut self, name: &'static str, since: Instant) {
        let spent = since.elapsed();
        match self.phases.iter_mut().find(|(known, _)| *known == name) {
            Some((_, total)) => *total += spent,
            None => self.phases.push((name, spent)),
        }
    }
}
