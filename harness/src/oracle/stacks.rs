// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads stacks out of a report's lines: x86, arm, arm64, riscv, powerpc, s390 and kmemleak spellings.

use std::sync::LazyLock;

use regex::Regex;

use super::{Frame, lines::Line};

/// Registers, code bytes and the like between two frames of one stack. More than this and the stack is over.
const FOREIGN_LINES_MAX: usize = 24;
/// Frames kept of one stack; recursion can print thousands.
const FRAMES_MAX: usize = 512;

/// What a stack is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StackKind {
    /// Where the task is now. The function a register pointed at (`RIP:`, `pc :`) comes first, if one was printed.
    Trace,
    /// Only that register.
    Fault,
    /// Where lockdep says it happened: `which became ...-safe at:`, `is trying to release lock (..) at:`.
    LockHistory,
    /// What our agent read from `/proc/PID/stack` of the worker whose op is overdue.
    Stuck,
    /// How a lock, an object or a queued work came to be: not where it went wrong.
    History,
}

/// One stack of a report.
#[derive(Debug)]
pub(crate) struct Stack {
    /// What it is about.
    pub kind: StackKind,
    /// Innermost function first.
    pub frames: Vec<Frame>,
    /// How many of them came from a register rather than from the unwinder.
    pub n_registers: usize,
    /// Whose it is, where tasks are listed (`task:name state:D ... pid:12`).
    pub pid: Option<u32>,
}

/// All stacks, in order of position; a heading without frames gives an empty stack.
pub(crate) fn read<'a>(lines: impl Iterator<Item = &'a Line<'a>>) -> Vec<Stack> {
    let mut reader = Reader::default();
    for line in lines {
        reader.line(&line.body);
    }
    reader.flush_fault();
    reader.stacks
}

#[derive(Default)]
struct Reader {
    stacks: Vec<Stack>,
    /// The last stack still grows.
    open: bool,
    /// Lines since its last frame that were no frames.
    foreign: usize,
    /// The first register of the report at hand, until its stack comes.
    fault: Option<Frame>,
    /// The task listed last.
    pid: Option<u32>,
    /// What is printed now tells of the past, headings or not.
    past: bool,
    /// On 32-bit arm each line names a function and its caller: the caller of the last line has none of its own.
    caller: Option<Frame>,
}

impl Reader {
    fn line(&mut self, body: &str) {
        if self.caller.is_some() && !body.contains(" from ") && !is_exception_dump(body) {
            self.outermost();
        }
        if let Some(frame) = stuck_frame(body) {
            if self.stacks.last().is_none_or(|stack| stack.kind != StackKind::Stuck) {
                self.begin(StackKind::Stuck);
            }
            self.push(frame);
        } else if let Some(kind) = heading(body) {
            if kind == StackKind::Trace && self.past {
                self.begin(StackKind::History);
            } else {
                self.past = false;
                self.begin(kind);
            }
        } else if let Some(frame) = register_frame(body) {
            self.register(frame);
        } else if let Some(frame) = parse_frame(body) {
            if !self.open {
                self.begin(if self.past { StackKind::History } else { StackKind::Trace });
            }
            self.push(frame);
            self.caller = arm_caller(body);
        } else if ends_stack(body) {
            self.open = false;
            self.past = begins_past(body);
            self.pid = task_pid(body);
        } else if self.open {
            // A heading waits for its frames however long others talk in between.
            self.foreign += usize::from(self.stacks.last().is_some_and(|stack| !stack.frames.is_empty()));
            self.open = self.foreign <= FOREIGN_LINES_MAX;
        }
    }

    fn begin(&mut self, kind: StackKind) {
        let fault = if kind == StackKind::Trace { self.fault.take() } else { None };
        let frames = Vec::from_iter(fault);
        self.stacks.push(Stack { kind, n_registers: frames.len(), frames, pid: self.pid });
        self.open = true;
        self.foreign = 0;
    }

