// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes a program small while it still shows a finding. Pure: it names programs to run and is told what they showed.
//!
//! Threads go first, then runs of ops from the end, ever shorter, then single ops; then arguments become as small as they
//! may be, and the closer audit is done without. That is repeated until nothing more can be had. Whatever is accepted is
//! smaller than what it replaces, so the end is never worse than the beginning, and there is one.
//!
//! With fewer ops the others come sooner, and a race falls differently. So where threads are left to race, an op is not
//! given up for needed before delays of several lengths stood in its place: a delay is less than an op.

use abi::{
    layout::{Op, kind},
    ops,
};
use harness::program::{Audit, Program};
use serde::{Deserialize, Serialize};

use crate::reduce::Shown;

/// Lengths of the runs of ops that are left out together.
const RUNS: [usize; 5] = [16, 8, 4, 2, 1];
/// Delays that stand in for ops, us.
const DELAYS_US: [u32; 4] = [3, 15, 60, 200];
/// Ops that only take time, or say when others get theirs.
const DELAYS: [u8; 7] = [
    kind::PREEMPT,
    kind::PREEMPT_EDGE,
    kind::PREEMPT_WAKE,
    kind::PREEMPT_TASK,
    kind::SLEEP,
    kind::SPIN,
    kind::YIELD,
];

/// One kind of step.
#[derive(Clone, Copy, Debug)]
enum Pass {
    Threads,
    /// Index into [`RUNS`].
    Ops(usize),
    /// Every argument as small as it may be.
    Smallest,
    /// Every number half as large.
    Half,
    Audit,
}

const PASSES: [Pass; 9] = [
    Pass::Threads,
    Pass::Ops(0),
    Pass::Ops(1),
    Pass::Ops(2),
    Pass::Ops(3),
    Pass::Ops(4),
    Pass::Smallest,
    Pass::Half,
    Pass::Audit,
];

/// How many of them, from the first, leave out threads and ops.
const OPS_PASSES: usize = 6;

/// A search, whole: stored and read back, it goes on where it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Minimizer {
    /// The smallest program known to show the finding, as text.
    best: String,
    /// Index into the passes.
    pass: usize,
    /// Step of the pass that comes next.
    step: usize,
    /// Something became smaller since the first pass began.
    progress: bool,
    /// Programs that were run.
    n_runs: u64,
    /// Arguments and audit stay as they are, and no delay stands in for an op.
    #[serde(default)]
    only_ops: bool,
}

/// A program to run, and the step it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What to run.
    pub program: Program,
    pass: usize,
    step: usize,
    /// It is of the round after the one the search is in.
    next_round: bool,
}

impl Minimizer {
    /// A search that begins with a program that shows the finding.
    pub fn new(program: &Program) -> Minimizer {
        let best = program.to_string();
        Minimizer { best, pass: 0, step: 0, progress: false, n_runs: 0, only_ops: false }
    }

    /// A search that only leaves out threads and ops, and looks at each once: one candidate a step.
    pub fn of_ops(program: &Program) -> Minimizer {
        Minimizer { only_ops: true, ..Minimizer::new(program) }
    }

    /// The smallest program known to show the finding.
    ///
    /// # Panics
    /// When the stored text was no program; [`Minimizer::check`] tells.
    pub fn best(&self) -> Program {
        self.best.parse().expect("checked when it was read")
    }

    /// Whether what was read back can be gone on with.
    ///
    /// # Errors
    /// When the text is no program.
    pub fn check(&self) -> anyhow::Result<()> {
        self.best.parse::<Program>()?;
        Ok(())
    }

    /// Programs that were run.
    pub fn n_runs(&self) -> u64 {
        self.n_runs
    }

    /// How far it is, in words.
    pub fn progress(&self) -> String {
        let best = self.best();
        let (n_threads, n_ops) = (best.threads.len(), best.n_ops());
        let pass = match PASSES.get(self.pass) {
            Some(Pass::Threads) => "threads".to_owned(),
            Some(Pass::Ops(run)) => format!("ops, {} at a time", RUNS[*run]),
            Some(Pass::Smallest | Pass::Half) => "arguments".to_owned(),
            Some(Pass::Audit) => "audit".to_owned(),
            None => "done".to_owned(),
        };
        format!("{n_threads} thread(s), {n_ops} op(s) after {} runs; {pass}", self.n_runs)
    }

