// SPDX-License-Identifier: MIT OR Apache-2.0
//! Searches through small repositories, with commits that are not run but asked what they would show.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use super::{
    git::History,
    search::{self, Answer, Ran, Seen, State, Step, Verdict, World},
};
use crate::paths::Cache;

/// A user's repository, a cache, and commits by their subject.
struct Repo {
    users: tempfile::TempDir,
    cache: tempfile::TempDir,
    commits: BTreeMap<String, String>,
}

impl Repo {
    fn new() -> Repo {
        let dir = || tempfile::tempdir().unwrap();
        let mut repo = Repo { users: dir(), cache: dir(), commits: BTreeMap::new() };
        repo.git(&["init", "--quiet", "--initial-branch=main"]);
        repo.commit("0");
        repo
    }

    /// A line of commits, each of which changes one file.
    fn line(n: usize) -> Repo {
        let mut repo = Repo::new();
        (1..n).for_each(|nth| repo.commit(&nth.to_string()));
        repo
    }

    fn git(&self, args: &[&str]) -> String {
        let mut git = Command::new("git");
        git.arg("-C").arg(self.users.path()).args(["-c", "user.name=a", "-c", "user.email=a@example.org"]);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        let output = git.args(args).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "git {args:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.users.path().join(path), text).unwrap();
    }

    fn commit(&mut self, subject: &str) {
        self.write("file", subject);
        self.record(subject);
    }

    fn record(&mut self, subject: &str) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", subject]);
        self.remember(subject);
    }

    fn remember(&mut self, subject: &str) {
        let hash = self.git(&["rev-parse", "HEAD"]);
        self.commits.insert(subject.to_owned(), hash);
    }

    fn history(&self) -> History {
        History::open(&Cache::at(self.cache.path()).unwrap(), self.users.path()).unwrap()
    }

    fn state(&self, good: &str, bad: &str) -> State {
        let of = |name: &str| self.commits[name].clone();
        State::new(of(good), of(bad), vec!["bug".into()], 10, 0.05)
    }

    fn search(&self, state: &mut State, shows: &dyn Fn(&str, u32) -> Ran) -> Result<Answer> {
        let mut world = Fake { repo: self, shows, n_left: u32::MAX, saved: None, told: Vec::new() };
        search::search(&self.history(), state, &mut world)
    }
}

/// What the commit of that subject shows in its n-th run; killed after so many runs.
struct Fake<'a> {
    repo: &'a Repo,
    shows: &'a dyn Fn(&str, u32) -> Ran,
    n_left: u32,
    saved: Option<String>,
    told: Vec<Option<usize>>,
}

impl World for Fake<'_> {
    fn run(&mut self, commit: &str, n_runs: u32, _: &[String]) -> Result<Ran> {
        let Some(n_left) = self.n_left.checked_sub(1) else { bail!("killed") };
        self.n_left = n_left;
        let subject = self.repo.commits.iter().find(|(_, hash)| *hash == commit).unwrap().0;
        Ok((self.shows)(subject, n_runs))
    }

    fn save(&mut self, state: &State) -> Result<()> {
        self.saved = Some(serde_json::to_string(state)?);
        Ok(())
    }

    fn tell(&mut self, _: &Step, n_suspects: Option<usize>) {
        self.told.push(n_suspects);
    }
}

fn seen(is_bad: bool) -> Ran {
    Ran::Seen(vec![if is_bad { Seen::Same("bug".into()) } else { Seen::Silent }])
}

fn number(subject: &str) -> u32 {
    subject.parse().unwrap()
}

#[test]
fn every_first_bad_commit_of_a_line_is_found_in_as_many_steps_as_halving_takes() {
    let repo = Repo::line(13);
    for first_bad in 1..13 {
        let mut state = repo.state("0", "12");
        let answer = repo.search(&mut state, &|subject, _| seen(number(subject) >= first_bad)).unwrap();
        assert_eq!(answer, Answer::Found(vec![repo.commits[&first_bad.to_string()].clone()]));
        assert!(state.steps.len() <= 2 + 4, "{} steps", state.steps.len());
        assert!(state.sureness() > 0.95, "{}", state.sureness());
    }
}

