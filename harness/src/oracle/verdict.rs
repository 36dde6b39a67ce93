// SPDX-License-Identifier: MIT OR Apache-2.0
//! Puts a report together: title, type, blame, hash, and what is wrong with the report itself.

use std::{collections::BTreeMap, hash::Hasher, sync::LazyLock};

use regex::{Captures, Regex};

use super::{
    Frame, Report, blame, functions, kind,
    lines::Line,
    names,
    rules::{self, Blame, Rule},
    segment::Span,
    stacks::{self, Stack, StackKind},
};

/// Frames that go into the hash.
const HASH_FRAMES_MAX: usize = 8;

/// Names for the title.
type Words<'a> = BTreeMap<&'a str, String>;

/// One report.
pub(crate) fn report(lines: &[Line<'_>], span: &Span) -> Report {
    let rule = rules::rule(span.rule_idx);
    let own = || span.lines.iter().map(|&line_idx| &lines[line_idx]);
    let stacks = stacks::read(own());
    let (mut words, sites) = words(span.rule_idx, own());
    let blamed = blame::blamed(rule, &stacks, &sites, words.get("pid").and_then(|pid| pid.parse().ok()));
    let head_func = words.get("func").map(|func| names::readable(func));
    let frame = match rule.blame {
        Blame::None | Blame::Untold | Blame::Orphan => None,
        Blame::Head => head_func,
        _ => blamed.map(|frame| frame.function.clone()).or(head_func),
    };
    let (plain, raw) = (frame.as_deref().map(canonical), frame.clone());
    // A head line's function is where it was noticed, which is good enough for `frame` but not for a title.
    let told = matches!(rule.blame, Blame::Head) || blamed.is_some();
    let tail = words.get("tail").map(|tail| without_offsets(tail));
    tail.map(|tail| words.insert("tail", tail));
    words.insert("frame", plain.clone().filter(|_| told).unwrap_or_else(|| "corrupted".to_string()));
    let title = title(rule, &words, told);
    let alt_titles = alt_titles(rule, &title, &mut words, raw.as_deref());
    let first = &lines[span.lines[0]];
    let last = &lines[span.lines[span.lines.len() - 1]];
    let frames = blame::main_stack(&stacks, blamed).map(|stack| stack.frames.clone()).unwrap_or_default();
    Report {
        kind: kind::of_title(&title).to_string(),
        corrupted: corrupted(rule, &title, plain.as_deref(), &stacks),
        stack_hash: stack_hash(&frames),
        title,
        alt_titles,
        frame: plain,
        frames,
        start: first.start,
        end: last.end,
        panicked: span.panicked,
    }
}

/// The named groups of the rule's patterns, and the functions lockdep names as lock sites.
fn words<'l>(rule_idx: usize, mut lines: impl Iterator<Item = &'l Line<'l>>) -> (Words<'static>, Vec<Frame>) {
    let mut words = Words::new();
    let mut sites = Vec::new();
    if let Some(line) = lines.next()
        && let Some(hit) = rules::head(rule_idx).captures(&line.body)
    {
        collect(&mut words, rules::head(rule_idx), &hit);
    }
    let also = rules::also(rule_idx);
    if also.is_empty() {
        return (words, sites);
    }
    let mut sites_end = false;
    for line in lines {
        // Locks named from here on are all that the task holds.
        sites_end |= line.body.starts_with("other info that");
        for pattern in also {
            if let Some(hit) = pattern.captures(&line.body) {
                collect(&mut words, pattern, &hit);
                if let Some(func) = hit.name("func").filter(|_| !sites_end) {
                    sites.push(Frame {
                        function: names::readable(func.as_str()),
                        symbol: func.as_str().to_string(),
                        reliable: true,
                        ..Frame::default()
                    });
                }
            }
        }
    }
    (words, sites)
}

fn collect(words: &mut Words<'static>, pattern: &'static Regex, hit: &Captures<'_>) {
    for name in pattern.capture_names().flatten() {
        if let Some(value) = hit.name(name) {
            words.entry(name).or_insert_with(|| value.as_str().to_string());
        }
    }
}

fn title(rule: &Rule, words: &Words<'_>, told: bool) -> String {
    let lacks = |template: &str| {
        template
            .split('{')
            .skip(1)
            .any(|part| part.split_once('}').is_some_and(|(name, _)| !words.contains_key(name)))
    };
    if !rule.fallback.is_empty() && lacks(rule.title) {
        return fill(rule.fallback, words);
    }
    if rule.bare && !told {
        return fill(rule.title.split(" in {frame}").next().unwrap_or(rule.title), words);
    }
    fill(rule.title, words)
}

