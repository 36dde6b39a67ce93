// SPDX-License-Identifier: MIT OR Apache-2.0
//! Limits that the kernel does not keep for all processes of a sandbox together: looked at from outside, again and again.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::sys::statvfs::statvfs;

use super::{Access, Limits, Plan};

/// Between two looks.
pub const INTERVAL: Duration = Duration::from_millis(100);
/// Between two looks where looking takes long.
pub const INTERVAL_MAX: Duration = Duration::from_secs(1);
/// What a command leaves of this machine's memory: it can fill it with what is no process's (files in memory, pipes),
/// and a machine may have less than the limit to begin with.
const MEMORY_LEFT_BYTES: u64 = 256 << 20;
/// What a command leaves of a disk it writes to.
const DISK_LEFT_BYTES: u64 = 512 << 20;
/// New files that it leaves room for.
const DISK_LEFT_FILES: u64 = 10_000;

/// What to look at.
#[derive(Debug)]
pub struct Watch {
    started: Instant,
    limits: Limits,
    writable: Vec<PathBuf>,
}

/// What one look shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sample {
    elapsed_seconds: u64,
    processes: u64,
    memory_bytes: u64,
    memory_left_bytes: Option<u64>,
    disk_left_bytes: Option<u64>,
    disk_left_files: Option<u64>,
}

impl Watch {
    /// From now on.
    pub fn new(plan: &Plan) -> Watch {
        let writable = plan.places.iter().filter(|place| place.access == Access::Write);
        Watch {
            started: Instant::now(),
            limits: plan.limits.clone(),
            writable: writable.map(|place| place.real.clone()).collect(),
        }
    }

    /// Which limit is passed by the processes below this one, if any; and what looking took.
    pub fn look(&self, init: u32) -> (Option<String>, Duration) {
        let started = Instant::now();
        let why = over(&self.limits, &self.sample(init));
        (why, started.elapsed())
    }

    fn sample(&self, init: u32) -> Sample {
        let mut sample = Sample { elapsed_seconds: self.started.elapsed().as_secs(), ..Sample::default() };
        for pid in family(init, &parents()) {
            // Whoever is gone meanwhile counts no more.
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            sample.processes += number(&status, "Threads:").unwrap_or(0);
            let held = ["RssAnon:", "RssShmem:", "VmSwap:", "VmPTE:"];
            let held_kib: u64 = held.iter().filter_map(|name| number(&status, name)).sum();
            sample.memory_bytes += held_kib * 1024;
        }
        let machine = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        sample.memory_left_bytes = number(&machine, "MemAvailable:").map(|kib| kib * 1024);
        for disk in self.writable.iter().filter_map(|path| statvfs(path).ok()) {
            let bytes = disk.blocks_available().saturating_mul(disk.fragment_size());
            sample.disk_left_bytes = Some(sample.disk_left_bytes.map_or(bytes, |least| least.min(bytes)));
            // Some filesystems have no such number.
            if disk.files() > 0 {
                let files = disk.files_available();
                sample.disk_left_files = Some(sample.disk_left_files.map_or(files, |least| least.min(files)));
            }
        }
        sample
    }
}

/// Which limit a sample passes.
fn over(limits: &Limits, sample: &Sample) -> Option<String> {
    let mib = |bytes: u64| bytes >> 20;
    if sample.elapsed_seconds >= limits.wall_seconds {
        return Some(format!("{} seconds are over", limits.wall_seconds));
    }
    if sample.processes > limits.processes {
        return Some(format!("{} processes, {} allowed", sample.processes, limits.processes));
    }
    if sample.memory_bytes > limits.memory_bytes {
        let (have, most) = (mib(sample.memory_bytes), mib(limits.memory_bytes));
        return Some(format!("{have} MiB of memory, {most} allowed"));
    }
    if let Some(left) = sample.memory_left_bytes.filter(|left| *left < MEMORY_LEFT_BYTES) {
        return Some(format!("this machine has {} MiB of memory left", mib(left)));
    }
    if let Some(left) = sample.disk_left_bytes.filter(|left| *left < DISK_LEFT_BYTES) {
        return Some(format!("a disk it writes to has {} MiB left", mib(left)));
    }
    let left = sample.disk_left_files.filter(|left| *left < DISK_LEFT_FILES)?;
    Some(format!("a disk it writes to has room for {left} files"))
}

/// Every process of this machine and its parent.
fn parents() -> HashMap<u32, u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect()
}

/// The parent in a line of `/proc/PID/stat`. The name before it can be anything.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Processes that descend from this one: of PID 1, all of its namespace, as whoever loses its parent becomes its child.
fn family(root: u32, parents: &HashMap<u32, u32>) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (pid, parent) in parents {
        children.entry(*parent).or_default().push(*pid);
    }
    let mut members = Vec::new();
    let mut next = children.remove(&root).unwrap_or_default();
    while let Some(pid) = next.pop() {
        members.push(pid);
        // Taken out, so that a picture with a circle (it is not taken in one instant) ends too.
        next.extend(children.remove(&pid).unwrap_or_default());
    }
    members
}

/// A number after its name, as `/proc` has them.
fn number(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_cannot_name_itself_into_another_family() {
        assert_eq!(parent("12 (make) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12 (a) S 1 (b) R 7 12 12 0"), Some(7));
        assert_eq!(parent("12"), None);
    }

    #[test]
    fn a_family_is_who_descends_from_it_and_ends_in_a_circle_too() {
        let parents = HashMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (6, 3), (7, 8), (8, 7)]);
        let sorted = |root| {
            let mut members = family(root, &parents);
            members.sort_unstable();
            members
        };
        assert_eq!(sorted(2), [3, 4, 6]);
        assert_eq!(sorted(5), [0; 0]);
        assert_eq!(sorted(7), [7, 8]);
    }

    #[test]
    fn each_limit_has_its_sentence_and_a_modest_command_none() {
        let limits = Limits { memory_bytes: 64 << 20, processes: 10, wall_seconds: 60, ..Limits::default() };
        let fine = Sample { elapsed_seconds: 59, processes: 10, memory_bytes: 64 << 20, ..Sample::default() };
        assert_eq!(over(&limits, &fine), None);
        for (sample, sentence) in [
            (Sample { elapsed_seconds: 60, ..fine.clone() }, "60 seconds are over"),
            (Sample { processes: 11, ..fine.clone() }, "11 processes, 10 allowed"),
            (Sample { memory_bytes: 65 << 20, ..fine.clone() }, "65 MiB of memory, 64 allowed"),
            (
                Sample { memory_left_bytes: Some(3 << 20), ..fine.clone() },
                "this machine has 3 MiB of memory left",
            ),
            (Sample { disk_left_bytes: Some(5 << 20), ..fine.clone() }, "a disk it writes to has 5 MiB left"),
            (Sample { disk_left_files: Some(9), ..fine.clone() }, "a disk it writes to has room for 9 files"),
        ] {
            assert_eq!(over(&limits, &sample).as_deref(), Some(sentence));
        }
    }

    #[test]
    fn numbers_are_found_by_their_whole_name() {
        let text = "Name:\tx\nRssAnon:\t     128 kB\nThreads:\t3\n";
        assert_eq!((number(text, "RssAnon:"), number(text, "Threads:")), (Some(128), Some(3)));
        assert_eq!(number(text, "Rss:"), None);
    }
}
