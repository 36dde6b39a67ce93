// SPDX-License-Identifier: MIT OR Apache-2.0
//! Findings: told apart by title, kept as one folder each.
//!
//! ```text
//! findings/3-kasan-use-after-free-in-shrink-slab/
//!   report.md        for people
//!   console.log      what the guest printed, as it printed it
//!   program.txt      the program in flight
//!   batch/0000.txt … what ran, up to and including that program; nothing where the boot itself shows it
//!   config           of the kernel
//!   reproducer/      what shows it without this tool (`standalone`)
//!   provenance.yaml  what it ran on
//!   verdict.yaml     what the oracle says; written last
//! ```

mod record;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use harness::{
    epoch::Epoch,
    oracle::{self, Report, share_title},
    program::Program,
};
use serde::Deserialize;

use crate::{disk, report, standalone, status::FindingNote};

pub use self::record::{Minimized, Rate, Record, Tried, Verdict};

/// Longest title in a folder's name.
const SLUG_MAX: usize = 60;
const VERDICT: &str = "verdict.yaml";
const PROVENANCE: &str = "provenance.yaml";
const BATCH: &str = "batch";
const CONFIG: &str = "config";

/// All that is known of one finding.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The oracle's first report.
    pub report: Report,
    /// How the epoch ended, in words.
    pub end: String,
    /// What the guest printed.
    pub console: Vec<u8>,
    /// The report as printed, or the end of the console where there is none; with source lines.
    pub excerpt: String,
    /// Why it is no finding, where it is known to be none.
    pub known: Option<String>,
    /// What ran, up to and including the program in flight; nothing where the boot itself shows it.
    pub batch: Vec<Program>,
    /// What it ran on.
    pub record: Record,
    /// The kernel's configuration, where it is known.
    pub config: Option<String>,
    /// Campaign time when it was first seen.
    pub first_seen: Duration,
    /// Programs executed until then.
    pub execs: u64,
}

impl Evidence {
    /// Index of the program in flight, or of the last one, where all of them had ended; 0 where there is none.
    pub fn last(&self) -> usize {
        self.record.in_flight.unwrap_or(self.batch.len().saturating_sub(1))
    }

    /// The program to look at: the one in flight, or the only one.
    pub fn program(&self) -> Option<&Program> {
        match self.record.in_flight {
            Some(idx) => self.batch.get(idx),
            None if self.batch.len() == 1 => self.batch.first(),
            None => None,
        }
    }

    /// Version of the kernel, as its configuration has it.
    pub fn release(&self) -> Option<&str> {
        let head = self.config.as_deref()?.lines().take(5);
        head.filter_map(|line| line.strip_prefix("# Linux/")?.split(' ').nth(1)).next()
    }
}

/// A finding read back.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What the oracle said.
    pub verdict: Verdict,
    /// What it ran on.
    pub record: Record,
    /// What ran.
    pub batch: Vec<Program>,
    /// What the guest printed.
    pub console: Vec<u8>,
    /// The kernel's configuration, where it was kept.
    pub config: Option<String>,
}

impl Stored {
    /// The epoch that shows it again.
    pub fn epoch(&self) -> Epoch {
        let Record { canary, leak_scan, .. } = self.record;
        Epoch { programs: self.batch.clone(), canary, leak_scan, ..Epoch::default() }
    }

    /// All that is known of it, as when it was stored; `annotate` adds source lines.
    pub fn evidence(&self, annotate: &dyn Fn(&str) -> String) -> Evidence {
        let verdict = &self.verdict;
        let reports = oracle::judge(&self.console);
        let is_same = |report: &Report| report.titles().any(|title| title == verdict.title);
        let mut report = oracle::telling(&reports, is_same).cloned().unwrap_or_default();
        report.title.clone_from(&verdict.title);
        report.alt_titles.clone_from(&verdict.alt_titles);
        report.corrupted.clone_from(&verdict.corrupted);
        report.kind.clone_from(&verdict.kind);
        report.frame.clone_from(&verdict.frame);
        Evidence {
            excerpt: report::excerpt(&report, &self.console, annotate),
            report,
            end: verdict.end.clone(),
            console: self.console.clone(),
            known: verdict.known.clone(),
            batch: self.batch.clone(),
            record: self.record.clone(),
            config: self.config.clone(),
            first_seen: Duration::try_from_secs_f64(verdict.first_seen_secs).unwrap_or_default(),
            execs: verdict.execs,
        }
    }
}

