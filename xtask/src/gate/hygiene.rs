// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a reviewer's tools say of each patch: compiler warnings of `W=1`, sparse, clippy, kernel-doc, checkpatch. Only what
//! the tree before the patch does not say counts.

use std::{collections::BTreeSet, fs, path::Path, sync::LazyLock, time::Instant};

use anyhow::Result;
use harness::plain;
use regex::Regex;

use super::{
    outcome::{Check, Status},
    series::{self, Piece, Series},
};
use crate::{
    kernel::{Workbench, make},
    paths,
};

/// Objects compiled of those that include a header that a patch touches.
const INCLUDERS_MAX: usize = 6;
/// Largest record of a compilation that is read.
const RECORD_BYTES_MAX: u64 = 4 << 20;
/// Folders whose objects are looked at first for that.
const NEAR: [&str; 3] = ["mm", "fs", "kernel"];

/// One thing that a tool says of a file. Lines are no part of it: they move.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Message {
    file: String,
    is_error: bool,
    text: String,
}

/// A message and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    message: Message,
    line: u32,
}

/// Looks at each patch in turn. The source is that of the whole series afterwards.
///
/// # Errors
/// When a program cannot be run.
pub fn checks(bench: &Workbench<'_>, series: &Series) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let patches = series.patches();
    let mut known = Known::default();
    bench.apply(&[])?;
    let all = series.touched();
    known.learn(compile(bench, &objects(bench, &all)?)?.said);
    known.learn(kernel_doc(bench, &all)?);
    for (nth, piece) in series.pieces.iter().enumerate() {
        let began = Instant::now();
        bench.apply(&patches[..=nth])?;
        let touched: Vec<&str> = files(piece).collect();
        let compiled = objects(bench, &touched)?;
        let result = compile(bench, &compiled)?;
        let mut found = known.news(result.said);
        found.extend(known.news(kernel_doc(bench, &touched)?));
        let mut of_patch: Vec<Check> = found.into_iter().map(|said| warning(nth, said)).collect();
        let is_explained = of_patch.iter().any(|check| check.name.starts_with("error"));
        if let Some(tail) = result.failed.filter(|_| !is_explained) {
            of_patch.push(Check { detail: tail, ..check(nth, "compile", Status::Fail, "does not compile") });
        }
        of_patch.extend(checkpatch(bench, nth, piece)?);
        if of_patch.iter().all(|check| check.status < Status::Unsure) {
            let names = compiled.join(" ");
            let text = if names.is_empty() { "nothing of it is compiled here".to_owned() } else { names };
            of_patch.push(Check {
                seconds: began.elapsed().as_secs_f64(),
                ..check(nth, "patch", Status::Pass, &text)
            });
        }
        checks.extend(of_patch);
    }
    Ok(checks)
}

fn files(piece: &Piece) -> impl Iterator<Item = &str> {
    piece.info.files.iter().map(String::as_str)
}

fn check(nth: usize, name: &str, status: Status, text: &str) -> Check {
    Check { patch: Some(nth), ..Check::new(name, status, text) }
}

fn warning(nth: usize, said: Said) -> Check {
    let Said { message, line } = said;
    let kind = if message.is_error { "error" } else { "warning" };
    Check {
        place: Some((message.file.clone(), line)),
        ..check(nth, &format!("{kind} {}", message.file), Status::Fail, &message.text)
    }
}

/// What was said by now.
#[derive(Debug, Default)]
struct Known(BTreeSet<Message>);

impl Known {
    fn learn(&mut self, said: Vec<Said>) {
        self.0.extend(said.into_iter().map(|said| said.message));
    }

    /// What of it is new.
    fn news(&mut self, said: Vec<Said>) -> Vec<Said> {
        said.into_iter().filter(|said| self.0.insert(said.message.clone())).collect()
    }
}

/// Objects that show what became of files: those compiled from them, and a few that include the headers.
fn objects(bench: &Workbench<'_>, files: &[&str]) -> Result<Vec<String>> {
    let (src, out) = (bench.src(), bench.out());
    let mut objects = BTreeSet::new();
    for file in files.iter().filter(|file| src.join(file).is_file()) {
        if let Some(stem) = file.strip_suffix(".c") {
            let object = format!("{stem}.o");
            // One that this configuration does not build is not asked for; of a new file nobody knows before it is.
            let is_new = !out.join(Path::new(&object).parent().unwrap_or(Path::new(""))).is_dir();
            if out.join(&object).is_file() || is_new {
                objects.insert(object);
            }
        } else if let Some(header) = file.strip_suffix(".h") {
            objects.extend(includers(&out, &format!("{header}.h"))?);
        } else if file.ends_with(".rs")
            && file.starts_with("rust/kernel/")
            && out.join("rust/kernel.o").is_file()
        {
            objects.insert("rust/kernel.o".to_owned());
        }
    }
    Ok(objects.into_iter().collect())
}

