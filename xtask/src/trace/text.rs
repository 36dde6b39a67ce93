// SPDX-License-Identifier: MIT OR Apache-2.0
//! A trace as text: `trace.txt`, and what of it goes into the report.

use std::{collections::BTreeMap, fmt::Write};

use harness::plain;

use super::record::{Entry, Recorder};

/// Entries of each vCPU in `trace.txt`.
const ENTRIES_PER_CPU: usize = 400;
/// Entries between the two halves in `trace.txt` at most.
const BETWEEN_MAX: usize = 4000;
/// Entries in the report, from either end.
const EXCERPT_HALF: usize = 40;
/// Entries shown before the first half.
const BEFORE: usize = 8;
/// The excerpt's heading; its section ends at the next heading of that level.
const HEADING: &str = "## Interleaving";

/// The columns.
const HEAD: &str = "       n cpu         k function";

/// `trace.txt`: the last entries of every vCPU, in the order in which they ran, and all from `free` on.
pub fn file(recorder: &Recorder, free: Option<usize>) -> String {
    let mut out = String::from(
        "Functions of the kernel as they were entered, over all vCPUs in the order in which they ran, up to the report.\n\
         n: how many entries before the report's. k: this is the k-th entry of the function since the snapshot.\n\
         from: the block of code that ran before it on that CPU.\n\
         Left out: sanitizers, lockdep and other checks.\n\n",
    );
    let _ = writeln!(out, "{HEAD}");
    let mut left: BTreeMap<u32, usize> = BTreeMap::new();
    let n_entries = recorder.entries.len();
    let keep_from = free.map_or(n_entries, |free| free.max(n_entries.saturating_sub(BETWEEN_MAX)));
    let shown: Vec<bool> = (0..n_entries)
        .rev()
        .map(|at| {
            let n_shown = left.entry(recorder.entries[at].cpu).or_default();
            *n_shown += 1;
            *n_shown <= ENTRIES_PER_CPU || at >= keep_from || free == Some(at)
        })
        .collect();
    let mut gap = false;
    for (at, shown) in shown.iter().rev().enumerate() {
        if *shown {
            if gap {
                out.push_str("       …\n");
            }
            push(&mut out, recorder, at, free);
        }
        gap = !shown && at > 0;
    }
    push_report(&mut out, recorder);
    out
}

/// What happened between the two halves: from the free that the report names, or the last entries where it names none.
pub fn excerpt(recorder: &Recorder, free: Option<usize>) -> String {
    let n_entries = recorder.entries.len();
    let first = free.map_or(n_entries.saturating_sub(2 * EXCERPT_HALF), |free| free.saturating_sub(BEFORE));
    let mut out = format!("{HEAD}\n");
    let (head_end, tail_start) = (first + EXCERPT_HALF, n_entries.saturating_sub(EXCERPT_HALF));
    for at in first..n_entries {
        if at < head_end || at >= tail_start {
            push(&mut out, recorder, at, free);
        } else if at == head_end {
            let _ = writeln!(out, "       … {} more, in trace.txt …", tail_start - head_end);
        }
    }
    push_report(&mut out, recorder);
    out
}

/// A report with the excerpt in it, in the place of the one it has, else before the program.
pub fn in_report(report: &str, excerpt: &str, words: &str) -> String {
    let section = format!("{HEADING}\n\n{words}\n\n{}", plain::quote_markdown(excerpt));
    let mut out = String::new();
    let (mut fence, mut skipping, mut placed) = (None::<String>, false, false);
    for line in report.split_inclusive('\n') {
        let bare = line.trim_end();
        match &fence {
            Some(open) if bare == open => fence = None,
            Some(_) => {}
            None if bare.starts_with("```") => {
                fence = Some(bare.chars().take_while(|c| *c == '`').collect());
            }
            None if bare.starts_with("## ") => {
                skipping = bare == HEADING;
                if !placed && (skipping || bare == "## Program") {
                    out.push_str(&section);
                    placed = true;
                }
            }
            None => {}
        }
        if !skipping {
            out.push_str(line);
        }
    }
    if !placed {
        out.push_str(&section);
    }
    out
}

