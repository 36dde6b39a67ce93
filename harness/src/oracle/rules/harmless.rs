// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines that look like the first of a report and are none.

use super::{RULE, Rule};

/// In order: the first rule that matches a line names it.
pub(super) const RULES: &[Rule] = &[
    // What user space, the command line or a mount option said is shown again.
    Rule {
        name: "quoted",
        head: concat!(
            r"^(?:Kernel command line|Command line|Unknown kernel command line parameters|audit|systemd\[\d+\]): |",
            r"^audit: type=|^traps: \S+\[\d+\] |^\S+\[\d+\]: segfault at |",
            r"Unknown parameter '|[Uu]nrecognized mount option|[Bb]ad mount option|[Uu]nknown mount option"
        ),
        harmless: true,
        ..RULE
    },
    // Counters and states that the kernel tells beside its reports.
    Rule {
        name: "aside",
        head: concat!(
            r"INFO: lockdep is turned off|INFO: Stall ended before state dump start|INFO: NMI handler .* took too long|",
            r"INFO: recovery required on readonly filesystem|BUG: Bad page (?:map|state): \d+ messages suppressed|",
            r"BUG: no syscalls can create resource|xlog_status:|evtlog_status:"
        ),
        harmless: true,
        ..RULE
    },
    // A user program faulted; the kernel only says so.
    Rule {
        name: "user-fault",
        head: r"general protection fault .*error:[0-9a-f]+ in |fatal error: cannot create timer|ALSA.*fatal error:",
        harmless: true,
        ..RULE
    },
];
