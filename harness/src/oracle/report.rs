// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the oracle tells of a complaint: plain data, every list bounded by the lines a report may have.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    functions::{self, Group},
    locks::Locks,
};

/// One complaint of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// One line that names the bug, free of numbers that differ from run to run.
    pub title: String,
    /// Other titles the same bug is known by.
    pub alt_titles: Vec<String>,
    /// Type as public dashboards have it: `KASAN-USE-AFTER-FREE-READ`, `LOCKDEP`, `HANG`, ...; empty when it has none.
    #[serde(rename = "type")]
    pub kind: String,
    /// The blamed function.
    pub frame: Option<String>,
    /// Why the report is not whole, if it is not.
    pub corrupted: Option<String>,
    /// The kernel panicked over it.
    pub panicked: bool,
    /// Hash of the functions on the main stack that matter, 16 hexadecimal digits in JSON; no offsets, so stable across
    /// builds. 0: there are none.
    #[serde(with = "hex")]
    #[schemars(with = "String")]
    pub stack_hash: u64,
    /// Number of the report's first line in the console, from 1.
    pub first_line: u64,
    /// Number of its last line. Other callers' lines may stand between the two.
    pub last_line: u64,
    /// Offset of the report's first byte in the console.
    pub start: usize,
    /// Offset just past the report's last byte.
    pub end: usize,
    /// Who ran into it, from the `CPU: ... Comm: ...` line.
    pub task: Option<Task>,
    /// What a sanitizer saw: one access, with KCSAN two.
    pub accesses: Vec<Access>,
    /// The object that was accessed.
    pub object: Option<Object>,
    /// The main stack, innermost function first.
    pub frames: Vec<Frame>,
    /// The other stacks, in order of position.
    pub stacks: Vec<SideStack>,
    /// Locks, where the report speaks of any.
    pub locks: Option<Locks>,
    /// How far from its linked address the kernel was loaded, if the log tells.
    pub kernel_offset: Option<u64>,
    /// Its lines as they were printed, without those of others between them; bounded by [`super::limits`].
    #[serde(skip)]
    pub text: String,
}

/// The task, CPU and kernel that a report comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Task {
    /// CPU number.
    pub cpu: Option<u32>,
    /// Process id, as the kernel has it: one per thread.
    pub pid: Option<u32>,
    /// The task's name.
    pub comm: String,
    /// Release of the kernel, `6.12.117`.
    pub release: Option<String>,
    /// Taint letters.
    pub taint: String,
    /// Build id of vmlinux, with CONFIG_STACKTRACE_BUILD_ID only.
    pub build_id: Option<String>,
}

/// A bad access as a sanitizer tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Access {
    /// In the kernel's words, lower case: `read`, `write`, `use-after-free read`, `read-write (marked)`.
    pub what: String,
    /// Bytes.
    pub size: Option<u64>,
    /// Address, `0x...`.
    pub address: Option<String>,
    /// Who: `init/42`, `task 101`.
    pub by: Option<String>,
    /// CPU number.
    pub cpu: Option<u32>,
}

/// The object that a bad access hit or missed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Object {
    /// Slab cache.
    pub cache: Option<String>,
    /// Size, bytes.
    pub size: Option<u64>,
    /// Where the access was, in the kernel's words: `0 bytes inside of freed 256-byte region [..., ...)`.
    pub place: Option<String>,
}

/// What a stack other than the main one is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Another stack of the present: of another task or CPU, or of the same task once more.
    #[default]
    Trace,
    /// How the object came to be.
    Allocated,
    /// How it went.
    Freed,
    /// Who queued the work or the RCU callback that is involved.
    Queued,
    /// Where uninitialised memory comes from.
    Uninit,
    /// Where a lock of the dependency chain, or one in another context, was taken.
    Lock,
    /// How the page came to be.
    PageAllocated,
    /// How the page went before that.
    PageFreed,
    /// Anything else of the past.
    Past,
}

