// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the first line of a report looks like, as a table. The first rule that matches a line names the report, so the
//! special stands before the general.

use std::sync::LazyLock;

use regex::{Regex, RegexSet};

use super::skip::Group::{self, Access, Construct, Core, Lock, Memory, Object, Reporting, Trap, Wait};

/// Where the blamed function is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// Nowhere: the title says it all.
    None,
    /// Nowhere: the report that this one speaks of is not on the console.
    Orphan,
    /// First function of the main stack that is not skipped; failing that the one the head line names.
    Trace,
    /// Nowhere either, but a whole report has a stack.
    Untold,
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
    /// Who is never to blame.
    pub skip: &'static [Group],
    /// Further lines whose groups fill the title.
    pub also: &'static [&'static str],
    /// Rules whose reports this one is the continuation of; `*`: any.
    pub echo_of: &'static [&'static str],
    /// How many lines into the other report it may come; 0: anywhere.
    pub echo_lines: usize,
    /// Title when a word of the usual one is missing; empty: the usual one, with what is there.
    pub fallback: &'static str,
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
    skip: COMMON,
    also: &[],
    echo_of: &[],
    echo_lines: 0,
    fallback: "",
    bare: false,
    stackless: false,
    all_callers: false,
};

const COMMON: &[Group] = &[Reporting, Trap, Access, Memory, Lock, Object, Core];
const ALL: &[Group] = &[Reporting, Trap, Access, Memory, Lock, Wait, Object, Core];
const NOTED: &[Group] = &[Reporting, Trap];
const LOCKS: &[Group] = &[Reporting, Trap, Access, Memory, Lock, Wait];
const LEAK: &[Group] = &[Reporting, Memory, Construct, Access];

/// Lines between what lib/ says of an object and the BUG or WARNING that it then raises.
const PREAMBLE_LINES: usize = 8;

/// Reports that begin with what was found wrong and raise a BUG or WARNING after.
const TOLD_BEFORE: &[&str] = &["list", "refcount", "odebug", "usercopy", "rcu-stall"];

/// `func+0x12/0x34`, the offset optional; group `func`.
macro_rules! func {
    () => {
        r"(?:\[<[0-9a-f]+>\] )*(?P<func>[A-Za-z_][\w.$]*)(?:\+0x[0-9a-f]+/0x[0-9a-f]+)?"
    };
}

const ACCESS: &str = r"^(?:The buggy address|)(?P<access>Read|Write) (?:of size|at addr)";
const AT: &str = concat!(r"(?:, at: |^at: )", func!());

