// SPDX-License-Identifier: MIT OR Apache-2.0
//! The scenario suite: `harness/scenarios/*.yaml`, one program a file, each with a side of the interface to go through.
//!
//! ```text
//! name: memcg           # the file's name
//! what: …               # in words
//! program: |            # as `cargo xtask run` takes it
//! ```

use std::path::Path;

use anyhow::{Result, ensure};
use harness::program::Program;
use serde::Deserialize;

use crate::{paths, usage};

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// How results call it.
    pub name: String,
    /// In words.
    pub what: String,
    /// What runs.
    program: String,
}

impl Scenario {
    /// What runs.
    ///
    /// # Errors
    /// When it does not parse, or says something else when its arguments are made valid.
    pub fn program(&self) -> Result<Program> {
        let program: Program = self.program.parse()?;
        let mut fixed = program.clone();
        fixed.fixup();
        ensure!(fixed == program, "an argument is out of range, or there are too many ops");
        Ok(program)
    }
}

/// Every scenario, by name.
///
/// # Errors
/// When one is broken.
pub fn all() -> Result<Vec<Scenario>> {
    let mut files = paths::files_below(&paths::repo_root().join("harness/scenarios"), |_| true)?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Scenario> {
    let broken = |error: &dyn std::fmt::Display| usage!("{}: {error:#}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| broken(&error))?;
    let scenario: Scenario = paths::parse_yaml(&text, path)?;
    scenario.program().map_err(|error| broken(&error))?;
    Ok(scenario)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_whole_and_says_what_it_is() {
        let all = all().unwrap();
        assert!(all.len() >= 8);
        assert!(all.iter().all(|scenario| !scenario.name.is_empty() && !scenario.what.is_empty()));
    }
}
