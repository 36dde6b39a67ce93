// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask coverage`: runs a campaign's corpus once more and says, function by function, what it reaches of the
//! instrumented files.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use ::fuzz::corpus::{CorpusDir, seeds};
use anyhow::Result;
use clap::Args;
use harness::{
    coverage::{self, Function},
    epoch::Coverage,
    program::Program,
    symbolize::Symbolizer,
};
use serde::Serialize;

use crate::{
    exit::{Exit, Outcome},
    many::Many,
    paths,
    prepare::{self, MachineArgs, Prepared},
    usage,
};

/// Options of `coverage`.
#[derive(Debug, Args)]
pub struct CoverageArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// Campaign folder whose corpus to run [default: the seed programs alone]
    #[arg(value_name = "DIR")]
    campaign: Option<PathBuf>,
    /// Only files whose path contains this; repeatable
    #[arg(long, value_name = "TEXT")]
    file: Vec<String>,
    /// Every function, not only those with edges left
    #[arg(long)]
    all: bool,
    /// Where the edges are that were not reached
    #[arg(long)]
    lines: bool,
    /// Print one JSON object a function in place of the table
    #[arg(long)]
    json: bool,
}

/// One function's coverage.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Line {
    file: String,
    function: String,
    /// Runs only while the kernel boots: out of reach, and not in the totals.
    init: bool,
    /// Only kernel threads and RCU ran it, whom KCOV does not follow: its edges are not in the totals.
    unseen: bool,
    n_edges: usize,
    n_covered: usize,
    /// Where the edges are that were not reached, by address, where that was asked for.
    missed: Vec<String>,
}

/// Runs the subcommand.
///
/// # Errors
/// When the machine cannot be made ready, the corpus cannot be read, or a guest fails.
pub fn run(args: &CoverageArgs) -> Outcome {
    let mut prepared = prepare::prepare(&args.machine)?;
    let programs = programs(args)?;
    let functions = coverage::functions(&prepared.machine.vmlinux, paths::symbols().as_deref())?;
    if functions.is_empty() {
        return Err(usage!("{} is built without coverage (`kcov` in the matrix)", args.machine.instance));
    }
    let n_programs = programs.len();
    let (covered, exit) = covered(&mut prepared, programs)?;
    let wanted = |function: &&Function| {
        args.file.is_empty() || args.file.iter().any(|part| function.file.contains(part.as_str()))
    };
    let mut lines: Vec<Line> =
        functions.iter().filter(wanted).map(|function| line(function, &covered)).collect();
    if args.lines {
        let symbolizer = Symbolizer::new(&prepared.machine.vmlinux, &[], paths::symbols().as_deref())?;
        for (line, function) in lines.iter_mut().zip(functions.iter().filter(wanted)) {
            let missed = function.edges.iter().filter(|edge| !covered.contains(edge));
            line.missed = missed.map(|&edge| place(&symbolizer, edge)).collect();
        }
    }
    lines.sort_by(|a, b| (&a.file, &a.function).cmp(&(&b.file, &b.function)));
    if args.json {
        for line in &lines {
            println!("{}", serde_json::to_string(line)?);
        }
    } else {
        print!("{}", table(&lines, args.all));
        println!("{n_programs} programs");
    }
    Ok(exit)
}

fn programs(args: &CoverageArgs) -> Result<Vec<Program>> {
    match &args.campaign {
        Some(dir) => corpus(dir),
        None => seeds(),
    }
}

/// The corpus of a campaign.
///
/// # Errors
/// When the folder is no campaign or cannot be read.
pub fn corpus(campaign: &Path) -> Result<Vec<Program>> {
    let corpus = campaign.join("corpus");
    if !corpus.is_dir() {
        return Err(usage!("{} is no campaign: it has no corpus", campaign.display()));
    }
    let (programs, broken) = CorpusDir::open(&corpus)?.load()?;
    broken.iter().for_each(|warning| eprintln!("warning: {warning}"));
    Ok(programs)
}