    fn push(&mut self, frame: Frame) {
        self.foreign = 0;
        if let Some(stack) = self.stacks.last_mut()
            && stack.frames.len() < FRAMES_MAX
        {
            stack.frames.push(frame);
        }
    }

    /// Inside a stack a register tells where an interrupt or exception came in.
    fn register(&mut self, frame: Frame) {
        if !self.open {
            self.fault.get_or_insert(frame);
        } else if self.stacks.last().is_some_and(|stack| stack.kind == StackKind::Trace) {
            self.push(frame);
        } else {
            self.open = false;
            self.fault.get_or_insert(frame);
        }
    }

    /// An arm stack is over: its outermost function was named as a caller only.
    fn outermost(&mut self) {
        if let Some(frame) = self.caller.take() {
            self.push(frame);
            self.open = false;
        }
    }

    fn flush_fault(&mut self) {
        self.outermost();
        if let Some(frame) = self.fault.take() {
            self.stacks.push(Stack {
                kind: StackKind::Fault,
                frames: vec![frame],
                n_registers: 1,
                pid: None,
            });
        }
    }
}

/// `SHRINKTORTURE: stuck: [<0>] func+0x12/0x34 [module]`
fn stuck_frame(body: &str) -> Option<Frame> {
    parse_frame(body.strip_prefix("SHRINKTORTURE: stuck: ")?)
}

/// The task a listing is about: `task:name state:D stack:0 pid:12 tgid:12`.
fn task_pid(body: &str) -> Option<u32> {
    let (_, rest) = body.strip_prefix("task:")?.split_once(" pid:")?;
    rest.split(' ').next()?.parse().ok()
}

fn heading(body: &str) -> Option<StackKind> {
    const TRACE: &[&str] = &["call trace", "backtrace:", "backtrace ("];
    const HISTORY: &[&str] = &[
        "allocated by task",
        "freed by task",
        "last potentially related work creation",
        "second to last potentially related work creation",
        "uninit was ",
        "preemption disabled at:",
        "last function:",
        "-> #",
    ];
    let body = body.trim();
    if body.starts_with("Allocated in ") || body.starts_with("Freed in ") {
        return Some(StackKind::History);
    }
    if !body.ends_with([':', '}'])
        && !body.contains("NMI")
        && !body.starts_with("backtrace (")
        && !body.contains(": ")
    {
        return None;
    }
    let lower = body.to_ascii_lowercase();
    // KCSAN heads each of two accesses: `write to 0x.. of 4 bytes by task 101 on cpu 0:`.
    let access = (lower.starts_with("read ") || lower.starts_with("write ")) && lower.contains(" bytes by ");
    if access || TRACE.iter().any(|heading| lower.starts_with(heading)) {
        Some(StackKind::Trace)
    } else if (lower.contains("which became ") && lower.ends_with("-safe at:"))
        || (lower.contains("trying to release lock") && lower.ends_with(" at:"))
    {
        Some(StackKind::LockHistory)
    } else if HISTORY.iter().any(|heading| lower.starts_with(heading))
        || lower.contains("] allocated by task")
        || lower.starts_with("info: allocated in")
        || lower.starts_with("info: freed in")
        || lower == "allocated:"
        || lower == "freed:"
        || lower.contains("which became ")
        || lower.ends_with("state was registered at:")
    {
        Some(StackKind::History)
    } else {
        None
    }
}

/// A line after which what looks like a frame is no part of the stack before it.
fn ends_stack(body: &str) -> bool {
    const ENDS: &[&str] = &[
        "Modules linked in:",
        "---[ end",
        "Memory state around",
        "Object at ",
        "The buggy address",
        "Showing all locks",
        "Showing busy workqueues",
        "Sending NMI",
        "NMI backtrace for cpu",
        "other info that might",
        "stack backtrace",
        "Kernel Offset:",
        "Rebooting in",
        "irq event stamp",
        "hardirqs last",
        "softirqs last",
        "task:",
        "CPU: ",
        "RIP: 0033:",
        "unreferenced object",
        "page last allocated",
        "page last free",
        "page_owner tracks",
        "page has been",
    ];
    let body = body.trim_start();
    ENDS.iter().any(|end| body.starts_with(end))
}