/// A few objects of a build whose compilation read a header.
fn includers(out: &Path, header: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for folder in NEAR {
        let top = out.join(folder);
        if !top.is_dir() {
            continue;
        }
        let mut records = paths::files_below(&top, |_| true)?;
        records.sort();
        for record in records {
            let name = record.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(object) = name.strip_prefix('.').and_then(|name| name.strip_suffix(".o.cmd")) else {
                continue;
            };
            if found.len() >= INCLUDERS_MAX {
                return Ok(found);
            }
            // The series was built there, and may have left anything.
            let is_record = |meta: fs::Metadata| meta.is_file() && meta.len() <= RECORD_BYTES_MAX;
            if !record.symlink_metadata().is_ok_and(is_record) {
                continue;
            }
            let text = fs::read_to_string(&record).unwrap_or_default();
            let object = record.with_file_name(format!("{object}.o"));
            if text.contains(&format!("/{header} ")) {
                found.extend(object.strip_prefix(out).ok().map(|path| path.display().to_string()));
            }
        }
    }
    Ok(found)
}

struct Compiled {
    said: Vec<Said>,
    /// The end of what make printed, where it failed.
    failed: Option<String>,
}

fn compile(bench: &Workbench<'_>, objects: &[String]) -> Result<Compiled> {
    if objects.is_empty() {
        return Ok(Compiled { said: Vec::new(), failed: None });
    }
    let mut make = bench.make()?;
    make.args(["-k", "W=1", "C=1", "CHECK=sparse"]);
    let is_rust = |object: &String| object.starts_with("rust/");
    // Other options make other bindings, and all of Rust is compiled anew for them: not for an object that is C.
    make.arg(if objects.iter().any(is_rust) { "CLIPPY=1" } else { "CONFIG_RUST=" });
    let (text, ok) = bench.output(make.args(objects))?;
    let said = messages(&text, &bench.seen_src());
    Ok(Compiled { said, failed: (!ok).then(|| plain::block(&make::excerpt(&text))) })
}

/// kernel-doc's complaints of headers; those of other files come with `W=1`.
fn kernel_doc(bench: &Workbench<'_>, files: &[&str]) -> Result<Vec<Said>> {
    let is_there = |file: &&&str| file.ends_with(".h") && bench.src().join(file).is_file();
    let headers: Vec<&&str> = files.iter().filter(is_there).collect();
    let script = bench.src().join("scripts/kernel-doc");
    if headers.is_empty() || !script.exists() {
        return Ok(Vec::new());
    }
    let seen = bench.seen_src();
    let first = fs::read_to_string(&script).unwrap_or_default();
    let interpreter =
        if first.lines().next().is_some_and(|line| line.contains("perl")) { "perl" } else { "python3" };
    let mut command = bench.program(interpreter)?;
    command.arg(seen.join("scripts/kernel-doc")).arg("-none");
    command.args(headers.iter().map(|header| seen.join(header)));
    Ok(messages(&bench.output(&mut command)?.0, &seen))
}

/// checkpatch's: errors are reasons to refuse a patch, the rest is worth a look.
fn checkpatch(bench: &Workbench<'_>, nth: usize, piece: &Piece) -> Result<Vec<Check>> {
    let script = bench.src().join("scripts/checkpatch.pl");
    if !script.exists() {
        return Ok(vec![check(nth, "checkpatch", Status::Skip, "the tree has no scripts/checkpatch.pl")]);
    }
    let file = series::write_text(piece, &bench.scratch()?)?;
    let seen = bench.seen_src();
    let mut command = bench.program("perl")?;
    command.arg(seen.join("scripts/checkpatch.pl")).arg(format!("--root={}", seen.display()));
    command.args(["--terse", "--showfile", "--show-types", "--no-summary", "--color=never"]);
    if !piece.is_mail {
        command.args([
            "--no-signoff",
            "--ignore=COMMIT_MESSAGE,MISSING_SIGN_OFF,COMMIT_LOG_LONG_LINE,NO_AUTHOR_SIGN_OFF",
        ]);
    }
    let (text, _) = bench.output(command.arg(&file))?;
    let _ = fs::remove_file(&file);
    Ok(text.lines().filter_map(|line| of_checkpatch(nth, line)).collect())
}

/// `mm/shrinker.c:12: WARNING:LONG_LINE: text`, or with the patch's own file where it is about the message.
fn of_checkpatch(nth: usize, line: &str) -> Option<Check> {
    static LINE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^(.+?):(\d+): (ERROR|WARNING|CHECK):([A-Z0-9_]+): (.*)$").expect("it compiles")
    });
    let found = LINE.captures(line)?;
    let status = if &found[3] == "ERROR" { Status::Fail } else { Status::Note };
    let is_source = !found[1].ends_with("series.patch");
    let place = is_source.then(|| Some((plain::line(&found[1], 200), found[2].parse().ok()?))).flatten();
    let text = format!("{}: {}", &found[4], plain::line(&found[5], 300));
    Some(Check { place, ..check(nth, "checkpatch", status, &text) })
}

