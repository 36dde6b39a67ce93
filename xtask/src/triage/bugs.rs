// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which logs show the same bug: those whose first reports share a title, directly or through others.

use std::collections::HashMap;

use harness::oracle::Report;

use super::Judged;

/// A bug and the logs that show it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bug {
    /// Indexes of the logs, in order.
    pub logs: Vec<usize>,
    /// Index of the log whose report is shown: the first that is whole.
    pub shown: usize,
}

/// The first report of a log: the cause.
pub(super) fn cause(log: &Judged) -> Option<&Report> {
    log.reports.first()
}

/// The bugs, the one that most logs show first.
pub(super) fn bugs(judged: &[Judged]) -> Vec<Bug> {
    let mut homes: HashMap<&str, usize> = HashMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (log_idx, report) in judged.iter().enumerate().filter_map(|(idx, log)| Some((idx, cause(log)?))) {
        let mut known: Vec<usize> = report.titles().filter_map(|title| homes.get(title).copied()).collect();
        known.sort_unstable();
        known.dedup();
        let home = known.first().copied().unwrap_or_else(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[home].push(log_idx);
        // A report with two titles may show that two bugs are one.
        for &other in known.iter().skip(1) {
            let logs = std::mem::take(&mut groups[other]);
            groups[home].extend(logs);
            homes.values_mut().filter(|home| **home == other).for_each(|moved| *moved = home);
        }
        homes.extend(report.titles().map(|title| (title, home)));
    }
    let mut bugs: Vec<Bug> = groups
        .into_iter()
        .filter(|logs| !logs.is_empty())
        .map(|mut logs| {
            logs.sort_unstable();
            let is_whole = |&&idx: &&usize| cause(&judged[idx]).is_some_and(|it| it.corrupted.is_none());
            let shown = logs.iter().find(is_whole).or(logs.first()).copied().unwrap_or_default();
            Bug { logs, shown }
        })
        .collect();
    bugs.sort_by_key(|bug| (std::cmp::Reverse(bug.logs.len()), bug.logs[0]));
    bugs
}

#[cfg(test)]
mod tests {
    use harness::oracle::same_bug;

    use super::*;

    fn log(titles: &[&str]) -> Judged {
        let reports = titles.first().map(|title| Report {
            title: (*title).to_string(),
            alt_titles: titles[1..].iter().map(|title| (*title).to_string()).collect(),
            ..Report::default()
        });
        Judged { path: "log".into(), reports: Vec::from_iter(reports) }
    }

    #[test]
    fn a_shared_title_makes_one_bug_of_two_logs_whatever_comes_between() {
        let logs = [log(&["a", "x"]), log(&[]), log(&["b", "y"]), log(&["c"]), log(&["y", "x"]), log(&["c"])];
        let told: Vec<Vec<usize>> = bugs(&logs).into_iter().map(|bug| bug.logs).collect();
        assert_eq!(told, [vec![0, 2, 4], vec![3, 5]]);
        let same = |one: usize, other: usize| same_bug(&logs[one].reports[0], &logs[other].reports[0]);
        assert!(same(0, 4) && same(2, 4) && same(3, 5) && !same(0, 2) && !same(0, 3));
    }
}
