// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a report says besides its title: task, accesses, object, the stacks of the past.

use std::sync::LazyLock;

use regex::Regex;

use super::{
    report::{Access, Frame, Object, Role, SideStack, Task},
    stacks::{Stack, StackKind},
};

/// Accesses kept; KCSAN prints two.
const ACCESSES_MAX: usize = 4;
/// Side stacks kept; a stall may show every task.
const STACKS_MAX: usize = 256;
/// Frames without a name kept.
const RAW_FRAMES_MAX: usize = 512;

/// What is told in single lines.
#[derive(Debug, Default)]
pub(crate) struct Details {
    pub task: Option<Task>,
    pub accesses: Vec<Access>,
    pub object: Option<Object>,
    pub kernel_offset: Option<u64>,
    /// Addresses on the stack, where the kernel had no names to print.
    pub raw: Vec<Frame>,
}

/// Reads a report's lines.
pub(crate) fn read<'a>(lines: impl Iterator<Item = &'a str>) -> Details {
    let mut details = Details::default();
    let mut object = Object::default();
    let mut in_place = false;
    for line in lines {
        let text = line.trim();
        if std::mem::take(&mut in_place) {
            // `located 0 bytes inside of` goes on in the next line.
            if let Some(place) = &mut object.place {
                *place = format!("{place} {text}");
            }
            continue;
        }
        if let Some(rest) = text.strip_prefix("CPU: ") {
            details.task = details.task.or_else(|| task(rest));
        } else if let Some(rest) = text.strip_prefix("Kernel Offset: ") {
            details.kernel_offset = details.kernel_offset.or_else(|| hex(rest.split(' ').next()?));
        } else if let Some(rest) = text.strip_prefix("which belongs to the cache ") {
            let (cache, size) = rest.split_once(" of size ").unwrap_or((rest, ""));
            object.cache.get_or_insert_with(|| cache.to_string());
            object.size = object.size.or(size.parse().ok());
        } else if let Some(place) = text.strip_prefix("The buggy address is located ") {
            in_place = object.place.is_none() && (place.ends_with(" of") || place.ends_with("region"));
            object.place.get_or_insert_with(|| place.to_string());
        } else if let Some(rest) = text.strip_prefix("kfence-#") {
            kfence_object(rest, &mut object);
        } else if let Some(frame) = raw_frame(text).filter(|_| details.raw.len() < RAW_FRAMES_MAX) {
            details.raw.push(frame);
        } else if details.accesses.len() < ACCESSES_MAX
            && let Some(access) = access(text)
        {
            details.accesses.push(access);
        }
    }
    details.object = (object != Object::default()).then_some(object);
    details
}

/// `0 UID: 0 PID: 42 Comm: init Tainted: G           O       6.12.117 #1 <build id>`, after `CPU: `.
fn task(rest: &str) -> Option<Task> {
    static TASK: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(concat!(
            r"^(?P<cpu>[0-9]+) (?:UID: [0-9]+ )?PID: (?P<pid>-?[0-9]+) Comm: (?P<comm>.*?) +(?:Not tainted|Tainted: (?P<taint>[A-Z ]+)) +",
            r"(?P<release>[0-9][^ ]*)(?: .*?)?(?: (?P<id>[0-9a-f]{40}))? *$",
        ))
        .expect("a constant")
    });
    let hit = TASK.captures(rest)?;
    let group = |name: &str| hit.name(name).map(|group| group.as_str().to_string());
    Some(Task {
        cpu: hit["cpu"].parse().ok(),
        pid: hit["pid"].parse().ok(),
        comm: hit["comm"].to_string(),
        release: group("release"),
        taint: group("taint").unwrap_or_default().split_whitespace().collect(),
        build_id: group("id"),
    })
}