/// A stack besides the main one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SideStack {
    /// What it is about.
    pub role: Role,
    /// The line before it that says so; empty when there was none.
    pub heading: String,
    /// Whose it is, as far as the heading tells.
    pub pid: Option<u32>,
    /// Innermost function first.
    pub frames: Vec<Frame>,
}

/// One entry of a stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Frame {
    /// Function as people write it: demangled, without compiler suffixes.
    pub function: String,
    /// Function as the symbol table has it; an address where the kernel printed no name.
    pub symbol: String,
    /// Offset of the return address in the function.
    pub offset: u64,
    /// Size of the function.
    pub size: u64,
    /// Module it is in, if not the kernel itself.
    pub module: Option<String>,
    /// Read from a register: the offset is that of the instruction itself, not of a return address.
    pub register: bool,
    /// False for what the unwinder only found lying on the stack (`? func`).
    pub reliable: bool,
    /// Where in the source it is: innermost inlined function first, the function itself last. From the log when that was
    /// symbolised, else from vmlinux; empty when neither is there.
    #[serde(default)]
    pub source: Vec<SourceFrame>,
}

/// One source position; an inlined function has its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceFrame {
    /// Function as people write it.
    pub function: String,
    /// Source file, below the top of the kernel tree where it is part of it.
    pub file: String,
    /// Line, from 1; 0 when unknown.
    pub line: u32,
    /// Inlined into the next one of the list.
    pub inlined: bool,
}

impl Report {
    /// Does it tell of leaked memory?
    pub fn is_leak(&self) -> bool {
        self.kind == "LEAK"
    }

    /// Every name the bug goes by, the title first.
    pub fn titles(&self) -> impl Iterator<Item = &str> + Clone {
        [self.title.as_str()].into_iter().chain(self.alt_titles.iter().map(String::as_str))
    }

    /// Adds names that the bug was seen under elsewhere.
    pub fn add_titles(&mut self, titles: impl IntoIterator<Item = String>) {
        for title in titles {
            if self.titles().all(|known| known != title) {
                self.alt_titles.push(title);
            }
        }
    }

    /// Every frame of every stack, to be filled with source positions.
    pub fn frames_mut(&mut self) -> impl Iterator<Item = &mut Frame> {
        self.frames.iter_mut().chain(self.stacks.iter_mut().flat_map(|stack| &mut stack.frames))
    }
}

impl Frame {
    /// Does the frame belong to what found and printed a fault, rather than to what led to it? Allocators count where a
    /// stack tells who allocated.
    pub fn is_machinery(&self, allocators: bool) -> bool {
        let reporting = functions::is_in(&self.function, &[Group::Reporting, Group::Trap]);
        reporting || allocators && functions::is_in(&self.function, &[Group::Memory])
    }
}

/// Are two reports of one bug? They are when they share a title: any of the one's and any of the other's.
pub fn same_bug(one: &Report, other: &Report) -> bool {
    share_title(one.titles(), other.titles())
}

/// [`same_bug`] for what is stored of a report: two lists of titles.
pub fn share_title<'a>(
    one: impl Iterator<Item = &'a str>,
    other: impl Iterator<Item = &'a str> + Clone,
) -> bool {
    let mut one = one;
    one.any(|title| other.clone().any(|known| known == title))
}

/// The one of a console's reports to go by: the first, which the others may follow from. Leaks say nothing of one another:
/// of these it is the first that is `wanted`.
pub fn telling(reports: &[Report], wanted: impl Fn(&Report) -> bool) -> Option<&Report> {
    let mut leaks = reports.iter().take_while(|report| report.is_leak());
    leaks.find(|report| wanted(report)).or(reports.first())
}

/// A hash as 16 hexadecimal digits: JSON readers lose the low bits of large numbers.
mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(hash: &u64, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&format_args!("{hash:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}