/// The program counters that the programs reach.
fn covered(prepared: &mut Prepared, programs: Vec<Program>) -> Result<(BTreeSet<u32>, Exit)> {
    let (mut covered, mut n_run) = (BTreeSet::new(), 0);
    let mut many = Many::new(prepared)?;
    many.run(&programs, Coverage::Pcs, &mut |_, outcome| {
        covered.extend(&outcome.pcs);
        n_run += 1;
        eprint!("\r{n_run} of {} programs, {} edges ", programs.len(), covered.len());
    })?;
    eprintln!();
    Ok((covered, if many.complaints.is_empty() { Exit::Pass } else { Exit::Finding }))
}

fn line(function: &Function, covered: &BTreeSet<u32>) -> Line {
    Line {
        file: function.file.clone(),
        function: function.name.clone(),
        init: function.is_init,
        unseen: covered.contains(&function.start)
            && !function.edges.iter().any(|edge| covered.contains(edge)),
        n_edges: function.edges.len(),
        n_covered: function.edges.iter().filter(|edge| covered.contains(edge)).count(),
        missed: Vec::new(),
    }
}

/// Where an edge is in the source: in the function, then in what was inlined there.
fn place(symbolizer: &Symbolizer, edge: u32) -> String {
    // Kernel code lies in the upper 2 GiB; the address is that of the instruction after the call.
    let frames = symbolizer.at(0xffff_ffff_0000_0000 | u64::from(edge - 1));
    let texts: Vec<String> = frames
        .iter()
        .rev()
        .map(|frame| format!("{}:{} {}", frame.file, frame.line, frame.function))
        .collect();
    texts.join(" > ")
}

/// A block for each file: its total, then its functions, those never entered marked.
fn table(lines: &[Line], all: bool) -> String {
    let mut out = String::new();
    for file in lines.chunk_by(|a, b| a.file == b.file) {
        let reachable = || file.iter().filter(|line| !line.init);
        let n_edges: usize = reachable().filter(|line| !line.unseen).map(|line| line.n_edges).sum();
        let n_covered: usize = reachable().map(|line| line.n_covered).sum();
        let n_entered = reachable().filter(|line| line.n_covered > 0 || line.unseen).count();
        let percent = 100.0 * n_covered as f64 / n_edges.max(1) as f64;
        out.push_str(&format!(
            "{}: {n_covered} of {n_edges} edges ({percent:.1} %), {n_entered} of {} functions entered\n",
            file[0].file,
            reachable().count()
        ));
        for line in file {
            if all || (!line.init && line.n_covered < line.n_edges) {
                let note = match line {
                    Line { init: true, .. } => "  boot only",
                    Line { unseen: true, .. } => "  by kernel threads, not followed",
                    Line { n_covered: 0, .. } => "  never entered",
                    _ => "",
                };
                out.push_str(&format!(
                    "  {:>4}/{:<4} {}{note}\n",
                    line.n_covered, line.n_edges, line.function
                ));
                line.missed.iter().for_each(|place| out.push_str(&format!("            {place}\n")));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_what_is_left() {
        let function = |file: &str, name: &str, is_init, edges: &[u32]| Function {
            name: name.to_owned(),
            file: file.to_owned(),
            is_init,
            start: edges[0] + 100,
            edges: edges.to_vec(),
        };
        let covered = BTreeSet::from([1, 2, 3, 9, 106]);
        let lines: Vec<Line> = [
            function("mm/list_lru.c", "list_lru_add", false, &[1, 2, 4]),
            function("mm/list_lru.c", "list_lru_del", false, &[3]),
            function("mm/list_lru.c", "setup", true, &[7, 8]),
            function("mm/shrinker.c", "shrinker_free", false, &[5]),
            function("mm/shrinker.c", "shrinker_free_rcu_cb", false, &[6]),
        ]
        .iter()
        .map(|function| line(function, &covered))
        .collect();
        assert_eq!(
            table(&lines, false),
            "mm/list_lru.c: 3 of 4 edges (75.0 %), 2 of 2 functions entered\n     2/3    list_lru_add\n\
             mm/shrinker.c: 0 of 1 edges (0.0 %), 1 of 2 functions entered\n     0/1    shrinker_free  never entered\n     \
             0/1    shrinker_free_rcu_cb  by kernel threads, not followed\n"
        );
        assert!(table(&lines, true).contains("0/2    setup  boot only"));
    }
}