/// The table.
pub(crate) const RULES: &[Rule] = &[
    // Our own: the agent saw an op pass its deadline and asked for blocked tasks.
    Rule {
        name: "deadline",
        head: r"SHRINKTORTURE: op deadline: (?P<op>\w+)(?:.*\bpid (?P<pid>\d+))?",
        title: "INFO: task hung in {frame}",
        alts: &["hang in {frame}"],
        blame: Blame::Deadline,
        skip: ALL,
        all_callers: true,
        ..RULE
    },
    // Sanitizers.
    Rule {
        name: "kasan-free",
        head: concat!(r"BUG: KASAN: (?:double-free or invalid-free|invalid-free|double-free) in ", func!()),
        title: "KASAN: invalid-free in {frame}",
        alts: &["invalid-free in {frame}"],
        ..RULE
    },
    Rule {
        name: "kasan",
        head: concat!(r"BUG: KASAN: (?P<tail>(?P<what>[a-z\-]+) in ", func!(), r"(?: at addr [0-9a-f]+)?)"),
        title: "KASAN: {what} {access} in {frame}",
        fallback: "KASAN: {tail}",
        alts: &["bad-access in {frame}"],
        also: &[ACCESS],
        ..RULE
    },
    Rule {
        name: "kasan-address",
        head: r"BUG: KASAN: (?P<what>[a-z\-]+) (?:in|on) ",
        title: "KASAN: {what} {access} in {frame}",
        alts: &["bad-access in {frame}"],
        bare: true,
        also: &[ACCESS],
        ..RULE
    },
    Rule {
        name: "kfence-free",
        head: r"BUG: KFENCE: invalid free in",
        title: "KFENCE: invalid free in {frame}",
        alts: &["invalid-free in {frame}"],
        ..RULE
    },
    Rule {
        name: "kfence",
        head: r"BUG: KFENCE: (?P<what>memory corruption) in",
        title: "KFENCE: {what} in {frame}",
        ..RULE
    },
    Rule {
        name: "kfence-access",
        head: r"BUG: KFENCE: (?P<what>[a-z\- ]+?) in ",
        title: "KFENCE: {what} in {frame}",
        alts: &["bad-access in {frame}"],
        ..RULE
    },
    Rule {
        name: "kmsan-leak",
        head: concat!(r"BUG: KMSAN: (?P<what>kernel-[a-z\-]*infoleak[a-z\-]*) in ", func!()),
        title: "KMSAN: {what} in {frame}",
        alts: &["bad-access in {frame}"],
        ..RULE
    },
    Rule {
        name: "kmsan",
        head: concat!(r"BUG: KMSAN: (?P<what>[a-z\-]+) in ", func!()),
        title: "KMSAN: {what} in {frame}",
        alts: &["bad-access in {frame}"],
        ..RULE
    },
    Rule {
        name: "kcsan-assert",
        head: concat!(r"BUG: KCSAN: assert: race in ", func!()),
        title: "KCSAN: assert: race in {frame}",
        blame: Blame::Head,
        ..RULE
    },
    Rule {
        name: "kcsan",
        head: concat!(r"BUG: KCSAN: data-race in ", func!(), r"(?: / (?P<other>[A-Za-z_]\w*))?"),
        title: "KCSAN: data-race in {frame} / {other}",
        blame: Blame::Head,
        ..RULE
    },
    Rule {
        name: "ubsan-old",
        head: r"UBSAN: Undefined behaviour in",
        title: "UBSAN: undefined-behaviour in {frame}",
        ..RULE
    },
    Rule {
        name: "ubsan-index",
        head: r"UBSAN: array-index-out-of-bounds in",
        title: "UBSAN: array-index-out-of-bounds in {frame}",
        alts: &["bad-access in {frame}"],
        ..RULE
    },
    Rule { name: "ubsan", head: r"UBSAN: (?P<what>[a-z\-]+) in", title: "UBSAN: {what} in {frame}", ..RULE },
    // Locking.
    Rule {
        name: "lockdep-order",
        head: r"[A-Z_\-]+-safe -> [A-Z_\-]+-unsafe lock order detected",
        title: "possible deadlock in {frame}",
        blame: Blame::LockOrder,
        skip: LOCKS,
        ..RULE
    },
    Rule {
        name: "lockdep-deadlock",
        head: r"possible (?:circular locking dependency|recursive locking|irq lock inversion dependency) detected",
        title: "possible deadlock in {frame}",
        blame: Blame::LockSite,
        also: &[AT],
        skip: LOCKS,
        ..RULE
    },
    Rule {
        name: "lockdep-state",
        head: r"inconsistent lock state|inconsistent \{[A-Z\-]+\} -> \{[A-Z\-]+\} usage",
        title: "inconsistent lock state in {frame}",
        blame: Blame::LockSite,
        also: &[AT],
        skip: LOCKS,
        echo_of: &["lockdep-state"],
        echo_lines: PREAMBLE_LINES,
        ..RULE
    },
    Rule {
        name: "lockdep-wait-context",
        head: r"\[ BUG: Invalid wait context \]",
        title: "WARNING: locking bug in {frame}",
        alts: &["BUG: Invalid wait context in {frame}"],
        skip: LOCKS,
        ..RULE
    },
    Rule {
        name: "suspicious-rcu",
        head: r"(?P<word>INFO|WARNING): suspicious RCU usage",
        title: "{word}: suspicious RCU usage in {frame}",
        skip: LOCKS,
        ..RULE
    },
    Rule {
        name: "bad-unlock",
        head: r"(?P<word>BUG|WARNING): bad unlock balance detected",
        title: "{word}: bad unlock balance in {frame}",
        skip: LOCKS,
        blame: Blame::LockOrder,
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
        skip: LOCKS,
        ..RULE
    },
    Rule {
        name: "locking-bug",
        head: r"WARNING: (?:CPU: \d+ PID: \d+ at )?kernel/locking/lockdep\.c:\d+ ",
        title: "WARNING: locking bug in {frame}",
        skip: LOCKS,
        ..RULE
    },
    Rule {
        name: "non-static-key",
        head: r"INFO: trying to register non-static key",
        title: "INFO: trying to register non-static key in {frame}",
        skip: LOCKS,
        ..RULE
    },
    Rule {
        name: "spinlock-lockup",
        head: r"BUG: spinlock (?P<what>lockup suspected|bad magic|wrong owner|wrong CPU|already unlocked|recursion|trylock failure)",
        title: "BUG: spinlock {what} in {frame}",
        skip: LOCKS,
        ..RULE
    },
    Rule {
        name: "rwlock",
        head: r"BUG: rwlock (?P<what>[a-z ]+) on CPU",
        title: "BUG: rwlock {what} in {frame}",
        skip: LOCKS,
        ..RULE
    },
    Rule {
        name: "preemptible",
        head: r"BUG: using (?P<what>\S+) in preemptible",
        title: "BUG: using {what} in preemptible code in {frame}",
        skip: NOTED,
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
    // Sleeping where one must not.
    Rule {
        name: "atomic-schedule",
        head: r"BUG: scheduling while atomic",
        title: "BUG: scheduling while atomic in {frame}",
        skip: ALL,
        ..RULE
    },
    Rule {
        name: "atomic-sleep",
        head: r"BUG: sleeping function called from invalid context (?:at|in)",
        title: "BUG: sleeping function called from invalid context in {frame}",
        skip: COMMON,
        ..RULE
    },
    // Standing still.
    Rule {
        name: "hung-task",
        head: r"INFO: task .+:\d+ blocked (?:for more than|in I/O wait for more than|on an? \S+ )",
        title: "INFO: task hung in {frame}",
        alts: &["hang in {frame}"],
        skip: ALL,
        ..RULE
    },
    Rule {
        name: "cant-die",
        head: r"INFO: task .+:\d+ can't die for more than",
        title: "INFO: task can't die in {frame}",
        alts: &["hang in {frame}"],
        skip: ALL,
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
        skip: ALL,
        all_callers: true,
        echo_of: &["rcu-stall"],
        ..RULE
    },
    Rule {
        name: "soft-lockup",
        head: r"BUG: soft lockup",
        title: "BUG: soft lockup in {frame}",
        alts: &["stall in {frame}"],
        blame: Blame::Stall,
        skip: ALL,
        ..RULE
    },
    Rule {
        name: "hard-lockup",
        head: r"Watchdog detected hard LOCKUP on cpu|NMI watchdog: .*hard LOCKUP|watchdog: CPU\d+: .*hard LOCKUP",
        title: "BUG: hard lockup in {frame}",
        alts: &["stall in {frame}"],
        blame: Blame::Stall,
        skip: ALL,
        all_callers: true,
        ..RULE
    },
    // Lists, counters, objects: the line that tells stands before the BUG or WARNING.
    Rule {
        name: "list",
        skip: ALL,
        head: r"^(?:\S+: )?list_(?:add|del|replace)(?: |_\w+ )*(?:corruption|double add)|kernel BUG at lib/list_debug\.c|WARNING: .*lib/list_debug\.c",
        title: "BUG: corrupted list in {frame}",
        alts: &["bad-access in {frame}"],
        echo_of: &["list"],
        echo_lines: PREAMBLE_LINES,
        ..RULE
    },
    Rule {
        name: "refcount",
        head: r"^refcount_t: |WARNING: .*\bat lib/refcount\.c:",
        title: "WARNING: refcount bug in {frame}",
        skip: COMMON,
        echo_of: &["refcount"],
        echo_lines: PREAMBLE_LINES,
        ..RULE
    },
    Rule {
        name: "odebug",
        head: r"^ODEBUG: |WARNING: .*\bat lib/debugobjects\.c:",
        title: "WARNING: ODEBUG bug in {frame}",
        skip: COMMON,
        echo_of: &["odebug"],
        echo_lines: PREAMBLE_LINES,
        ..RULE
    },
    Rule {
        name: "urb",
        head: r"WARNING: .*drivers/usb/core/urb\.c:\d+ (?:at )?usb_submit_urb",
        title: "WARNING in {frame}/usb_submit_urb",
        ..RULE
    },
    Rule {
        name: "kmalloc",
        head: r"WARNING: .*\bat mm/slab_common\.c:\d+ kmalloc_slab",
        title: "WARNING: kmalloc bug in {frame}",
        skip: COMMON,
        ..RULE
    },
    Rule {
        name: "proc-registration",
        head: r"WARNING: .*\bat fs/proc/generic\.c:\d+ (?:at )?proc_register",
        title: "WARNING: proc registration bug in {frame}",
        skip: COMMON,
        ..RULE
    },
    Rule {
        name: "vmalloc",
        head: r"WARNING: .*\bat mm/vmalloc\.c:\d+ (?:at )?__vmalloc_node_range",
        title: "WARNING: zero-size vmalloc in {frame}",
        skip: COMMON,
        ..RULE
    },
    Rule {
        name: "warning",
        // Without CONFIG_DEBUG_BUGVERBOSE there is no file and line.
        head: concat!(r"WARNING: CPU: \d+ PID: -?\d+ at (?:(?P<site>\S+:\d+)(?: |$))?(?:", func!(), ")?"),
        echo_of: TOLD_BEFORE,
        echo_lines: PREAMBLE_LINES,
        title: "WARNING in {frame}",
        skip: COMMON,
        ..RULE
    },
    Rule {
        name: "warning",
        head: concat!(r"WARNING: (?:(?P<site>\S+\.(?:[chS]|rs):\d+) )?at (?:", func!(), r"|0x[0-9a-f]+),? "),
        echo_of: TOLD_BEFORE,
        echo_lines: PREAMBLE_LINES,
        title: "WARNING in {frame}",
        skip: COMMON,
        ..RULE
    },
    Rule {
        name: "regs",
        head: r"WARNING: kernel stack (?:regs|frame pointer) at .* has bad '?(?P<what>\w+)'? value",
        title: "WARNING: kernel stack regs has bad '{what}' value",
        blame: Blame::None,
        ..RULE
    },
    // BUG().
    Rule {
        name: "usercopy",
        head: r"kernel BUG at mm/usercopy\.c|usercopy: Kernel memory (?:exposure|overwrite) attempt",
        title: "BUG: bad usercopy in {frame}",
        echo_of: &["usercopy"],
        echo_lines: PREAMBLE_LINES,
        ..RULE
    },
    Rule {
        name: "bug",
        head: r"[kK]ernel BUG at (?P<site>\S+)",
        title: "kernel BUG in {frame}",
        echo_of: TOLD_BEFORE,
        echo_lines: PREAMBLE_LINES,
        ..RULE
    },
    // Memory management state.
    Rule {
        name: "bad-page-map",
        head: r"BUG: Bad page map",
        title: "BUG: Bad page map in {frame}",
        bare: true,
        ..RULE
    },
    Rule {
        name: "bad-page",
        head: r"BUG: Bad page (?P<what>state|cache)",
        title: "BUG: Bad page {what} in {frame}",
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
        title: "BUG: Object already free in {frame}",
        bare: true,
        ..RULE
    },
    Rule {
        name: "slub",
        head: r"BUG \S+ (?:\(.*\)|): (?P<what>[A-Z][^:]*?)\.?$",
        title: "BUG: {what} in {frame}",
        ..RULE
    },
    Rule {
        name: "dentry",
        head: r"BUG: Dentry .* still in use \(\d+\) \[(?P<what>\w+) of ",
        title: "BUG: Dentry still in use in {what}",
        blame: Blame::Untold,
        ..RULE
    },
    Rule {
        name: "leak",
        head: r"^BUG: memory leak|^unreferenced object 0x[0-9a-f]+",
        title: "memory leak in {frame}",
        skip: LEAK,
        echo_of: &["leak"],
        echo_lines: 1,
        ..RULE
    },
    // Faults.
    Rule {
        name: "stack-guard",
        head: r"BUG: (?:\w+ )?stack guard page was hit",
        title: "BUG: stack guard page was hit in {frame}",
        alts: &["stack-overflow in {frame}"],
        blame: Blame::Overflow,
        skip: ALL,
        ..RULE
    },
    Rule {
        name: "double-fault",
        head: r"PANIC: double fault",
        title: "PANIC: double fault in {frame}",
        skip: COMMON,
        ..RULE
    },
    Rule {
        name: "null",
        head: concat!(
            r"BUG: unable to handle kernel NULL pointer dereference|BUG: kernel NULL pointer dereference|",
            r"Unable to handle kernel NULL pointer dereference"
        ),
        title: "BUG: unable to handle kernel NULL pointer dereference in {frame}",
        alts: &["bad-access in {frame}"],
        skip: COMMON,
        ..RULE
    },
    Rule {
        name: "paging",
        head: concat!(
            r"BUG: unable to handle kernel paging request|BUG: unable to handle page fault|",
            r"[Uu]nable to handle kernel (?:paging request|access|write|read|execut)"
        ),
        title: "BUG: unable to handle kernel paging request in {frame}",
        alts: &["bad-access in {frame}"],
        skip: COMMON,
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
        skip: COMMON,
        echo_of: &["double-fault"],
        ..RULE
    },
    Rule { name: "divide", head: r"divide error: ", title: "divide error in {frame}", skip: COMMON, ..RULE },
    Rule {
        name: "stack-segment",
        head: r"stack segment(?: fault)?: ",
        title: "stack segment fault in {frame}",
        skip: COMMON,
        ..RULE
    },
    Rule { name: "int3", head: r"Oops: int3: |^int3: \d+", title: "int3 in {frame}", skip: COMMON, ..RULE },
    Rule {
        name: "opcode",
        head: r"invalid opcode: \d+",
        title: "invalid opcode in {frame}",
        skip: COMMON,
        echo_of: &["*"],
        ..RULE
    },
    Rule {
        name: "unhandled-fault",
        head: r"Unhandled fault: ",
        title: "Unhandled fault in {frame}",
        alts: &["bad-access in {frame}"],
        skip: COMMON,
        ..RULE
    },
    Rule {
        name: "oops-name",
        head: r"^Internal error: |^Oops: ",
        title: "kernel oops in {frame}",
        skip: COMMON,
        echo_of: &["*"],
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
        skip: ALL,
        ..RULE
    },
    Rule {
        name: "panic-orphan",
        head: r"Kernel panic - not syncing: (?:kernel: )?(?P<what>panic_on_warn set|Fatal exception(?: in interrupt)?|Oops: Fatal exception|hung_task: blocked tasks|softlockup: hung tasks)(?: \.\.\.)?",
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
        head: r"^fatal error: |^panic: runtime error|^fatal: bad g in signal handler|^unexpected fault address",
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
        name: "syzfail",
        head: r"^SYZFAIL: (?P<what>.*)",
        title: "SYZFAIL: {what}",
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
];

/// The table, compiled.
pub(crate) struct Compiled {
    set: RegexSet,
    /// Per rule: head, then also.
    heads: Vec<(Regex, Vec<Regex>)>,
}

static COMPILED: LazyLock<Compiled> = LazyLock::new(|| {
    let compile = |pattern: &str| Regex::new(pattern).expect("rules are constants under test");
    Compiled {
        set: RegexSet::new(RULES.iter().map(|rule| rule.head)).expect("rules are constants under test"),
        heads: RULES
            .iter()
            .map(|rule| (compile(rule.head), rule.also.iter().map(|also| compile(also)).collect()))
            .collect(),
    }
});

/// Index of the rule that a line begins a report of.
pub(crate) fn of_line(body: &str) -> Option<usize> {
    COMPILED.set.matches(body).iter().next()
}

/// The rule's head pattern.
pub(crate) fn head(rule_idx: usize) -> &'static Regex {
    &COMPILED.heads[rule_idx].0
}

/// The rule's patterns for further lines.
pub(crate) fn also(rule_idx: usize) -> &'static [Regex] {
    &COMPILED.heads[rule_idx].1
}
