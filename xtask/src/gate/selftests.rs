// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own tests: KUnit's suites, which run while it boots, and programs of `tools/testing/selftests`, on a kernel
//! without debugging, where they take seconds. Each kernel runs those of its own tree. What the kernel complains of meanwhile
//! counts, and a test of KUnit that fails, where it does not without the series; what a program says is worth a look.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use harness::{
    guest::{Execution, GuestConfig, Leaks},
    machine::MachineEnd,
    oracle, plain,
    program::Schedule,
    run_dir::RunDir,
};
use regex::Regex;
use serde::{Deserialize, Serialize};

use super::{
    Gate, SPEED_SHARE,
    compile::refusal,
    outcome::{Check, Status},
    same, speed,
};
use crate::{
    exit::Bug,
    initramfs::Entry,
    kernel::{Begin, Trust, Workbench, artifact},
    matrix::Instance,
    paths,
    prepare::Prepared,
    proc, tools,
    userland::{self, Boot},
};

/// Of `tools/testing/selftests`: those that have to do with reclaim and end within seconds.
const PROGRAMS: [&str; 5] = [
    "cgroup/test_core",
    "cgroup/test_kmem",
    "cgroup/test_memcontrol",
    "cgroup/test_zswap",
    "mm/split_huge_page_test",
];
/// What the script calls.
const TOOLS: [&str; 3] = ["mkfs.ext4", "mkswap", "swapon"];
/// What the tests need: a file system with a disk (of memory), something to swap to, groups.
const SCRIPT: &str = "mkfs.ext4 -q /dev/ram0\nmount -t ext4 /dev/ram0 /tmp\nmount -t debugfs debugfs /sys/kernel/debug\n\
    mount -t cgroup2 cgroup2 /sys/fs/cgroup\ncd /tmp\necho 512M > /sys/block/zram0/disksize\nmkswap /dev/zram0\n\
    swapon /dev/zram0\necho Y > /sys/module/zswap/parameters/enabled\n";
/// How a program's beginning and end are told; its name follows.
const BEGIN: &str = "selftests: begin ";
const ENDED: &str = "selftests: ended ";
/// Said after the last.
const OVER: &str = "selftests: over";
/// The suites of KUnit run before PID 1 does; the disk of memory has 256 MiB.
const APPEND: &str = "kunit.enable=1 ramdisk_size=262144";
/// A program of selftests has at most so many bytes; statically linked they have one million.
const PROGRAM_BYTES_MAX: u64 = 16 << 20;
/// Longest that the kernel without the series is looked at: no gate waits for that twice.
const BASE_MAX: Duration = Duration::from_secs(1800);
/// The kernel with the series has this long at least.
const LIMIT_MIN: Duration = Duration::from_secs(60);

/// What a test says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Says {
    Ok,
    Skip,
    NotOk,
}

/// What came of a run of them all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// By test: `kunit SUITE.TEST`, `kselftest FOLDER/PROGRAM TEST`.
    said: BTreeMap<String, Says>,
    /// What the kernel complained of: title, and the report.
    reports: Vec<(String, String)>,
    /// The last program ended.
    whole: bool,
}

impl Gate<'_> {
    /// Runs them on both kernels.
    pub fn selftests(&mut self, base: &Prepared, patched: &Prepared) -> Result<()> {
        let began = Instant::now();
        if let Some(why) = self.same {
            let quick = speed::instance(&self.instance)?;
            let is_same = |quick: Instance| self.is_same_instance(&quick.name);
            if quick.map_or(Ok(Some(why)), is_same)?.is_some() {
                self.step("selftests", began, vec![same::check("tests", why)]);
                return Ok(());
            }
        }
        let old = self.selftests_of_base(base)?;
        let dir = paths::make_dir(&self.dir.join("selftests"))?;
        let checks = match self.quick(self.trust, &self.series.files()) {
            Ok(quick) => {
                let bench = self.bench(self.trust, Begin::AsItIs)?;
                bench.apply(&self.series.patches())?;
                let programs = programs(&bench)?;
                drop(bench);
                let left = self.until(1.0 - SPEED_SHARE).saturating_duration_since(Instant::now());
                let new = all(patched, quick.as_ref(), &programs, &dir, left.max(LIMIT_MIN))?;
                compare(&old, &new, &dir)
            }
            Err(error) => vec![refusal(error, "programs", "does not build without debugging")?],
        };
        self.step("selftests", began, checks);
        Ok(())
    }

    /// What the kernel without the series says: kept, for it does not change.
    ///
    /// # Errors
    /// When they do not end, or a machine fails.
    pub fn selftests_of_base(&self, base: &Prepared) -> Result<Ran> {
        let quick = self.quick(Trust::Own, &[])?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(include_bytes!("selftests.rs")).update(base.machine.config.key.as_bytes());
        hasher.update(quick.as_ref().map_or("", |quick| &quick.machine.config.key).as_bytes());
        hasher.update(&archive(&[])?);
        let dir = base.cache.dir("gate")?.join(format!("selftests-{}", &hasher.finalize().to_hex()[..16]));
        let done = dir.join("done.json");
        if let Some(kept) = fs::read(&done).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return Ok(kept);
        }
        paths::make_dir(&dir)?;
        eprintln!("gate: selftests on the kernel without the series, kept for the next time");
        let programs = programs(&self.bench(Trust::Own, Begin::Afresh)?)?;
        let ran = all(base, quick.as_ref(), &programs, &dir, BASE_MAX)?;
        ensure!(ran.whole, "the selftests of the kernel without the series do not end: {}", dir.display());
        paths::write_whole(&done, &serde_json::to_vec(&ran)?)?;
        Ok(ran)
    }

    /// A machine of the kernel without debugging, if the matrix has one.
    fn quick(&self, trust: Trust, patches: &[PathBuf]) -> Result<Option<Prepared>> {
        let instance = speed::instance(&self.instance)?;
        instance.map(|instance| self.prepare(&instance.name, trust, patches)).transpose()
    }

    fn bench(&self, trust: Trust, begin: Begin) -> Result<Workbench<'_>> {
        Workbench::open(&self.cache, &self.instance, self.linux.as_deref(), trust, begin)
    }
}

