// SPDX-License-Identifier: MIT OR Apache-2.0
//! Puts a reproducer together.

use std::collections::BTreeSet;

use abi::layout::{Op, kind};
use harness::{
    plain,
    program::{Program, Thread, describe},
};

use super::{
    Reproducer, Source,
    form::{self, Context, Form, Piece},
    template::{Parts, body, fill},
};

const HEAD: &str = include_str!("templates/head.c");
const SLOTS: &str = include_str!("templates/slots.c");
const LISTS: &str = include_str!("templates/lists.c");
const OTHERS: &str = include_str!("templates/others.c");
const TIMING: &str = include_str!("templates/timing.c");
const MAIN: &str = include_str!("templates/main.c");
const SCRIPT: &str = include_str!("templates/repro.sh");
const MAKEFILE: &str = include_str!("templates/Makefile");

/// Longest title, characters.
const TITLE_MAX: usize = 160;

/// Kernel options that a report needs, by what its title has in it.
const OPTIONS: [(&str, &str); 10] = [
    ("KASAN", "CONFIG_KASAN"),
    ("KCSAN", "CONFIG_KCSAN"),
    ("UBSAN", "CONFIG_UBSAN"),
    ("ODEBUG", "CONFIG_DEBUG_OBJECTS"),
    ("task hung", "CONFIG_DETECT_HUNG_TASK"),
    ("memory leak", "CONFIG_DEBUG_KMEMLEAK"),
    ("possible deadlock", "CONFIG_PROVE_LOCKING"),
    ("RCU usage", "CONFIG_PROVE_RCU"),
    ("sleeping function", "CONFIG_DEBUG_ATOMIC_SLEEP"),
    ("soft lockup", "CONFIG_SOFTLOCKUP_DETECTOR"),
];

/// Rounds where threads race.
const ROUNDS: u32 = 1000;

/// A reproducer at work.
pub(super) struct Build<'a> {
    source: &'a Source<'a>,
    context: Context<'a>,
    parts: Parts,
    options: BTreeSet<&'static str>,
    left_out: Vec<String>,
    /// Functions of the module.
    steps: String,
    n_steps: usize,
    /// Functions of the script, and what a round is.
    threads: String,
    round: String,
}

/// A thread at work.
#[derive(Default)]
struct Function {
    /// Lines of the script.
    lines: String,
    /// The step it is at.
    statements: Vec<String>,
    comments: Vec<String>,
}