#[test]
fn a_rare_bug_takes_more_silent_runs_and_is_found() {
    let repo = Repo::line(13);
    let mut state = repo.state("0", "12");
    let shows = |subject: &str, nth: u32| seen(number(subject) >= 8 && nth % 4 == 3);
    let answer = repo.search(&mut state, &shows).unwrap();
    assert_eq!(answer, Answer::Found(vec![repo.commits["8"].clone()]));
    let needed = state.silent_needed.unwrap();
    assert!((20..100).contains(&needed), "{needed}");
    let goods = state.steps.iter().filter(|step| step.verdict == Verdict::Good);
    assert!(goods.clone().count() >= 2 && goods.into_iter().all(|step| step.tally.silent >= needed));
    assert!(state.sureness() > 0.95, "{}", state.sureness());
}

#[test]
fn what_cannot_be_built_or_is_hidden_by_another_bug_is_gone_round() {
    let repo = Repo::line(13);
    let shows = |subject: &str, _: u32| match number(subject) {
        5 => Ran::Seen(vec![Seen::Other("another".into())]),
        6 => Ran::Unfit("does not build".into()),
        number => seen(number >= 9),
    };
    let mut state = repo.state("0", "12");
    assert_eq!(repo.search(&mut state, &shows).unwrap(), Answer::Found(vec![repo.commits["9"].clone()]));
    let why: Vec<_> = state.steps.iter().filter_map(|step| step.why.clone()).collect();
    assert!(why.contains(&"does not build".to_owned()), "{why:?}");

    let shows = |subject: &str, nth: u32| match number(subject) {
        7 => Ran::Seen(vec![Seen::Other("another".into())]),
        _ => shows(subject, nth),
    };
    let mut state = repo.state("6", "8");
    let shows_8 = |subject: &str, nth: u32| if subject == "8" { seen(true) } else { shows(subject, nth) };
    let mut good_5 = repo.state("4", "8");
    let Answer::Found(commits) = repo.search(&mut good_5, &shows_8).unwrap() else { panic!("not found") };
    let expected: Vec<_> = ["8", "7", "6", "5"].map(|name| repo.commits[name].clone()).into();
    assert_eq!(commits, expected);
    let whys: Vec<_> = good_5.steps.iter().filter_map(|step| step.why.clone()).collect();
    assert!(whys.contains(&"another bug may hide it: another".to_owned()), "{whys:?}");
    let untestable = Answer::Untestable(repo.commits["6"].clone(), "does not build".into());
    assert_eq!(repo.search(&mut state, &shows_8).unwrap(), untestable);
}

#[test]
fn killed_after_any_run_it_goes_on_without_repeating_one() {
    let repo = Repo::line(9);
    let shows = |subject: &str, nth: u32| seen(number(subject) >= 3 && nth % 2 == 1);
    let mut whole = repo.state("0", "8");
    let answer = repo.search(&mut whole, &shows).unwrap();
    let n_runs: u32 = whole.steps.iter().map(|step| step.tally.runs).sum();
    let mut state = repo.state("0", "8");
    for _ in 0..n_runs {
        let mut world = Fake { repo: &repo, shows: &shows, n_left: 1, saved: None, told: Vec::new() };
        let killed = search::search(&repo.history(), &mut state, &mut world);
        state = serde_json::from_str(&world.saved.expect("something was learned")).unwrap();
        if let Ok(found) = killed {
            assert_eq!(found, answer);
        }
    }
    let course =
        |state: &State| state.steps.iter().map(|step| (step.verdict, step.tally.runs)).collect::<Vec<_>>();
    assert_eq!(course(&state), course(&whole));
    assert_eq!(repo.search(&mut state, &|_, _| panic!("all is known")).unwrap(), answer);
}

#[test]
fn ends_that_are_not_what_they_are_said_to_be() {
    let repo = Repo::line(5);
    let search = |good: &str, bad: &str, first_bad: u32| {
        repo.search(&mut repo.state(good, bad), &|subject, _| seen(number(subject) >= first_bad))
    };
    assert_eq!(search("0", "4", 9).unwrap(), Answer::NotReproduced);
    assert_eq!(search("2", "4", 1).unwrap(), Answer::GoodShows(repo.commits["2"].clone()));
    let error = search("4", "2", 3).unwrap_err();
    assert_eq!(crate::exit::exit_of(&error), crate::exit::Exit::Usage);
}