/// KASAN, KFENCE, KMSAN and KCSAN, the line that says what was done to which address.
fn access(text: &str) -> Option<Access> {
    static ACCESS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(concat!(
            r"^(?P<what>(?:[A-Za-z-]+ )?(?:[Rr]ead|[Ww]rite|read-write|[Aa]ccess|free)(?: \([a-z, ]+\))?) ",
            r"(?:of size (?P<size>[0-9]+) )?(?:at|to)(?: addr)? (?P<address>(?:0x)?[0-9a-f]{8,16})",
            r"(?: of (?P<bytes>[0-9]+) bytes)?(?: by (?P<by>task [^ ]+?|interrupt|[^ ]+/[0-9]+))?(?: on cpu (?P<cpu>[0-9]+))?(?:[ :(]|$)",
        ))
        .expect("a constant")
    });
    // Cheaper than the pattern, which few lines are worth.
    const VERBS: &[&str] = &["ead ", "rite ", "ccess ", "free "];
    if !VERBS.iter().any(|verb| text.contains(verb)) {
        return None;
    }
    let hit = ACCESS.captures(text)?;
    let group = |name: &str| hit.name(name).map(|group| group.as_str());
    let address = group("address")?;
    Some(Access {
        what: hit["what"].to_ascii_lowercase(),
        size: group("size").or_else(|| group("bytes")).and_then(|size| size.parse().ok()),
        address: Some(format!("0x{}", address.trim_start_matches("0x"))),
        by: group("by").map(|by| by.trim_end_matches(':').to_string()),
        cpu: group("cpu").and_then(|cpu| cpu.parse().ok()),
    })
}

/// `88: 0x...-0x..., size=73, cache=kmalloc-96`.
fn kfence_object(rest: &str, object: &mut Object) {
    let value = |key: &str| {
        let (_, value) = rest.split_once(key)?;
        value.split([',', ']', ' ']).next()
    };
    object.size = object.size.or(value("size=").and_then(|size| size.parse().ok()));
    object.cache = object.cache.take().or(value("cache=").map(str::to_string));
}

