// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults of the processor, panics, reboots.

use super::{Blame, Group, PREAMBLE_LINES, RULE, Rule};

/// Reports that an `Oops:` or `Internal error:` continues.
const FAULTS: &[&str] = &[
    "bug",
    "rust-panic",
    "user-access",
    "list",
    "trap",
    "alignment",
    "internal-error",
    "usercopy",
    "null",
    "paging",
    "unable",
    "gpf",
    "divide",
    "stack-segment",
    "stack-guard",
    "unhandled-fault",
    "double-fault",
    "int3",
    "opcode",
];
/// Lines of page tables and the like before it.
const OOPS_LINES: usize = 30;

/// In order: the first rule that matches a line names the report.
pub(super) const RULES: &[Rule] = &[
    // Faults.
    Rule {
        name: "stack-guard",
        head: r"BUG: (?:\w+ )?stack guard page was hit",
        title: "BUG: stack guard page was hit in {frame}",
        alts: &["stack-overflow in {frame}"],
        blame: Blame::Overflow,
        ..RULE
    },
    Rule {
        name: "double-fault",
        head: r"PANIC: double fault",
        title: "PANIC: double fault in {frame}",
        ..RULE
    },
    Rule {
        name: "null",
        head: concat!(
            r"BUG: unable to handle kernel NULL pointer dereference|BUG: [kK]ernel NULL pointer dereference|",
            r"Unable to handle kernel NULL pointer dereference"
        ),
        title: "BUG: unable to handle kernel NULL pointer dereference in {frame}",
        alts: &["bad-access in {frame}"],
        ..RULE
    },
    Rule {
        name: "user-access",
        head: r"Unable to handle kernel access to user memory",
        title: "BUG: unable to handle kernel access to user memory in {frame}",
        alts: &["bad-access in {frame}"],
        ..RULE
    },
    Rule {
        name: "paging",
        head: concat!(
            r"BUG: unable to handle kernel paging request|BUG: unable to handle page fault|",
            r"[Uu]nable to handle kernel (?:paging request|access|write|read|execut|data access|instruction fetch|pointer dereference|unaligned access)|",
            r"Unable to handle unknown paging fault"
        ),
        title: "BUG: unable to handle kernel paging request in {frame}",
        alts: &["bad-access in {frame}"],
        ..RULE
    },
    Rule {
        name: "unable",
        head: r"BUG: unable to handle kernel",
        title: "BUG: unable to handle kernel",
        blame: Blame::Untold,
        ..RULE
    },
    Rule {
        name: "gpf",
        head: r"general protection fault(?:, |: |\s*\[#)",
        title: "general protection fault in {frame}",
        alts: &["bad-access in {frame}"],
        echo_of: &["double-fault"],
        ..RULE
    },
    Rule { name: "divide", head: r"divide[ _]error: ", title: "divide error in {frame}", ..RULE },
    Rule {
        name: "stack-segment",
        head: r"stack segment(?: fault)?: ",
        title: "stack segment fault in {frame}",
        ..RULE
    },
    Rule { name: "int3", head: r"Oops: int3: |^int3: \d+", title: "int3 in {frame}", ..RULE },
    Rule {
        name: "opcode",
        head: r"invalid opcode: \d+",
        title: "invalid opcode in {frame}",
        echo_of: FAULTS,
        echo_lines: PREAMBLE_LINES,
        ..RULE
    },
    Rule {
        name: "trap",
        head: concat!(
            r"(?P<what>segment not present|invalid TSS|alignment check|bounds|overflow|debug|device not available|",
            r"coprocessor segment overrun|simd exception|fpu exception|control protection|iret exception|machine check): ",
            r"[0-9a-f]{4} \[#\d+\]"
        ),
        title: "{what} in {frame}",
        echo_of: FAULTS,
        echo_lines: OOPS_LINES,
        ..RULE
    },
    Rule {
        name: "early-exception",
        head: r"PANIC: early exception",
        title: "PANIC: early exception",
        blame: Blame::Untold,
        ..RULE
    },
    Rule {
        name: "alignment",
        head: r"Alignment trap: not handling",
        title: "Alignment trap in {frame}",
        ..RULE
    },
    Rule {
        name: "unhandled-fault",
        head: r"Unhandled fault: ",
        title: "Unhandled fault in {frame}",
        alts: &["bad-access in {frame}"],
        ..RULE
    },
    Rule {
        name: "internal-error",
        head: r"^Internal error: ",
        title: "Internal error in {frame}",
        alts: &["bad-access in {frame}"],
        echo_of: FAULTS,
        echo_lines: OOPS_LINES,
        ..RULE
    },
    Rule {
        name: "oops-name",
        // What die() prints: a name, perhaps a code, and how many times it came to that.
        head: r"^Oops: |^[A-Z][\w ()\-]*(?:: [0-9a-f]{4})?(?: ilc:\d+)? ?\[#\d+\]|^[a-z ]+ exception: [0-9a-f]{4} ilc:\d+ \[#\d+\]|^(?:illegal operation|monitor event): [0-9a-f]{4} ilc:\d+ \[#\d+\]",
        title: "kernel oops in {frame}",
        echo_of: FAULTS,
        echo_lines: OOPS_LINES,
        ..RULE
    },
    // The end of the world.
    Rule {
        name: "stack-protector",
        head: r"Kernel panic - not syncing: (?:kernel: )?stack-protector: Kernel stack is corrupted in: (?P<func>[A-Za-z_][\w.]*)",
        title: "kernel panic: stack is corrupted in {frame}",
        blame: Blame::Head,
        echo_of: &["*"],
        ..RULE
    },
    Rule {
        name: "stack-end",
        head: r"Kernel panic - not syncing: corrupted stack end detected inside scheduler",
        title: "kernel panic: corrupted stack end in {frame}",
        alts: &["stack-overflow in {frame}"],
        blame: Blame::Overflow,
        skip: &[Group::Schedule],
        ..RULE
    },
    Rule {
        name: "stack-overflow",
        head: r"Kernel panic - not syncing: [kK]ernel stack overflow",
        title: "kernel stack overflow in {frame}",
        alts: &["stack-overflow in {frame}"],
        blame: Blame::Overflow,
        ..RULE
    },
    Rule {
        name: "panic-tty",
        head: r"Kernel panic - not syncing: Couldn't open N_TTY ldisc for",
        title: "kernel panic: Couldn't open N_TTY ldisc",
        blame: Blame::Untold,
        echo_of: &["*"],
        ..RULE
    },
    Rule {
        name: "panic-orphan",
        head: r"Kernel panic - not syncing: (?P<what>Fatal exception)",
        title: "kernel panic: {what}",
        blame: Blame::Orphan,
        echo_of: &["*"],
        ..RULE
    },
    Rule {
        name: "panic-orphan",
        head: r"Kernel panic - not syncing: (?:kernel: )?(?P<what>(?:\w+: |)panic_on_warn set|Oops(?: - \w+|): Fatal exception|hung_task: blocked tasks|softlockup: hung tasks)(?: \.\.\.)?",
        title: "kernel panic: {what}",
        blame: Blame::Orphan,
        echo_of: &["*"],
        ..RULE
    },
    Rule {
        name: "panic",
        head: r"Kernel panic - not syncing: (?:kernel: )?(?P<what>.*?)(?: exitcode=0x[0-9a-f]+)?(?: \.\.\.)?$",
        title: "kernel panic: {what}",
        blame: Blame::Untold,
        echo_of: &["*"],
        ..RULE
    },
    Rule {
        name: "go",
        head: r"^(?:[\d/]+ [\d:]+ |)fatal error: |^fatal: bad g in signal handler|^unexpected fault address",
        title: "go runtime error",
        blame: Blame::None,
        ..RULE
    },
    Rule {
        name: "trusty",
        head: r"panic \(caller 0x[0-9a-f]+\): (?:DEBUG )?(?P<what>ASSERT FAILED) at \(.*\): (?P<rest>.*)",
        title: "trusty: {what}: {rest}",
        blame: Blame::None,
        ..RULE
    },
    Rule {
        name: "trusty-panic",
        head: r"trusty: panic \(.*?\): (?P<what>.+)",
        title: "trusty: panic: {what}",
        blame: Blame::None,
        ..RULE
    },
    // Go programs write the date first.
    Rule {
        name: "syzfatal",
        head: r"\bSYZFATAL: (?P<what>.*)",
        title: "SYZFATAL: {what}",
        blame: Blame::None,
        ..RULE
    },
    Rule {
        name: "syzfail",
        head: r"\bSYZFAIL: (?P<what>.*)",
        title: "SYZFAIL: {what}",
        blame: Blame::None,
        ..RULE
    },
    Rule {
        name: "user-panic",
        head: r"^(?:[\d/]+ [\d:]+ |)panic: (?P<what>.*)",
        title: "panic: {what}",
        blame: Blame::None,
        ..RULE
    },
    // A second boot on one console.
    Rule {
        name: "reboot",
        head: r"^Linux version \d+\.\d+|^Decompressing Linux\.\.\. |^Booting the kernel\.",
        title: "unexpected kernel reboot",
        blame: Blame::None,
        ..RULE
    },
    // Whatever else the kernel calls a bug.
    Rule {
        name: "bug-cut",
        head: r"(?:^|[^\w.])BUG:\s*$",
        title: "BUG: corrupted",
        blame: Blame::Orphan,
        echo_of: &["*"],
        ..RULE
    },
    Rule {
        name: "bug-other",
        head: r"(?:^|[^\w.])BUG: (?P<what>\S.*)$",
        title: "BUG: {what}",
        blame: Blame::Untold,
        echo_of: &["rss", "slub"],
        echo_lines: PREAMBLE_LINES,
        ..RULE
    },
];
