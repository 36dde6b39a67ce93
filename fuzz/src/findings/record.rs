// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a finding's folder says of it: `provenance.yaml` and `verdict.yaml`.

use std::collections::BTreeMap;

use harness::program::Schedule;
use serde::{Deserialize, Serialize};

use crate::guests::Provenance;

/// `provenance.yaml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What the guests know of themselves.
    pub provenance: Provenance,
    /// Schedule of every program.
    pub schedule: Schedule,
    /// Canary kind that was armed; 0: none.
    pub canary: u32,
    /// The epoch was to end with a scan for leaks.
    pub leak_scan: bool,
    /// Seed of the campaign.
    pub seed: u64,
    /// Index in the batch of the program in flight; none when the batch had ended.
    pub in_flight: Option<usize>,
    /// Programs in the batch as found, where fewer are kept.
    pub reduced_from: Option<usize>,
    /// The batch kept was run by itself and showed the finding; the console is of that run.
    #[serde(default)]
    pub confirmed: bool,
    /// What it was before it was made smaller, where it was.
    #[serde(default)]
    pub minimized: Option<Minimized>,
    /// How often it showed in runs of their own, by engine (`det`, `par`), where that was counted.
    #[serde(default)]
    pub rates: BTreeMap<String, Rate>,
    /// What the stand-alone reproducer showed, where it was tried.
    #[serde(default)]
    pub standalone: Option<Tried>,
    /// Files of the batch, in order.
    pub batch: Vec<String>,
}

/// The program to look at, as it was before it was made smaller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Minimized {
    /// Its threads.
    pub threads: usize,
    /// Its ops.
    pub ops: usize,
    /// Programs of its batch, itself included.
    pub batch: usize,
    /// Runs that it took.
    pub runs: u64,
    /// Nothing smaller shows the finding, or enough was tried.
    #[serde(default)]
    pub finished: bool,
}

/// Runs of a finding, each in a fresh guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Runs.
    pub n_runs: u32,
    /// Runs in which the same bug showed.
    pub n_same: u32,
}

/// The stand-alone reproducer, built and run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tried {
    /// Boots.
    pub n_boots: u32,
    /// Boots in which the same bug showed.
    pub n_same: u32,
    /// Rounds in each boot at most.
    pub rounds: u32,
}

/// `verdict.yaml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// The oracle's title.
    pub title: String,
    /// Other titles of the same bug.
    pub alt_titles: Vec<String>,
    /// The oracle's type; empty when it has none.
    #[serde(rename = "type")]
    pub kind: String,
    /// The blamed function.
    pub frame: Option<String>,
    /// Hash of the stack, hexadecimal.
    pub stack_hash: String,
    /// Why the report is not whole.
    pub corrupted: Option<String>,
    /// How the epoch ended.
    pub end: String,
    /// Campaign time when it was first seen, seconds.
    pub first_seen_secs: f64,
    /// Programs executed until then.
    pub execs: u64,
    /// Why it is no finding, where it is known to be none.
    #[serde(default)]
    pub known: Option<String>,
}

impl Verdict {
    /// Every name the bug goes by, the title first.
    pub fn titles(&self) -> impl Iterator<Item = &str> + Clone {
        [self.title.as_str()].into_iter().chain(self.alt_titles.iter().map(String::as_str))
    }
}
