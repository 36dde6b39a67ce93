// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a gate run found out: data that every output format is a view of. No clock and no host name is in it but in
//! `seconds`, so two runs on the same series give the same value.

use std::path::PathBuf;

use serde::Serialize;

/// Verdict on a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Everything was done and nothing speaks against the series.
    Pass,
    /// Something that the verdict needs could not be done.
    Unsure,
    /// Something that the base does not show speaks against it.
    Fail,
}

/// What became of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Done, and well.
    Pass,
    /// The base shows it and the series mends it.
    Fixed,
    /// Worth a look, and no reason to refuse the series.
    Note,
    /// The base shows it, too: not the series' doing.
    Old,
    /// Does not apply here; the text says why.
    Skip,
    /// Could not be done, or not to its end; the text says why.
    Unsure,
    /// New with the series.
    Fail,
}

/// One check, or one thing that a check found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// What was checked, unique in its step: `W=1 mm/shrinker.c`, `umount-latency`.
    pub name: String,
    /// What became of it.
    pub status: Status,
    /// The patch at fault, counted from 0, where one is.
    pub patch: Option<usize>,
    /// One line: what was found, or why it was not looked for. From the guest or the build: not to be trusted.
    pub text: String,
    /// More of it: messages, a symbolised report. Not to be trusted either; may be long.
    pub detail: String,
    /// File of the kernel, below its top, and line, where the finding has a place.
    pub place: Option<(String, u32)>,
    /// Where the whole of it is kept, where it is.
    pub folder: Option<PathBuf>,
    /// Wall time, seconds.
    pub seconds: f64,
}

/// A step of the gate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Its name: `hygiene`, `build`, `boot`, `scenarios`, `selftests`, `campaign`, `performance`.
    pub name: String,
    /// What was checked, in order. Empty: not come to.
    pub checks: Vec<Check>,
    /// Wall time, seconds.
    pub seconds: f64,
}

/// One patch of the series.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PatchInfo {
    /// First line of its message without `[PATCH …]`; its file's name where it has none. Not to be trusted.
    pub subject: String,
    /// Message id without angle brackets, where it was a mail.
    pub message_id: Option<String>,
    /// Files that it touches, below the kernel's top.
    pub files: Vec<String>,
}

/// A kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelInfo {
    /// The instance whose configuration it has.
    pub instance: String,
    /// Its own words for its version.
    pub release: String,
    /// Key of the artifact: everything that went into it.
    pub key: String,
    /// The revision of the user's repository, or the name of the source package.
    pub source: String,
    /// Version of the compiler, as it calls itself.
    pub compiler: String,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The series' patches, in order.
    pub patches: Vec<PatchInfo>,
    /// The kernel that the series is for.
    pub base: KernelInfo,
    /// The same with the series, where it builds.
    pub patched: Option<KernelInfo>,
    /// Steps in order.
    pub steps: Vec<Step>,
    /// The verdict.
    pub verdict: Verdict,
    /// Why, in a line.
    pub why: String,
    /// The command that gives this again.
    pub command: String,
    /// Wall time, seconds.
    pub seconds: f64,
}

impl Check {
    /// A check that says no more than this, and took no time.
    pub fn new(name: &str, status: Status, text: &str) -> Check {
        Check {
            name: name.to_owned(),
            status,
            patch: None,
            text: text.to_owned(),
            detail: String::new(),
            place: None,
            folder: None,
            seconds: 0.0,
        }
    }
}

impl Step {
    /// The worst of its checks.
    pub fn status(&self) -> Status {
        self.checks.iter().map(|check| check.status).max().unwrap_or(Status::Skip)
    }
}

/// The verdict that checks amount to, and why.
pub fn verdict(steps: &[Step]) -> (Verdict, String) {
    let all = || steps.iter().flat_map(|step| step.checks.iter().map(move |check| (step, check)));
    let of = |status: Status| all().filter(move |(_, check)| check.status == status).collect::<Vec<_>>();
    let say = |found: &[(&Step, &Check)]| {
        let (step, check) = found[0];
        let more = if found.len() > 1 { format!(" (and {} more)", found.len() - 1) } else { String::new() };
        format!("{}: {}: {}{more}", step.name, check.name, check.text)
    };
    let (failed, unsure, fixed) = (of(Status::Fail), of(Status::Unsure), of(Status::Fixed));
    if !failed.is_empty() {
        (Verdict::Fail, say(&failed))
    } else if !unsure.is_empty() {
        (Verdict::Unsure, say(&unsure))
    } else if let [(_, check), ..] = &fixed[..] {
        (Verdict::Pass, format!("fixes: {} (old)", check.text))
    } else {
        (Verdict::Pass, "nothing new".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, checks: Vec<Check>) -> Step {
        Step { name: name.to_owned(), checks, seconds: 1.0 }
    }

    #[test]
    fn new_findings_outrank_gaps_and_old_ones_do_not_count() {
        let old = || step("corpus", vec![Check::new("replay", Status::Old, "INFO: task hung in a")]);
        let gap = || step("campaign", vec![Check::new("campaign", Status::Unsure, "no time left")]);
        let new = || {
            step(
                "boot",
                vec![Check::new("boot", Status::Fail, "BUG: bad"), Check::new("x", Status::Fail, "y")],
            )
        };
        assert_eq!(verdict(&[old()]), (Verdict::Pass, "nothing new".to_owned()));
        assert_eq!(verdict(&[old(), gap()]).0, Verdict::Unsure);
        let (verdict, why) = verdict(&[old(), gap(), new()]);
        assert_eq!((verdict, why.as_str()), (Verdict::Fail, "boot: boot: BUG: bad (and 1 more)"));
    }

    #[test]
    fn what_a_series_mends_is_credited() {
        let fixed =
            step("corpus", vec![Check::new("replay", Status::Fixed, "INFO: task hung in shrinker_free")]);
        let (verdict, why) = verdict(&[fixed]);
        assert_eq!((verdict, why.as_str()), (Verdict::Pass, "fixes: INFO: task hung in shrinker_free (old)"));
    }
}
