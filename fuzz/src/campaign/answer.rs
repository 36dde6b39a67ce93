// SPDX-License-Identifier: MIT OR Apache-2.0
//! What becomes of the answer to an epoch: programs are learned from, complaints become findings, failures that are not
//! the kernel's are counted and their programs run again.

use std::{collections::BTreeMap, iter, time::Instant};

use anyhow::Result;
use harness::{
    epoch::{EpochEnd, EpochOutcome},
    guest::Leaks,
    oracle::{self, Report},
    program::Program,
};

use super::{Campaign, Job, Purpose, reducing::Reducing};
use crate::{
    batches::{Requeue, Waiting},
    config::Reduce,
    disk,
    findings::{Evidence, Record},
    guests::Guests,
    reduce::Shown,
    report,
    status::Event,
};

/// Logs of infrastructure failures kept; later ones overwrite the first.
const INFRASTRUCTURE_LOGS_MAX: u64 = 16;

/// Whose fault the end of an epoch is.
#[derive(Clone, Debug, PartialEq)]
enum Class {
    Fine,
    /// What is to be looked at, one at least.
    Finding(Vec<Report>),
    Infrastructure,
}

/// What the oracle says of the console decides; how the epoch ended matters when the oracle is silent. The first report is
/// looked at, which others may follow from; but leaks say nothing of one another.
fn classify(end: &EpochEnd, reports: Vec<Report>) -> Class {
    if let Some(first) = reports.first() {
        let further = reports.iter().skip(1).filter(|report| first.is_leak() && report.is_leak());
        return Class::Finding(iter::once(first).chain(further).cloned().collect());
    }
    let silent = |title: &str| {
        let corrupted = Some("no report was recognised on the console".to_owned());
        Class::Finding(vec![Report { title: title.into(), corrupted, ..Report::default() }])
    };
    match end {
        EpochEnd::Done => Class::Fine,
        EpochEnd::Kernel => silent("kernel complaint without a report"),
        EpochEnd::Deadline => silent("op deadline without a report"),
        EpochEnd::Lost(_) | EpochEnd::Harness(_) | EpochEnd::Machine(_) => Class::Infrastructure,
    }
}

/// The end of an epoch in words.
fn end_text(end: &EpochEnd) -> String {
    match end {
        EpochEnd::Done => "done".into(),
        EpochEnd::Kernel => "kernel".into(),
        EpochEnd::Deadline => "deadline".into(),
        EpochEnd::Lost(why) => format!("lost: {why}"),
        EpochEnd::Harness(what) => format!("harness: {what}"),
        EpochEnd::Machine(what) => format!("machine: {what}"),
    }
}

