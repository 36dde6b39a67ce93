// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a campaign asks of the machines it fuzzes: run epochs side by side, answer them in the order that they are asked for.

use std::{collections::BTreeMap, time::Duration};

use harness::{
    epoch::{Epoch, EpochOutcome},
    guest::Leaks,
    program::Schedule,
};
use serde::{Deserialize, Serialize};

/// A pool of guests.
///
/// # Invariants
/// Every submitted epoch is answered exactly once, unless it is cancelled, and answers come when they are asked for whichever
/// guest is done first: that is what makes a campaign over the deterministic engine reproducible.
pub trait Guests {
    /// Queues an epoch and returns its number at once. All programs of the epoch have the same schedule.
    ///
    /// # Errors
    /// When no guest can ever run it; an epoch that merely fails is an answer, not an error.
    fn submit(&mut self, epoch: Epoch) -> anyhow::Result<u64>;

    /// The answer to an epoch; `None` when it did not come within `wait`.
    ///
    /// # Errors
    /// When the pool itself is broken.
    fn answer(&mut self, number: u64, wait: Duration) -> anyhow::Result<Option<EpochOutcome>>;

    /// Ends what runs and forgets every epoch not yet answered.
    fn cancel(&mut self);

    /// What a finding under this schedule needs to be reproduced.
    fn provenance(&self, schedule: Schedule, leaks: Leaks) -> Provenance;

    /// The kernel's configuration, where it is known.
    fn kernel_config(&self) -> Option<String> {
        None
    }
}

/// What ran, as far as the guests know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Name of the instance.
    pub instance: String,
    /// `det` or `par`.
    pub engine: String,
    /// What `qemu-system-x86_64 --version` says.
    pub qemu_version: String,
    /// Kind of artifact (kernel, modules, initramfs, …) to its content key.
    pub artifacts: BTreeMap<String, String>,
    /// The kernel's command line.
    pub boot_arguments: String,
    /// Content key of the snapshot that epochs start from, where there is one.
    pub snapshot: Option<String>,
    /// Whatever else a repro needs, by name.
    pub extra: BTreeMap<String, String>,
}
