// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole campaigns over fake guests.

mod fake;

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use fake::{BOOT, FakeGuests, HANG, LEAK, RACE, Trouble, judge};
use fuzz::{
    campaign::run,
    config::{BatchSize, CampaignConfig, Focus, LeakScan, Reduce},
    findings,
    status::{CampaignEnd, Event, Summary},
};
use harness::{
    oracle::Report,
    program::{Program, Schedule},
};

static NEVER: AtomicBool = AtomicBool::new(false);

fn config(dir: &Path, seed: u64, execs_max: u64) -> CampaignConfig<'static> {
    CampaignConfig {
        dir: dir.to_owned(),
        instance: "fake".into(),
        seed,
        // Only a loop that hangs meets it.
        time_max: Some(Duration::from_secs(120)),
        execs_max: Some(execs_max),
        stop: &NEVER,
        schedules: vec![Schedule { vcpus: 2, shift: 3 }, Schedule { vcpus: 4, shift: 3 }],
        jobs: 2,
        batch: BatchSize::Fixed(32),
        seeds: fuzz::corpus::seeds().unwrap(),
        focus: Focus::default(),
        canary: 0,
        leak_scan: LeakScan::Corpus(8),
        walk_prob: 0.2,
        reduce: Reduce::Batch,
        judge: &judge,
        known: &|_, _| None,
        annotate: &|text: &str| text.to_owned(),
    }
}

fn fuzz(config: &CampaignConfig<'_>) -> (Summary, Vec<Event>) {
    fuzz_with(config, &mut FakeGuests::healthy())
}

fn fuzz_with(config: &CampaignConfig<'_>, guests: &mut FakeGuests) -> (Summary, Vec<Event>) {
    let mut events = Vec::new();
    let summary = run(config.clone(), guests, &mut |event| events.push(event)).unwrap();
    (summary, events)
}

