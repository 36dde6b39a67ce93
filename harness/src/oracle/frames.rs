// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads one line of stack: x86, arm, arm64, riscv, powerpc, s390 and kmemleak spellings.

use std::sync::LazyLock;

use regex::Regex;

use super::{Frame, names::readable};

static REGISTER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"^(?:RIP: (?:[0-9a-f]{4}:)?|EIP: (?:[0-9a-f]{4}:)?|EIP is at |IP: |PC is at |pc : |epc *: (?:[0-9a-f]{8,16} )?|NIP |Krnl PSW : [0-9a-f]+ [0-9a-f]+ \()",
        r"(?:\[<?[0-9a-f]+>?\] *)*",
        r"([A-Za-z_](?:[\w.$]|::)*)(?:\+0x([0-9a-f]+)/0x([0-9a-f]+))(?: \[([\w-]+)[^\]]*\])?",
    ))
    .expect("a constant")
});

/// The frame a register points at; the user-mode ones are left out, they carry no name.
pub(crate) fn register_frame(body: &str) -> Option<Frame> {
    let body = body.trim_start();
    if !body.starts_with(['R', 'E', 'P', 'p', 'e', 'N', 'K', 'I']) {
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

pub(crate) fn arm_caller(body: &str) -> Option<Frame> {
    let (_, caller) = body.split_once(" from ")?;
    let caller = caller.split_once('(').map_or(caller, |(_, inside)| inside);
    FRAME
        .captures(caller)
        .and_then(|hit| Some(frame(hit.get(2)?.as_str(), hit.get(3), hit.get(4), hit.get(5), true)))
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
        source: Vec::new(),
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
