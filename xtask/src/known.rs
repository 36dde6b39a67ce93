// SPDX-License-Identifier: MIT OR Apache-2.0
//! `kconfigs/known.yaml`: reports of good kernels that are true and nobody need be told of.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{matrix, paths, usage};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    known: Vec<Known>,
}

/// One of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// The oracle's title.
    pub title: String,
    /// What the report, with source lines, has in it: another with this title is a finding.
    #[serde(default)]
    pub contains: Vec<String>,
    /// Instances whose kernels print it.
    pub instances: Vec<String>,
    /// Why it is harmless.
    pub why: String,
}

/// Those of an instance.
///
/// # Errors
/// When the file cannot be read, or says something that makes no sense.
pub fn load(instance: &str) -> Result<Vec<Known>> {
    let path = matrix::kconfigs().join("known.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let instances: BTreeSet<String> = matrix::load()?.into_iter().map(|instance| instance.name).collect();
    let mut known = parse(&text, &path, &instances)?;
    known.retain(|known| known.instances.iter().any(|name| name == instance));
    Ok(known)
}

fn parse(text: &str, path: &Path, instances: &BTreeSet<String>) -> Result<Vec<Known>> {
    let file: File = paths::parse_yaml(text, path)?;
    for known in &file.known {
        if let Some(name) = known.instances.iter().find(|name| !instances.contains(*name)) {
            return Err(usage!("{}: {:?}: there is no instance {name:?}", path.display(), known.title));
        }
    }
    Ok(file.known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_file_is_valid() {
        assert!(load("perf-6.12").unwrap().is_empty());
        assert!(load("kcsan-7.2").unwrap().iter().all(|known| !known.why.is_empty()));
    }

    #[test]
    fn wrong_entries_are_named() {
        let error = |text: &str| {
            parse(text, Path::new("known.yaml"), &BTreeSet::from(["a".to_owned()])).unwrap_err().to_string()
        };
        let unknown = "known:\n- {title: t, instances: [b], why: w}\n";
        assert_eq!(error(unknown), "known.yaml: \"t\": there is no instance \"b\"");
        let misspelt = "known:\n- {title: t, instance: [a], why: w}\n";
        assert!(
            error(misspelt).starts_with("known.yaml:2:14: known[0]: unknown field `instance`"),
            "{}",
            error(misspelt)
        );
    }
}
