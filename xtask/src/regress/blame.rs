// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the time went: stacks of blocked tasks, as `sysrq-w` prints them, and of workers that wait for a CPU, as the agent
//! does; by how often they were seen. Pure.

use std::{collections::BTreeMap, sync::LazyLock};

use regex::Regex;
use serde::Serialize;

/// Frames kept of a stack.
const FRAMES_MAX: usize = 12;

/// ` shrinker_free+0x12/0x80`, behind whatever printk puts before; what the unwinder is not sure of has a `?`.
static FRAME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?:\[[^\]]*\])*(?: SHRINKTORTURE:)? +([A-Za-z_][A-Za-z0-9_.]*)\+0x[0-9a-f]+/0x[0-9a-f]+")
        .expect("a constant")
});
/// `task:stress-ng state:D`.
static TASK: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?:\[[^\]]*\])*(?: SHRINKTORTURE:)? *task:(\S+) +state:[DR]").expect("a constant")
});

/// How a task comes to wait, which is the same in all.
const SLEEPING: [&str; 17] = [
    "preempt_schedule",
    "preempt_schedule_common",
    "preempt_schedule_thunk",
    "__schedule",
    "schedule",
    "schedule_timeout",
    "schedule_hrtimeout_range",
    "schedule_preempt_disabled",
    "wait_for_completion",
    "__wait_for_common",
    "wait_for_common",
    "wait_for_completion_state",
    "io_schedule",
    "rwsem_down_write_slowpath",
    "rwsem_down_read_slowpath",
    "__mutex_lock",
    "__mutex_lock_slowpath",
];

/// A stack, and how often it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stack {
    /// Times seen.
    pub count: u64,
    /// Whose it is.
    pub task: String,
    /// Functions, innermost first, without those that only put a task to sleep.
    pub frames: Vec<String>,
}

/// The stacks of blocked tasks in a console, the commonest first.
pub fn blocked(console: &str) -> Vec<Stack> {
    let mut seen: BTreeMap<Vec<String>, (u64, String)> = BTreeMap::new();
    let mut task: Option<(String, Vec<String>)> = None;
    let mut close = |task: &mut Option<(String, Vec<String>)>| {
        if let Some((name, frames)) = task.take().filter(|(_, frames)| !frames.is_empty()) {
            seen.entry(frames).or_insert((0, name)).0 += 1;
        }
    };
    for line in console.lines() {
        if let Some(found) = TASK.captures(line) {
            close(&mut task);
            task = Some((found[1].to_owned(), Vec::new()));
        } else if line.contains("sysrq: ") {
            close(&mut task);
        } else if let (Some((_, frames)), Some(found)) = (&mut task, FRAME.captures(line)) {
            let name = &found[1];
            let leads_to_sleep = frames.is_empty() && SLEEPING.contains(&name);
            if frames.len() < FRAMES_MAX && !leads_to_sleep && !name.starts_with("entry_SYSCALL") {
                frames.push(name.to_owned());
            }
        }
    }
    close(&mut task);
    let stacks = seen.into_iter().map(|(frames, (count, task))| Stack { count, task, frames });
    let mut stacks: Vec<Stack> = stacks.collect();
    stacks.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.frames.cmp(&b.frames)));
    stacks
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "\
[    5.1][   T12] sysrq: Show Blocked State
[    5.1][   T12] task:stress-ng       state:D stack:0     pid:70
[    5.1][   T12] Call Trace:
[    5.1][   T12]  <TASK>
[    5.1][   T12]  __schedule+0x1/0x2
[    5.1][   T12]  schedule+0x1/0x2
[    5.1][   T12]  ? lost+0x1/0x2
[    5.1][   T12]  __wait_for_common+0x1/0x2
[    5.1][   T12]  __synchronize_srcu+0x1/0x2
[    5.1][   T12]  shrinker_free+0x1/0x2
[    5.1][   T12]  entry_SYSCALL_64_after_hwframe+0x1/0x2
[    5.1][   T12]  </TASK>
[    5.2][   T12] sysrq: Show Blocked State
[    5.2][   T12] task:stress-ng       state:D stack:0     pid:71
[    5.2][   T12]  __schedule+0x1/0x2
[    5.2][   T12]  __synchronize_srcu+0x9/0x2
[    5.2][   T12]  shrinker_free+0x1/0x2
[    5.3][   T12] task:kworker         state:D stack:0     pid:72
[    5.3][   T12]  __schedule+0x1/0x2
[    5.3][   T12]  other+0x1/0x2
[    5.4][   T12] SHRINKTORTURE: task:init state:R
[    5.4][   T12] SHRINKTORTURE:  preempt_schedule_thunk+0x1/0x2
[    5.4][   T12] SHRINKTORTURE:  run+0x1/0x2
[    5.4][   T12] SHRINKTORTURE:  entry_SYSCALL_64_after_hwframe+0x1/0x2
";

    #[test]
    fn equal_stacks_are_counted_without_what_only_sleeps() {
        let stacks = blocked(CONSOLE);
        assert_eq!(stacks.len(), 3);
        assert_eq!((stacks[0].count, stacks[0].task.as_str()), (2, "stress-ng"));
        assert_eq!(stacks[0].frames, ["__synchronize_srcu", "shrinker_free"]);
        assert_eq!(stacks[1].frames, ["other"]);
        assert_eq!((stacks[2].task.as_str(), &stacks[2].frames), ("init", &vec!["run".to_owned()]));
        assert!(blocked("nothing").is_empty());
    }
}