fn warnings(events: &[Event]) -> Vec<&str> {
    let mut texts = Vec::new();
    for event in events {
        if let Event::Warning(text) = event {
            texts.push(text.as_str());
        }
    }
    texts
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Whole files of a campaign's folder that may not be there yet.
fn list(dir: &Path, folder: &str) -> BTreeSet<PathBuf> {
    fuzz::disk::list(&dir.join(folder)).unwrap_or_default().into_iter().collect()
}

fn titles(summary: &Summary) -> BTreeSet<&str> {
    summary.findings.iter().map(|note| note.title.as_str()).collect()
}

#[test]
fn every_planted_bug_is_found_once_and_reduced_to_one_program() {
    let dir = tempfile::tempdir().unwrap();
    let (summary, events) = fuzz(&config(dir.path(), 1, 6_000));
    assert_eq!(summary.end, CampaignEnd::Execs);
    assert_eq!(titles(&summary), BTreeSet::from([HANG, RACE, LEAK]));
    assert_eq!(names(&dir.path().join("findings")).len(), 3);
    assert!(summary.status.findings_total > 3, "repeats are counted, not stored");
    for note in &summary.findings {
        let stored = findings::load(&note.dir).unwrap();
        assert_eq!(stored.batch.len(), 1, "{}", note.title);
        assert!(stored.record.confirmed, "{}", note.title);
        assert_eq!(stored.record.provenance.instance, "fake");
        assert_eq!(judge(&stored.console)[0].title, note.title);
        let program: Program = fs::read_to_string(note.dir.join("program.txt")).unwrap().parse().unwrap();
        assert_eq!(program, stored.batch[0]);
    }
    let new = events.iter().filter(|event| matches!(event, Event::NewFinding(_))).count();
    assert_eq!(new, 3);
    assert!(summary.phases.iter().any(|(name, _)| *name == "guests"), "{:?}", summary.phases);
}

#[test]
fn programs_are_minimised_and_a_killed_campaign_goes_on_with_that() {
    let dir = tempfile::tempdir().unwrap();
    let config = CampaignConfig { reduce: Reduce::Program, ..config(dir.path(), 1, 6_000) };
    // The first finding is at work when it is killed.
    let mut guests = FakeGuests::new(|n| if n == 30 { Trouble::Kill } else { Trouble::None });
    catch_unwind(AssertUnwindSafe(|| fuzz_with(&config, &mut guests))).unwrap_err();
    let half = list(dir.path(), "findings");
    let is_finished = |dir: &Path| {
        findings::load(dir).unwrap().record.minimized.is_some_and(|minimized| minimized.finished)
    };
    assert!(half.iter().any(|dir| !is_finished(dir)), "{half:?}");

    let (summary, events) = fuzz(&config);
    assert_eq!(titles(&summary), BTreeSet::from([HANG, RACE, LEAK]));
    for note in &summary.findings {
        let stored = findings::load(&note.dir).unwrap();
        let size = stored.record.minimized.clone().unwrap();
        assert!(size.finished && size.runs > 0, "{size:?}");
        assert!(stored.batch[0].n_ops() < size.ops, "{}", stored.batch[0]);
        // A leak gets fewer runs.
        assert!(note.title == LEAK || stored.batch[0].n_ops() <= 6, "{}", stored.batch[0]);
        assert_eq!(judge(&stored.console)[0].title, note.title);
    }
    let told = events.iter().filter(|event| matches!(event, Event::Minimized(_))).count();
    assert_eq!(told, 3);
    // With nothing left to do.
    let (_, events) = fuzz(&config);
    assert!(!events.iter().any(|event| matches!(event, Event::Minimized(_) | Event::Reduced(_))));
}

#[test]
fn what_was_found_is_minimised_when_the_programs_are_all_run() {
    let first_found = {
        let dir = tempfile::tempdir().unwrap();
        let (summary, _) = fuzz(&config(dir.path(), 1, 6_000));
        summary.findings.iter().map(|note| note.execs).min().unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let config = CampaignConfig { reduce: Reduce::Program, ..config(dir.path(), 1, first_found) };
    let (summary, events) = fuzz(&config);
    assert_eq!(summary.end, CampaignEnd::Execs);
    assert!(!summary.findings.is_empty());
    let told = events.iter().filter(|event| matches!(event, Event::Minimized(_))).count();
    assert_eq!(told, summary.findings.len());
}

#[test]
fn what_is_known_to_be_harmless_is_kept_and_is_no_finding() {
    let dir = tempfile::tempdir().unwrap();
    let known = |report: &Report, _: &[u8]| (report.title == RACE).then(|| "of old".to_owned());
    let (summary, events) = fuzz(&CampaignConfig { known: &known, ..config(dir.path(), 1, 6_000) });
    assert_eq!(titles(&summary), BTreeSet::from([HANG, LEAK]));
    let [note] = summary.known.as_slice() else { panic!("{:?}", summary.known) };
    assert_eq!(note.title, RACE);
    assert!(note.count > 1, "repeats are counted");
    assert_eq!(findings::load(&note.dir).unwrap().verdict.title, RACE);
    assert_eq!((summary.status.findings, summary.status.known), (2, 1));
    let told = events
        .iter()
        .filter(|event| matches!(event, Event::Known(note) if note.known.as_deref() == Some("of old")));
    assert_eq!(told.count(), 1);
    // Found again when it is read back.
    let (findings, _) = findings::Findings::open(&dir.path().join("findings")).unwrap();
    let race = Report { title: RACE.into(), ..Report::default() };
    assert!(findings.find(&race, true).is_some());
    assert_eq!(findings.find(&race, false), None, "one that is not known would be news");
}

#[test]
fn a_finding_replays_from_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (summary, _) = fuzz(&config(dir.path(), 2, 6_000));
    assert!(!summary.findings.is_empty());
    for note in &summary.findings {
        use fuzz::guests::Guests;
        let mut guests = FakeGuests::healthy();
        let number = guests.submit(findings::load(&note.dir).unwrap().epoch()).unwrap();
        let outcome = guests.answer(number, Duration::ZERO).unwrap().unwrap();
        assert_eq!(judge(&outcome.console)[0].title, note.title);
    }
}

#[test]
fn the_same_seed_gives_the_same_campaign() {
    let campaign = |seed| {
        let dir = tempfile::tempdir().unwrap();
        let (summary, _) = fuzz(&config(dir.path(), seed, 5_000));
        let findings: Vec<_> = summary.findings.iter().map(|note| (note.title.clone(), note.execs)).collect();
        (names(&dir.path().join("corpus")), findings, summary.status.execs)
    };
    let (first, second, other) = (campaign(3), campaign(3), campaign(4));
    assert!(first.0.len() > 50, "{} programs in the corpus", first.0.len());
    assert_eq!(first, second);
    assert_ne!(first.0, other.0);
}

#[test]
fn a_known_bug_does_not_starve_the_campaign() {
    // Nearly every epoch dies; programs behind the crash must have their turn all the same.
    let dir = tempfile::tempdir().unwrap();
    let mut guests = FakeGuests::healthy();
    let (summary, _) = fuzz_with(&config(dir.path(), 5, 6_000), &mut guests);
    let status = &summary.status;
    assert!(status.findings_total > 10, "the model's bugs are common: {}", status.findings_total);
    assert!(status.corpus > 50 && status.edges > 500, "{status}");
    assert!(guests.sizes.iter().all(|&size| size <= 32));
}

#[test]
fn a_killed_campaign_goes_on_with_one_call() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 6, 6_000);
    let mut guests = FakeGuests::new(|n| if n == 80 { Trouble::Kill } else { Trouble::None });
    catch_unwind(AssertUnwindSafe(|| fuzz_with(&config, &mut guests))).unwrap_err();
    let (corpus, found) = (names(&dir.path().join("corpus")), names(&dir.path().join("findings")));
    assert!(corpus.len() > 20 && !found.is_empty());

    let (summary, events) = fuzz(&config);
    assert_eq!(warnings(&events), [""; 0]);
    assert!(summary.status.execs >= 6_000);
    assert!(names(&dir.path().join("corpus")).is_superset(&corpus));
    assert!(names(&dir.path().join("findings")).is_superset(&found));
    let mut unique = titles(&summary);
    assert_eq!(unique.len(), summary.findings.len(), "nothing is found anew");
    assert!(unique.remove(HANG) || unique.remove(RACE) || unique.remove(LEAK));
    let stats = fs::read_to_string(dir.path().join("stats.jsonl")).unwrap();
    assert!(stats.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
}

