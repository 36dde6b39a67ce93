// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads the stacks out of a report's lines: where each begins and ends, and what it is about.

use super::{
    Frame, SourceFrame,
    frames::{arm_caller, parse_frame, register_frame},
    lines::Line,
    source,
};

/// Registers, code bytes and the like between two frames of one stack. More than this and the stack is over.
const FOREIGN_LINES_MAX: usize = 24;
/// Frames kept of one stack; recursion can print thousands.
const FRAMES_MAX: usize = 512;
/// Functions inlined into one frame, and bytes kept of a heading.
const INLINED_MAX: usize = 64;
const HEADING_BYTES_MAX: usize = 256;

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
    /// Where the page in question was allocated last.
    Owner,
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
    /// Its heading promises frames.
    pub owed: bool,
    /// The line that it came under.
    pub heading: String,
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

/// Fault injection shows stacks that say nothing of what went wrong. Without callers on the lines they run into reports.
pub(crate) fn is_mixed(stacks: &[Stack]) -> bool {
    let main = stacks.iter().find(|stack| stack.kind == StackKind::Trace && !stack.frames.is_empty());
    main.is_some_and(|main| main.frames.iter().any(|frame| frame.function.starts_with("should_fail")))
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
    past: Option<StackKind>,
    /// The line that said so.
    past_heading: String,
    /// Functions inlined into the frame that comes next, where the log was symbolised.
    inlined: Vec<SourceFrame>,
    /// On 32-bit arm each line names a function and its caller: the caller of the last line has none of its own.
    caller: Option<Frame>,
}

impl Reader {
    fn line(&mut self, body: &str) {
        if self.caller.is_some() && !body.contains(" from ") && !is_exception_dump(body) {
            self.outermost();
        }
        if let Some(inlined) = source::inlined(body) {
            if self.inlined.len() < INLINED_MAX {
                self.inlined.push(inlined);
            }
        } else if let Some(frame) = stuck_frame(body) {
            if self.stacks.last().is_none_or(|stack| stack.kind != StackKind::Stuck) {
                self.begin(StackKind::Stuck, "");
            }
            self.push(frame);
        } else if let Some(kind) = heading(body) {
            match self.past.filter(|_| kind == StackKind::Trace) {
                Some(past) => self.begin_past(past),
                None => {
                    self.past = None;
                    self.begin(kind, body);
                }
            }
            self.owed(body);
        } else if let Some(frame) = register_frame(body) {
            let frame = self.with_source(frame, body);
            self.register(frame);
        } else if let Some(frame) = parse_frame(body) {
            if !self.open {
                self.begin_past(self.past.unwrap_or(StackKind::Trace));
            }
            let frame = self.with_source(frame, body);
            self.push(frame);
            self.caller = arm_caller(body);
        } else if ends_stack(body) {
            self.open = false;
            self.past = begins_past(body);
            self.past_heading = if self.past.is_some() { cut(body) } else { String::new() };
            self.pid = task_pid(body);
        } else if body.contains("stack is not available") {
            self.excused();
        } else if self.open {
            // A heading waits for its frames however long others talk in between.
            self.foreign += usize::from(self.stacks.last().is_some_and(|stack| !stack.frames.is_empty()));
            self.open = self.foreign <= FOREIGN_LINES_MAX;
        }
    }

    fn begin(&mut self, kind: StackKind, heading: &str) {
        let fault = if kind == StackKind::Trace { self.fault.take() } else { None };
        let frames = Vec::from_iter(fault);
        let (n_registers, heading) = (frames.len(), cut(heading));
        self.stacks.push(Stack { kind, n_registers, frames, pid: self.pid, owed: false, heading });
        self.open = true;
        self.foreign = 0;
    }

    /// A stack under no heading of its own.
    fn begin_past(&mut self, kind: StackKind) {
        let heading = std::mem::take(&mut self.past_heading);
        self.begin(kind, &heading);
    }

    /// Adds what the log itself says of a frame's place in the source.
    fn with_source(&mut self, mut frame: Frame, body: &str) -> Frame {
        frame.source = std::mem::take(&mut self.inlined);
        match source::of_frame(body, &frame.function) {
            Some(place) => frame.source.push(place),
            None => frame.source.clear(),
        }
        frame
    }

    /// Who allocated and who freed an object is told with frames, or with the word that there are none.
    fn owed(&mut self, heading: &str) {
        let heading = heading.trim();
        if let Some(stack) = self.stacks.last_mut() {
            stack.owed = heading.starts_with("Allocated") || heading.starts_with("Freed");
        }
    }

    fn excused(&mut self) {
        if let Some(stack) = self.stacks.last_mut() {
            stack.owed = false;
        }
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
                owed: false,
                heading: String::new(),
            });
        }
    }
}

/// The beginning of a line, trimmed.
fn cut(line: &str) -> String {
    let line = line.trim();
    line[..line.floor_char_boundary(HEADING_BYTES_MAX)].to_string()
}

/// `SHRINKTORTURE: stuck: [<0>] func+0x12/0x34 [module]`
fn stuck_frame(body: &str) -> Option<Frame> {
    parse_frame(body.strip_prefix("SHRINKTORTURE: stuck: ")?)
}

/// The task a listing is about: `task:name state:D stack:0 pid:12 tgid:12`, `CPU: 1 UID: 0 PID: 12 Comm: name`.
fn task_pid(body: &str) -> Option<u32> {
    let rest = match body.strip_prefix("task:") {
        Some(listing) => listing.split_once(" pid:")?.1,
        None => body.strip_prefix("CPU: ")?.split_once(" PID: ")?.1,
    };
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
fn begins_past(body: &str) -> Option<StackKind> {
    let body = body.trim_start();
    if body.starts_with("page last allocated") {
        return Some(StackKind::Owner);
    }
    (body.starts_with("page last") || body.starts_with("page_owner tracks")).then_some(StackKind::History)
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
