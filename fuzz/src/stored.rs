// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a campaign keeps besides corpus and findings: `campaign.yaml`, what it is; `state.json`, how far it came;
//! `stats.jsonl`, its figures second by second.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use harness::program::Schedule;
use libafl_bolts::rands::StdRand;
use serde::{Deserialize, Serialize};

use crate::{config::CampaignConfig, disk, status::Status};

const VERSION: u32 = 1;
const CAMPAIGN: &str = "campaign.yaml";
const STATE: &str = "state.json";
const STATS: &str = "stats.jsonl";

/// `campaign.yaml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CampaignFile {
    version: u32,
    /// Name of the instance.
    pub instance: String,
    /// Seed it began with.
    pub seed: u64,
    /// Schedules its programs may have.
    pub schedules: Vec<Schedule>,
    /// Canary kind; 0: none.
    pub canary: u32,
}

/// `state.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u32,
    /// Randomness.
    pub rand: StdRand,
    /// Figures.
    pub counters: Counters,
    /// Programs in an epoch.
    pub batch: usize,
    /// How often each finding was seen, by title.
    pub seen: BTreeMap<String, u64>,
}

/// Figures that only grow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Wall time of earlier calls and of this one when it was stored, seconds.
    pub elapsed_secs: f64,
    /// Programs executed.
    pub execs: u64,
    /// Ops executed.
    pub n_ops: u64,
    /// Epochs answered.
    pub epochs: u64,
    /// Infrastructure failures.
    pub infrastructure: u64,
}

impl State {
    /// A state to store.
    pub fn new(rand: StdRand, counters: Counters, batch: usize, seen: BTreeMap<String, u64>) -> State {
        State { version: VERSION, rand, counters, batch, seen }
    }

    /// Stores it in a campaign's folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        disk::write(&dir.join(STATE), &serde_json::to_vec_pretty(self)?)
    }
}

/// Reads the state of a campaign's folder: none for a new one; none and a warning for one that cannot be read.
pub fn load_state(dir: &Path) -> (Option<State>, Option<String>) {
    let path = dir.join(STATE);
    let read = || -> Result<Option<State>> {
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        let state: State = serde_json::from_slice(&bytes)?;
        ensure!(state.version == VERSION, "version {} where {VERSION} is known", state.version);
        Ok(Some(state))
    };
    match read() {
        Ok(state) => (state, None),
        Err(error) => (
            None,
            Some(format!("{} cannot be read ({error:#}); going on from the corpus alone", path.display())),
        ),
    }
}

/// Notes what the campaign is, or makes sure it still is.
///
/// # Errors
/// When the folder belongs to another instance, or its `campaign.yaml` is not one.
pub fn enter(config: &CampaignConfig<'_>) -> Result<()> {
    let path = config.dir.join(CAMPAIGN);
    let seed = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => config.seed,
        text => {
            let text = text.with_context(|| format!("read {}", path.display()))?;
            let old: CampaignFile =
                serde_yaml::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
            ensure!(
                old.instance == config.instance,
                "{} is a campaign on instance {}, not {}; use another folder",
                config.dir.display(),
                old.instance,
                config.instance
            );
            old.seed
        }
    };
    let (instance, schedules) = (config.instance.clone(), config.schedules.clone());
    let file = CampaignFile { version: VERSION, instance, seed, schedules, canary: config.canary };
    disk::write(&path, serde_yaml::to_string(&file)?.as_bytes())
}

/// Appends a line to the figures.
///
/// # Errors
/// When it cannot be written.
pub fn append_stats(dir: &Path, status: &Status) -> Result<()> {
    let path = dir.join(STATS);
    let line = format!("{}\n", serde_json::to_string(status)?);
    let file = OpenOptions::new().create(true).append(true).open(&path);
    // One write a line: a kill cannot cut it.
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .with_context(|| format!("append to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use libafl_bolts::rands::Rand;

    use super::*;

    #[test]
    fn randomness_goes_on_where_it_stopped_and_a_cut_state_is_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(load_state(dir.path()), (None, None)));
        let mut rand = StdRand::with_seed(5);
        rand.next();
        let counters = Counters { execs: 3, elapsed_secs: 0.25, ..Counters::default() };
        State::new(rand, counters.clone(), 64, BTreeMap::new()).save(dir.path()).unwrap();
        let (state, warning) = load_state(dir.path());
        let mut state = state.unwrap();
        assert_eq!((state.rand.next(), state.counters, state.batch), (rand.next(), counters, 64));
        assert_eq!(warning, None);

        let path = dir.path().join(STATE);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let (state, warning) = load_state(dir.path());
        assert!(state.is_none());
        assert!(warning.unwrap().contains("state.json cannot be read"));
    }
}
