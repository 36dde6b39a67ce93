// SPDX-License-Identifier: MIT OR Apache-2.0
//! House rules that a program can check. Each rule is a pure function from the sources to complaints; a complaint
//! says the mend.

use std::{fs, path::Path};

use abi::ops::OPS;
use anyhow::{Result, bail};

use crate::paths;

/// Longest source file without a reason in its head.
const LINES_MAX: usize = 500;
/// What at the top is not ours to judge. `.git` of a work tree is a file.
const SKIPPED: &[&str] = &["target", "campaign", "findings", "corpus", ".git"];

/// A file of the project.
#[derive(Clone, Debug)]
pub struct Source {
    /// Path from the root, with `/`.
    pub path: String,
    /// Content.
    pub text: String,
}

/// Every text file of the project, sorted.
///
/// # Errors
/// When a folder cannot be read.
pub fn sources(root: &Path) -> Result<Vec<Source>> {
    let skipped = |path: &Path| {
        path.parent() == Some(root)
            && SKIPPED.iter().any(|name| path.file_name().is_some_and(|have| have == *name))
    };
    let mut found = Vec::new();
    for path in paths::files_below(root, |dir| !skipped(dir))?.into_iter().filter(|path| !skipped(path)) {
        if let Ok(text) = fs::read_to_string(&path) {
            let relative = path.strip_prefix(root)?.to_string_lossy().into_owned();
            found.push(Source { path: relative, text });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Applies every rule.
///
/// # Errors
/// The complaints, one a line.
pub fn check(sources: &[Source], subcommands: &[&str]) -> Result<()> {
    let complaints = [
        licences(sources),
        lengths(sources),
        one_crate_names_its_library(sources),
        the_oracle_is_pure(sources),
        every_op_is_executed(sources),
        the_readme_has_every_command(sources, subcommands),
        the_map_has_every_file(sources),
        nothing_is_left_undone(sources),
        no_path_of_one_machine(sources),
    ]
    .concat();
    if complaints.is_empty() { Ok(()) } else { bail!("{}", complaints.join("\n")) }
}

/// Files below a folder.
fn below<'a>(sources: &'a [Source], folder: &'a str) -> impl Iterator<Item = &'a Source> {
    sources.iter().filter(move |source| source.path.starts_with(folder))
}

fn is_rust(source: &&Source) -> bool {
    source.path.ends_with(".rs")
}

fn licences(sources: &[Source]) -> Vec<String> {
    let endings = [".rs", ".c", ".config", ".yaml", ".sh", "Kbuild", "Makefile", ".ci/run"];
    let is_code = |source: &&Source| endings.iter().any(|ending| source.path.ends_with(ending));
    let wanted = |path: &str| match path {
        path if path.starts_with("guest-modules/kernel/") => "GPL-2.0",
        path if path.starts_with("guest-modules/abi/") => "GPL-2.0 OR MIT",
        // What is generated is a kernel module.
        path if path.contains("/standalone/") && !path.ends_with(".rs") => "GPL-2.0",
        _ => "MIT OR Apache-2.0",
    };
    let wrong = |source: &&Source| {
        let line = source.text.lines().find(|line| !line.starts_with("#!")).unwrap_or_default();
        line.trim_start_matches(['/', '#', ' '])
            != format!("SPDX-License-Identifier: {}", wanted(&source.path))
    };
    let complain = |source: &Source| {
        format!("{}: the first line must be `SPDX-License-Identifier: {}`", source.path, wanted(&source.path))
    };
    sources.iter().filter(is_code).filter(wrong).map(complain).collect()
}

fn lengths(sources: &[Source]) -> Vec<String> {
    let excused = |source: &Source| {
        let mut head = source.text.lines().take_while(|line| line.starts_with("//"));
        head.any(|line| line.contains("lines because"))
    };
    sources
        .iter()
        .filter(is_rust)
        .filter(|source| source.text.lines().count() > LINES_MAX && !excused(source))
        .map(|source| {
            format!(
                "{}: over {LINES_MAX} lines; split it, or say `… lines because …` in its head",
                source.path
            )
        })
        .collect()
}

fn one_crate_names_its_library(sources: &[Source]) -> Vec<String> {
    // In two parts, so that this file does not name it.
    let name = concat!("lib", "afl");
    sources
        .iter()
        .filter(|source| source.path.ends_with(".rs") || source.path.ends_with("Cargo.toml"))
        .filter(|source| !source.path.starts_with("fuzz/") && source.path != "Cargo.toml")
        .filter(|source| source.text.contains(name))
        .map(|source| format!("{}: only the crate `fuzz` may name {name}", source.path))
        .collect()
}

fn the_oracle_is_pure(sources: &[Source]) -> Vec<String> {
    let world = ["fs", "net", "env", "process", "thread"].map(|module| format!("std::{module}"));
    let mut complaints = Vec::new();
    for source in
        below(sources, "harness/src/oracle/").filter(is_rust).filter(|s| !s.path.ends_with("tests.rs"))
    {
        for name in world.iter().filter(|name| source.text.contains(*name)) {
            complaints.push(format!("{}: names {name}; the oracle is a pure function", source.path));
        }
    }
    if below(sources, "harness/src/oracle/").next().is_none() {
        complaints.push("harness/src/oracle: not there; where is the oracle?".into());
    }
    complaints
}

/// Every kind of the op table has an arm in the module or in the agent, by its side of `USER_FIRST`.
fn every_op_is_executed(sources: &[Source]) -> Vec<String> {
    let layout = sources.iter().find(|source| source.path == "guest-modules/abi/src/layout.rs");
    let kinds = layout.map(|layout| kinds(&layout.text)).unwrap_or_default();
    let mut complaints = Vec::new();
    for op in OPS {
        let Some((name, _)) = kinds.iter().find(|(_, kind)| *kind == op.kind) else {
            complaints
                .push(format!("guest-modules/abi/src/layout.rs: no kind has the number of op `{}`", op.name));
            continue;
        };
        let in_module = op.kind < abi::layout::kind::USER_FIRST;
        let folder = if in_module { "guest-modules/kernel/" } else { "guest-modules/agent/src/" };
        let arm = format!("kind::{name} ");
        if !below(sources, folder).any(|source| source.text.contains(&arm)) {
            complaints.push(format!("{folder}: nothing executes kind::{name} (op `{}`)", op.name));
        }
    }
    let known = |kind: u8| OPS.iter().any(|op| op.kind == kind);
    for (name, _) in kinds.iter().filter(|(name, kind)| name != "USER_FIRST" && !known(*kind)) {
        complaints.push(format!("guest-modules/abi/src/ops.rs: kind::{name} is not in the op table"));
    }
    complaints
}

/// The constants of `mod kind`.
fn kinds(layout: &str) -> Vec<(String, u8)> {
    let module = layout.split("pub mod kind {").nth(1).and_then(|rest| rest.split("\n}").next());
    let constant = |line: &str| {
        let (name, value) = line.trim().strip_prefix("pub const ")?.split_once(": u8 = ")?;
        Some((name.to_owned(), value.strip_suffix(';')?.parse().ok()?))
    };
    module.unwrap_or_default().lines().filter_map(constant).collect()
}

fn the_readme_has_every_command(sources: &[Source], subcommands: &[&str]) -> Vec<String> {
    let readme = sources.iter().find(|source| source.path == "README.md").map_or("", |readme| &readme.text);
    let named = |name: &&&str| {
        let starts = [format!("`{name}`"), format!("`{name} ")];
        starts.iter().any(|start| readme.contains(start))
    };
    subcommands
        .iter()
        .filter(|name| !named(name))
        .map(|name| format!("README.md: the table of commands lacks `{name}`"))
        .collect()
}

/// `ARCHITECTURE.md` has a section a folder and in it a row a file; no row without a file.
fn the_map_has_every_file(sources: &[Source]) -> Vec<String> {
    let map = sources.iter().find(|source| source.path == "ARCHITECTURE.md").map_or("", |map| &map.text);
    let mut rows = Vec::new();
    for section in map.split("\n### `").skip(1) {
        let Some((folder, text)) = section.split_once('`') else { continue };
        let names = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        rows.extend(names.filter(|name| name.ends_with(".rs")).map(|name| format!("{folder}/{name}")));
    }
    // Tests and what only tests use explain themselves by what they test.
    let is_test = |path: &str| path.ends_with("/tests.rs") || path.contains("/tests/");
    let missing = sources.iter().filter(is_rust).map(|source| &source.path);
    let missing = missing.filter(|path| !is_test(path) && !rows.contains(path));
    let gone = rows.iter().filter(|row| !sources.iter().any(|source| source.path == **row));
    let missing = missing.map(|path| format!("ARCHITECTURE.md: the table of files lacks {path}"));
    missing.chain(gone.map(|row| format!("ARCHITECTURE.md: {row} is not there"))).collect()
}

fn nothing_is_left_undone(sources: &[Source]) -> Vec<String> {
    // In two parts each, so that this file does not contain them.
    let marks = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("#[", "ignore"),
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
    ];
    let mut complaints = Vec::new();
    for source in sources.iter().filter(is_rust) {
        for (idx, line) in source.text.lines().enumerate() {
            for mark in marks.iter().filter(|mark| line.contains(**mark)) {
                complaints.push(format!("{}:{}: `{mark}`: finish it or take it out", source.path, idx + 1));
            }
        }
    }
    complaints
}

fn no_path_of_one_machine(sources: &[Source]) -> Vec<String> {
    let places = [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/ho", "me/")];
    let is_data = |source: &&Source| source.path.contains("/testdata/") || source.path.ends_with(".lock");
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| !is_data(source)) {
        for place in places.iter().filter(|place| source.text.contains(**place)) {
            complaints.push(format!("{}: {place} is a place on one machine", source.path));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> Vec<Source> {
        vec![Source { path: path.into(), text: text.into() }]
    }

    /// Complaints about `bad` and none about `good`.
    #[track_caller]
    fn tells(rule: impl Fn(&[Source]) -> Vec<String>, bad: Vec<Source>, good: Vec<Source>) {
        assert_eq!(rule(&bad).len(), 1, "{:?}", rule(&bad));
        assert_eq!(rule(&good), Vec::<String>::new());
    }

    #[test]
    fn each_rule_tells_bad_from_good() {
        let spdx = "// SPDX-License-Identifier: ";
        tells(
            licences,
            file("fuzz/src/a.rs", "//! A."),
            file(".ci/run", "#!/bin/sh\n# SPDX-License-Identifier: MIT OR Apache-2.0"),
        );
        tells(
            licences,
            file("guest-modules/kernel/a.rs", &format!("{spdx}MIT OR Apache-2.0")),
            file("guest-modules/kernel/a.rs", &format!("{spdx}GPL-2.0")),
        );
        let long = "fn f() {}\n".repeat(LINES_MAX + 1);
        tells(
            lengths,
            file("a.rs", &long),
            file("a.rs", &format!("//! 501 lines because of a test.\n{long}")),
        );
        let afl = concat!("use lib", "afl::x;");
        tells(one_crate_names_its_library, file("xtask/src/a.rs", afl), file("fuzz/src/a.rs", afl));
        let oracle = "harness/src/oracle/a.rs";
        tells(the_oracle_is_pure, file(oracle, "use std::fs;"), file(oracle, "use std::fmt;"));
        tells(nothing_is_left_undone, file("a.rs", concat!("to", "do!()")), file("a.rs", "todo_list()"));
        tells(
            no_path_of_one_machine,
            file("README.md", concat!("cd /ro", "ot/x")),
            file("README.md", "cd x"),
        );
        let readme = |text: &str| file("README.md", text);
        let rule = |sources: &[Source]| the_readme_has_every_command(sources, &["fuzz"]);
        tells(rule, readme("fuzz it"), readme("| `fuzz [--time]` | fuzz |"));
    }

    #[test]
    fn a_file_without_a_row_and_a_row_without_a_file_are_told() {
        let map = file("ARCHITECTURE.md", "x\n### `a/src`\n\n| `b.rs` | B. |\n| `gone.rs` | Gone. |\n");
        let sources =
            [map, file("a/src/b.rs", ""), file("a/src/c.rs", ""), file("a/src/tests.rs", "")].concat();
        assert_eq!(
            the_map_has_every_file(&sources),
            [
                "ARCHITECTURE.md: the table of files lacks a/src/c.rs",
                "ARCHITECTURE.md: a/src/gone.rs is not there"
            ]
        );
    }

    #[test]
    fn an_op_that_nothing_executes_is_told() {
        let mut sources = sources(&paths::repo_root()).unwrap();
        assert_eq!(every_op_is_executed(&sources), Vec::<String>::new());
        for source in &mut sources {
            source.text = source.text.replace("kind::YIELD =>", "_ =>");
        }
        assert_eq!(
            every_op_is_executed(&sources),
            ["guest-modules/agent/src/: nothing executes kind::YIELD (op `yield`)"]
        );
    }
}