/// Reads the folder of a finding.
///
/// # Errors
/// Names the file that is missing or wrong.
pub fn load(dir: &Path) -> Result<Stored> {
    let verdict = read_yaml(&dir.join(VERDICT))?;
    let record: Record = read_yaml(&dir.join(PROVENANCE))?;
    let batch = record.batch.iter().map(|name| {
        let path = dir.join(BATCH).join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        text.parse::<Program>().with_context(|| format!("parse {}", path.display()))
    });
    let batch = batch.collect::<Result<Vec<Program>>>()?;
    let path = dir.join("console.log");
    let console = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let config = fs::read_to_string(dir.join(CONFIG)).ok();
    Ok(Stored { verdict, record, batch, console, config })
}

fn read_yaml<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_yaml::from_str(&text).with_context(|| format!("parse {}", path.display()))
}

/// The findings of a campaign.
#[derive(Debug)]
pub struct Findings {
    dir: PathBuf,
    known: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    note: FindingNote,
    titles: Vec<String>,
}

impl Findings {
    /// Reads the folder, makes it when it is not there, and completes what a kill interrupted. Returns a warning for
    /// each folder that is no finding.
    ///
    /// # Errors
    /// When the folder cannot be read or made.
    pub fn open(dir: &Path) -> Result<(Findings, Vec<String>)> {
        disk::make_dir(dir)?;
        disk::complete_dirs(dir, VERDICT)?;
        let mut findings = Findings { dir: dir.to_owned(), known: Vec::new() };
        let mut warnings = Vec::new();
        for path in disk::list(dir)? {
            match load(&path) {
                Ok(stored) => findings.known.push(Known::new(&path, &stored)),
                Err(error) => warnings.push(format!("{} is no finding: {error:#}", path.display())),
            }
        }
        findings.known.sort_by_key(|known| number(&known.note.dir));
        Ok((findings, warnings))
    }

    /// Index of the finding that has this title, or one of the others it goes by. What is known to be harmless may have the
    /// title of what is not.
    pub fn find(&self, report: &Report, is_known: bool) -> Option<usize> {
        let shares = |known: &Known| {
            known.note.known.is_some() == is_known
                && share_title(report.titles(), known.titles.iter().map(String::as_str))
        };
        self.known.iter().position(shares)
    }

    /// Seen again.
    pub fn repeat(&mut self, idx: usize) {
        self.known[idx].note.count += 1;
    }

    /// Sets how often findings were seen, from a stored campaign, by title.
    pub fn set_count(&mut self, title: &str, count: u64) {
        let known = self.known.iter_mut().find(|known| known.titles.iter().any(|known| known == title));
        if let Some(known) = known {
            known.note.count = count.max(1);
        }
    }

    /// Writes a new finding; its index.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, evidence: &Evidence) -> Result<usize> {
        let next = self.known.iter().map(|known| number(&known.note.dir)).max().unwrap_or(0) + 1;
        let dir = self.dir.join(format!("{next}-{}", slug(&evidence.report.title)));
        store(evidence, &dir)?;
        let titles = evidence.report.titles().map(str::to_owned).collect();
        let note = FindingNote {
            title: evidence.report.title.clone(),
            dir,
            count: 1,
            first_seen: evidence.first_seen,
            execs: evidence.execs,
            n_programs: evidence.batch.len(),
            n_ops: evidence.batch.last().map_or(0, Program::n_ops),
            known: evidence.known.clone(),
        };
        self.known.push(Known { note, titles });
        Ok(self.known.len() - 1)
    }

    /// Puts better evidence in the place of what a finding has.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace(&mut self, idx: usize, evidence: &Evidence) -> Result<()> {
        let known = &mut self.known[idx];
        store(evidence, &known.note.dir)?;
        known.note.n_programs = evidence.batch.len();
        known.note.n_ops = evidence.batch.last().map_or(0, Program::n_ops);
        known.note.title.clone_from(&evidence.report.title);
        known.titles = evidence.report.titles().map(str::to_owned).collect();
        Ok(())
    }

    /// One finding, in short.
    pub fn note(&self, idx: usize) -> &FindingNote {
        &self.known[idx].note
    }

    /// All of them, in order of discovery.
    pub fn notes(&self) -> impl Iterator<Item = &FindingNote> {
        self.known.iter().map(|known| &known.note)
    }
}

impl Known {
    fn new(dir: &Path, stored: &Stored) -> Known {
        let verdict = &stored.verdict;
        let titles = verdict.titles().map(str::to_owned).collect();
        let note = FindingNote {
            title: verdict.title.clone(),
            dir: dir.to_owned(),
            count: 1,
            first_seen: Duration::try_from_secs_f64(verdict.first_seen_secs).unwrap_or_default(),
            execs: verdict.execs,
            n_programs: stored.batch.len(),
            n_ops: stored.batch.last().map_or(0, Program::n_ops),
            known: verdict.known.clone(),
        };
        Known { note, titles }
    }
}

