// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which programs reach what the series touches: they are run first. The functions are those of the kernel without the series
//! that have lines in the series' hunks; what a program reaches there was seen when that kernel was looked at.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::RangeInclusive,
    sync::LazyLock,
};

use ::fuzz::config;
use abi::ops::OPS;
use anyhow::Result;
use harness::{epoch::Coverage, program::Program, symbolize::Symbolizer};
use regex::Regex;

use super::series::Series;
use crate::{many::Many, paths, prepare::Prepared};

/// Kernel code lies in the upper 2 GiB.
const UPPER: u64 = 0xffff_ffff_0000_0000;

/// What each program reaches, as low halves of program counters.
type Reach = Vec<BTreeSet<u32>>;

/// Kinds of op that are looked at most closely.
const KINDS_MAX: usize = 4;

/// The programs that reach what the series touches, and the functions that they reach of it.
#[derive(Clone, Debug, Default)]
pub struct Focus {
    /// The programs in the order they had, and the ops that make the difference.
    pub on: config::Focus,
    /// Sorted.
    pub functions: Vec<String>,
}

/// Finds them among `programs`.
///
/// # Errors
/// When a guest fails, or the kernel has no debug information.
pub fn focus(base: &mut Prepared, programs: &[Program], series: &Series) -> Result<Focus> {
    let reach = reach(base, programs)?;
    let hunks = hunks(series);
    let symbolizer = Symbolizer::new(&base.machine.vmlinux, &[], paths::symbols().as_deref())?;
    // Where each place is: in which functions of which files, those that were inlined there among them.
    let all: BTreeSet<u32> = reach.iter().flatten().copied().collect();
    let mut at: BTreeMap<(String, String), (RangeInclusive<u32>, BTreeSet<u32>)> = BTreeMap::new();
    for pc in all {
        // The instruction after a call.
        for frame in symbolizer.at(UPPER | u64::from(pc - 1)).into_iter().filter(|frame| frame.line > 0) {
            if hunks.contains_key(&frame.file) {
                let line = frame.line;
                let (span, pcs) =
                    at.entry((frame.file, frame.function)).or_insert_with(|| (line..=line, BTreeSet::new()));
                *span = line.min(*span.start())..=line.max(*span.end());
                pcs.insert(pc);
            }
        }
    }
    at.retain(|(file, _), (span, _)| {
        hunks.get(file).is_some_and(|hunks| hunks.iter().any(|hunk| meet(hunk, span)))
    });
    let reaches = |reached: &BTreeSet<u32>| at.values().any(|(_, pcs)| !pcs.is_disjoint(reached));
    let those: Vec<(&Program, bool)> =
        programs.iter().zip(&reach).map(|(program, reached)| (program, reaches(reached))).collect();
    let chosen = those.iter().filter(|(_, reaches)| *reaches).map(|(program, _)| (*program).clone());
    let on = config::Focus { programs: chosen.collect(), kinds: kinds(&those) };
    let mut functions: Vec<String> = at.keys().map(|(_, function)| function.clone()).collect();
    functions.sort();
    functions.dedup();
    Ok(Focus { on, functions })
}

/// The kinds of op with which programs reach it more often than without, the one that makes the most difference first.
fn kinds(programs: &[(&Program, bool)]) -> Vec<u8> {
    let share =
        |of: &[&(&Program, bool)]| of.iter().filter(|(_, reaches)| *reaches).count() as f64 / of.len() as f64;
    let gain = |kind: u8| {
        let has = |program: &Program| {
            program.threads.iter().flat_map(|thread| &thread.ops).any(|op| op.kind == kind)
        };
        let (with, without): (Vec<_>, Vec<_>) = programs.iter().partition(|(program, _)| has(program));
        // Not a number, and dropped, where all programs have it or none.
        share(&with) - share(&without)
    };
    let mut gains: Vec<(f64, u8)> = OPS.iter().map(|spec| (gain(spec.kind), spec.kind)).collect();
    gains.retain(|(gain, _)| *gain > 0.0);
    gains.sort_by(|a, b| b.0.total_cmp(&a.0));
    gains.into_iter().take(KINDS_MAX).map(|(_, kind)| kind).collect()
}