/// The programs that build, from the source as it is.
fn programs(bench: &Workbench<'_>) -> Result<Vec<(&'static str, Vec<u8>)>> {
    // From the kernel's folder, not /usr/include's: that one is older.
    let (text, ok) = bench.output(bench.make()?.arg("headers"))?;
    ensure!(ok, "make headers failed: {}", plain::block(&proc::tail(&text)));
    // A new folder: who built there before may have left links in the old one.
    let scratch = tempfile::tempdir_in(bench.scratch()?).context("folder for selftests")?;
    let mut built = Vec::new();
    for name in PROGRAMS {
        let (folder, program) = name.split_once('/').context("a folder and a program")?;
        if !bench.src().join(format!("tools/testing/selftests/{name}.c")).is_file() {
            continue;
        }
        let mut make = bench.program("make")?;
        make.arg("-C").arg(bench.seen_src().join("tools/testing/selftests").join(folder));
        make.arg(format!("OUTPUT={}", scratch.path().display())).arg("LDFLAGS=-static");
        make.arg(format!("CC=clang-{}", tools::LLVM));
        make.arg(format!("KHDR_INCLUDES=-isystem {}", bench.seen_out().join("usr/include").display()));
        let (text, ok) = bench.output(make.arg(scratch.path().join(program)))?;
        if !ok {
            eprintln!("gate: {name} does not build: {}", plain::line(proc::tail(&text).trim(), 200));
            continue;
        }
        built.push((name, artifact::read(scratch.path(), program, PROGRAM_BYTES_MAX)?));
    }
    Ok(built)
}