fn push(out: &mut String, recorder: &Recorder, at: usize, free: Option<usize>) {
    let before = format!("-{}", recorder.entries.len() - at);
    let mark = if free == Some(at) { "  <-- the free that the report names" } else { "" };
    push_line(out, recorder, &recorder.entries[at], &before, mark);
}

fn push_report(out: &mut String, recorder: &Recorder) {
    if let Some(report) = &recorder.report {
        push_line(out, recorder, report, "0", "  <-- the report");
    }
}

fn push_line(out: &mut String, recorder: &Recorder, entry: &Entry, n: &str, mark: &str) {
    let function = &recorder.functions[entry.function].1;
    let module = function.module.as_ref().map_or(String::new(), |module| format!(" [{module}]"));
    let times = if entry.times > 1 { format!(" x{}", entry.times) } else { String::new() };
    let place = if function.file.is_empty() {
        String::new()
    } else {
        format!("  {}:{}", function.file, function.line)
    };
    let from =
        entry.from.filter(|_| !function.file.starts_with("arch/x86/entry/")).map(|(caller, offset)| {
            let name = &recorder.functions[caller].1.name;
            format!("  from {name}+{offset:#x}")
        });
    let _ = writeln!(
        out,
        "{n:>8} {:>3} {:>9} {}{module}{times}{place}{}{mark}",
        entry.cpu,
        entry.kth,
        function.name,
        from.unwrap_or_default()
    );
}

#[cfg(test)]
mod tests {
    use harness::{exec_log::Block, symbolize::layout::Function};

    use super::*;

    fn lookup(pc: u64) -> Option<(Function, u64)> {
        let name = if pc == 0 { "panic".to_owned() } else { format!("function_{pc}") };
        let function =
            Function { symbol: name.clone(), name, file: "mm/a.c".into(), line: 7, ..Function::default() };
        Some((function, 0))
    }

    fn recorder(blocks: impl IntoIterator<Item = (u32, u64)>) -> Recorder {
        let mut recorder = Recorder::default();
        blocks.into_iter().for_each(|(cpu, pc)| recorder.block(Block { cpu, pc }, &lookup));
        recorder
    }

    #[test]
    fn the_excerpt_goes_from_the_free_to_the_report() {
        let recorder = recorder([(0, 1), (1, 2), (1, 2), (1, 2), (0, 1), (0, 0)]);
        let lines: Vec<String> = excerpt(&recorder, Some(2)).lines().map(str::to_owned).collect();
        assert_eq!(lines[0], HEAD);
        assert_eq!(lines[1], "      -4   0         1 function_1  mm/a.c:7");
        assert_eq!(
            lines[3],
            "      -2   1         2 function_2 x2  mm/a.c:7  from function_2+0x0  <-- the free that the report names"
        );
        assert_eq!(lines[5], "       0   0         1 panic  mm/a.c:7  from function_1+0x0  <-- the report");
    }

    #[test]
    fn text_is_bounded_and_every_vcpu_is_in_it() {
        let idle = (0..10).map(|pc| (3, 1 + pc));
        let busy = (0..20_000).map(|pc| (0, 1 + pc % 5));
        let recorder = recorder(idle.chain(busy));
        let text = file(&recorder, Some(2));
        assert!(text.lines().count() < ENTRIES_PER_CPU * 2 + BETWEEN_MAX, "{}", text.lines().count());
        assert!(text.contains("   3         1 function_10"));
        assert!(excerpt(&recorder, Some(2)).lines().count() < 2 * EXCERPT_HALF + 5);
    }

    #[test]
    fn the_section_is_put_in_once_and_what_the_guest_printed_is_left_alone() {
        let report = "# T\n\n## Kernel log\n\n```text\n## Interleaving\n## Program\n```\n\n## Program\n\nx\n";
        let once = in_report(report, "one\n", "Words.");
        let twice = in_report(&once, "two\n", "Words.");
        assert_eq!(
            once,
            "# T\n\n## Kernel log\n\n```text\n## Interleaving\n## Program\n```\n\n\
             ## Interleaving\n\nWords.\n\n```text\none\n```\n\n## Program\n\nx\n"
        );
        assert_eq!(twice, once.replace("one", "two"));
    }
}