/// What programs reach on the kernel without the series: kept, for it does not change.
///
/// # Errors
/// When a guest fails.
pub fn reach(base: &mut Prepared, programs: &[Program]) -> Result<Reach> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(base.machine.config.key.as_bytes()).update(format!("{programs:?}").as_bytes());
    let file = base.cache.dir("gate")?.join(format!("reach-{}.json", &hasher.finalize().to_hex()[..16]));
    if let Some(kept) = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        return Ok(kept);
    }
    eprintln!("gate: what the programs reach on the kernel without the series, kept for the next time");
    let mut reach = vec![BTreeSet::new(); programs.len()];
    Many::new(base)?.run(programs, Coverage::Pcs, &mut |idx, outcome| reach[idx].extend(&outcome.pcs))?;
    paths::write_whole(&file, &serde_json::to_vec(&reach)?)?;
    Ok(reach)
}

fn meet(a: &RangeInclusive<u32>, b: &RangeInclusive<u32>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}

/// Lines that are removed, or beside which some are added, by file, as they are counted before.
fn hunks(series: &Series) -> BTreeMap<String, Vec<RangeInclusive<u32>>> {
    let mut hunks: BTreeMap<String, Vec<RangeInclusive<u32>>> = BTreeMap::new();
    for piece in &series.pieces {
        for (file, lines) in of_diff(&piece.patch.diff) {
            hunks.entry(file).or_default().push(lines);
        }
    }
    hunks
}

fn of_diff(diff: &str) -> Vec<(String, RangeInclusive<u32>)> {
    static HUNK: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@").expect("it compiles"));
    let number =
        |text: Option<regex::Match<'_>>| text.map_or(1, |text| text.as_str().parse::<u32>().unwrap_or(0));
    let mut found = Vec::new();
    let (mut file, mut line) = (None, 0_u32);
    let (mut n_old, mut n_new) = (0_u32, 0_u32);
    for text in diff.lines() {
        if n_old == 0 && n_new == 0 {
            if let Some(name) = text.strip_prefix("--- ") {
                let name = name.split('\t').next().unwrap_or_default();
                file = name.split_once('/').map(|(_, name)| name.to_owned());
            } else if let Some(hunk) = HUNK.captures(text) {
                (line, n_old, n_new) = (number(hunk.get(1)), number(hunk.get(2)), number(hunk.get(3)));
            }
            continue;
        }
        let (is_old, is_new) = match text.as_bytes().first() {
            Some(b'-') => (true, false),
            Some(b'+') => (false, true),
            Some(b'\\') => continue,
            _ => (true, true),
        };
        if let Some(file) = file.as_ref().filter(|_| is_old != is_new) {
            // What is added is between two lines.
            let first = if is_old { line } else { line.saturating_sub(1) };
            found.push((file.clone(), first..=line));
        }
        line = line.saturating_add(u32::from(is_old));
        n_old = n_old.saturating_sub(u32::from(is_old));
        n_new = n_new.saturating_sub(u32::from(is_new));
    }
    found
}

#[cfg(test)]
mod tests {
    use abi::layout::kind;

    use super::*;

    #[test]
    fn changed_lines_are_counted_as_before() {
        let diff = "--- a/mm/a.c\t2024\n+++ b/mm/a.c\n@@ -10,4 +10,4 @@ f\n one\n-two\n+TWO\n three\n four\n\
                    @@ -20,2 +20,3 @@\n x\n+--- a/b\n y\n--- /dev/null\n+++ b/mm/new.c\n@@ -0,0 +1 @@\n+new\n";
        let lines: Vec<String> =
            of_diff(diff).into_iter().map(|(file, lines)| format!("{file} {lines:?}")).collect();
        assert_eq!(lines, ["mm/a.c 11..=11", "mm/a.c 11..=12", "mm/a.c 20..=21", "dev/null 0..=0"]);
        assert!(of_diff("@@ -99999999999,4294967295 +1 @@\n-x\n").is_empty());
    }

    #[test]
    fn the_ops_that_make_the_difference_are_those_that_programs_reach_it_with() {
        let program = |ops: &str| format!("thread cpu=0\n yield\n {ops}\n").parse::<Program>().unwrap();
        let group = program("memcg_create memcg=0\n memcg_enter memcg=0");
        let (alone, other) = (program("memcg_create memcg=1"), program("memcg_enter memcg=1"));
        let found = kinds(&[(&group, true), (&alone, true), (&other, false), (&program("yield"), false)]);
        assert_eq!(found, [kind::MEMCG_CREATE]);
        assert!(kinds(&[(&other, false)]).is_empty() && kinds(&[]).is_empty());
    }

    #[test]
    fn ranges_that_share_a_line_meet() {
        assert!(meet(&(1..=3), &(3..=9)) && meet(&(4..=4), &(3..=9)) && !meet(&(1..=2), &(3..=9)));
    }
}
