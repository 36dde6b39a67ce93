// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lockdep tells of locks: who wants which, who holds which, and the cycle.

use std::sync::LazyLock;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::readable;

/// Locks, holders and steps kept; a dump of all tasks may list thousands.
const ITEMS_MAX: usize = 256;

/// What a report says of locks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Locks {
    /// The lock asked for (`is trying to acquire lock:`), or taken in a way that lockdep objects to.
    pub wanted: Option<Lock>,
    /// The lock that stands in the way (`but task is already holding lock:`).
    pub held: Option<Lock>,
    /// The dependency cycle in the order of taking: each lock was held when the next was taken, and the last is held
    /// where the first is asked for.
    pub cycle: Vec<Link>,
    /// `Possible unsafe locking scenario`, step by step.
    pub scenario: Vec<Step>,
    /// What each task listed holds.
    pub holders: Vec<Holder>,
}

/// A lock as lockdep prints it: `ffff8880069b7168 (canary_first){+.+.}-{3:3}, at: func+0xb1/0x130 [module]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lock {
    /// Its class.
    pub class: String,
    /// Its address; empty when not told.
    pub address: String,
    /// In which contexts it was taken: `+.+.`.
    pub usage: String,
    /// Where it was taken: function, demangled; empty when not told.
    pub function: String,
    /// The same as printed, offsets and module included.
    pub at: String,
    /// Who takes it: `init/43`; empty when not told.
    pub task: String,
}

/// One lock of the dependency cycle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Link {
    /// Number in the chain as printed; 0 is the lock that closes the cycle.
    pub number: u32,
    /// Its class.
    pub class: String,
    /// In which contexts it was taken.
    pub usage: String,
}

/// One step of a locking scenario.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// Which CPU takes it.
    pub cpu: u32,
    /// `lock(class)`, `local_irq_disable()`, `<Interrupt>`.
    pub what: String,
}

/// The locks that one task holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Holder {
    /// `name/pid`.
    pub task: String,
    /// Outermost first.
    pub locks: Vec<Lock>,
}

/// Where the lock on the next line belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Nowhere,
    Wanted,
    Held,
}

/// Reads a report's lines. `None` when they speak of no lock.
pub(crate) fn read<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Locks> {
    let mut locks = Locks::default();
    let (mut next, mut task, mut in_scenario) = (Next::Nowhere, String::new(), false);
    for line in lines {
        let text = line.trim();
        if let Some((who, is)) = acquirer(text) {
            (next, task) = (is, who.to_string());
        } else if text.ends_with("already holding lock:") {
            next = Next::Held;
        } else if let Some(who) = holder(text) {
            push(&mut locks.holders, Holder { task: who, locks: Vec::new() });
        } else if let Some(link) = link(text) {
            push(&mut locks.cycle, link);
        } else if text.contains("locking scenario:") {
            in_scenario = locks.scenario.is_empty();
        } else if in_scenario && (text.starts_with("***") || text.starts_with("stack backtrace")) {
            in_scenario = false;
        } else if let Some(step) = step(line).filter(|_| in_scenario) {
            push(&mut locks.scenario, step);
        } else if let Some((is_listed, lock)) = lock(text) {
            match (next, locks.holders.last_mut()) {
                (_, Some(holder)) if is_listed => push(&mut holder.locks, lock),
                (Next::Wanted, _) if locks.wanted.is_none() => {
                    locks.wanted = Some(Lock { task: task.clone(), ..lock });
                }
                (Next::Held, _) if locks.held.is_none() => {
                    locks.held = Some(Lock { task: task.clone(), ..lock });
                }
                _ => {}
            }
            next = Next::Nowhere;
        }
    }
    // Printed in reverse: the number counts back from the lock that closes the cycle.
    locks.cycle.sort_by_key(|link| link.number);
    (locks != Locks::default()).then_some(locks)
}

fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() < ITEMS_MAX {
        list.push(item);
    }
}

/// `init/43 is trying to acquire lock:`, `init/43 [HC0[0]:SC0[0]:HE1:SE1] takes:`.
fn acquirer(text: &str) -> Option<(&str, Next)> {
    const WORDS: &[&str] = &[
        " is trying to acquire lock:",
        " is trying to lock:",
        " takes:",
        " just changed the state of lock:",
    ];
    WORDS.iter().find_map(|words| {
        let who = text.strip_suffix(words)?;
        Some((who.split(" [").next().unwrap_or(who), Next::Wanted))
    })
}

/// `2 locks held by init/43:`, `1 lock held by kworker/0:1/12:`.
fn holder(text: &str) -> Option<String> {
    let (_, who) = text.split_once(" held by ")?;
    let counted = text.starts_with(|first: char| first.is_ascii_digit()) || text.starts_with("no locks");
    (counted && text.contains("lock")).then(|| who.trim_end_matches([':', '.']).to_string())
}

/// `-> #1 (canary_second){+.+.}-{3:3}:`.
fn link(text: &str) -> Option<Link> {
    let (number, rest) = text.strip_prefix("-> #")?.split_once(' ')?;
    let (_, lock) = lock(rest)?;
    Some(Link { number: number.parse().ok()?, class: lock.class, usage: lock.usage })
}