/// Writes a finding's folder; one that is there is replaced.
///
/// # Errors
/// When it cannot be written.
pub fn store(evidence: &Evidence, dir: &Path) -> Result<()> {
    write(evidence, dir, &[])
}

/// Writes the folder of a finding of which more is known now. What others have put there stays.
///
/// # Errors
/// When it cannot be written.
pub fn update(evidence: &Evidence, dir: &Path) -> Result<()> {
    let others = disk::list(dir)?.into_iter().filter(|path| path.is_file());
    write(evidence, dir, &others.collect::<Vec<_>>())
}

/// Writes the folder, with copies of files that it would not have.
fn write(evidence: &Evidence, dir: &Path, others: &[PathBuf]) -> Result<()> {
    let report = &evidence.report;
    let names: Vec<String> = (0..evidence.batch.len()).map(|idx| format!("{idx:04}.txt")).collect();
    let record = Record { batch: names.clone(), ..evidence.record.clone() };
    let verdict = Verdict {
        title: report.title.clone(),
        alt_titles: report.alt_titles.clone(),
        kind: report.kind.clone(),
        frame: report.frame.clone(),
        stack_hash: format!("{:016x}", report.stack_hash),
        corrupted: report.corrupted.clone(),
        end: evidence.end.clone(),
        first_seen_secs: evidence.first_seen.as_secs_f64(),
        execs: evidence.execs,
        known: evidence.known.clone(),
    };
    disk::write_dir(dir, |temporary| {
        let batch = temporary.join(BATCH);
        disk::make_dir(&batch)?;
        for (name, program) in names.iter().zip(&evidence.batch) {
            disk::write(&batch.join(name), program.to_string().as_bytes())?;
        }
        if let Some(program) = evidence.program() {
            disk::write(&temporary.join("program.txt"), program.to_string().as_bytes())?;
        }
        disk::write(&temporary.join("console.log"), &evidence.console)?;
        let reproducer = standalone::of_finding(evidence);
        if let Ok(reproducer) = &reproducer {
            let folder = temporary.join(standalone::FOLDER);
            disk::make_dir(&folder)?;
            for (name, text) in reproducer.files() {
                disk::write(&folder.join(name), text.as_bytes())?;
            }
        }
        if let Some(config) = &evidence.config {
            disk::write(&temporary.join(CONFIG), config.as_bytes())?;
        }
        let report = report::render(evidence, &reproducer, dir);
        disk::write(&temporary.join("report.md"), report.as_bytes())?;
        for path in others {
            let copy = temporary.join(path.file_name().unwrap_or_default());
            if !copy.exists() && !path.ends_with(PROVENANCE) && !path.ends_with(VERDICT) {
                fs::copy(path, &copy).with_context(|| format!("copy {}", path.display()))?;
            }
        }
        disk::write(&temporary.join(PROVENANCE), serde_yaml::to_string(&record)?.as_bytes())?;
        disk::write(&temporary.join(VERDICT), serde_yaml::to_string(&verdict)?.as_bytes())
    })
}