/// Not a test of its own: the process that the next test kills.
#[test]
fn victim() {
    if let Some(dir) = std::env::var_os("FUZZ_VICTIM_DIR") {
        let config = CampaignConfig { batch: BatchSize::Fixed(4), ..config(Path::new(&dir), 13, u64::MAX) };
        fuzz(&config);
    }
}

#[test]
fn a_campaign_survives_sigkill_at_any_instant() {
    let dir = tempfile::tempdir().unwrap();
    let mut before = BTreeSet::new();
    for round in 1..=4 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim"])
            .env("FUZZ_VICTIM_DIR", dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while list(dir.path(), "corpus").len() < 15 * round {
            assert!(
                Instant::now() < deadline && victim.try_wait().unwrap().is_none(),
                "the victim makes no progress"
            );
            std::thread::sleep(Duration::from_millis(7));
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
        let after = list(dir.path(), "corpus");
        assert!(after.is_superset(&before));
        before = after;
    }
    let (summary, events) = fuzz(&CampaignConfig { execs_max: Some(100), ..config(dir.path(), 13, 0) });
    assert_eq!(warnings(&events), [""; 0], "nothing on disk is ever half written");
    assert!(summary.status.execs >= 100);
    assert_eq!(titles(&summary).len(), summary.findings.len());
}

#[test]
fn what_was_not_scanned_for_leaks_is_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let never_full = LeakScan::Corpus(100_000);
    let (summary, _) = fuzz(&CampaignConfig { leak_scan: never_full, ..config(dir.path(), 1, 6_000) });
    assert_eq!(summary.end, CampaignEnd::Execs);
    assert!(titles(&summary).contains(LEAK), "{:?}", titles(&summary));
}

#[test]
fn a_resumed_campaign_reaches_the_coverage_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let (before, _) = fuzz(&config(dir.path(), 7, 3_000));
    // The last scan for leaks comes on top.
    let enough = before.status.execs + before.status.corpus as u64 + 64;
    let (after, _) = fuzz(&config(dir.path(), 7, enough));
    assert!(after.status.edges >= before.status.edges, "{} < {}", after.status.edges, before.status.edges);
    assert!(after.status.execs > before.status.execs);
    assert!(after.status.elapsed_secs >= before.status.elapsed_secs);
}

#[test]
fn a_truncated_corpus_file_and_a_garbled_state_are_warnings() {
    let dir = tempfile::tempdir().unwrap();
    fuzz(&config(dir.path(), 8, 1_000));
    let corpus = dir.path().join("corpus");
    let victim = corpus.join(names(&corpus).first().unwrap());
    let text = fs::read(&victim).unwrap();
    fs::write(&victim, &text[..text.len() / 2]).unwrap();
    fs::write(dir.path().join("state.json"), b"{\"version\": 1,").unwrap();

    let (summary, events) = fuzz(&config(dir.path(), 8, 1_000));
    let warnings = warnings(&events);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings.iter().any(|text| text.contains("state.json")), "{warnings:?}");
    assert!(warnings.iter().any(|text| text.contains(victim.to_str().unwrap())), "{warnings:?}");
    assert!(summary.status.corpus > 20);
    assert!(corpus.join("broken").join(victim.file_name().unwrap()).exists());
}

#[test]
fn a_dead_machine_is_no_finding_and_its_programs_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let trouble = |n: u64| if n.is_multiple_of(5) { Trouble::Machine } else { Trouble::None };
    let mut guests = FakeGuests::new(trouble);
    let (summary, events) = fuzz_with(&config(dir.path(), 9, 3_000), &mut guests);
    assert_eq!(summary.end, CampaignEnd::Execs);
    assert!(summary.status.infrastructure > 10);
    assert!(events.iter().any(|event| matches!(event, Event::Infrastructure { in_a_row: 1, .. })));
    assert!(titles(&summary).is_subset(&BTreeSet::from([HANG, RACE, LEAK])), "{:?}", titles(&summary));
    let log = fs::read_to_string(dir.path().join("infrastructure/0.log")).unwrap();
    assert!(log.contains("machine: exit status 1"), "{log}");
}