impl<'a> Build<'a> {
    pub(super) fn new(source: &'a Source<'a>) -> Build<'a> {
        let is_meant = |(word, _): &&(&str, _)| source.title.contains(*word);
        let mut parts = Parts::new();
        if source.leak_scan {
            parts.insert("leak");
        }
        if source.programs.iter().any(|program| program.threads.len() > 1) {
            parts.insert("threads");
        }
        Build {
            source,
            context: Context { programs: source.programs },
            parts,
            options: OPTIONS.iter().filter(is_meant).map(|(_, option)| *option).collect(),
            left_out: Vec::new(),
            steps: String::new(),
            n_steps: 1,
            threads: String::new(),
            round: String::new(),
        }
    }

    /// Adds a program.
    pub(super) fn program(&mut self, idx: usize, program: &Program) {
        if idx > 0 {
            self.round.push_str("\tclean_up\n");
        }
        for (thread_idx, thread) in program.threads.iter().enumerate() {
            let name = match self.source.programs.len() {
                1 => format!("thread_{thread_idx}"),
                _ => format!("program_{idx}_thread_{thread_idx}"),
            };
            self.thread(&name, thread, program.threads.len());
            self.round.push_str(&format!("\t{name} 2> /dev/null &\n"));
        }
        self.round.push_str("\twait\n");
    }

    fn thread(&mut self, name: &str, thread: &Thread, n_threads: usize) {
        let mut function = Function::default();
        if n_threads > 1 {
            function.statements.push(format!("do_begin({n_threads});"));
        }
        // The op before this one has it fail.
        let mut is_to_fail = false;
        for (idx, op) in thread.ops.iter().enumerate() {
            match self.form(op, thread.ops.get(idx + 1)) {
                Ok(form) => self.add(name, op, form, &mut function),
                Err(why) => self.leave_out(op, why, &mut function),
            }
            if std::mem::replace(&mut is_to_fail, op.kind == kind::FAIL_NTH)
                && function.statements.iter().any(|statement| statement.starts_with("do_fail_nth"))
            {
                function.statements.push("do_fail_nth(0);".to_owned());
            }
        }
        if n_threads > 1 {
            function.statements.push("do_end();".to_owned());
        }
        self.end_step(name, &mut function);
        let (cpu, lines) = (thread.cpu, &function.lines);
        self.threads.push_str(&format!("\n{name}() {{\n\tpin {cpu}\n{lines}}}\n"));
    }

    /// The form of an op that is followed by another.
    fn form(&self, op: &Op, next: Option<&Op>) -> Result<Form, &'static str> {
        let form = form::of(op, self.context).unwrap_or(Err("it has no form here"))?;
        if op.kind == kind::FAIL_NTH {
            let next = next.filter(|next| next.kind != kind::FAIL_NTH);
            let next = next.and_then(|next| form::of(next, self.context)).and_then(Result::ok);
            if !next.is_some_and(|next| next.pieces.iter().all(Piece::is_call)) {
                return Err("what follows is not in the module");
            }
        }
        Ok(form)
    }

    fn add(&mut self, name: &str, op: &Op, form: Form, function: &mut Function) {
        self.parts.extend(&form.parts);
        self.options.extend(&form.options);
        if form.pieces.iter().any(Piece::is_call) {
            function.comments.push(describe(op));
        }
        for piece in form.pieces {
            match piece {
                Piece::Call(statement) => function.statements.push(statement),
                Piece::Line(line) => {
                    self.end_step(name, function);
                    function.lines.push_str(&format!("\t{line}\n"));
                }
            }
        }
    }

    fn leave_out(&mut self, op: &Op, why: &str, function: &mut Function) {
        let text = format!("left out, {why}: {}", describe(op));
        if !self.left_out.contains(&text) {
            self.left_out.push(text.clone());
        }
        function.comments.push(text);
    }

    /// Ends the step that a thread is at.
    fn end_step(&mut self, name: &str, function: &mut Function) {
        for comment in function.comments.drain(..) {
            function.lines.push_str(&format!("\t# {}\n", plain::line(&comment, TITLE_MAX)));
        }
        if function.statements.is_empty() {
            return;
        }
        let nr = self.n_steps;
        self.n_steps += 1;
        function.lines.push_str(&format!("\tstep {nr}\n"));
        self.steps.push_str(&format!("\n/* {name} */\nstatic void step_{nr}(void)\n{{\n"));
        for statement in function.statements.drain(..) {
            self.steps.push_str(&statement_lines(&statement));
        }
        self.steps.push_str("}\n");
    }

    /// The whole.
    pub(super) fn finish(mut self) -> Reproducer {
        self.close_parts();
        let title = plain::line(self.source.title, TITLE_MAX);
        let release = plain::line(self.source.release, TITLE_MAX);
        let is_race = self.source.programs.iter().any(|program| program.threads.len() > 1);
        let rounds = if is_race { ROUNDS } else { 1 };
        Reproducer {
            module: self.module(&title, &release),
            script: self.script(&title, &release, rounds),
            makefile: MAKEFILE,
            left_out: self.left_out,
            rounds,
        }
    }

    /// Parts that follow from others.
    fn close_parts(&mut self) {
        let has = |parts: &Parts, names: &[&str]| names.iter().any(|name| parts.contains(name));
        let parts = &mut self.parts;
        for (wanted, because) in [
            ("take_objects", &["register"][..]),
            ("lru", &["items"]),
            ("cgroup", &["ino"]),
            ("tmp", &["mounts"]),
        ] {
            if has(parts, because) && (wanted != "take_objects" || parts.contains("objects_of")) {
                parts.insert(wanted);
            }
        }
        for (wanted, absent) in [
            ("no_set_count", &["set_count"][..]),
            ("nothing_to_undo", &["items", "preempt_task"]),
            ("no_nest", &["nest"]),
        ] {
            if !has(parts, absent) {
                parts.insert(wanted);
            }
        }
    }

    fn module(&self, title: &str, release: &str) -> String {
        // It is in a comment.
        let title = title.replace("*/", "* /").replace("/*", "/ *");
        let n_slots = self.context.ops().filter(|op| op.kind == kind::ALLOC).map(|op| op.slot + 1).max();
        let n_slots = n_slots.unwrap_or_default().to_string();
        let part = |template: &str, values: &[(&str, &str)]| fill(body(template), &self.parts, values);
        let lists = part(LISTS, &[]);
        let names: Vec<String> = (1..self.n_steps).map(|nr| format!("step_{nr}")).collect();
        let list = ["reset".to_owned()].into_iter().chain(names).map(|name| format!("\t{name},\n"));
        let steps = format!(
            "{}\nstatic void (*const steps[])(void) = {{\n{}}};\n",
            self.steps,
            list.collect::<String>()
        );
        let mut out = fill(HEAD, &self.parts, &[("TITLE", &title), ("RELEASE", release)]);
        if self.parts.contains("slots") {
            out.push_str(&part(SLOTS, &[("N_SLOTS", &n_slots), ("LISTS", &lists)]));
        }
        out.push_str(&part(OTHERS, &[]));
        out.push_str(&part(TIMING, &[]));
        out.push_str(&part(MAIN, &[("STEPS", &steps)]));
        out
    }

    fn script(&self, title: &str, release: &str, rounds: u32) -> String {
        let words: Vec<String> =
            self.source.append.split_whitespace().map(|word| plain::line(word, TITLE_MAX)).collect();
        let mut needs = vec!["CONFIG_MODULES".to_owned()];
        needs.extend(self.options.iter().map(|option| (*option).to_owned()));
        let mut texts = vec![format!("The kernel needs {}.", needs.join(", "))];
        let mut checks = String::new();
        if !words.is_empty() {
            texts.push(format!("It has to be booted with {}.", words.join(" ")));
            let quoted: Vec<String> = words.iter().map(|word| quoted(word)).collect();
            checks = format!(
                "for argument in {}; do\n\tgrep -qwF -e \"$argument\" /proc/cmdline ||\n\t\tdie \"the kernel has to be \
                 booted with $argument\"\ndone\n",
                quoted.join(" ")
            );
        }
        if self.source.programs.len() > 1 {
            texts.push(format!("A round is {} programs, one after the other.", self.source.programs.len()));
        }
        let needs: String =
            texts.iter().flat_map(|text| plain::wrap(text, 70)).map(|line| format!("# {line}\n")).collect();
        fill(
            SCRIPT,
            &self.parts,
            &[
                ("TITLE", title),
                ("QUOTED_TITLE", &quoted(title)),
                ("RELEASE", release),
                ("NEEDS", &needs),
                ("ROUNDS", &rounds.to_string()),
                ("THREADS", &self.threads),
                ("ROUND", &self.round),
                ("CHECKS", &checks),
            ],
        )
    }
}

/// A statement in the body of a function, within the columns that the kernel likes.
fn statement_lines(statement: &str) -> String {
    // A tab is eight columns.
    const WIDTH: usize = 72;
    const LONGER: usize = 64;
    let mut out = String::from("\t");
    let mut n = 0;
    for (idx, word) in statement.split(' ').enumerate() {
        if idx > 0 && n + 1 + word.len() > if out.contains('\n') { LONGER } else { WIDTH } {
            out.push_str("\n\t\t");
            n = 0;
        } else if idx > 0 {
            out.push(' ');
            n += 1;
        }
        out.push_str(word);
        n += word.len();
    }
    out.push('\n');
    out
}

/// A word that the shell takes as it is.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