/// After these lines stacks tell of the past, whatever their headings.
fn begins_past(body: &str) -> bool {
    let body = body.trim_start();
    body.starts_with("page last") || body.starts_with("page_owner tracks")
}

static REGISTER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"^(?:RIP: (?:[0-9a-f]{4}:)?|EIP: (?:[0-9a-f]{4}:)?|EIP is at |PC is at |pc : |epc *: (?:[0-9a-f]{8,16} )?|NIP |Krnl PSW : [0-9a-f]+ [0-9a-f]+ \()",
        r"(?:\[<?[0-9a-f]+>?\] *)*",
        r"([A-Za-z_](?:[\w.$]|::)*)(?:\+0x([0-9a-f]+)/0x([0-9a-f]+))(?: \[([\w-]+)[^\]]*\])?",
    ))
    .expect("a constant")
});

/// The frame a register points at; the user-mode ones are left out, they carry no name.
fn register_frame(body: &str) -> Option<Frame> {
    let body = body.trim_start();
    if !body.starts_with(['R', 'E', 'P', 'p', 'e', 'N', 'K']) {
        return None;
    }
    let hit = REGISTER.captures(body)?;
    Some(Frame { register: true, ..frame(hit.get(1)?.as_str(), hit.get(2), hit.get(3), hit.get(4), true) })
}

static FRAME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"^\s*(?:\(null\)|(?:\[<?[0-9a-f]+>?\]\s*)*)",
        r"(\? )?(?:\[<[0-9a-f]+>\]\s*)?",
        r"([A-Za-z_](?:[\w.$]|::)*)(?:\+0x([0-9a-f]+)/0x([0-9a-f]+))(?: \[([\w-]+)[^\]]*\])?",
    ))
    .expect("a constant")
});

/// `[<807bb0d8>] (dump_stack) from [<80126690>] (panic+0x104/0x2cc)` and `dump_stack from panic+0x104/0x2cc`.
static ARM_FRAME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"^\s*(?:\[<[0-9a-f]+>\]\s*)?\(?([A-Za-z_][\w.$]*)(?:\+0x([0-9a-f]+)/0x([0-9a-f]+))?(?: [^()]*)?\)? ",
        r"from (?:\[<[0-9a-f]+>\]|[A-Za-z_][\w.$]*\+0x)",
    ))
    .expect("a constant")
});

/// One line of stack, in any spelling. `None` when it is something else.
pub(crate) fn parse_frame(body: &str) -> Option<Frame> {
    if let Some(hit) = FRAME.captures(body) {
        let reliable = hit.get(1).is_none() && !body.ends_with(" (unreliable)");
        return Some(frame(hit.get(2)?.as_str(), hit.get(3), hit.get(4), hit.get(5), reliable));
    }
    if !body.contains(" from ") {
        return None;
    }
    let hit = ARM_FRAME.captures(body)?;
    Some(frame(hit.get(1)?.as_str(), hit.get(2), hit.get(3), None, true))
}

fn arm_caller(body: &str) -> Option<Frame> {
    let (_, caller) = body.split_once(" from ")?;
    let caller = caller.split_once('(').map_or(caller, |(_, inside)| inside);
    FRAME
        .captures(caller)
        .and_then(|hit| Some(frame(hit.get(2)?.as_str(), hit.get(3), hit.get(4), hit.get(5), true)))
}