/// `RIP: 0010:0xffffffff81234567`, `[<ffffffff81234567>] 0xffffffff81234567`, ` ? 0xffffffff81234567`.
fn raw_frame(text: &str) -> Option<Frame> {
    const REGISTERS: &[&str] = &["RIP: 0010:", "pc : ", "PC is at "];
    let register = REGISTERS.iter().find_map(|name| text.strip_prefix(name));
    let mut rest = register.unwrap_or(text);
    let mut is_guess = false;
    while let Some(after) = rest.strip_prefix("? ") {
        (rest, is_guess) = (after, true);
    }
    if let Some(bracketed) = rest.strip_prefix("[<") {
        (_, rest) = bracketed.split_once(">] ")?;
    }
    if let Some(after) = rest.strip_prefix("? ") {
        (rest, is_guess) = (after, true);
    }
    let digits = rest.strip_prefix("0x")?;
    let is_address = (8..=16).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_address.then(|| Frame {
        function: rest.to_string(),
        symbol: rest.to_string(),
        register: register.is_some(),
        reliable: !is_guess,
        ..Frame::default()
    })
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The stacks besides the main one. One that came out empty says nothing.
pub(crate) fn side_stacks(stacks: &[Stack], main: Option<&Stack>) -> Vec<SideStack> {
    let is_main = |stack: &Stack| main.is_some_and(|main| std::ptr::eq(main, stack));
    (stacks.iter().filter(|stack| !is_main(stack) && !stack.frames.is_empty()))
        .take(STACKS_MAX)
        .map(|stack| SideStack {
            role: role(stack),
            heading: stack.heading.trim().trim_end_matches(':').to_string(),
            pid: stack.pid.or_else(|| pid(&stack.heading)),
            frames: stack.frames.clone(),
        })
        .collect()
}

fn role(stack: &Stack) -> Role {
    match stack.kind {
        StackKind::Trace | StackKind::Fault | StackKind::Stuck => Role::Trace,
        StackKind::LockHistory => Role::Lock,
        StackKind::History | StackKind::Owner => {
            let heading = stack.heading.trim().to_ascii_lowercase();
            let says = |words: &[&str]| words.iter().any(|word| heading.contains(word));
            if says(&["page last alloc"]) {
                Role::PageAllocated
            } else if says(&["page last free"]) {
                Role::PageFreed
            } else if says(&["work creation", "last function"]) {
                Role::Queued
            } else if says(&["uninit was"]) {
                Role::Uninit
            } else if says(&["-> #", "which became", "state was registered"]) {
                Role::Lock
            } else if says(&["allocated"]) {
                Role::Allocated
            } else if says(&["freed"]) {
                Role::Freed
            } else {
                Role::Past
            }
        }
    }
}

/// `Allocated by task 42:`, `Freed in f age=3 cpu=0 pid=42`, `page last free pid 42 tgid 42 stack trace:`.
fn pid(heading: &str) -> Option<u32> {
    let number = |after: &str| {
        let (_, rest) = heading.split_once(after)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    number(" by task ").or_else(|| number(" pid=")).or_else(|| number(" pid "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_in_every_spelling() {
        let told = |text: &str| {
            let access = access(text)?;
            Some((access.what, access.size, access.by, access.cpu))
        };
        let is = |what: &str, size, by: Option<&str>, cpu| {
            Some((what.to_string(), size, by.map(str::to_string), cpu))
        };
        assert_eq!(
            told("Read of size 1 at addr ffff888000a03800 by task init/42"),
            is("read", Some(1), Some("task init/42"), None)
        );
        assert_eq!(
            told("Use-after-free read at 0x00000000ad2b2ff9 (in kfence-#88):"),
            is("use-after-free read", None, None, None)
        );
        assert_eq!(
            told("write to 0xffff888000a03800 of 4 bytes by task 101 on cpu 0:"),
            is("write", Some(4), Some("task 101"), Some(0))
        );
        assert_eq!(
            told("read-write (marked) to 0xffff888000a03800 of 8 bytes by interrupt on cpu 1:"),
            is("read-write (marked)", Some(8), Some("interrupt"), Some(1))
        );
        assert_eq!(told("init/1 wants to write to nothing"), None);
    }

    #[test]
    fn tasks_with_and_without_taint_and_build_id() {
        let task = |line: &str| task(line.strip_prefix("CPU: ").unwrap_or(line)).expect(line);
        let plain = task("CPU: 1 PID: 7 Comm: kworker/1:0 Not tainted 5.10.0 #1");
        assert_eq!((plain.pid, plain.comm.as_str(), plain.taint.as_str()), (Some(7), "kworker/1:0", ""));
        let id = "0123456789abcdef0123456789abcdef01234567";
        let whole = task(&format!(
            "CPU: 0 UID: 0 PID: 42 Comm: a b Tainted: G    B      O       6.12.117-x #3 PREEMPT {id}"
        ));
        assert_eq!((whole.comm.as_str(), whole.taint.as_str()), ("a b", "GBO"));
        assert_eq!(whole.release.as_deref(), Some("6.12.117-x"));
        assert_eq!(whole.build_id.as_deref(), Some(id));
    }

    #[test]
    fn frames_without_names_are_kept_apart() {
        let text = "RIP: 0010:0xffffffff81234567\nRIP: 0033:0x444620\n ? 0xffffffff81000010\n \
                    [<ffffffff81000020>] 0xffffffff81000020\nKernel Offset: 0x1e000000 from 0xffffffff81000000 (x)\n";
        let details = read(text.lines());
        assert_eq!(details.kernel_offset, Some(0x1e00_0000));
        let frames: Vec<(&str, bool, bool)> =
            details.raw.iter().map(|frame| (frame.symbol.as_str(), frame.register, frame.reliable)).collect();
        assert_eq!(
            frames,
            [
                ("0xffffffff81234567", true, true),
                ("0xffffffff81000010", false, false),
                ("0xffffffff81000020", false, true)
            ]
        );
    }
}
