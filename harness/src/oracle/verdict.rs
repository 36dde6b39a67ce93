// SPDX-License-Identifier: MIT OR Apache-2.0
//! Puts a report together: title, type, blame, hash, and what is wrong with the report itself.

use std::{collections::BTreeMap, hash::Hasher, sync::LazyLock};

use regex::{Captures, Regex};

use super::{
    Frame, Report, blame, details, functions, kind,
    lines::Line,
    locks, names,
    rules::{self, Blame, Rule},
    segment::Span,
    stacks::{self, Stack, StackKind},
};

/// Frames that go into the hash.
const HASH_FRAMES_MAX: usize = 8;

/// Names for the title.
type Words<'a> = BTreeMap<&'a str, String>;

/// One report, of the lines of a span's text.
pub(crate) fn report(lines: &[Line<'_>], span: &Span) -> Report {
    let rule = rules::rule(span.rule_idx);
    let own = || lines.iter();
    let stacks = stacks::read(own());
    let Found { mut words, mut sites, lacking } = find(span.rule_idx, own());
    if rule.blame == Blame::Named {
        sites.extend(words.get("func").map(|func| named(func)));
    }
    let blamed = blame::blamed(rule, &stacks, &sites, words.get("pid").and_then(|pid| pid.parse().ok()))
        .filter(|_| !stacks::is_mixed(&stacks));
    let head_func = words.get("func").map(|func| names::readable(func));
    let frame = match rule.blame {
        Blame::None | Blame::Untold | Blame::Orphan => None,
        Blame::Head => head_func,
        _ => blamed.map(|frame| frame.function.clone()).or(head_func),
    };
    let (plain, raw) = (frame.as_deref().map(names::canonical), frame.clone());
    // A head line's function is where it was noticed, which is good enough for `frame` but not for a title.
    let told = matches!(rule.blame, Blame::Head) || blamed.is_some();
    let tail = words.get("tail").map(|tail| without_offsets(tail));
    tail.map(|tail| words.insert("tail", tail));
    words.insert("frame", plain.clone().filter(|_| told).unwrap_or_else(|| "corrupted".to_string()));
    let title = title(rule, &words, told, lacking);
    let alt_titles = alt_titles(rule, &title, &mut words, raw.as_deref());
    let main = blame::main_stack(&stacks, blamed);
    let also = details::read(own().map(|line| line.body.as_ref()));
    let mut frames = main.map(|stack| stack.frames.clone()).unwrap_or_default();
    let stack_hash = stack_hash(&frames);
    if frames.is_empty() {
        // A kernel without kallsyms has addresses only: enough to look up, not enough to blame.
        frames = also.raw;
    }
    Report {
        kind: Some(kind::of_title(&title)).filter(|kind| !kind.is_empty()).unwrap_or(rule.kind).to_string(),
        corrupted: (lacking.then(|| "lines of the report are missing".to_string()))
            .or_else(|| corrupted(rule, &title, told, &stacks)),
        stack_hash,
        title,
        alt_titles,
        frame: plain,
        panicked: span.panicked,
        first_line: span.first_line + 1,
        last_line: span.last_line + 1,
        start: span.start,
        end: span.end,
        task: also.task,
        accesses: also.accesses,
        object: also.object,
        frames,
        stacks: details::side_stacks(&stacks, main),
        locks: locks::read(own().map(|line| line.body.as_ref())),
        kernel_offset: also.kernel_offset,
        text: String::from_utf8_lossy(&span.text).into_owned(),
    }
}

/// What a rule's patterns found in a report.
struct Found {
    /// The named groups; `line` is the head line from where the head matched.
    words: Words<'static>,
    /// The functions lockdep names as lock sites.
    sites: Vec<Frame>,
    /// A line that belongs to the report is missing.
    lacking: bool,
}

fn find<'l>(rule_idx: usize, mut lines: impl Iterator<Item = &'l Line<'l>>) -> Found {
    let patterns = rules::patterns(rule_idx);
    let mut found = Found { words: Words::new(), sites: Vec::new(), lacking: !patterns.needs.is_empty() };
    if let Some(line) = lines.next()
        && let Some(hit) = patterns.head.captures(&line.body)
    {
        collect(&mut found.words, &patterns.head, &hit);
        let whole = hit.get(0).map_or("", |whole| &line.body[whole.start()..]);
        found.words.insert("line", without_offsets(whole.trim()));
    }
    if patterns.also.is_empty() && patterns.needs.is_empty() {
        return found;
    }
    let mut needs: Vec<&Regex> = patterns.needs.iter().collect();
    let mut sites_end = false;
    for line in lines {
        needs.retain(|pattern| !pattern.is_match(&line.body));
        // Locks named from here on are all that the task holds.
        sites_end |= line.body.starts_with("other info that");
        for pattern in &patterns.also {
            if let Some(hit) = pattern.captures(&line.body) {
                collect(&mut found.words, pattern, &hit);
                if let Some(func) = hit.name("func").filter(|_| !sites_end) {
                    found.sites.push(named(func.as_str()));
                }
            }
        }
    }
    found.lacking = !needs.is_empty();
    found
}

/// A function that text names.
fn named(symbol: &str) -> Frame {
    Frame {
        function: names::readable(symbol),
        symbol: symbol.to_string(),
        reliable: true,
        ..Frame::default()
    }
}

fn collect(words: &mut Words<'static>, pattern: &'static Regex, hit: &Captures<'_>) {
    for name in pattern.capture_names().flatten() {
        if let Some(value) = hit.name(name) {
            words.entry(name).or_insert_with(|| value.as_str().to_string());
        }
    }
}

fn title(rule: &Rule, words: &Words<'_>, told: bool, lacking: bool) -> String {
    let lacks = |template: &str| {
        template
            .split('{')
            .skip(1)
            .any(|part| part.split_once('}').is_some_and(|(name, _)| !words.contains_key(name)))
    };
    if !rule.fallback.is_empty() && (lacking || lacks(rule.title)) {
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

/// Why the report is not whole.
fn corrupted(rule: &Rule, title: &str, told: bool, stacks: &[Stack]) -> Option<String> {
    if matches!(rule.blame, Blame::None | Blame::Head) {
        return None;
    }
    if rule.blame == Blame::Orphan {
        return Some("the report before the panic is missing".to_string());
    }
    let traced = |stack: &Stack| matches!(stack.kind, StackKind::Trace | StackKind::Stuck);
    if !rule.stackless && !stacks.iter().any(traced) {
        return Some("no stack in the report".to_string());
    }
    if stacks.iter().any(|stack| stack.owed && stack.frames.is_empty()) {
        return Some("an object's history without frames".to_string());
    }
    if stacks::is_mixed(stacks) {
        return Some("a fault injection's stack in the report".to_string());
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
    if !told && rule.blame != Blame::Untold {
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