/// A lock, and whether it stands in a list (`#0: ...`).
fn lock(text: &str) -> Option<(bool, Lock)> {
    static LOCK: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(concat!(
            r"^(?P<listed>#[0-9]+: )?(?P<address>\[?<?(?:0x)?[0-9a-f]{8,16}>?\]? )?(?:\((?P<class>.*?)\))?\{(?P<usage>[^{}]{1,16})\}",
            r"(?:-\{[^}]*\})?(?:,? ?(?:at: |\())?(?P<at>.*)$",
        ))
        .expect("a constant")
    });
    if !text.contains('{') {
        return None;
    }
    let hit = LOCK.captures(text)?;
    let group = |name: &str| hit.name(name).map_or("", |group| group.as_str().trim());
    let at = group("at").trim_end_matches(':');
    // Old kernels put an address before the name.
    let place = at.rsplit("] ").next().filter(|place| place.contains('+')).unwrap_or(at);
    let symbol = place.split(['+', ' ']).next().unwrap_or_default();
    let lock = Lock {
        class: group("class").to_string(),
        address: group("address").to_string(),
        usage: group("usage").to_string(),
        function: readable(symbol),
        at: at.to_string(),
        task: String::new(),
    };
    (!lock.class.is_empty()).then(|| (hit.name("listed").is_some(), lock))
}

/// A line of the table below `CPU0   CPU1`; the second column begins far to the right.
fn step(line: &str) -> Option<Step> {
    const SECOND_COLUMN: usize = 20;
    let what = line.trim();
    let indent = line.len() - line.trim_start().len();
    let is_step = what.starts_with("lock(")
        || what.starts_with("rlock(")
        || what.starts_with("sync(")
        || what.starts_with("local_irq_disable")
        || what == "<Interrupt>";
    is_step.then(|| Step {
        cpu: u32::from(indent >= SECOND_COLUMN),
        what: what.trim_end_matches(';').to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_in_every_spelling() {
        for (text, class, usage, function) in [
            (
                "ffff8880069b7168 (canary_first){+.+.}-{3:3}, at: f+0xb1/0x130 [canary]",
                "canary_first",
                "+.+.",
                "f",
            ),
            (
                "#0: ffff88800681c3f0 (sb_writers#3){.+.+}-{0:0}, at: vfs_write+0x166/0x9f0",
                "sb_writers#3",
                ".+.+",
                "vfs_write",
            ),
            (
                "(&(&q->lock)->rlock){-.-.}, at: [<ffffffff8148ab11>] wake_up+0x1/0x2",
                "&(&q->lock)->rlock",
                "-.-.",
                "wake_up",
            ),
            ("(shrinker_rwsem){++++}-{3:3}:", "shrinker_rwsem", "++++", ""),
            (
                "((wq_completion)events){+.+.}-{0:0}, at: process_one_work+0x7a/0x1b",
                "(wq_completion)events",
                "+.+.",
                "process_one_work",
            ),
        ] {
            let (_, lock) = lock(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(
                (lock.class.as_str(), lock.usage.as_str(), lock.function.as_str()),
                (class, usage, function)
            );
        }
        assert_eq!(lock("{ not a lock }"), None);
        assert_eq!(lock("()"), None);
    }

    #[test]
    fn a_cycle_is_in_the_order_of_taking() {
        let text = "a/1 is trying to acquire lock:\n1111111111111111 (A){+.+.}-{3:3}, at: f+0x1/0x2\n\n\
                    but task is already holding lock:\n2222222222222222 (C){+.+.}-{3:3}, at: g+0x1/0x2\n\
                    -> #2 (C){+.+.}-{3:3}:\n-> #1 (B){+.+.}-{3:3}:\n-> #0 (A){+.+.}-{3:3}:\n\
                    Possible unsafe locking scenario:\n       CPU0                    CPU1\n  lock(C);\n\
                    \x20                              lock(B);\n  lock(A);\n *** DEADLOCK ***\n  lock(D);\n\
                    1 lock held by a/1:\n #0: 2222222222222222 (C){+.+.}-{3:3}, at: g+0x1/0x2\n";
        let locks = read(text.lines()).expect("locks");
        let classes: Vec<&str> = locks.cycle.iter().map(|link| link.class.as_str()).collect();
        assert_eq!(classes, ["A", "B", "C"]);
        let steps: Vec<(u32, &str)> =
            locks.scenario.iter().map(|step| (step.cpu, step.what.as_str())).collect();
        assert_eq!(steps, [(0, "lock(C)"), (1, "lock(B)"), (0, "lock(A)")]);
        assert_eq!(
            locks.wanted.map(|lock| (lock.class, lock.task)),
            Some(("A".to_string(), "a/1".to_string()))
        );
        assert_eq!(locks.held.map(|lock| lock.class), Some("C".to_string()));
        assert_eq!(locks.holders.iter().map(|holder| holder.locks.len()).collect::<Vec<_>>(), [1]);
        assert_eq!(read("nothing\nhere\n".lines()), None);
    }
}
