// SPDX-License-Identifier: MIT OR Apache-2.0
//! What does not move, or must not sleep: hung tasks, lockups, overdue ops.

use super::{Blame, Group, RULE, Rule};

/// In order: the first rule that matches a line names the report.
pub(super) const RULES: &[Rule] = &[
    // Our own: the agent saw an op pass its deadline and asked for blocked tasks.
    Rule {
        name: "deadline",
        head: r"SHRINKTORTURE: op deadline: (?P<op>\w+)(?:.*\bpid (?P<pid>\d+))?",
        title: "INFO: task hung in {frame}",
        alts: &["hang in {frame}"],
        blame: Blame::Deadline,
        all_callers: true,
        skip: &[Group::Wait],
        ..RULE
    },
    // Our own: the module or the agent saw the kernel break what it promises. The words before the colon name the rule.
    Rule {
        name: "model",
        head: r"^(?:\w+: )?MODEL: (?P<what>[^:]+)",
        title: "MODEL: {what}",
        blame: Blame::None,
        ..RULE
    },
    // The kernel's own words: a name ends in an id that no other shrinker has until the folder is gone (26e239b37ebd), unless
    // it is too long for that.
    Rule {
        name: "model-debugfs",
        head: r"^debugfs: (?:Directory '.*-\d+' with parent 'shrinker' already present|'.*-\d+' already exists in 'shrinker')",
        title: "MODEL: the debugfs folder of a new shrinker is already present",
        blame: Blame::None,
        ..RULE
    },
    // Sleeping where one must not.
    Rule {
        name: "atomic-schedule",
        head: r"BUG: scheduling while atomic",
        title: "BUG: scheduling while atomic in {frame}",
        skip: &[Group::Schedule],
        ..RULE
    },
    Rule {
        name: "atomic-sleep",
        head: r"BUG: sleeping function called from invalid context (?:at|in)",
        title: "BUG: sleeping function called from invalid context in {frame}",
        ..RULE
    },
    // Standing still.
    Rule {
        name: "hung-task",
        head: r"INFO: task .+:\d+ blocked (?:for more than|in I/O wait for more than|on an? \S+ )",
        title: "INFO: task hung in {frame}",
        alts: &["hang in {frame}"],
        skip: &[Group::Wait],
        blame: Blame::Hung,
        ..RULE
    },
    Rule {
        name: "cant-die",
        head: r"INFO: task .+:\d+ can't die for more than",
        title: "INFO: task can't die in {frame}",
        alts: &["hang in {frame}"],
        skip: &[Group::Schedule],
        ..RULE
    },
    Rule {
        name: "rcu-stall",
        head: concat!(
            r"INFO: rcu_\w+ (?:self-)?detected(?: expedited)? stalls?|INFO: rcu_\w+ self-detected stall|",
            r"rcu: INFO: .*detected|INFO: rcu_\w+ detected"
        ),
        title: "INFO: rcu detected stall in {frame}",
        alts: &["stall in {frame}"],
        blame: Blame::Stall,
        all_callers: true,
        echo_of: &["rcu-stall"],
        skip: &[Group::Rcu],
        ..RULE
    },
    Rule {
        name: "soft-lockup",
        head: r"BUG: soft lockup",
        title: "BUG: soft lockup in {frame}",
        alts: &["stall in {frame}"],
        blame: Blame::Stall,
        ..RULE
    },
    Rule {
        name: "hard-lockup",
        head: r"Watchdog detected hard LOCKUP on cpu|NMI watchdog: .*hard LOCKUP|watchdog: CPU\d+: .*hard LOCKUP",
        title: "BUG: hard lockup in {frame}",
        alts: &["stall in {frame}"],
        blame: Blame::Stall,
        all_callers: true,
        ..RULE
    },
    Rule {
        name: "csd-lock",
        head: r"csd: Detected non-responsive CSD lock",
        title: "INFO: CSD lock stall in {frame}",
        alts: &["stall in {frame}"],
        blame: Blame::Stall,
        all_callers: true,
        // Whatever keeps a CPU from answering is seen by several watchdogs.
        echo_of: &["rcu-stall", "soft-lockup", "hard-lockup"],
        ..RULE
    },
];