/// `Exception stack(0x.. to 0x..)`, its rows of words and rows of registers stand between two lines of an arm stack.
fn is_exception_dump(body: &str) -> bool {
    let body = body.trim_start();
    let is_registers = |row: &str| row.starts_with('r') && row[1..].bytes().all(|byte| byte.is_ascii_digit());
    body.starts_with("Exception stack")
        || body.split_once(':').is_some_and(|(row, _)| is_registers(row))
        || body.split_once(": ").is_some_and(|(row, _)| {
            (3..=8).contains(&row.len()) && row.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
}

fn frame(
    symbol: &str,
    offset: Option<regex::Match<'_>>,
    size: Option<regex::Match<'_>>,
    module: Option<regex::Match<'_>>,
    reliable: bool,
) -> Frame {
    let hex = |text: Option<regex::Match<'_>>| {
        text.and_then(|text| u64::from_str_radix(text.as_str(), 16).ok()).unwrap_or(0)
    };
    Frame {
        function: readable(symbol),
        symbol: symbol.to_string(),
        offset: hex(offset),
        size: hex(size),
        module: module.map(|module| module.as_str().to_string()),
        register: false,
        reliable,
    }
}

/// A `function+0x12/0x34` somewhere in a line.
pub(crate) struct Place {
    /// What it says.
    pub frame: Frame,
    /// Offset in the line of its first byte.
    pub start: usize,
    /// Offset just past it, module included.
    pub end: usize,
    /// The line is a line of stack, rather than text that names a function.
    pub is_stack: bool,
}

/// The first function named in a whole line, prefix and all.
pub(crate) fn place_in_line(line: &str) -> Option<Place> {
    static PLACE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(\? )?([A-Za-z_$][\w.$]*)\+0x([0-9a-f]+)/0x([0-9a-f]+)(?: \[([\w-]+)[^\]]*\])?")
            .expect("a constant")
    });
    let hit = PLACE.captures(line)?;
    let (name, whole) = (hit.get(2)?, hit.get(0)?);
    let mut frame = frame(name.as_str(), hit.get(3), hit.get(4), hit.get(5), hit.get(1).is_none());
    let before = line[..whole.start()].trim_end();
    frame.register = before.contains("RIP:") || before.ends_with("pc :") || before.ends_with("PC is at");
    // Nothing but time stamp, caller and addresses stands before a frame.
    let is_stack = before.is_empty() || before.ends_with(']');
    Some(Place { frame, start: name.start(), end: whole.end(), is_stack })
}

/// A symbol as people write it: `foo.isra.0` is `foo`, and Rust's mangled names keep their last two path segments.
pub(crate) fn readable(symbol: &str) -> String {
    if let Ok(name) = rustc_demangle::try_demangle(symbol) {
        return rust_path(&format!("{name:#}"));
    }
    let stem = symbol.split('.').next().unwrap_or(symbol);
    cpp_name(stem).unwrap_or(stem).to_string()
}

/// `_Z8fakeNameiii` is `fakeName`: some drivers are C++ inside.
fn cpp_name(symbol: &str) -> Option<&str> {
    let rest = symbol.strip_prefix("_Z")?;
    let n_digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let length: usize = rest.get(..n_digits)?.parse().ok()?;
    rest.get(n_digits..n_digits.checked_add(length)?)
}

/// `<canary::Scanner as kernel::Shrinker>::scan` and `canary::scan::<u8>` are `Scanner::scan` and `canary::scan`.
fn rust_path(path: &str) -> String {
    let mut depth = 0usize;
    let mut plain = String::new();
    let text = path.strip_prefix('<').map_or(path, |inner| inner);
    let implementation = path.len() != text.len();
    let mut in_trait = false;
    for (at, symbol) in text.char_indices() {
        match symbol {
            '<' => depth += 1,
            '>' if depth > 0 => depth -= 1,
            '>' => in_trait = false,
            ' ' if implementation && depth == 0 && text[at..].starts_with(" as ") => in_trait = true,
            _ if depth == 0 && !in_trait => plain.push(symbol),
            _ => {}
        }
    }
    let segments: Vec<&str> =
        plain.split("::").map(str::trim).filter(|part| !part.is_empty() && !part.starts_with('{')).collect();
    segments[segments.len().saturating_sub(2)..].join("::")
}