#[test]
fn a_complaint_of_the_boot_is_a_finding_without_a_batch_and_the_campaign_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut guests = FakeGuests::new(|n| if n == 1 { Trouble::Boot } else { Trouble::None });
    let (summary, _) = fuzz_with(&config(dir.path(), 9, 3_000), &mut guests);
    assert_eq!(summary.end, CampaignEnd::Execs);
    let [first, others @ ..] = summary.findings.as_slice() else { panic!("{:?}", summary.findings) };
    assert_eq!((first.title.as_str(), first.execs, first.n_programs), (BOOT, 0, 0));
    assert!(others.iter().any(|note| note.title == HANG), "{others:?}");
    let stored = findings::load(&first.dir).unwrap();
    assert_eq!((stored.verdict.end.as_str(), stored.batch.len()), ("boot", 0));
    assert_eq!(judge(&stored.console)[0].title, BOOT);
    let report = fs::read_to_string(first.dir.join("report.md")).unwrap();
    assert!(report.contains("Booting shows it"), "{report}");
}

#[test]
fn a_kernel_that_complains_and_does_not_boot_is_a_finding_and_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (summary, _) = fuzz_with(&config(dir.path(), 9, 3_000), &mut FakeGuests::new(|_| Trouble::NoBoot));
    assert_eq!(summary.end, CampaignEnd::NoBoot);
    assert_eq!(titles(&summary), BTreeSet::from([BOOT]));
    assert_eq!((summary.findings[0].count, summary.status.execs), (1, 0));
}

#[test]
fn a_report_behind_one_that_is_known_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let judge = |console: &[u8]| {
        let known = Report { title: "of old".into(), ..Report::default() };
        if console.is_empty() { Vec::new() } else { [vec![known], judge(console)].concat() }
    };
    let known = |report: &Report, _: &[u8]| (report.title == "of old").then(|| "why".to_owned());
    let config = CampaignConfig { judge: &judge, known: &known, ..config(dir.path(), 1, 6_000) };
    let (summary, _) = fuzz(&config);
    assert!(titles(&summary).is_superset(&BTreeSet::from([HANG, RACE])), "{:?}", titles(&summary));
}

#[test]
fn a_leak_beside_another_is_found_and_reduced_to_its_own_programs() {
    let dir = tempfile::tempdir().unwrap();
    // Every scan shows it, and shows it first.
    let other = "memory leak in sysfs_slab_add";
    let judge = |console: &[u8]| {
        let reports = judge(console);
        let leak = Report { title: other.into(), kind: "LEAK".into(), ..Report::default() };
        if reports.first().is_some_and(Report::is_leak) { [vec![leak], reports].concat() } else { reports }
    };
    let (summary, _) = fuzz(&CampaignConfig { judge: &judge, ..config(dir.path(), 1, 6_000) });
    assert!(titles(&summary).is_superset(&BTreeSet::from([LEAK, other])), "{:?}", titles(&summary));
    let leak = summary.findings.iter().find(|note| note.title == LEAK).unwrap();
    assert_eq!(findings::load(&leak.dir).unwrap().batch.len(), 1);
}

#[test]
fn eight_dead_machines_in_a_row_end_the_campaign() {
    let dir = tempfile::tempdir().unwrap();
    let mut guests = FakeGuests::new(|n| if n > 3 { Trouble::Machine } else { Trouble::None });
    let (summary, _) = fuzz_with(&config(dir.path(), 10, 100_000), &mut guests);
    assert_eq!(summary.end, CampaignEnd::Infrastructure);
    assert_eq!(summary.status.infrastructure, 8);
}

#[test]
fn the_stop_flag_ends_a_campaign_and_what_it_learned_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let config = CampaignConfig { stop: &stop, execs_max: None, ..config(dir.path(), 11, 0) };
    let mut guests = FakeGuests::healthy();
    let summary = run(config, &mut guests, &mut |event| {
        if matches!(event, Event::NewFinding(_) | Event::Status(_)) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    assert_eq!(summary.unwrap().end, CampaignEnd::Stopped);
    assert!(dir.path().join("state.json").exists());
}

#[test]
fn a_folder_has_one_campaign_on_one_instance() {
    let dir = tempfile::tempdir().unwrap();
    let first = config(dir.path(), 12, 100);
    fuzz(&first);
    let other = CampaignConfig { instance: "perf-6.12".into(), ..config(dir.path(), 12, 100) };
    let error = run(other, &mut FakeGuests::healthy(), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("instance fake, not perf-6.12"), "{error}");

    let held = fuzz::disk::lock(dir.path()).unwrap();
    let error = run(first, &mut FakeGuests::healthy(), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("another campaign is at work"), "{error}");
    drop(held);
}