impl Campaign<'_> {
    /// Takes in the answer to an epoch.
    pub(super) fn digest(&mut self, job: Job, outcome: &EpochOutcome, guests: &mut dyn Guests) -> Result<()> {
        self.counters.epochs += 1;
        if !outcome.boot.is_empty() {
            self.digest_boot(&job, outcome, guests)?;
        }
        let judging = Instant::now();
        let reports = (self.config.judge)(&outcome.console);
        self.phase("judge", judging);
        if let Purpose::Reduce(round) = job.purpose {
            return self.digest_reduction(&job, round, outcome, reports, guests);
        }
        let reports = self.news_first(reports, &outcome.console);
        let class = classify(&outcome.end, reports);
        self.in_guest += outcome.in_guest;
        self.infrastructure_in_a_row =
            if class == Class::Infrastructure { self.infrastructure_in_a_row + 1 } else { 0 };
        let culprit = if let Class::Finding(reports) = &class { culprit(outcome, &reports[0]) } else { None };
        let learning = Instant::now();
        self.learn(&job, outcome, culprit)?;
        self.phase("learn", learning);
        match class {
            Class::Fine => {}
            Class::Finding(reports) => {
                if let Some(parent) = culprit.and_then(|idx| job.programs.get(idx)?.choice.parent) {
                    self.chooser.blame(parent);
                }
                for report in reports {
                    self.note_finding(&job, outcome, report, guests)?;
                }
            }
            Class::Infrastructure => return self.note_infrastructure(job, outcome),
        }
        let rest = job.programs.into_iter().enumerate();
        let rest: Vec<Waiting> = rest
            .filter(|&(idx, _)| Some(idx) != outcome.in_flight && !is_finished(outcome, idx))
            .map(|(_, waiting)| waiting)
            .collect();
        let advanced = outcome.in_flight.is_some() || outcome.programs.iter().any(|program| program.finished);
        if job.purpose == Purpose::Leaks {
            // A guest that dies before the first of them would do so without an end.
            let again = rest.into_iter().filter(|_| advanced);
            self.unscanned.extend(again.map(|waiting| waiting.choice.program));
            return Ok(());
        }
        self.batches.requeue(rest, if advanced { Requeue::Advanced } else { Requeue::Stuck });
        Ok(())
    }

    /// What the kernel complained of before any program ran is a finding without a batch.
    fn digest_boot(&mut self, job: &Job, outcome: &EpochOutcome, guests: &mut dyn Guests) -> Result<()> {
        let reports = (self.config.judge)(&outcome.boot);
        let Some(report) = self.news_first(reports, &outcome.boot).into_iter().next() else {
            return Ok(());
        };
        let is_known = self.is_known(&report, &outcome.boot);
        // What is known to be harmless does not explain a guest that is not there.
        self.no_boot = !is_known && matches!(outcome.end, EpochEnd::Machine(_));
        if let Some(seen) = self.findings.find(&report, is_known) {
            self.findings.repeat(seen);
            return Ok(());
        }
        let boot = EpochOutcome { console: outcome.boot.clone(), in_flight: None, ..outcome.clone() };
        let mut evidence = self.evidence(job, &boot, report, guests);
        evidence.batch.clear();
        evidence.end = "boot".into();
        self.store(evidence)
    }

    /// Puts reports that are known to be harmless behind the others, and leaks that were found already: the first is what
    /// counts.
    fn news_first(&self, mut reports: Vec<Report>, console: &[u8]) -> Vec<Report> {
        let is_old = |report: &Report| report.is_leak() && self.findings.find(report, false).is_some();
        reports.sort_by_cached_key(|report| self.is_known(report, console) || is_old(report));
        reports
    }

    fn is_known(&self, report: &Report, console: &[u8]) -> bool {
        (self.config.known)(report, console).is_some()
    }

    /// Learns from every program that ran to its end.
    fn learn(&mut self, job: &Job, outcome: &EpochOutcome, culprit: Option<usize>) -> Result<()> {
        let mut n_finished = 0;
        for (idx, (waiting, result)) in job.programs.iter().zip(&outcome.programs).enumerate() {
            self.counters.execs += u64::from(result.started);
            self.counters.n_ops += u64::from(result.n_ops);
            n_finished += usize::from(result.finished);
            let program = &waiting.choice.program;
            // A guest that keeps track of memory covers what others do not.
            let counts = result.finished && Some(idx) != culprit && job.purpose != Purpose::Leaks;
            // What an earlier call stored was scanned then.
            if counts && self.chooser.learn(&waiting.choice, result)? && self.corpus.store(program)? {
                self.unscanned.push_back(program.clone());
            }
        }
        match outcome.end {
            // A scan for leaks takes longer than the programs before it, an end by a complaint as long as dying takes.
            EpochEnd::Done if !job.leak_scan => self.pace.learn(outcome.in_guest, n_finished),
            EpochEnd::Kernel | EpochEnd::Deadline => self.pace.died(n_finished),
            EpochEnd::Done | EpochEnd::Lost(_) | EpochEnd::Harness(_) | EpochEnd::Machine(_) => {}
        }
        Ok(())
    }

    fn note_finding(
        &mut self,
        job: &Job,
        outcome: &EpochOutcome,
        report: Report,
        guests: &mut dyn Guests,
    ) -> Result<()> {
        if let Some(seen) = self.findings.find(&report, self.is_known(&report, &outcome.console)) {
            self.findings.repeat(seen);
            return Ok(());
        }
        let evidence = self.evidence(job, outcome, report, guests);
        self.store(evidence)
    }

    /// Writes and tells a new finding, and sees to its being reduced.
    fn store(&mut self, evidence: Evidence) -> Result<()> {
        let finding = self.findings.add(&evidence)?;
        self.save()?;
        let note = self.findings.note(finding).clone();
        if note.known.is_some() {
            (self.events)(Event::Known(note));
            return Ok(());
        }
        (self.events)(Event::NewFinding(note));
        if self.config.reduce != Reduce::Never && !evidence.batch.is_empty() {
            self.reducing.push_back(Reducing::new(finding, evidence));
        }
        Ok(())
    }

    fn evidence(
        &self,
        job: &Job,
        outcome: &EpochOutcome,
        report: Report,
        guests: &mut dyn Guests,
    ) -> Evidence {
        let culprit = culprit(outcome, &report);
        let n_ran = culprit.map_or(job.programs.len(), |idx| (idx + 1).min(job.programs.len()));
        let batch: Vec<Program> =
            job.programs[..n_ran].iter().map(|waiting| waiting.choice.program.clone()).collect();
        let schedule = batch.first().map_or(self.config.schedules[0], |program| program.schedule);
        let record = Record {
            provenance: guests.provenance(schedule, Leaks::of_scan(job.leak_scan)),
            schedule,
            canary: self.config.canary,
            leak_scan: job.leak_scan,
            seed: self.config.seed,
            in_flight: culprit.filter(|&idx| idx < n_ran),
            reduced_from: None,
            confirmed: false,
            minimized: None,
            rates: BTreeMap::new(),
            standalone: None,
            batch: Vec::new(),
        };
        let (end, console) = (end_text(&outcome.end), outcome.console.clone());
        let excerpt = report::excerpt(&report, &console, self.config.annotate);
        let known = (self.config.known)(&report, &console);
        Evidence {
            report,
            end,
            console,
            excerpt,
            known,
            batch,
            record,
            config: guests.kernel_config(),
            first_seen: self.elapsed(),
            execs: self.counters.execs,
        }
    }

    fn digest_reduction(
        &mut self,
        job: &Job,
        round: u64,
        outcome: &EpochOutcome,
        reports: Vec<Report>,
        guests: &mut dyn Guests,
    ) -> Result<()> {
        let Some(finding) = self.reducing.front().map(|reducing| reducing.finding) else { return Ok(()) };
        // A finding the oracle has no words for is known by its end alone.
        let reports = match classify(&outcome.end, reports.clone()) {
            Class::Finding(silent) if reports.is_empty() => silent,
            _ => reports,
        };
        // Only the one to go by: the finding's title is what its console is triaged as.
        let is_same = |report: &Report| self.findings.find(report, false) == Some(finding);
        let same = oracle::telling(&reports, is_same).filter(|report| is_same(report));
        let shown = if same.is_some() { Shown::Same } else { Shown::Other };
        if let (true, Some(report)) = (self.learn_reduction(round, shown), same.cloned()) {
            let better = self.evidence(job, outcome, report, guests);
            return self.keep_reduction(better);
        }
        // Something new may have come up all the same.
        match self.news_first(reports, &outcome.console).into_iter().next() {
            Some(report) if shown == Shown::Other => self.note_finding(job, outcome, report, guests),
            _ => Ok(()),
        }
    }

    /// An epoch failed for a reason that is not the kernel's: what was left of it runs once more, then without the
    /// program that was in flight.
    fn note_infrastructure(&mut self, job: Job, outcome: &EpochOutcome) -> Result<()> {
        let dir = self.config.dir.join("infrastructure");
        disk::make_dir(&dir)?;
        let log = dir.join(format!("{}.log", self.counters.infrastructure % INFRASTRUCTURE_LOGS_MAX));
        let mut text = format!("the epoch ended: {}\nconsole:\n", end_text(&outcome.end)).into_bytes();
        text.extend(&outcome.console);
        disk::write(&log, &text)?;
        self.counters.infrastructure += 1;
        let in_a_row = self.infrastructure_in_a_row;
        (self.events)(Event::Infrastructure { end: outcome.end.clone(), in_a_row });

        let is_retry = job.purpose == Purpose::Retry;
        let left =
            job.programs.into_iter().enumerate().filter(|&(idx, _)| {
                !(is_finished(outcome, idx) || is_retry && Some(idx) == outcome.in_flight)
            });
        let programs: Vec<Waiting> = left.map(|(_, waiting)| waiting).collect();
        if is_retry {
            self.batches.requeue(programs, Requeue::Stuck);
        } else if !programs.is_empty() {
            self.retries.push_back(Job { purpose: Purpose::Retry, programs, leak_scan: job.leak_scan });
        }
        Ok(())
    }
}

/// The program to blame for a report: the one in flight. A leak is found when the batch is over, and may be anyone's.
fn culprit(outcome: &EpochOutcome, report: &Report) -> Option<usize> {
    outcome.in_flight.filter(|_| !report.is_leak())
}

fn is_finished(outcome: &EpochOutcome, idx: usize) -> bool {
    outcome.programs.get(idx).is_some_and(|program| program.finished)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_decides_and_only_a_silent_one_leaves_it_to_the_end() {
        let report = Report { title: "KASAN: bad".into(), ..Report::default() };
        let lost = classify(&EpochEnd::Lost("silent".into()), vec![report.clone()]);
        assert_eq!(lost, Class::Finding(vec![report]));
        assert_eq!(classify(&EpochEnd::Done, Vec::new()), Class::Fine);
        assert_eq!(classify(&EpochEnd::Harness("no cgroup".into()), Vec::new()), Class::Infrastructure);
        assert_eq!(classify(&EpochEnd::Machine("gone".into()), Vec::new()), Class::Infrastructure);
        let Class::Finding(reports) = classify(&EpochEnd::Deadline, Vec::new()) else {
            panic!("a deadline is the kernel's")
        };
        assert!(reports[0].corrupted.is_some());
    }
}