    /// At least `n` programs to run next, unless there are no more; the first that shows the finding is the one to take. None:
    /// the search is over.
    pub fn candidates(&self, n: usize) -> Vec<Candidate> {
        let best = self.best();
        let (mut pass, mut step, mut next_round) = (self.pass, self.step, false);
        let mut found = Vec::new();
        while found.len() < n {
            let passes = if self.only_ops { &PASSES[..OPS_PASSES] } else { &PASSES[..] };
            let Some(kind) = passes.get(pass) else {
                // Another round, unless the last one was of no use; it may find the same steps, so it is told first.
                if !self.progress || next_round || !found.is_empty() || self.only_ops {
                    break;
                }
                (pass, step, next_round) = (0, 0, true);
                continue;
            };
            let Some(smaller) = kind.step(&best, step) else {
                (pass, step) = (pass + 1, 0);
                continue;
            };
            let n_taken = if self.only_ops { 1 } else { smaller.len() };
            let smaller = smaller.into_iter().take(n_taken);
            found.extend(smaller.map(|program| Candidate { program, pass, step, next_round }));
            step += 1;
        }
        found
    }

    /// Learns what the candidates showed, in their order; whether the best is a smaller one now.
    pub fn learn(&mut self, candidates: &[Candidate], shown: &[Shown]) -> bool {
        self.n_runs += shown.len() as u64;
        let Some(last) = candidates.last() else { return false };
        self.progress &= !last.next_round;
        let taken = candidates.iter().zip(shown).find(|(_, shown)| **shown == Shown::Same);
        let Some((taken, _)) = taken else {
            (self.pass, self.step) = (last.pass, last.step + 1);
            return false;
        };
        // What came behind the part that went is now at its place.
        (self.pass, self.step, self.progress) = (taken.pass, taken.step, true);
        self.best = taken.program.to_string();
        true
    }
}

impl Pass {
    /// The programs of a step, best first; none beyond the last step, empty where there is nothing to be made smaller.
    fn step(self, best: &Program, step: usize) -> Option<Vec<Program>> {
        match self {
            Pass::Threads => {
                let is_one = best.threads.len() == 1;
                (step < best.threads.len())
                    .then(|| if is_one { vec![] } else { vec![without_thread(best, step)] })
            }
            Pass::Ops(run) => {
                let (thread, from, to) = nth_run(best, RUNS[run], step)?;
                Some(without_ops(best, thread, from, to))
            }
            Pass::Smallest => with_argument(best, step, |_, min| min),
            Pass::Half => with_argument(best, step, |value, min| min + (value - min) / 2),
            Pass::Audit => {
                let light = Program { audit: Audit::Light, ..best.clone() };
                (step == 0).then(|| if best.audit == Audit::Light { vec![] } else { vec![light] })
            }
        }
    }
}

fn without_thread(best: &Program, thread: usize) -> Program {
    let mut program = best.clone();
    // The later ones go first: the first as a rule sets things up.
    let thread = program.threads.len() - 1 - thread;
    program.threads.remove(thread);
    program
}

/// (thread, first op, op behind the last) of a run of `len` ops: those at the end of the last thread first.
fn nth_run(program: &Program, len: usize, nth: usize) -> Option<(usize, usize, usize)> {
    let mut left = nth;
    for (thread, ops) in program.threads.iter().map(|thread| thread.ops.len()).enumerate().rev() {
        let n_runs = ops.div_ceil(len);
        if left < n_runs {
            let to = ops - left * len;
            return Some((thread, to.saturating_sub(len), to));
        }
        left -= n_runs;
    }
    None
}

/// Without those ops; then, where threads race and something is left out that is more than a delay, with delays in their
/// place.
fn without_ops(best: &Program, thread: usize, from: usize, to: usize) -> Vec<Program> {
    let put = |delay: Option<Op>| {
        let mut program = best.clone();
        program.threads[thread].ops.splice(from..to, delay);
        program
    };
    let mut programs = vec![put(None)];
    let only_delays = best.threads[thread].ops[from..to].iter().all(|op| DELAYS.contains(&op.kind));
    if best.threads.len() > 1 && !only_delays {
        let spin = |us| Op { kind: kind::SPIN, a: us, ..Op::default() };
        programs.extend(DELAYS_US.iter().map(|us| put(Some(spin(*us)))));
    }
    programs
}

