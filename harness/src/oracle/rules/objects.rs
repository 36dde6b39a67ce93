// SPDX-License-Identifier: MIT OR Apache-2.0
//! WARN() and BUG(), and what the kernel finds wrong with lists, counters, pages and slabs.

use super::{Blame, Group, PREAMBLE_LINES, RULE, Rule, TOLD_BEFORE, func};

/// In order: the first rule that matches a line names the report.
pub(super) const RULES: &[Rule] = &[
    // Lists, counters, objects: the line that tells stands before the BUG or WARNING.
    Rule {
        name: "list",
        head: r"^(?:\S+: )?list_(?:add|del|replace)(?: |_\w+ )*(?:corruption|double add)|kernel BUG at lib/list_debug\.c|WARNING: .*lib/list_debug\.c",
        title: "BUG: corrupted list in {frame}",
        alts: &["bad-access in {frame}", "WARNING in {frame}"],
        echo_of: &["list"],
        echo_lines: PREAMBLE_LINES,
        ..RULE
    },
    Rule {
        name: "refcount",
        head: r"^refcount_t: |WARNING: .*\blib/refcount\.c:",
        title: "WARNING: refcount bug in {frame}",
        echo_of: &["refcount"],
        echo_lines: PREAMBLE_LINES,
        ..RULE
    },
    Rule {
        name: "odebug",
        head: r"^ODEBUG: .*(?:\(active state|on stack)|WARNING: .*\blib/debugobjects\.c:",
        title: "WARNING: ODEBUG bug in {frame}",
        echo_of: &["odebug"],
        echo_lines: PREAMBLE_LINES,
        skip: &[Group::Tracked],
        ..RULE
    },
    Rule {
        name: "urb",
        head: r"WARNING: .*drivers/usb/core/urb\.c:\d+ (?:at )?usb_submit_urb",
        title: "WARNING in {frame}/usb_submit_urb",
        skip: &[Group::Urb],
        ..RULE
    },
    Rule {
        name: "kmalloc",
        head: concat!(
            r"WARNING: .*\bmm/\S+\.c:\d+ (?:at )?k?\w?malloc|",
            r"WARNING: .*\bmm/(?:util|slub)\.c:\d+ (?:at )?__kvmalloc_node",
        ),
        title: "WARNING: kmalloc bug in {frame}",
        alts: &["WARNING in {frame}"],
        ..RULE
    },
    Rule {
        name: "kobject",
        head: r"WARNING: .*\blib/kobject\.c:\d+ ",
        title: "WARNING: kobject bug in {frame}",
        ..RULE
    },
    Rule {
        name: "usercopy-warning",
        head: r"WARNING: .*\bmm/usercopy\.c:\d+ ",
        title: "WARNING: bad usercopy in {frame}",
        skip: &[Group::Usercopy],
        ..RULE
    },
    Rule {
        name: "proc-registration",
        head: r"WARNING: .*\bfs/proc/generic\.c:\d+ (?:at )?proc_register",
        title: "WARNING: proc registration bug in {frame}",
        skip: &[Group::Proc],
        ..RULE
    },
    Rule {
        name: "vmalloc",
        head: r"WARNING: .*\bmm/vmalloc\.c:\d+ (?:at )?__vmalloc_node_range",
        title: "WARNING: zero-size vmalloc in {frame}",
        ..RULE
    },
    // SLUB ends what it says of an object with a WARNING (from 6.15 on, and in stable kernels): only that has a stack.
    Rule {
        name: "slub-warning",
        head: r"WARNING: .*\b(?:object_err|(?:__)?slab_err)\+0x",
        title: "WARNING in {frame}",
        echo_of: &["slub"],
        ..RULE
    },
    Rule {
        name: "warning",
        // Without CONFIG_DEBUG_BUGVERBOSE there is no file and line.
        head: concat!(
            r"WARNING: (?:CPU: \d+ PID: -?\d+ )?at (?:(?P<site>\S+:\d+)(?: |$))?(?:",
            func!(),
            ")?"
        ),
        echo_of: TOLD_BEFORE,
        echo_lines: PREAMBLE_LINES,
        title: "WARNING in {frame}",
        ..RULE
    },
    Rule {
        name: "warning",
        head: concat!(
            r"WARNING: (?:\[.*?\] |)(?:(?P<site>\S+\.(?:[chS]|rs):\d+) )?at (?:",
            func!(),
            r"|0x[0-9a-f]+),? "
        ),
        echo_of: TOLD_BEFORE,
        echo_lines: PREAMBLE_LINES,
        title: "WARNING in {frame}",
        ..RULE
    },
    Rule {
        name: "frame-pointer",
        head: r"WARNING: kernel stack frame pointer at .* has bad value",
        title: "WARNING: kernel stack frame pointer has bad value",
        blame: Blame::None,
        ..RULE
    },
    Rule {
        name: "regs",
        head: r"WARNING: kernel stack regs at .* has bad '?(?P<what>\w+)'? value",
        title: "WARNING: kernel stack regs has bad '{what}' value",
        blame: Blame::None,
        ..RULE
    },
    // BUG().
    Rule {
        name: "rust-panic",
        head: r"^rust_kernel: panicked at ",
        title: "{what} in {frame}",
        also: &[r"^(?P<what>\S.*)$"],
        kind: "BUG",
        ..RULE
    },
    Rule {
        name: "usercopy",
        head: r"kernel BUG at mm/usercopy\.c|usercopy: Kernel memory (?:exposure|overwrite) attempt",
        title: "BUG: bad usercopy in {frame}",
        echo_of: &["usercopy"],
        echo_lines: PREAMBLE_LINES,
        skip: &[Group::Usercopy],
        ..RULE
    },
    Rule {
        name: "bug",
        head: r"[kK]ernel BUG at (?P<site>\S+)|^Kernel bug detected\[#\d+\]",
        title: "kernel BUG in {frame}",
        alts: &["{line}"],
        echo_of: TOLD_BEFORE,
        echo_lines: PREAMBLE_LINES,
        skip: &[Group::Skb],
        ..RULE
    },
    // Memory management state.
    Rule {
        name: "bad-page-map",
        head: r"BUG: Bad page map",
        title: "BUG: Bad page map",
        blame: Blame::Untold,
        ..RULE
    },
    Rule {
        name: "bad-page",
        head: r"BUG: Bad page (?P<what>state|cache)",
        title: "BUG: Bad page {what} in {frame}",
        skip: &[Group::Page],
        blame: Blame::Owner,
        ..RULE
    },
    Rule {
        name: "page-tables",
        head: r"BUG: non-zero (?P<what>nr_ptes|nr_pmds) on freeing mm",
        title: "BUG: non-zero {what} on freeing mm",
        blame: Blame::None,
        ..RULE
    },
    Rule {
        name: "pgtables",
        head: r"BUG: non-zero (?P<what>\w+) on freeing mm: (?P<n>-?\d+)",
        title: "BUG: non-zero {what} on freeing mm: {n}",
        blame: Blame::None,
        ..RULE
    },
    Rule {
        name: "page-poison",
        head: r"pagealloc: (?P<what>memory corruption|single bit error)",
        title: "pagealloc: {what} in {frame}",
        ..RULE
    },
    Rule {
        name: "netdevice",
        head: r"unregister_netdevice: waiting for \S+ to become free",
        title: "unregister_netdevice: waiting for DEV to become free",
        blame: Blame::None,
        ..RULE
    },
    Rule {
        name: "rss",
        head: r"BUG: Bad rss-counter state",
        title: "BUG: Bad rss-counter state",
        blame: Blame::None,
        ..RULE
    },
    Rule {
        name: "object-free",
        head: r"BUG \S+ .*: Object already free",
        title: "BUG: Object already free",
        alts: &["{line}"],
        blame: Blame::Untold,
        ..RULE
    },
    Rule {
        name: "slub",
        head: r"BUG \S+ (?:\(.*\)|): (?P<what>[A-Z][^:]*?)\.?$",
        title: "BUG: {what} in {frame}",
        alts: &["{line}"],
        ..RULE
    },
    Rule {
        name: "busy-inodes",
        head: r"VFS: Busy inodes after unmount",
        title: "VFS: Busy inodes after unmount (use-after-free)",
        blame: Blame::None,
        ..RULE
    },
    Rule {
        name: "file-count",
        head: r"VFS: Close: file count is (?:0|zero)",
        title: "VFS: Close: file count is zero (use-after-free)",
        blame: Blame::None,
        ..RULE
    },
    Rule {
        name: "dentry",
        head: r"BUG: Dentry .* still in use \(\d+\) \[(?P<what>\w+) of (?P<rest>[^\]]+)\]",
        title: "BUG: Dentry still in use in {what}",
        alts: &["BUG: Dentry still in use [{what} of {rest}]"],
        blame: Blame::Untold,
        ..RULE
    },
    Rule {
        name: "history",
        head: r"^INFO: (?:Freed|Allocated) in ",
        title: "{line}",
        blame: Blame::Orphan,
        echo_of: &["*"],
        ..RULE
    },
    Rule {
        name: "leak",
        head: r"BUG: memory leak|^unreferenced object 0x[0-9a-f]+",
        title: "memory leak in {frame}",
        echo_of: &["leak"],
        echo_lines: 1,
        skip: &[Group::Construct],
        ..RULE
    },
];
