// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the first line of a report looks like, as a table. The first rule that matches a line names the report, so the
//! special stands before the general.

mod faults;
mod harmless;
mod locking;
mod objects;
mod sanitizers;
mod stalls;
#[cfg(test)]
mod tests;
mod words;

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};
use regex::{Regex, RegexSet, RegexSetBuilder};

use super::functions::Group;

/// Where the blamed function is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// Nowhere: the title says it all.
    None,
    /// Nowhere: the report that this one speaks of is not on the console.
    Orphan,
    /// First function of the main stack that is not skipped; failing that the one the head line names.
    Trace,
    /// The function that the head line names, unless it is skipped; then the stack.
    Named,
    /// Nowhere either, but a whole report has a stack.
    Untold,
    /// Like `Trace`, but tasks that wait for the same thing share the name of that.
    Hung,
    /// Who allocated the page, as page_owner tells.
    Owner,
    /// The lock's user as lockdep names it (`, at: func+0x..`), then the stack.
    LockSite,
    /// Where the lock was first taken in the context that rules out the other one.
    LockOrder,
    /// The function that loops: what a known dispatcher called.
    Stall,
    /// The same for a stack that ran over: no interrupt is needed to show it.
    Overflow,
    /// Where a user-visible operation is stuck, over all tasks shown.
    Deadline,
    /// The head line names it for good.
    Head,
}

/// One kind of report.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Name other rules refer to it by.
    pub name: &'static str,
    /// Its first line.
    pub head: &'static str,
    /// Title; `{frame}` is the blamed function, other names are groups of `head` and `also`.
    pub title: &'static str,
    /// Other titles, same form.
    pub alts: &'static [&'static str],
    /// Where the blame is found.
    pub blame: Blame,
    /// Who is not to blame for this, besides those who never are.
    pub skip: &'static [Group],
    /// Further lines whose groups fill the title.
    pub also: &'static [&'static str],
    /// Lines that a whole report has. Without one it is corrupted, and `fallback` its title if there is one.
    pub needs: &'static [&'static str],
    /// Rules whose reports this one is the continuation of; `*`: any.
    pub echo_of: &'static [&'static str],
    /// How many lines into the other report it may come; 0: anywhere.
    pub echo_lines: usize,
    /// Title when a word of the usual one is missing; empty: the usual one, with what is there.
    pub fallback: &'static str,
    /// Type, where the title does not tell it.
    pub kind: &'static str,
    /// It looks like a report and is none.
    pub harmless: bool,
    /// Without a function to blame the title has no ` in ...` at all.
    pub bare: bool,
    /// The kernel prints no stack with it.
    pub stackless: bool,
    /// Lines of other callers (another CPU's backtrace) belong to it too.
    pub all_callers: bool,
}

const RULE: Rule = Rule {
    name: "",
    head: "",
    title: "",
    alts: &[],
    blame: Blame::Trace,
    skip: &[],
    also: &[],
    needs: &[],
    echo_of: &[],
    echo_lines: 0,
    fallback: "",
    kind: "",
    harmless: false,
    bare: false,
    stackless: false,
    all_callers: false,
};

/// Lines between what lib/ says of an object and the BUG or WARNING that it then raises.
const PREAMBLE_LINES: usize = 8;

/// Reports that begin with what was found wrong and raise a BUG or WARNING after.
const TOLD_BEFORE: &[&str] =
    &["list", "refcount", "odebug", "usercopy", "rcu-stall", "rust-panic", "busy-inodes"];

/// `func+0x12/0x34`, the offset optional; group `func`.
macro_rules! func {
    () => {
        r"(?:\[<[0-9a-f]+>\] )*(?P<func>[A-Za-z_][\w.$]*)(?:\+0x[0-9a-f]+/0x[0-9a-f]+)?"
    };
}
use func;

const ACCESS: &str = r"^(?:The buggy address|)(?P<access>Read|Write) (?:of size|at addr)";
const AT: &str = concat!(r"(?:, at: |^at: )", func!());

/// The table. What is no report comes first, then our own lines, then what names a fault more exactly.
const TABLES: [&[Rule]; 6] =
    [harmless::RULES, stalls::RULES, sanitizers::RULES, locking::RULES, objects::RULES, faults::RULES];

/// Memory for the states of all heads at once. With too little they are made anew all the time.
const STATES_BYTES_MAX: usize = 64 << 20;

/// The rule of an index that [`of_line`] gave.
pub(crate) fn rule(rule_idx: usize) -> &'static Rule {
    COMPILED.rules[rule_idx]
}

/// What a rule looks for.
pub(crate) struct Patterns {
    /// The first line.
    pub head: Regex,
    /// Lines that fill the title.
    pub also: Vec<Regex>,
    /// Lines that must be there.
    pub needs: Vec<Regex>,
}

/// The table, compiled.
struct Compiled {
    rules: Vec<&'static Rule>,
    /// What one of is in every line that a rule's head matches.
    words: Vec<String>,
    searcher: AhoCorasick,
    set: RegexSet,
    patterns: Vec<Patterns>,
}

static COMPILED: LazyLock<Compiled> = LazyLock::new(|| {
    let compile = |pattern: &str| Regex::new(pattern).expect("rules are constants under test");
    let rules: Vec<&Rule> = TABLES.into_iter().flatten().collect();
    let words = words::of_patterns(rules.iter().filter(|rule| !rule.harmless).map(|rule| rule.head));
    let searcher = AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(&words);
    Compiled {
        searcher: searcher.expect("words are few and short"),
        words,
        set: RegexSetBuilder::new(rules.iter().map(|rule| rule.head))
            .dfa_size_limit(STATES_BYTES_MAX)
            .build()
            .expect("rules are constants under test"),
        patterns: rules
            .iter()
            .map(|rule| Patterns {
                head: compile(rule.head),
                also: rule.also.iter().map(|pattern| compile(pattern)).collect(),
                needs: rule.needs.iter().map(|pattern| compile(pattern)).collect(),
            })
            .collect(),
        rules,
    }
});

/// Words of which every line that begins a report has one.
pub(crate) fn words() -> &'static [String] {
    &COMPILED.words
}

/// Where the first such word begins.
pub(crate) fn find_word(text: &[u8]) -> Option<usize> {
    COMPILED.searcher.find(text).map(|word| word.start())
}

/// Index of the rule that a line begins a report of. Our own lines may quote the kernel's.
pub(crate) fn of_line(body: &str) -> Option<usize> {
    let ours = body.starts_with("SHRINKTORTURE: ") || body.starts_with("HARNESSFAIL: ");
    let hit = COMPILED.set.matches(body).iter().next()?;
    (!rule(hit).harmless && (!ours || rule(hit).name == "deadline")).then_some(hit)
}

/// The patterns of a rule.
pub(crate) fn patterns(rule_idx: usize) -> &'static Patterns {
    &COMPILED.patterns[rule_idx]
}
