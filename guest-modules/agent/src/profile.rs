// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which kernel functions ran, whoever ran them: KCOV follows the tasks of a program, not what they leave to kernel threads
//! and RCU. For reports; kernels without the function profiler say nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    thread,
    time::Duration,
};

use nix::mount::{MsFlags, mount};

const TRACING: &str = "/sys/kernel/tracing";
const SWITCH: &str = "/sys/kernel/tracing/function_profile_enabled";
/// A file a CPU: `  name  hits`, behind a heading.
const STATISTICS: &str = "/sys/kernel/tracing/trace_stat";
/// How long work left to others may take to run.
const SETTLE: Duration = Duration::from_secs(2);

/// Counts from now on, if the kernel can.
pub fn start() {
    if !Path::new(SWITCH).exists() {
        let _ = mount(Some("tracefs"), TRACING, Some("tracefs"), MsFlags::empty(), None::<&str>);
    }
    let _ = fs::write(SWITCH, "1");
}

/// Low halves of the addresses of the functions that ran since [`start`], and ends the count. A name that several functions
/// have stands for none.
pub fn stop() -> io::Result<BTreeSet<u32>> {
    if !Path::new(SWITCH).exists() {
        return Ok(BTreeSet::new());
    }
    thread::sleep(SETTLE);
    fs::write(SWITCH, "0")?;
    let mut ran = BTreeSet::new();
    for entry in fs::read_dir(STATISTICS)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("function") {
            let text = fs::read_to_string(entry.path())?;
            ran.extend(text.lines().filter_map(counted).map(str::to_owned));
        }
    }
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    let mut found: BTreeMap<&str, Option<u32>> = BTreeMap::new();
    for (name, address) in symbols.lines().filter_map(function).filter(|(name, _)| ran.contains(*name)) {
        found.entry(name).and_modify(|known| *known = None).or_insert(Some(address));
    }
    Ok(found.into_values().flatten().collect())
}

/// The function of a line of statistics.
fn counted(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let (name, hits) = (words.next()?, words.next()?);
    hits.parse::<u64>().is_ok().then_some(name)
}

/// Name and low half of the address of a line of kallsyms: `ffffffff81000000 T name`; modules have a fourth word.
fn function(line: &str) -> Option<(&str, u32)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [address, kind, name] = words[..] else { return None };
    let address = u64::from_str_radix(address, 16).ok()?;
    kind.eq_ignore_ascii_case("t").then_some((name, address as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_headings_are_not() {
        let text = "  Function                               Hit\n  --------                               ---\n  shrink_slab                             12\n";
        assert_eq!(text.lines().filter_map(counted).collect::<Vec<_>>(), ["shrink_slab"]);
        assert_eq!(function("ffffffff81234560 t shrink_slab"), Some(("shrink_slab", 0x8123_4560)));
        assert_eq!(function("ffffffff81234560 d shrinker_list"), None);
        assert_eq!(function("ffffffffa0000000 t ioctl\t[shrinktorture]"), None);
    }
}
