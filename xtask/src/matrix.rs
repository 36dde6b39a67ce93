// SPDX-License-Identifier: MIT OR Apache-2.0
//! `kconfigs/matrix.yaml`: the kernels that have a name. Strict: what it does not understand is an error with file
//! and line.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    paths::{self, repo_root},
    usage,
};

/// A named kernel.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// How commands call it: lower-case letters, digits, `.` and `-`.
    pub name: String,
    /// Instance whose kernel this one runs under other arguments; whatever makes the kernel is then taken from there.
    /// Default: a kernel of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Where its source comes from.
    #[serde(default)]
    pub source: SourceSpec,
    /// Fragments, without folder and suffix, in order.
    #[serde(default)]
    pub fragments: Vec<String>,
    /// Stems of the source files that carry coverage. Default: none.
    #[serde(default)]
    pub kcov: Vec<String>,
    /// Stems of the source files that KCSAN watches, in a kernel that has it. Default: all.
    #[serde(default)]
    pub kcsan: Vec<String>,
    /// Patches, relative to `kconfigs/`, in order. Default: none.
    #[serde(default)]
    pub patches: Vec<PathBuf>,
    /// Kernel boot arguments. Default: none.
    #[serde(default)]
    pub append: Vec<String>,
    /// Guest memory. Default: 1024.
    #[serde(default = "default_memory_mib")]
    pub memory_mib: u32,
    /// Virtual CPUs, where the program does not say. Default: 4.
    #[serde(default = "default_vcpus")]
    pub vcpus: u8,
    /// NUMA nodes. Default: 2.
    #[serde(default = "default_numa_nodes")]
    pub numa_nodes: u8,
}

/// A Debian source package.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// Its name, as in `linux-source-6.12`.
    pub package: String,
    /// The suite that has it, for when the machine's own apt sources do not. Default: the machine's own.
    #[serde(default)]
    pub suite: Option<String>,
    /// Exact version. Default: the newest in the cache, else the newest there is.
    #[serde(default)]
    pub version: Option<String>,
}

fn default_memory_mib() -> u32 {
    1024
}

fn default_vcpus() -> u8 {
    4
}

fn default_numa_nodes() -> u8 {
    2
}

/// Least guest memory that boots with KASAN.
const MEMORY_MIB_MIN: u32 = 256;
/// `CONFIG_NR_CPUS` of `base.config`.
const VCPUS_MAX: u8 = 16;
/// More nodes than this find nothing new and make each too small.
const NUMA_NODES_MAX: u8 = 8;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Matrix {
    instances: Vec<Instance>,
}

/// The folder of the matrix, the fragments and the patches.
pub fn kconfigs() -> PathBuf {
    repo_root().join("kconfigs")
}

impl Instance {
    /// The instance that its kernel is called after.
    pub fn kernel_name(&self) -> &str {
        self.kernel.as_deref().unwrap_or(&self.name)
    }

    /// Takes what makes the kernel from another instance.
    fn run_kernel_of(&mut self, other: &Instance) -> Result<(), String> {
        let own = self.source != SourceSpec::default()
            || !(self.fragments.is_empty()
                && self.kcov.is_empty()
                && self.kcsan.is_empty()
                && self.patches.is_empty());
        if own || other.kernel.is_some() {
            let whose = if own { "it" } else { &other.name };
            return Err(format!(
                "the kernel is that of {:?}, but {whose} says how to make one or whose it runs",
                other.name
            ));
        }
        self.source = other.source.clone();
        self.fragments = other.fragments.clone();
        self.kcov = other.kcov.clone();
        self.kcsan = other.kcsan.clone();
        self.patches = other.patches.clone();
        Ok(())
    }
}

