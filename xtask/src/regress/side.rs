// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two kernels: what they are made from, and how their configurations differ.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use serde::Serialize;

use crate::{
    bisect::git::History,
    guest::{self, Machine, Shape},
    kernel::{self, BuildRequest, Trust},
    matrix,
    paths::Cache,
    prepare, usage,
};

use super::workload::Workload;

/// Configuration options shown at most where two kernels differ.
const DIFFERENCES_MAX: usize = 40;

/// One kernel.
#[derive(Clone, Debug)]
pub struct Side {
    /// What it was asked for by.
    pub name: String,
    /// The kernel's own words for its version.
    pub release: String,
    /// A machine with agent and modules.
    pub machine: Machine,
}

/// What a side is made from.
#[derive(Debug, PartialEq, Eq)]
struct Spec {
    instance: String,
    revision: Option<String>,
    patches: Vec<PathBuf>,
}

/// Reads `INSTANCE+PATCH+…`, or `REVISION+PATCH+…` where there is a history.
fn parse(text: &str, instance: &str, has_history: bool) -> Spec {
    let mut parts = text.split('+');
    let first = parts.next().unwrap_or_default().to_owned();
    let patches = parts.map(PathBuf::from).collect();
    if has_history {
        Spec { instance: instance.to_owned(), revision: Some(first), patches }
    } else {
        Spec { instance: first, revision: None, patches }
    }
}

/// Builds one side.
///
/// # Errors
/// When it names nothing, or does not build.
pub fn build(
    cache: &Cache,
    text: &str,
    linux: Option<&Path>,
    instance: &str,
    workload: &Workload,
) -> Result<Side> {
    let spec = parse(text, instance, linux.is_some());
    let tree = match (linux, &spec.revision) {
        (Some(users), Some(revision)) => {
            let history = History::open(cache, users)?;
            let commit = history.resolve(users, revision)?;
            Some(history.unpack(&commit)?)
        }
        _ => None,
    };
    if let Some(missing) = spec.patches.iter().find(|patch| !patch.is_file()) {
        return Err(usage!("{text}: there is no patch {}", missing.display()));
    }
    let instance = matrix::instance(&spec.instance)?;
    let (linux, patches) = (tree.as_deref(), spec.patches.as_slice());
    of(cache, text, &BuildRequest { instance: &instance, linux, patches, trust: Trust::Own }, workload)
}

/// Builds what is asked for, called `name`.
///
/// # Errors
/// When it does not build.
pub fn of(cache: &Cache, name: &str, request: &BuildRequest<'_>, workload: &Workload) -> Result<Side> {
    eprintln!("kernel {name}");
    let kernel = kernel::build(cache, request)?;
    let instance = request.instance;
    let shape = Shape { append: instance.append.join(" "), memory_mib: workload.memory_mib, numa_nodes: 1 };
    let recipe = guest::Recipe {
        instance: instance.name.clone(),
        append: String::new(),
        linux: request.linux.map(Path::to_path_buf),
        patches: request
            .patches
            .iter()
            .map(|patch| prepare::keep_patch(cache, patch))
            .collect::<Result<_>>()?,
    };
    let machine = guest::machine(cache, &kernel, &shape, recipe)?;
    Ok(Side { name: name.to_owned(), release: kernel.release.clone(), machine })
}

/// An option that two kernels do not have alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its name.
    pub option: String,
    /// Its value in the first; empty where it is not set.
    pub a: String,
    /// Its value in the second.
    pub b: String,
}

/// How the configurations of two kernels differ; versions of compilers and the like are no options.
pub fn differences(a: &Side, b: &Side) -> Vec<Difference> {
    let config = |side: &Side| {
        let path = side.machine.vmlinux.with_file_name("config");
        options(&fs::read_to_string(path).unwrap_or_default())
    };
    let mut found = compare(&config(a), &config(b));
    found.truncate(DIFFERENCES_MAX);
    found
}

fn options(config: &str) -> BTreeMap<String, String> {
    let set = config.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    set.map(|(option, value)| (option.to_owned(), value.to_owned())).collect()
}

fn compare(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<Difference> {
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let value = |of: &BTreeMap<String, String>, name: &String| of.get(name).cloned().unwrap_or_default();
    let all = names.into_iter().map(|name| Difference {
        option: name.clone(),
        a: value(a, name),
        b: value(b, name),
    });
    all.filter(|one| one.a != one.b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_an_instance_or_a_revision_with_patches() {
        let spec = parse("perf-6.12+a.patch+dir/b.patch", "x", false);
        assert_eq!((spec.instance.as_str(), spec.revision), ("perf-6.12", None));
        assert_eq!(spec.patches, [PathBuf::from("a.patch"), PathBuf::from("dir/b.patch")]);
        let spec = parse("v6.12", "perf-6.12", true);
        assert_eq!((spec.instance.as_str(), spec.revision.as_deref()), ("perf-6.12", Some("v6.12")));
    }

    #[test]
    fn configurations_are_compared_by_what_is_set() {
        let a = options("# CONFIG_X is not set\nCONFIG_SMP=y\nCONFIG_HZ=250\n");
        let b = options("CONFIG_SMP=y\nCONFIG_HZ=1000\nCONFIG_NEW=y\n");
        let found = compare(&a, &b);
        let short: Vec<_> = found.iter().map(|one| format!("{} {}>{}", one.option, one.a, one.b)).collect();
        assert_eq!(short, ["CONFIG_HZ 250>1000", "CONFIG_NEW >y"]);
        assert!(compare(&a, &a).is_empty());
    }
}
