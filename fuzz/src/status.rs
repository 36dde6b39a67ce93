// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a campaign tells: events while it runs, a summary when it ends. Printing is the caller's.

use std::{fmt, path::PathBuf, time::Duration};

use harness::epoch::EpochEnd;
use serde::{Deserialize, Serialize};

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Once a second.
    Status(Status),
    /// A title not seen before in this campaign; its folder is there.
    NewFinding(FindingNote),
    /// The same, of what is known to be harmless.
    Known(FindingNote),
    /// The batch of a finding was reduced to so many programs; its folder was replaced.
    Reduced(FindingNote),
    /// A finding did not show again, when its batch was run once more.
    NotAgain(FindingNote),
    /// The program of a finding was made as small as it becomes.
    Minimized(FindingNote),
    /// An epoch failed for a reason that is not the kernel's.
    Infrastructure {
        /// How it ended.
        end: EpochEnd,
        /// Failures in a row, this one included.
        in_a_row: u32,
    },
    /// Something is amiss and was worked around: a broken corpus file, a state that could not be read.
    Warning(String),
}

/// The figures of a campaign, resumed time included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Wall time, seconds.
    pub elapsed_secs: f64,
    /// Programs executed.
    pub execs: u64,
    /// Programs a second since this call began.
    pub execs_per_sec: f64,
    /// Ops a second since this call began.
    pub ops_per_sec: f64,
    /// Epochs answered.
    pub epochs: u64,
    /// Programs in the corpus.
    pub corpus: usize,
    /// Entries of the edge map ever hit.
    pub edges: usize,
    /// Different findings.
    pub findings: usize,
    /// Findings with their repeats.
    pub findings_total: u64,
    /// Different reports that are known to be harmless.
    pub known: usize,
    /// Infrastructure failures.
    pub infrastructure: u64,
    /// Share of this call's wall time, over all jobs, that guests spent inside programs: 0 to 1.
    pub share_in_programs: f64,
    /// Programs in an epoch, now.
    pub batch: usize,
}

/// One finding, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindingNote {
    /// The oracle's title.
    pub title: String,
    /// Its folder.
    pub dir: PathBuf,
    /// Times it was seen in this campaign.
    pub count: u64,
    /// Campaign time when it was first seen.
    pub first_seen: Duration,
    /// Programs executed until then.
    pub execs: u64,
    /// Programs in its batch.
    pub n_programs: usize,
    /// Ops of the last of them.
    pub n_ops: usize,
    /// Why it is no finding, where it is known to be none.
    pub known: Option<String>,
}

/// Why a campaign ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CampaignEnd {
    /// Its time was over.
    Time,
    /// It executed what it should.
    Execs,
    /// It was told to.
    Stopped,
    /// The guest does not boot, and the kernel said why: that is a finding, and there is nothing more to do.
    NoBoot,
    /// Too many infrastructure failures in a row; exit code 69.
    Infrastructure,
}

/// What a campaign came to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Why it ended.
    pub end: CampaignEnd,
    /// The figures.
    pub status: Status,
    /// Every finding of the campaign, in order of discovery.
    pub findings: Vec<FindingNote>,
    /// Reports that are known to be harmless, in order of discovery.
    pub known: Vec<FindingNote>,
    /// Wall time of this call by what it was spent on, in order.
    pub phases: Vec<(&'static str, Duration)>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.elapsed_secs as u64;
        write!(
            f,
            "{:02}:{:02}:{:02}  execs {} ({:.0}/s, {:.0} ops/s)  corpus {}  edges {}  findings {}",
            secs / 3600,
            secs / 60 % 60,
            secs % 60,
            self.execs,
            self.execs_per_sec,
            self.ops_per_sec,
            self.corpus,
            self.edges,
            self.findings,
        )?;
        if self.findings_total > self.findings as u64 {
            write!(f, " ({} in all)", self.findings_total)?;
        }
        if self.known > 0 {
            write!(f, "  known {}", self.known)?;
        }
        if self.infrastructure > 0 {
            write!(f, "  infrastructure {}", self.infrastructure)?;
        }
        write!(f, "  in programs {:.0} %", self.share_in_programs * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_line_says_what_matters() {
        let status = Status {
            elapsed_secs: 3723.4,
            execs: 1200,
            execs_per_sec: 310.2,
            ops_per_sec: 2990.9,
            corpus: 40,
            edges: 911,
            findings: 1,
            findings_total: 3,
            share_in_programs: 0.826,
            ..Status::default()
        };
        assert_eq!(
            status.to_string(),
            "01:02:03  execs 1200 (310/s, 2991 ops/s)  corpus 40  edges 911  findings 1 (3 in all)  in programs 83 %"
        );
    }
}