/// Reads what compilers, sparse and kernel-doc print.
fn messages(text: &str, src: &Path) -> Vec<Said> {
    static COMPILER: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^(\S+?):(\d+):(?:\d+:)? (?:fatal )?(warning|error): (.*)$").expect("it compiles")
    });
    static KERNEL_DOC: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^(Warning|Error): (\S+?):(\d+):? (.*)$").expect("it compiles"));
    static RUSTC: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^(warning|error)(?:\[\w+\])?: (.*)$").expect("it compiles"));
    let src = src.display().to_string();
    let own = |file: &str| {
        let file = file.strip_prefix(&src).unwrap_or(file);
        plain::line(file.trim_start_matches("../").trim_start_matches('/'), 200)
    };
    let said = |file: &str, line: &str, kind: &str, text: &str| Said {
        message: Message {
            file: own(file),
            is_error: kind.eq_ignore_ascii_case("error"),
            text: plain::line(text, 300),
        },
        line: line.parse().unwrap_or(0),
    };
    let mut found = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(parts) = COMPILER.captures(line) {
            found.push(said(&parts[1], &parts[2], &parts[3], &parts[4]));
        } else if let Some(parts) = KERNEL_DOC.captures(line) {
            found.push(said(&parts[2], &parts[3], &parts[1], &parts[4]));
        } else if let Some(parts) = RUSTC.captures(line) {
            // The place is on the next line: ` --> rust/kernel/x.rs:1:2`.
            let place = lines.peek().and_then(|next| next.trim_start().strip_prefix("--> "));
            if let Some((file, at)) = place.and_then(|place| place.split_once(':')) {
                found.push(said(file, at.split(':').next().unwrap_or_default(), &parts[1], &parts[2]));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compilers_sparse_kernel_doc_and_rustc_say_is_read() {
        let text = "../mm/shrinker.c:12:5: warning: no previous prototype for function 'f' [-Wmissing-prototypes]\n\
                    /src/mm/a.c:3:1: error: expected ';'\n\
                    ../mm/b.c:7:9: warning: context imbalance in 'g' - wrong count at exit\n\
                    ../mm/c.c:4: warning: Function parameter or struct member 'x' not described in 'h'\n\
                    Warning: ../mm/d.h:9 missing initial short description\n\
                    warning: unused variable: `x`\n   --> rust/kernel/shrinker.rs:5:9\n  CC      mm/shrinker.o\n";
        let found: Vec<_> = messages(text, Path::new("/src"))
            .into_iter()
            .map(|said| {
                format!("{}:{} {} {}", said.message.file, said.line, said.message.is_error, said.message.text)
            })
            .collect();
        assert_eq!(
            found,
            [
                "mm/shrinker.c:12 false no previous prototype for function 'f' [-Wmissing-prototypes]",
                "mm/a.c:3 true expected ';'",
                "mm/b.c:7 false context imbalance in 'g' - wrong count at exit",
                "mm/c.c:4 false Function parameter or struct member 'x' not described in 'h'",
                "mm/d.h:9 false missing initial short description",
                "rust/kernel/shrinker.rs:5 false unused variable: `x`",
            ]
        );
    }

    #[test]
    fn what_was_said_before_is_no_news_wherever_it_moved() {
        let before = messages("mm/a.c:3:1: warning: old\n", Path::new("/src"));
        let after = messages("mm/a.c:30:1: warning: old\nmm/a.c:4:1: warning: new\n", Path::new("/src"));
        let mut known = Known::default();
        known.learn(before);
        let news = known.news(after);
        assert_eq!(news.len(), 1);
        assert_eq!((news[0].message.text.as_str(), news[0].line), ("new", 4));
    }

    #[test]
    fn checkpatch_errors_refuse_and_warnings_do_not() {
        let error = of_checkpatch(0, "mm/a.c:12: ERROR:CODE_INDENT: code indent should use tabs").unwrap();
        assert_eq!((error.status, error.place), (Status::Fail, Some(("mm/a.c".to_owned(), 12))));
        let warning = of_checkpatch(0, "/x/series.patch:5: WARNING:BAD_SIGN_OFF: odd").unwrap();
        assert_eq!((warning.status, warning.place), (Status::Note, None));
        assert_eq!(warning.text, "BAD_SIGN_OFF: odd");
        assert!(of_checkpatch(0, "total: 1 errors").is_none());
    }
}