fn archive(programs: &[(&'static str, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut files = BTreeMap::new();
    userland::add_programs(&mut files, &TOOLS)?;
    let mut script = SCRIPT.to_owned();
    for (name, binary) in programs {
        files.insert(format!("selftests/{name}"), Entry::File(binary.clone(), true));
        script.push_str(&format!("echo '{BEGIN}{name}'\n/selftests/{name}\necho '{ENDED}{name}'\n"));
    }
    userland::archive(files, &format!("{script}echo '{OVER}'\n"))
}

/// KUnit on one kernel and programs on the other.
fn all(
    kunit: &Prepared,
    quick: Option<&Prepared>,
    programs: &[(&'static str, Vec<u8>)],
    dir: &Path,
    limit: Duration,
) -> Result<Ran> {
    let Some(quick) = quick else { return run(kunit, &[], &dir.join("kunit.log"), limit) };
    let (ran, more) = thread::scope(|scope| {
        let kunit = scope.spawn(|| run(kunit, &[], &dir.join("kunit.log"), limit));
        (kunit.join(), run(quick, programs, &dir.join("kselftest.log"), limit))
    });
    let (mut ran, more) = (ran.map_err(|_| Bug("a boot panicked".into()))??, more?);
    ran.said.extend(more.said);
    ran.reports.extend(more.reports);
    ran.whole &= more.whole;
    Ok(ran)
}

fn run(on: &Prepared, programs: &[(&'static str, Vec<u8>)], log: &Path, limit: Duration) -> Result<Ran> {
    let place = RunDir::new().context("cannot make a folder for running machines")?;
    let initramfs: PathBuf = place.path().join("initramfs");
    fs::write(&initramfs, archive(programs)?)?;
    let config = &on.machine.config;
    let append = format!("{} {APPEND}", config.append).trim().to_owned();
    let boot = Boot {
        guest: &GuestConfig { initramfs, append, ..config.clone() },
        schedule: Schedule::default(),
        execution: Execution::Deterministic,
        leaks: Leaks::Ignore,
        limit,
    };
    let (console, end) = boot.run(&place.path().join("guest"))?;
    paths::write_whole(log, &console)?;
    let text = String::from_utf8_lossy(&console);
    let whole = text.lines().any(|line| line.trim() == OVER) || !matches!(end, MachineEnd::Killed(_));
    let body =
        |report: &oracle::Report| String::from_utf8_lossy(&console[report.start..report.end]).into_owned();
    let reports =
        oracle::judge(&console).into_iter().map(|report| (report.title.clone(), body(&report))).collect();
    Ok(Ran { said: read(&text), reports, whole })
}

/// Reads KTAP, of KUnit between the kernel's messages and of programs.
fn read(console: &str) -> BTreeMap<String, Says> {
    static RESULT: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^( *)(not )?ok \d+(?: -)? *([^#]*?)\s*(?:# *(SKIP|XFAIL)? ?(.*))?$")
            .expect("it compiles")
    });
    static STAMP: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ").expect("it compiles"));
    let mut said = BTreeMap::new();
    let mut program: Option<String> = None;
    // The suite that results at a depth belong to.
    let mut suites: BTreeMap<usize, String> = BTreeMap::new();
    for line in console.lines() {
        let line = line.trim_end();
        let stamp = STAMP.find(line);
        let text = &line[stamp.map_or(0, |stamp| stamp.end())..];
        if let Some(name) = text.strip_prefix(BEGIN) {
            program = Some(name.to_owned());
        } else if text.starts_with(ENDED) {
            program = None;
        } else if let Some((indent, name)) = text.split_once("# Subtest: ") {
            suites.insert(indent.len(), name.to_owned());
        } else if let Some(parts) = RESULT.captures(text) {
            let says = match (parts.get(4), parts.get(2)) {
                (Some(_), _) => Says::Skip,
                (None, None) => Says::Ok,
                (None, Some(_)) => Says::NotOk,
            };
            // A program names what it skips after the directive.
            let name =
                if parts[3].is_empty() { parts.get(5).map_or("", |rest| rest.as_str()) } else { &parts[3] };
            let name = plain::line(name, 120);
            // The kernel's are marked with the time; a program's own are not.
            let name = match (&program, stamp, suites.get(&parts[1].len())) {
                (Some(program), None, _) => format!("kselftest {program} {name}"),
                (None, Some(_), Some(suite)) => format!("kunit {}.{name}", plain::line(suite, 120)),
                _ => continue,
            };
            // One name, many parameters: the worst counts.
            let worst = said.entry(name).or_insert(says);
            *worst = if *worst == Says::NotOk { Says::NotOk } else { says };
        }
    }
    said
}

fn compare(old: &Ran, new: &Ran, dir: &Path) -> Vec<Check> {
    let mut checks = Vec::new();
    for (title, report) in &new.reports {
        let is_old = old.reports.iter().any(|(other, _)| other == title);
        let status = if is_old { Status::Old } else { Status::Fail };
        let detail = plain::block(report);
        checks.push(Check { detail, folder: Some(dir.to_owned()), ..Check::new("report", status, title) });
    }
    for (name, says) in &new.said {
        let (status, text) = match (old.said.get(name), says) {
            (Some(Says::NotOk), Says::NotOk) => (Status::Old, "not ok"),
            (Some(Says::NotOk), Says::Ok) => (Status::Fixed, "not ok"),
            (Some(Says::Ok), Says::NotOk) => (Status::Fail, "not ok; it is ok without the series"),
            (_, Says::NotOk) => {
                (Status::Fail, "not ok; there is no such test without the series, or it is skipped")
            }
            (Some(Says::Ok), Says::Skip) => (Status::Note, "skipped; it is ok without the series"),
            _ => continue,
        };
        let (status, text) = match status {
            Status::Fixed if !is_exact(name) => (Status::Note, "ok; it is not ok without the series"),
            Status::Fail if !is_exact(name) => (Status::Note, text),
            _ => (status, text),
        };
        checks.push(Check { folder: Some(dir.to_owned()), ..Check::new(name, status, text) });
    }
    let is_cut_short = checks.iter().any(|check| check.name == "report") || !new.whole;
    let gone = old.said.iter().filter(|(name, says)| **says == Says::Ok && !new.said.contains_key(*name));
    for (name, _) in gone.filter(|_| !is_cut_short) {
        checks.push(Check::new(name, Status::Note, "did not run; it is ok without the series"));
    }
    let n_ok = new.said.values().filter(|says| **says == Says::Ok).count();
    let text = format!("{n_ok} of {} tests ok, {} without the series", new.said.len(), n_of(old));
    let (status, text) = match new.whole {
        true => (Status::Pass, text),
        false => (Status::Unsure, format!("{text}; then the time was over")),
    };
    checks.push(Check::new("tests", status, &text));
    checks
}

/// Whether a test says the same of every kernel that is right. Those of KUnit look at what functions return; programs weigh
/// memory and wait for a while, and what they say may turn with the luck of layout: a renamed function was seen to do that.
fn is_exact(name: &str) -> bool {
    name.starts_with("kunit ")
}

fn n_of(ran: &Ran) -> usize {
    ran.said.values().filter(|says| **says == Says::Ok).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "\
[    1.000000][    T1] KTAP version 1
[    1.000000][    T1] 1..2
[    1.000000][    T1]     KTAP version 1
[    1.000000][    T1]     # Subtest: slub_test
[    1.000000][    T1]     1..3
[    1.000000][    T1]     ok 1 test_clobber_zone
[    1.000000][    T1]     not ok 2 test_leak_destroy
[    1.000000][    T1]         KTAP version 1
[    1.000000][    T1]         # Subtest: test_with
[    1.000000][    T1]         not ok 1 a
[    1.000000][    T1]         ok 2 b
[    1.000000][    T1]     ok 3 test_krealloc # SKIP no krealloc
[    1.000000][    T1] # slub_test: pass:1 fail:1 skip:1 total:3
[    1.000000][    T1] not ok 1 slub_test
selftests: begin cgroup/test_kmem
[    2.000000][   T60] ok 7 that is the kernel's
ok 1 test_kmem_basic
not ok 2 test_percpu_basic
ok 3 # SKIP test_kmem_proc
selftests: ended cgroup/test_kmem
ok 9 nobody's
selftests: over
";

    #[test]
    fn results_of_kunit_and_of_programs_are_read() {
        let said: Vec<String> =
            read(CONSOLE).into_iter().map(|(name, says)| format!("{name}: {says:?}")).collect();
        assert_eq!(
            said,
            [
                "kselftest cgroup/test_kmem test_kmem_basic: Ok",
                "kselftest cgroup/test_kmem test_kmem_proc: Skip",
                "kselftest cgroup/test_kmem test_percpu_basic: NotOk",
                "kunit slub_test.test_clobber_zone: Ok",
                "kunit slub_test.test_krealloc: Skip",
                "kunit slub_test.test_leak_destroy: NotOk",
                "kunit test_with.a: NotOk",
                "kunit test_with.b: Ok",
            ]
        );
    }

    #[test]
    fn only_what_fails_anew_refuses_a_series() {
        let ran = |said: &[(&str, Says)]| Ran {
            said: said.iter().map(|(name, says)| ((*name).to_owned(), *says)).collect(),
            reports: Vec::new(),
            whole: true,
        };
        let old = ran(&[
            ("kselftest f", Says::Ok),
            ("kselftest g", Says::NotOk),
            ("kunit a", Says::Ok),
            ("kunit b", Says::NotOk),
            ("kunit c", Says::NotOk),
            ("kunit d", Says::Ok),
        ]);
        let new = ran(&[
            ("kselftest f", Says::NotOk),
            ("kselftest g", Says::Ok),
            ("kunit a", Says::NotOk),
            ("kunit b", Says::NotOk),
            ("kunit c", Says::Ok),
            ("kunit e", Says::NotOk),
        ]);
        let checks = compare(&old, &new, Path::new("x"));
        let status: Vec<_> = checks.iter().map(|check| (check.name.as_str(), check.status)).collect();
        assert_eq!(
            status,
            [
                ("kselftest f", Status::Note),
                ("kselftest g", Status::Note),
                ("kunit a", Status::Fail),
                ("kunit b", Status::Old),
                ("kunit c", Status::Fixed),
                ("kunit e", Status::Fail),
                ("kunit d", Status::Note),
                ("tests", Status::Pass)
            ]
        );
        let report = ("BUG: bad".to_owned(), "all of it".to_owned());
        let crashed = Ran { reports: vec![report], ..ran(&[("kunit a", Says::Ok)]) };
        assert_eq!(compare(&old, &crashed, Path::new("x"))[0].status, Status::Fail);
        assert_eq!(compare(&crashed, &crashed, Path::new("x"))[0].status, Status::Old);
        let slow = Ran { whole: false, ..old.clone() };
        assert_eq!(compare(&old, &slow, Path::new("x")).pop().unwrap().status, Status::Unsure);
    }
}