/// All instances, in order.
///
/// # Errors
/// When the matrix cannot be read or says something that makes no sense.
pub fn load() -> Result<Vec<Instance>> {
    let path = kconfigs().join("matrix.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text, &path)
}

/// One instance by its name.
///
/// # Errors
/// As [`load`]; and when there is none of that name, with the names there are.
pub fn instance(name: &str) -> Result<Instance> {
    let mut instances = load()?;
    match instances.iter().position(|instance| instance.name == name) {
        Some(at) => Ok(instances.swap_remove(at)),
        None => {
            let known: Vec<&str> = instances.iter().map(|instance| instance.name.as_str()).collect();
            Err(usage!("unknown instance {name:?}; known: {}", known.join(", ")))
        }
    }
}

fn parse(text: &str, path: &Path) -> Result<Vec<Instance>> {
    let mut matrix: Matrix = paths::parse_yaml(text, path)?;
    let fragments = path.with_file_name("fragments");
    let mut names = BTreeSet::new();
    let makers = matrix.instances.clone();
    for instance in &mut matrix.instances {
        let name = instance.name.clone();
        let wrong = |rule: String| usage!("{}: instance {name:?}: {rule}", path.display());
        if !names.insert(name.clone()) {
            return Err(wrong("its name is taken".to_string()));
        }
        if let Some(maker) = instance.kernel.clone() {
            let Some(maker) = makers.iter().find(|other| other.name == maker) else {
                return Err(wrong(format!("there is no instance {maker:?} whose kernel it could run")));
            };
            instance.run_kernel_of(maker).map_err(wrong)?;
        }
        validate(instance, &fragments).map_err(wrong)?;
    }
    Ok(matrix.instances)
}

/// The rules that types cannot express, each with its message.
fn validate(instance: &Instance, fragments: &Path) -> Result<(), String> {
    let plain = |text: &str, extra: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
    };
    if !plain(&instance.name, ".-") {
        return Err("name must be letters, digits, '.' and '-' (it becomes a folder)".to_string());
    }
    if instance.source.package.is_empty() {
        return Err("it needs a source, or the kernel of another instance".to_string());
    }
    if !plain(&instance.source.package, ".+-") {
        return Err(format!("source package {:?} is not a package name", instance.source.package));
    }
    if let Some(version) = instance.source.version.as_ref().filter(|version| !plain(version, ".+-:~")) {
        return Err(format!("source version {version:?} is not a package version"));
    }
    if let Some(suite) = instance.source.suite.as_ref().filter(|suite| !plain(suite, ".-_")) {
        return Err(format!("source suite {suite:?} is not the name of a suite"));
    }
    if instance.fragments.is_empty() {
        return Err("at least one fragment is needed".to_string());
    }
    for name in &instance.fragments {
        if !plain(name, "-_") || !fragments.join(format!("{name}.config")).is_file() {
            return Err(format!("no fragment {name:?} in {}", fragments.display()));
        }
    }
    for (key, stems) in [("kcov", &instance.kcov), ("kcsan", &instance.kcsan)] {
        if let Some(stem) = stems.iter().find(|stem| !plain(stem, "-_")) {
            return Err(format!("{key} wants the stem of a source file (\"vmscan\"), not {stem:?}"));
        }
    }
    if let Some(patch) = instance.patches.iter().find(|patch| !fragments.join("..").join(patch).is_file()) {
        return Err(format!("no patch {}", patch.display()));
    }
    if let Some(word) = instance.append.iter().find(|word| word.contains(char::is_whitespace)) {
        return Err(format!("append wants one boot argument per entry, not {word:?}"));
    }
    if instance.memory_mib < MEMORY_MIB_MIN {
        return Err(format!("memory_mib must be at least {MEMORY_MIB_MIN}"));
    }
    if !(1..=VCPUS_MAX).contains(&instance.vcpus) {
        return Err(format!("vcpus must be 1 to {VCPUS_MAX}"));
    }
    if !(1..=NUMA_NODES_MAX.min(instance.vcpus)).contains(&instance.numa_nodes) {
        return Err(format!("numa_nodes must be 1 to {NUMA_NODES_MAX}, and at most vcpus"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    const GOOD: &str =
        "instances:\n- name: a\n  source: { package: linux-source-6.12 }\n  fragments: [base, rust]\n";

    fn error_of(text: &str) -> String {
        let path = kconfigs().join("matrix.yaml");
        let error = parse(text, &path).unwrap_err();
        assert_eq!(crate::exit::exit_of(&error), crate::exit::Exit::Usage);
        format!("{error:#}").replace(&*kconfigs().to_string_lossy(), "KCONFIGS")
    }

    fn check(addition: &str, expected: Expect) {
        expected.assert_eq(&error_of(&format!("{GOOD}{addition}\n")));
    }

    #[test]
    fn the_committed_matrix_is_valid() {
        let names: Vec<String> = load().unwrap().into_iter().map(|instance| instance.name).collect();
        assert_eq!(
            names,
            [
                "kasan-6.12",
                "kasan-7.2",
                "cover-7.2",
                "kcsan-7.2",
                "nokmem-6.12",
                "nokmem-7.2",
                "numa-7.2",
                "fakenuma-7.2",
                "perf-6.12",
                "perf-7.2"
            ]
        );
    }

    #[test]
    fn defaults_are_those_documented() {
        let instance = parse(GOOD, &kconfigs().join("matrix.yaml")).unwrap().remove(0);
        assert_eq!((instance.memory_mib, instance.vcpus, instance.numa_nodes), (1024, 4, 2));
        assert!(instance.kcov.is_empty() && instance.patches.is_empty() && instance.append.is_empty());
    }

    #[test]
    fn an_instance_may_run_the_kernel_of_another() {
        let text = format!("{GOOD}- name: b\n  kernel: a\n  append: [quiet]\n");
        let instances = parse(&text, &kconfigs().join("matrix.yaml")).unwrap();
        let names: Vec<&str> = instances.iter().map(Instance::kernel_name).collect();
        assert_eq!(names, ["a", "a"]);
        assert_eq!(instances[1].fragments, instances[0].fragments);
        assert_eq!(instances[1].append, ["quiet"]);
        check(
            "- name: b\n  kernel: c",
            expect![[
                r#"KCONFIGS/matrix.yaml: instance "b": there is no instance "c" whose kernel it could run"#
            ]],
        );
        check(
            "- name: b\n  kernel: a\n  kcov: [shrinker]",
            expect![[
                r#"KCONFIGS/matrix.yaml: instance "b": the kernel is that of "a", but it says how to make one or whose it runs"#
            ]],
        );
        check(
            "- name: b\n  kernel: a\n- name: c\n  kernel: b",
            expect![[
                r#"KCONFIGS/matrix.yaml: instance "c": the kernel is that of "b", but b says how to make one or whose it runs"#
            ]],
        );
        check(
            "- name: b\n  fragments: [base]",
            expect![[
                r#"KCONFIGS/matrix.yaml: instance "b": it needs a source, or the kernel of another instance"#
            ]],
        );
    }

    #[test]
    fn a_misspelt_key_is_an_error_with_file_and_line() {
        check(
            "  memory_mb: 512",
            expect![
                "KCONFIGS/matrix.yaml:5:3: instances[0]: unknown field `memory_mb`, expected one of `name`, `kernel`, `source`, `fragments`, `kcov`, `kcsan`, `patches`, `append`, `memory_mib`, `vcpus`, `numa_nodes` at line 5 column 3"
            ],
        );
    }

    #[test]
    fn a_wrong_type_is_an_error_with_file_and_line() {
        check(
            "  vcpus: many",
            expect![[
                r#"KCONFIGS/matrix.yaml:5:10: instances[0].vcpus: invalid type: string "many", expected u8 at line 5 column 10"#
            ]],
        );
    }

    #[test]
    fn each_rule_has_its_message() {
        check(
            "- name: a\n  source: { package: p }\n  fragments: [base]",
            expect![[r#"KCONFIGS/matrix.yaml: instance "a": its name is taken"#]],
        );
        check(
            "- name: ../b\n  source: { package: p }\n  fragments: [base]",
            expect![[
                r#"KCONFIGS/matrix.yaml: instance "../b": name must be letters, digits, '.' and '-' (it becomes a folder)"#
            ]],
        );
        check(
            "- name: b\n  source: { package: -oDir=/ }\n  fragments: [base]",
            expect![[
                r#"KCONFIGS/matrix.yaml: instance "b": source package "-oDir=/" is not a package name"#
            ]],
        );
        check(
            "- name: b\n  source: { package: p, version: 1 2 }\n  fragments: [base]",
            expect![[r#"KCONFIGS/matrix.yaml: instance "b": source version "1 2" is not a package version"#]],
        );
        check(
            "- name: b\n  source: { package: p, suite: a b }\n  fragments: [base]",
            expect![[r#"KCONFIGS/matrix.yaml: instance "b": source suite "a b" is not the name of a suite"#]],
        );
        check(
            "- name: b\n  source: { package: p }\n  fragments: []",
            expect![[r#"KCONFIGS/matrix.yaml: instance "b": at least one fragment is needed"#]],
        );
        check(
            "- name: b\n  source: { package: p }\n  fragments: [no-such]",
            expect![[r#"KCONFIGS/matrix.yaml: instance "b": no fragment "no-such" in KCONFIGS/fragments"#]],
        );
        check(
            "  kcov: [mm/vmscan.c]",
            expect![[
                r#"KCONFIGS/matrix.yaml: instance "a": kcov wants the stem of a source file ("vmscan"), not "mm/vmscan.c""#
            ]],
        );
        check(
            "  patches: [no-such.patch]",
            expect![[r#"KCONFIGS/matrix.yaml: instance "a": no patch no-such.patch"#]],
        );
        check(
            "  append: [a b]",
            expect![[
                r#"KCONFIGS/matrix.yaml: instance "a": append wants one boot argument per entry, not "a b""#
            ]],
        );
        check(
            "  memory_mib: 16",
            expect![[r#"KCONFIGS/matrix.yaml: instance "a": memory_mib must be at least 256"#]],
        );
        check("  vcpus: 0", expect![[r#"KCONFIGS/matrix.yaml: instance "a": vcpus must be 1 to 16"#]]);
        check(
            "  numa_nodes: 5",
            expect![[r#"KCONFIGS/matrix.yaml: instance "a": numa_nodes must be 1 to 8, and at most vcpus"#]],
        );
    }

    #[test]
    fn an_unknown_instance_names_the_known_ones() {
        let error = format!("{:#}", instance("kasan-6.21").unwrap_err());
        expect![[r#"unknown instance "kasan-6.21"; known: kasan-6.12, kasan-7.2, cover-7.2, kcsan-7.2, nokmem-6.12, nokmem-7.2, numa-7.2, fakenuma-7.2, perf-6.12, perf-7.2"#]]
            .assert_eq(&error);
    }
}
