// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a campaign is told.

use std::{path::PathBuf, sync::atomic::AtomicBool, time::Duration};

use harness::{
    oracle::Report,
    program::{Program, Schedule},
};

/// Everything a campaign is told. Plain data and two references; the guests are handed over separately.
#[derive(Clone)]
pub struct CampaignConfig<'a> {
    /// Folder of the campaign; made when it is not there, resumed when it is.
    pub dir: PathBuf,
    /// Name of the instance; a folder of another instance is refused.
    pub instance: String,
    /// Seed of every choice the campaign makes. A resumed campaign goes on with the stored state instead.
    pub seed: u64,
    /// Ends this call after so much wall time.
    pub time_max: Option<Duration>,
    /// Ends the campaign once so many programs were executed, those before a resume included.
    pub execs_max: Option<u64>,
    /// Set by a signal handler: ends the campaign cleanly.
    pub stop: &'a AtomicBool,
    /// Schedules that programs may have; not empty. Programs of one epoch share one.
    pub schedules: Vec<Schedule>,
    /// Guests that run side by side; the campaign keeps twice as many epochs submitted.
    pub jobs: usize,
    /// Programs of an epoch.
    pub batch: BatchSize,
    /// Programs that a new campaign begins with, in this order: [`crate::corpus::seeds`], or others.
    pub seeds: Vec<Program>,
    /// What it is about.
    pub focus: Focus,
    /// A canary kind (`abi::layout::canary`) to arm in every epoch; 0: none.
    pub canary: u32,
    /// Which epochs end with a scan for leaked memory.
    pub leak_scan: LeakScan,
    /// Share of programs that come from walking the schedules of promising ones; 0: none.
    pub walk_prob: f64,
    /// How far a new finding is made smaller.
    pub reduce: Reduce,
    /// Reads a console: `harness::oracle::judge`.
    pub judge: &'a dyn Fn(&[u8]) -> Vec<Report>,
    /// Why a report, in a console, is no finding, where it is known to be none.
    pub known: &'a dyn Fn(&Report, &[u8]) -> Option<String>,
    /// Adds source lines to the report of a finding: `harness::symbolize::annotate`, where the caller has an image.
    pub annotate: &'a dyn Fn(&str) -> String,
}

/// What a campaign is about, where that is something in particular.
#[derive(Clone, Debug, Default)]
pub struct Focus {
    /// Those of the seeds that most programs are to be made from, they and their offspring; empty: all.
    pub programs: Vec<Program>,
    /// Kinds of op whose allocations are failed before those of others, one kind after the other.
    pub kinds: Vec<u8>,
}

/// Which epochs end with a scan for leaked memory. Such an epoch is dear: its guest keeps track of every allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeakScan {
    /// Every one.
    Every,
    /// Those that run programs of the corpus once more, so many at a time, and what is left at the end. Whoever lost memory
    /// in a way that others do not has covered what they did not, and is there.
    Corpus(usize),
    /// None.
    Never,
}

/// How many programs make an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BatchSize {
    /// Always so many. With the deterministic engine such a campaign depends on nothing but its seed.
    Fixed(usize),
    /// As many (a power of two, 8 to 512) as keep a guest busy for about so long, by measured wall time.
    Aim(Duration),
}

/// How far a new finding is made smaller. Nothing else runs meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Rerun parts of its batch until the smallest is known that still shows the title, then its program with ever less in it.
    Program,
    /// Only the batch.
    Batch,
    /// Keep the batch as it ran.
    Never,
}

/// Infrastructure failures in a row that end a campaign.
pub const INFRASTRUCTURE_IN_A_ROW_MAX: u32 = 8;
