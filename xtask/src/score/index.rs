// SPDX-License-Identifier: MIT OR Apache-2.0
//! `kconfigs/mutants/index.yaml`: the planted bugs. Strict: what it does not understand is an error with file and line.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    matrix::{Instance, kconfigs},
    paths, usage,
};

/// What it takes to hit a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// The right ops in the right order.
    Deterministic,
    /// An allocation that fails.
    Fault,
    /// Boot arguments.
    Boot,
    /// The right interleaving.
    Race,
    /// It only costs time.
    Perf,
    /// It only shows when the kernel is built.
    Build,
}

/// Who can see a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Seer {
    /// The kernel complains by itself.
    Kernel,
    /// Only the contract says that it is wrong.
    Model,
}

/// A planted bug.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// Its name, and its patch's.
    pub name: String,
    /// The bug, in words.
    pub what: String,
    /// Where it comes from.
    pub origin: String,
    /// What has to happen.
    pub trigger: String,
    /// What there is to see.
    pub shows: String,
    /// How hard it is to hit.
    pub hit: String,
    /// What it takes.
    pub class: Class,
    /// Who can see it.
    pub oracle: Seer,
    /// Boot arguments it takes. Default: none.
    #[serde(default)]
    pub append: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    mutants: Vec<Mutant>,
}

/// The planted bugs that an instance's kernel can have, each with its patch, in order of the index.
///
/// # Errors
/// When the index cannot be read or says something that makes no sense, or there are no patches for that kernel.
pub fn load(instance: &Instance) -> Result<Vec<(Mutant, PathBuf)>> {
    let folder = kconfigs().join("mutants");
    let path = folder.join("index.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mutants = parse(&text, &path)?;
    let series = series(instance);
    let patches = folder.join(series);
    let found: Vec<_> = mutants
        .into_iter()
        .map(|mutant| {
            let patch = patches.join(format!("{}.patch", mutant.name));
            (mutant, patch)
        })
        .filter(|(_, patch)| patch.exists())
        .collect();
    if found.is_empty() {
        return Err(usage!("there are no planted bugs for {series} in {}", folder.display()));
    }
    Ok(found)
}

/// `6.12` of `linux-source-6.12`.
fn series(instance: &Instance) -> &str {
    let package = instance.source.package.as_str();
    package.strip_prefix("linux-source-").unwrap_or(package)
}

fn parse(text: &str, path: &Path) -> Result<Vec<Mutant>> {
    let index: Index = paths::parse_yaml(text, path)?;
    let mut names = BTreeSet::new();
    for mutant in &index.mutants {
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if mutant.name.is_empty() || !mutant.name.bytes().all(is_name) {
            return Err(usage!("{}: `{}` is no name for a patch", path.display(), mutant.name));
        }
        if !names.insert(&mutant.name) {
            return Err(usage!("{}: two planted bugs are called `{}`", path.display(), mutant.name));
        }
    }
    Ok(index.mutants)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str =
        "{name: a-1, what: w, origin: o, trigger: t, shows: s, hit: h, class: race, oracle: kernel}";

    fn error(text: &str) -> String {
        parse(text, Path::new("index.yaml")).expect_err("an error").to_string()
    }

    #[test]
    fn every_patch_has_an_entry_and_every_entry_a_patch() {
        let folder = kconfigs().join("mutants");
        let path = folder.join("index.yaml");
        let mutants = parse(&fs::read_to_string(&path).unwrap(), &path).unwrap();
        let names: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.name.as_str()).collect();
        let mut with_patch = BTreeSet::new();
        for series in ["6.12", "7.2"] {
            for entry in fs::read_dir(folder.join(series)).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                assert!(names.contains(name.as_str()), "{} is not in the index", path.display());
                with_patch.insert(name);
            }
        }
        assert_eq!(with_patch.len(), names.len());
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        assert!(error(&format!("mutants:\n  - {ONE}\n    colour: red")).starts_with("index.yaml:"));
        assert!(error(&format!("mutants:\n  - {}", ONE.replace("race", "rare"))).contains("unknown variant"));
        assert!(error(&format!("mutants:\n  - {ONE}\n  - {ONE}")).contains("two planted bugs"));
        assert!(error(&format!("mutants:\n  - {}", ONE.replace("a-1", "../a"))).contains("no name"));
    }
}