/// With the `nth` argument changed.
fn with_argument(best: &Program, nth: usize, change: impl Fn(u32, u32) -> u32) -> Option<Vec<Program>> {
    let mut left = nth;
    for (thread, ops) in best.threads.iter().map(|thread| &thread.ops).enumerate() {
        for (at, op) in ops.iter().enumerate() {
            let args = ops::spec(op.kind).map_or(&[][..], |spec| spec.args);
            let Some(arg) = args.get(left) else {
                left -= args.len();
                continue;
            };
            let (min, _) = arg.domain.range();
            let (old, new) = (op.get(arg.field), change(op.get(arg.field), min));
            let mut program = best.clone();
            program.threads[thread].ops[at].set(arg.field, new);
            return Some(if new == old { vec![] } else { vec![program] });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::SEEDS;

    /// Runs the search to its end, so many candidates at a time; the number of runs stays bounded.
    fn minimize(text: &str, n: usize, shows: impl Fn(&Program) -> bool) -> (Program, u64) {
        let program: Program = text.parse().unwrap();
        assert!(shows(&program));
        let mut search = Minimizer::new(&program);
        loop {
            let candidates = search.candidates(n);
            if candidates.is_empty() {
                return (search.best(), search.n_runs());
            }
            assert!(search.n_runs() < 20_000, "no end");
            let shown = candidates.iter().map(|candidate| {
                let mut fixed = candidate.program.clone();
                fixed.fixup();
                assert_eq!(fixed, candidate.program, "a candidate is a valid program");
                if shows(&candidate.program) { Shown::Same } else { Shown::Other }
            });
            let shown: Vec<Shown> = shown.collect();
            let before = search.best();
            if search.learn(&candidates, &shown) {
                assert!(shows(&search.best()) && search.best() != before);
            }
        }
    }

    fn kinds(program: &Program) -> Vec<Vec<u8>> {
        program.threads.iter().map(|thread| thread.ops.iter().map(|op| op.kind).collect()).collect()
    }

    fn has(program: &Program, wanted: u8) -> bool {
        program.threads.iter().flat_map(|thread| &thread.ops).any(|op| op.kind == wanted)
    }

    #[test]
    fn what_one_op_shows_is_one_op_with_the_smallest_arguments() {
        for (name, text) in SEEDS {
            let program: Program = text.parse().unwrap();
            let first = program.threads[0].ops[0].kind;
            for n in [1, 2, 5] {
                let (best, _) = minimize(text, n, |program| has(program, first));
                assert_eq!(kinds(&best), [[first]], "{name}, {n} at a time");
                let smallest = Op { kind: first, ..Op::default() }.fixup();
                assert_eq!(best.threads[0].ops, [smallest], "{name}");
                assert_eq!(best.audit, Audit::Light);
            }
        }
    }

    #[test]
    fn an_argument_that_matters_is_halved_as_far_as_it_goes() {
        let text = "thread cpu=0\n sleep us=4096\n";
        let (best, _) = minimize(text, 2, |program| program.threads[0].ops.iter().any(|op| op.a >= 100));
        let us = best.threads[0].ops[0].a;
        assert!((100..200).contains(&us), "{us}");
    }

    #[test]
    fn a_race_keeps_both_threads_and_what_only_took_time_becomes_a_delay() {
        // The second thread's free has to come late: somebody must have taken his time before it.
        let text = "thread cpu=0\n alloc slot=0 flags=0 name=0\n register slot=0\n drop_caches what=slab\n\
                    thread cpu=1\n yield\n memcg_create memcg=0\n memcg_remove memcg=0\n free slot=0\n yield\n";
        let late = |program: &Program| {
            let took = |op: &Op| match op.kind {
                kind::SPIN => op.a,
                kind::MEMCG_CREATE | kind::MEMCG_REMOVE => 30,
                _ => 0,
            };
            program.threads.iter().any(|thread| {
                let at = thread.ops.iter().position(|op| op.kind == kind::FREE);
                at.is_some_and(|at| thread.ops[..at].iter().map(took).sum::<u32>() >= 50)
            })
        };
        let shows = |program: &Program| {
            program.threads.len() == 2 && has(program, kind::DROP_CACHES) && late(program)
        };
        let (best, n_runs) = minimize(text, 3, shows);
        assert_eq!(kinds(&best), [vec![kind::DROP_CACHES], vec![kind::SPIN, kind::FREE]]);
        assert!((50..100).contains(&best.threads[1].ops[0].a), "{best}");
        assert!(n_runs < 200, "{n_runs}");
    }

    #[test]
    fn a_search_that_is_stored_goes_on_where_it_was_and_ends_the_same() {
        let text = SEEDS[0].1;
        let program: Program = text.parse().unwrap();
        let last = program.threads[0].ops.last().unwrap().kind;
        let (whole, n_whole) = minimize(text, 2, |program| has(program, last));
        let mut search = Minimizer::new(&program);
        loop {
            let stored = serde_yaml::to_string(&search).unwrap();
            search = serde_yaml::from_str(&stored).unwrap();
            search.check().unwrap();
            let candidates = search.candidates(2);
            if candidates.is_empty() {
                break;
            }
            let shown = candidates
                .iter()
                .map(|candidate| if has(&candidate.program, last) { Shown::Same } else { Shown::Other });
            let shown: Vec<Shown> = shown.collect();
            search.learn(&candidates, &shown);
        }
        assert_eq!((search.best(), search.n_runs()), (whole, n_whole));
        assert!(Minimizer { best: "no program".into(), ..search }.check().is_err());
    }

    #[test]
    fn what_nothing_smaller_shows_stays_as_it_was() {
        let text = SEEDS[0].1;
        let program: Program = text.parse().unwrap();
        let (best, _) = minimize(text, 4, |candidate| *candidate == program);
        assert_eq!(best, program);
    }
}
