// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lockdep and the locks themselves print.

use super::{AT, Blame, Group, PREAMBLE_LINES, RULE, Rule, func};

/// In order: the first rule that matches a line names the report.
pub(super) const RULES: &[Rule] = &[
    // Locking.
    Rule {
        name: "lockdep-order",
        head: r"[A-Z_\-]+-safe -> [A-Z_\-]+-unsafe lock order detected",
        title: "possible deadlock in {frame}",
        blame: Blame::LockOrder,
        ..RULE
    },
    Rule {
        name: "lockdep-deadlock",
        head: r"possible (?:circular locking dependency|recursive locking|irq lock inversion dependency) detected",
        title: "possible deadlock in {frame}",
        blame: Blame::LockSite,
        also: &[AT],
        skip: &[Group::Work],
        needs: &["is trying to acquire lock|just changed the state of lock"],
        fallback: "{line}",
        ..RULE
    },
    Rule {
        name: "lockdep-state",
        head: r"inconsistent lock state|inconsistent \{[A-Z\-]+\} -> \{[A-Z\-]+\} usage",
        title: "inconsistent lock state in {frame}",
        echo_of: &["lockdep-state"],
        echo_lines: PREAMBLE_LINES,
        needs: &["takes"],
        fallback: "{line}",
        also: &[AT],
        ..RULE
    },
    Rule {
        name: "lockdep-wait-context",
        head: r"\[ BUG: Invalid wait context \]",
        title: "WARNING: locking bug in {frame}",
        alts: &["BUG: Invalid wait context in {frame}"],
        skip: &[Group::Sock],
        ..RULE
    },
    Rule {
        name: "suspicious-rcu",
        head: r"(?P<word>INFO|WARNING): suspicious RCU usage",
        title: "{word}: suspicious RCU usage in {frame}",
        skip: &[Group::Rcu, Group::Free],
        needs: &[r"[\w\-/.]+\.[a-z]+:\d+"],
        fallback: "{line}",
        ..RULE
    },
    Rule {
        name: "bad-unlock",
        head: r"(?P<word>BUG|WARNING): bad unlock balance detected",
        title: "{word}: bad unlock balance in {frame}",
        blame: Blame::LockOrder,
        ..RULE
    },
    Rule {
        name: "bad-contention",
        head: r"(?:BUG|WARNING): (?:bad contention detected!|chain_key collision)",
        title: "{line}",
        blame: Blame::Untold,
        ..RULE
    },
    Rule {
        name: "lock-freed",
        head: r"(?P<word>BUG|WARNING): held lock freed",
        title: "{word}: held lock freed in {frame}",
        blame: Blame::LockSite,
        also: &[AT],
        ..RULE
    },
    Rule {
        name: "lock-returning",
        head: r"(?P<word>BUG|WARNING): lock held when returning to user space",
        title: "{word}: lock held when returning to user space in {frame}",
        blame: Blame::LockSite,
        also: &[AT],
        stackless: true,
        needs: &["leaving the kernel with locks still held"],
        fallback: "{line}",
        ..RULE
    },
    Rule {
        name: "lock-at-exit",
        head: r"(?P<word>BUG|WARNING): lock held at task exit time",
        title: "{word}: lock held at task exit time in {frame}",
        blame: Blame::LockSite,
        also: &[AT],
        ..RULE
    },
    Rule {
        name: "lockdep-full",
        head: r"BUG: (?P<what>MAX_(?:LOCKDEP|STACK_TRACE|LOCK)_\w+) too low",
        title: "BUG: {what} too low!",
        blame: Blame::None,
        ..RULE
    },
    Rule {
        name: "locks-held",
        head: r"(?P<word>BUG|WARNING): (?:.*/\d+ )?still has locks held",
        title: "{word}: still has locks held in {frame}",
        blame: Blame::LockSite,
        also: &[AT],
        ..RULE
    },
    Rule {
        name: "nested-lock",
        head: r"(?P<word>BUG|WARNING): Nested lock was not taken",
        title: "{word}: nested lock was not taken in {frame}",
        ..RULE
    },
    Rule {
        name: "locking-bug",
        head: r"WARNING: (?:CPU: \d+ PID: -?\d+ at )?kernel/locking/lockdep\.c:\d+ .*lock_",
        title: "WARNING: locking bug in {frame}",
        skip: &[Group::Sock],
        ..RULE
    },
    Rule {
        name: "non-static-key",
        head: r"INFO: trying to register non-static key",
        title: "INFO: trying to register non-static key in {frame}",
        skip: &[Group::Key],
        ..RULE
    },
    Rule {
        name: "spinlock-lockup",
        head: r"BUG: spinlock (?P<what>lockup suspected|bad magic|wrong owner|wrong CPU|already unlocked|recursion|trylock failure)",
        title: "BUG: spinlock {what} in {frame}",
        skip: &[Group::Spin],
        ..RULE
    },
    Rule {
        name: "rwlock",
        head: r"BUG: rwlock (?P<what>[a-z ]+) on CPU",
        title: "BUG: rwlock {what} in {frame}",
        skip: &[Group::Spin],
        ..RULE
    },
    Rule {
        name: "preemptible",
        head: r"BUG: using (?P<what>\S+) in preemptible",
        title: "BUG: using {what} in preemptible code in {frame}",
        skip: &[Group::Preempt],
        ..RULE
    },
    Rule {
        name: "workqueue-leak",
        head: r"BUG: workqueue leaked (?:lock or atomic|atomic, lock or RCU):",
        title: "BUG: workqueue leaked lock or atomic in {frame}",
        also: &[concat!(r"last function: ", func!())],
        blame: Blame::Head,
        ..RULE
    },
    Rule {
        name: "workqueue-lockup",
        head: r"BUG: workqueue lockup",
        title: "BUG: workqueue lockup",
        blame: Blame::None,
        ..RULE
    },
];