#[test]
fn where_good_and_bad_parted_must_be_good_and_merges_are_searched() {
    // 0 - base - side1 - side2 ----- merge - tip
    //        \- main1 -- main2 ----/
    let mut repo = Repo::new();
    repo.commit("base");
    repo.git(&["checkout", "--quiet", "-b", "side"]);
    for name in ["side1", "side2"] {
        repo.write("side", name);
        repo.record(name);
    }
    repo.git(&["checkout", "--quiet", "main"]);
    for name in ["main1", "main2"] {
        repo.commit(name);
    }
    repo.git(&["merge", "--quiet", "--no-ff", "-m", "merge", "side"]);
    repo.remember("merge");
    repo.commit("tip");
    for (first_bad, bad) in [
        ("side1", &["side1", "side2", "merge", "tip"][..]),
        ("main2", &["main2", "merge", "tip"]),
        ("merge", &["merge", "tip"]),
    ] {
        let mut state = repo.state("0", "tip");
        let answer = repo.search(&mut state, &|subject, _| seen(bad.contains(&subject))).unwrap();
        assert_eq!(answer, Answer::Found(vec![repo.commits[first_bad].clone()]), "{first_bad}");
    }
    let mut state = repo.state("side2", "main2");
    let answer = repo.search(&mut state, &|subject, _| seen(subject != "side2")).unwrap();
    assert_eq!(
        answer,
        Answer::GoodShows(repo.commits["base"].clone()),
        "mended on one side, not broken on the other"
    );
}

#[test]
fn a_programs_own_titles_are_those_of_the_bad_end() {
    let repo = Repo::line(3);
    let mut state = State { titles: Vec::new(), ..repo.state("0", "2") };
    repo.search(&mut state, &|subject, _| seen(number(subject) >= 1)).unwrap();
    assert_eq!(state.names(), ["bug"]);
}

/// Path, content and time of every file below a folder.
fn look(dir: &Path) -> BTreeMap<String, (Vec<u8>, std::time::SystemTime)> {
    let look = |path: String| {
        let full = dir.join(&path);
        let time = full.symlink_metadata().unwrap().modified().unwrap();
        (path, (fs::read(full).unwrap_or_default(), time))
    };
    crate::tree::walk(dir).unwrap().into_iter().map(look).collect()
}

#[test]
fn a_hostile_repository_runs_nothing_and_is_not_touched() {
    let mut repo = Repo::new();
    repo.write("kept", "kept");
    repo.write(".gitattributes", "* filter=evil eol=crlf ident\n");
    repo.commit("$Id$\nsecond line");
    let mark = repo.users.path().join("ran");
    let evil = format!("touch {}", mark.display());
    for (key, value) in [
        ("filter.evil.smudge", evil.as_str()),
        ("filter.evil.clean", &evil),
        ("core.fsmonitor", &evil),
        ("core.pager", &evil),
        ("core.sshCommand", &evil),
    ] {
        repo.git(&["config", key, value]);
    }
    for hook in ["post-checkout", "post-index-change", "reference-transaction"] {
        let path = repo.users.path().join(".git/hooks").join(hook);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{evil}\n")).unwrap();
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let before = look(repo.users.path());
    let history = repo.history();
    let head = history.resolve(repo.users.path(), "HEAD").unwrap();
    for odd in ["--exec=x", "nothing", "HEAD:file", ""] {
        let error = history.resolve(repo.users.path(), odd).unwrap_err();
        assert_eq!(crate::exit::exit_of(&error), crate::exit::Exit::Usage, "{odd}");
    }
    let tree = history.unpack(&head).unwrap();
    assert_eq!(fs::read_to_string(tree.join("file")).unwrap(), "$Id$\nsecond line");
    assert_eq!(history.subject(&head).unwrap(), "$Id$ second line");
    assert!(!mark.exists(), "something of the repository's was run");
    assert_eq!(look(repo.users.path()), before);
}

#[test]
fn unpacking_touches_what_differs_and_mends_what_a_kill_left_behind() {
    let mut repo = Repo::new();
    repo.write("kept", "kept");
    repo.commit("1");
    repo.commit("2");
    let history = repo.history();
    let tree = history.unpack(&repo.commits["1"]).unwrap();
    let first = look(&tree);
    history.unpack(&repo.commits["2"]).unwrap();
    let second = look(&tree);
    assert_eq!(second["kept"], first["kept"]);
    assert_eq!(second["file"].0, b"2");
    drop(history);
    // As a killed call leaves it: half of another commit, and the index locked.
    fs::write(tree.join("file"), "1").unwrap();
    fs::write(tree.join("new"), "of another commit").unwrap();
    let git = tree.parent().unwrap().join("git");
    fs::write(git.join("index.lock"), "").unwrap();
    repo.history().unpack(&repo.commits["2"]).unwrap();
    let mended = look(&tree);
    assert_eq!((&mended["file"].0[..], mended.len()), (&b"2"[..], second.len()));
    assert_eq!(mended["kept"], first["kept"]);
}