/// `func.part.1+0x12/0x34` is `func.part.1`.
fn without_offsets(text: &str) -> String {
    static OFFSETS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\+0x[0-9a-f]+/0x[0-9a-f]+").expect("a constant"));
    OFFSETS.replace_all(text, "").into_owned()
}

/// Fills a title and takes out what differs from run to run.
fn fill(template: &str, words: &Words<'_>) -> String {
    let mut title = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else { break };
        title.push_str(before);
        match words.get(name) {
            Some(value) => title.push_str(value),
            // ` / {other}` and ` {access}` vanish with what they would have named.
            None => title.truncate(title.trim_end_matches([' ', '/']).len()),
        }
        rest = after;
    }
    title.push_str(rest);
    static NUMBERS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\b(?P<a>0x[0-9a-f]+|[0-9a-f]{8,16})\b|\b(?P<n>\d+)\b").expect("a constant")
    });
    let title = NUMBERS.replace_all(&title, |hit: &Captures<'_>| {
        if hit.name("a").is_some_and(|text| text.as_str().bytes().any(|byte| byte.is_ascii_digit())) {
            "ADDR".to_string()
        } else if hit.name("n").is_some() {
            "NUM".to_string()
        } else {
            hit[0].to_string()
        }
    });
    title.trim().to_string()
}

fn alt_titles(rule: &Rule, title: &str, words: &mut Words<'_>, raw: Option<&str>) -> Vec<String> {
    let mut alts: Vec<String> = rule.alts.iter().map(|alt| fill(alt, words)).collect();
    if let Some(raw) = raw.filter(|raw| words.get("frame").is_some_and(|plain| plain != raw)) {
        words.insert("frame", raw.to_string());
        alts.push(fill(rule.title, words));
        alts.extend(rule.alts.iter().map(|alt| fill(alt, words)));
    }
    alts.retain(|alt| alt != title);
    alts.sort();
    alts.dedup();
    alts
}

/// One name for what architectures and kernel versions name differently.
fn canonical(function: &str) -> String {
    const WRAPPERS: &[(&str, &str)] = &[
        ("__x64_sys_", "sys_"),
        ("__ia32_sys_", "sys_"),
        ("__arm64_sys_", "sys_"),
        ("__se_sys_", ""),
        ("__do_sys_", ""),
        ("SyS_", ""),
        ("ksys_", ""),
    ];
    for (wrapper, plain) in WRAPPERS {
        if let Some(name) = function.strip_prefix(wrapper) {
            return format!("{plain}{name}");
        }
    }
    match function {
        "synchronize_sched" | "synchronize_rcu_expedited" | "synchronize_srcu" | "__synchronize_srcu" => {
            "synchronize_rcu"
        }
        "smp_call_function_single" | "smp_call_function_many" | "smp_call_function_many_cond" => {
            "smp_call_function"
        }
        _ => function,
    }
    .to_string()
}

/// Why the report is not whole.
fn corrupted(rule: &Rule, title: &str, frame: Option<&str>, stacks: &[Stack]) -> Option<String> {
    if matches!(rule.blame, Blame::None | Blame::Head) {
        return None;
    }
    if rule.blame == Blame::Orphan {
        return Some("the report before the panic is missing".to_string());
    }
    let told = |stack: &Stack| matches!(stack.kind, StackKind::Trace | StackKind::Stuck);
    if !rule.stackless && !stacks.iter().any(told) {
        return Some("no stack in the report".to_string());
    }
    let main = stacks.iter().find(|stack| stack.kind == StackKind::Trace);
    if let Some(main) = main {
        let unwound = &main.frames[main.n_registers..];
        if unwound.is_empty() && rule.blame != Blame::Stall {
            return Some("a stack without frames".to_string());
        }
        if !unwound.is_empty() && unwound.iter().all(|frame| !frame.reliable) {
            return Some("a stack of guesses".to_string());
        }
    }
    if frame.is_none() && rule.blame != Blame::Untold {
        return Some("no function to blame".to_string());
    }
    (title.contains("[ ")).then(|| "a time stamp in the title".to_string())
}

/// FNV-1a over the functions that matter: reliable, not on the skip list, and below the system call. 0: there are none.
fn stack_hash(frames: &[Frame]) -> u64 {
    use functions::Group::{Access, Core, Lock, Memory, Object, Reporting, Trap, Wait};
    let skipped = [Access, Core, Lock, Memory, Object, Reporting, Trap, Wait];
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    let mut n_frames = 0;
    for frame in frames.iter().filter(|frame| frame.reliable && !functions::is_in(&frame.function, &skipped))
    {
        if functions::is_in(&frame.function, &[functions::Group::Entry]) || n_frames == HASH_FRAMES_MAX {
            break;
        }
        hash.write(frame.function.as_bytes());
        hash.write(b"\n");
        n_frames += 1;
    }
    if n_frames == 0 { 0 } else { hash.finish() }
}

struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