/// The number a finding's folder begins with.
fn number(dir: &Path) -> u64 {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    name.split('-').next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// A title as part of a file name.
fn slug(title: &str) -> String {
    let words = title.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut slug = String::new();
    for word in words {
        if slug.len() + 1 + word.len() > SLUG_MAX {
            break;
        }
        if !slug.is_empty() {
            slug.push('-');
        }
        slug.push_str(&word.to_ascii_lowercase());
    }
    slug
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{corpus::SEEDS, guests::Provenance};

    fn evidence(title: &str) -> Evidence {
        let batch: Vec<Program> = SEEDS.iter().take(3).map(|(_, text)| text.parse().unwrap()).collect();
        let console = b"[1.0] BUG: something in shrink_slab\n[1.1] ```\n".to_vec();
        let record = Record {
            provenance: Provenance {
                instance: "kasan-6.12".into(),
                engine: "det".into(),
                ..Provenance::default()
            },
            schedule: batch[0].schedule,
            canary: 0,
            leak_scan: true,
            seed: u64::MAX,
            in_flight: Some(2),
            reduced_from: None,
            confirmed: false,
            minimized: None,
            rates: std::collections::BTreeMap::new(),
            standalone: None,
            batch: Vec::new(),
        };
        let alt_titles = vec![format!("{title}, otherwise")];
        let report = Report { title: title.into(), alt_titles, end: console.len(), ..Report::default() };
        let first_seen = Duration::from_millis(1500);
        Evidence {
            excerpt: report::excerpt(&report, &console, &str::to_owned),
            known: None,
            report,
            end: "kernel".into(),
            console,
            batch,
            record,
            config: Some("#\n# x\n# Linux/x86 6.12.117 Kernel Configuration\n#\n".into()),
            first_seen,
            execs: 9,
        }
    }

    #[test]
    fn a_finding_is_written_read_back_and_known_by_any_of_its_titles() {
        let dir = tempfile::tempdir().unwrap();
        let (mut findings, _) = Findings::open(dir.path()).unwrap();
        let first = evidence("KASAN: use-after-free Read in shrink_slab");
        assert_eq!(findings.find(&first.report, false), None);
        findings.add(&first).unwrap();
        findings.add(&evidence("INFO: task hung in shrinker_free")).unwrap();
        assert_eq!(findings.note(0).dir, dir.path().join("1-kasan-use-after-free-read-in-shrink-slab"));

        let (findings, warnings) = Findings::open(dir.path()).unwrap();
        assert_eq!(warnings, [""; 0]);
        let other_name =
            Report { title: "INFO: task hung in shrinker_free, otherwise".into(), ..Report::default() };
        assert_eq!(findings.find(&other_name, false), Some(1));
        let stored = load(&findings.note(0).dir).unwrap();
        assert_eq!(stored.batch, first.batch);
        assert_eq!(stored.console, first.console);
        assert_eq!(stored.verdict.first_seen_secs, 1.5);
        assert_eq!(stored.record.batch, ["0000.txt", "0001.txt", "0002.txt"]);
        let epoch = stored.epoch();
        assert!(epoch.leak_scan && epoch.programs == first.batch);
        let text = fs::read_to_string(findings.note(0).dir.join("report.md")).unwrap();
        for part in [
            "KASAN: use-after-free",
            "\n====",
            "cargo xtask repro",
            "\n    [1.1] ```\n",
            "Linux 6.12.117",
            "batch/0001.txt",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(text.contains("shrinker_alloc(numa|memcg) into slot 2"), "{text}");
    }

    #[test]
    fn a_finding_is_called_what_its_console_is_triaged_as() {
        let console = b"[    9.000000][   T42] BUG: KASAN: slab-use-after-free in shrink_slab+0x1/0x2\n\
            [    9.000001][   T42] Read of size 1 at addr ffff888000a03800 by task init/42\n\
            [    9.000002][   T42] Call Trace:\n[    9.000003][   T42]  shrink_slab+0x1/0x2\n";
        let dir = tempfile::tempdir().unwrap();
        let (mut findings, _) = Findings::open(dir.path()).unwrap();
        let first = evidence("found by this name");
        let idx = findings.add(&first).unwrap();
        // A smaller batch shows it under another of its names.
        let mut better = evidence("");
        better.console = console.to_vec();
        better.report = oracle::judge(console).remove(0);
        better.report.add_titles([first.report.title.clone(), better.report.title.clone()]);
        findings.replace(idx, &better).unwrap();
        let (findings, _) = Findings::open(dir.path()).unwrap();
        let stored = load(&findings.note(0).dir).unwrap();
        let triaged = &oracle::judge(&stored.console)[0];
        assert_eq!(triaged.title, "KASAN: slab-use-after-free Read in shrink_slab");
        assert_eq!(stored.verdict.title, triaged.title);
        assert_eq!(findings.find(triaged, false), Some(0));
        assert_eq!(findings.find(&first.report, false), Some(0));
    }

    #[test]
    fn a_kill_between_two_renames_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (mut findings, _) = Findings::open(dir.path()).unwrap();
        findings.add(&evidence("one")).unwrap();
        findings.add(&evidence("two")).unwrap();
        let (whole, cut) = (findings.note(0).dir.clone(), findings.note(1).dir.clone());
        fs::rename(&whole, disk::partial(&whole)).unwrap();
        fs::remove_file(cut.join(VERDICT)).unwrap();
        fs::rename(&cut, disk::partial(&cut)).unwrap();
        let (findings, warnings) = Findings::open(dir.path()).unwrap();
        assert_eq!(warnings, [""; 0]);
        assert_eq!(findings.notes().map(|note| note.title.as_str()).collect::<Vec<_>>(), ["one"]);
    }

    #[test]
    fn slugs_are_file_names() {
        assert_eq!(slug("BUG: ../../etc; rm -rf *"), "bug-etc-rm-rf");
        assert!(slug(&"long ".repeat(100)).len() <= SLUG_MAX);
    }
}
