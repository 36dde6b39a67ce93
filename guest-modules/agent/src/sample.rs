// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where do tasks wait? `shrinktorture.sample_ms=N` on the kernel's command line has the stacks of blocked tasks printed about
//! every N ms while programs run, for `xtask regress`; and those of workers that have to wait for a CPU, which the kernel
//! does not call blocked.

use std::{fs, thread, time::Duration};

use crate::{boot::put, log};

const ARGUMENT: &str = "shrinktorture.sample_ms=";

/// Begins to sample, where that is asked for. To be called after the workers were forked.
pub fn start() {
    let arguments = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let asked = arguments.split_whitespace().find_map(|word| word.strip_prefix(ARGUMENT)?.parse().ok());
    let Some(period_ms) = asked.filter(|&ms: &u64| ms > 0) else { return };
    let workers = children();
    thread::spawn(move || {
        for nth in 1_u64.. {
            // Half to one and a half of it: a deterministic machine would be looked at in the same place each time.
            thread::sleep(Duration::from_micros(period_ms * (500 + nth * 618 % 1000)));
            let _ = put("/proc/sysrq-trigger", "w");
            workers.iter().for_each(|pid| print_if_runnable(pid));
        }
    });
}

/// Processes that this one has made.
fn children() -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(|pid| status(pid).is_some_and(|(_, parent)| parent == std::process::id())).collect()
}

/// Of a process: its state's letter, and its parent.
fn status(pid: &str) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = stat.rsplit_once(") ")?.1.split(' ');
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// As sysrq prints those that are blocked. What runs has no stack that another CPU could read.
fn print_if_runnable(pid: &str) {
    if status(pid).is_some_and(|(state, _)| state == 'R')
        && let Ok(stack) = fs::read_to_string(format!("/proc/{pid}/stack"))
        && stack.contains('+')
    {
        log::say("task:init state:R");
        for frame in stack.lines().filter_map(|line| line.split_once("] ")) {
            log::say(&format!(" {}", frame.1));
        }
    }
}
