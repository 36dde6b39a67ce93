// SPDX-License-Identifier: MIT OR Apache-2.0
//! From figures to a verdict. Pure.

use serde::Serialize;

use super::{
    measure::How,
    stats::{self, Interval},
    workload::Better,
};

/// Figures of fewer runs of a side than this are no ground for a verdict.
const RUNS_MIN: usize = 3;
/// A difference by the wall clock is one when it would come by chance as rarely as this: the data are looked at again and
/// again, so it is rarer than a single look would ask for.
const P_MAX: f64 = 0.004;
/// What is left of layout and hashing under the deterministic engine when seeds agree: nobody should act on less.
const DET_MIN: f64 = 0.0005;

/// A verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// The second kernel is no worse and no better than the first, within the bound.
    Same,
    /// It is better.
    Improvement,
    /// The runs do not tell, or there are none.
    Unsure,
    /// It is worse.
    Regression,
}

/// What is said of one figure at one point.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// Verdict.
    pub verdict: Verdict,
    /// How many times as much the second kernel gives: by the wall clock the quotient of the medians, under the
    /// deterministic engine the mean (geometric) of the quotients seed by seed.
    pub ratio: f64,
    /// Where that ratio is, 95 %.
    pub interval: Interval,
    /// How often chance would do as much; none under the deterministic engine, which has no chance.
    pub p: Option<f64>,
    /// The smallest change that such runs would have shown, as a share.
    pub visible: Option<f64>,
    /// What the verdict rests on, or what it would take.
    pub why: String,
}

impl Judged {
    /// Whether more runs would change nothing for whoever minds changes of that share.
    pub fn is_clear(&self, share: f64) -> bool {
        match self.verdict {
            Verdict::Same | Verdict::Improvement => true,
            Verdict::Unsure => false,
            Verdict::Regression => self.is_more_than(share) || (self.ratio - 1.0).abs() < share,
        }
    }

    /// Whether the change is larger than that share wherever in the interval it is.
    pub fn is_more_than(&self, share: f64) -> bool {
        self.interval.low > 1.0 + share || self.interval.high < 1.0 - share
    }
}

/// Judges the figures of two kernels. `within` is the widest bound that still is SAME, as a share; `n_points` such figures
/// are looked at, and each may be the one that chance picks.
pub fn judge(a: &[f64], b: &[f64], better: Better, how: How, within: f64, n_points: usize) -> Judged {
    let interval = match how {
        How::Det => stats::paired_interval(a, b),
        How::Wall => stats::ratio_interval(a, b),
    };
    let ratio = match (how, &interval) {
        // Where seeds pair them, medians may be of different seeds, and their quotient outside of the interval.
        (How::Det, Some(interval)) => (interval.low * interval.high).sqrt(),
        _ => stats::median(b) / stats::median(a),
    };
    let n = a.len().min(b.len());
    let Some(interval) = interval.filter(|_| n >= RUNS_MIN && ratio.is_finite()) else {
        let why = format!("{n} runs of each kernel, and it takes {RUNS_MIN}");
        let interval = Interval { low: 0.0, high: f64::INFINITY };
        return Judged { verdict: Verdict::Unsure, ratio, interval, p: None, visible: None, why };
    };
    let p = (how == How::Wall).then(|| stats::rank_test(a, b));
    let visible = if how == How::Wall { stats::smallest_effect(a, b) } else { None };
    let bound = (interval.high - 1.0).abs().max((interval.low - 1.0).abs());
    let differs = match how {
        How::Det => !interval.has(1.0) && (ratio - 1.0).abs() >= DET_MIN,
        How::Wall => !interval.has(1.0) && p.is_some_and(|p| p <= P_MAX / n_points.max(1) as f64),
    };
    let (verdict, why) = if differs {
        let worse = (ratio < 1.0) == (better == Better::More);
        let verdict = if worse { Verdict::Regression } else { Verdict::Improvement };
        (verdict, format!("{:.2} to {:.2} of what it was", interval.low, interval.high))
    } else if bound <= within {
        (Verdict::Same, format!("no change above {:.2} %", 100.0 * bound))
    } else {
        // The interval narrows with the root of the runs.
        let more = ((bound / within).powi(2) * n as f64).ceil();
        (
            Verdict::Unsure,
            format!(
                "a change of {:.1} % may hide; about {more} runs of each kernel would bound it to {:.1} %",
                100.0 * bound,
                100.0 * within
            ),
        )
    };
    Judged { verdict, ratio, interval, p, visible, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noisy(centre: f64, n: usize) -> Vec<f64> {
        // Plain and without order: -4 % to 4 %.
        (0..n).map(|i| centre * (1.0 + 0.01 * ((i * 5 % 9) as f64 - 4.0))).collect()
    }

    #[test]
    fn a_fifth_of_the_throughput_is_a_regression_and_of_the_latency_an_improvement() {
        let (a, b) = (noisy(5000.0, 6), noisy(1000.0, 6));
        let judged = judge(&a, &b, Better::More, How::Wall, 0.2, 1);
        assert_eq!(judged.verdict, Verdict::Regression);
        assert!((judged.ratio - 0.2).abs() < 0.02 && judged.interval.has(0.2), "{judged:?}");
        assert_eq!(judge(&a, &b, Better::Less, How::Wall, 0.2, 1).verdict, Verdict::Improvement);
        assert_eq!(judge(&b, &a, Better::Less, How::Wall, 0.2, 1).verdict, Verdict::Regression);
    }

    #[test]
    fn a_kernel_against_itself_is_the_same_and_two_runs_say_nothing() {
        let a = noisy(5000.0, 9);
        assert_eq!(judge(&a, &a, Better::More, How::Wall, 0.2, 1).verdict, Verdict::Same);
        let two = judge(&a[..2], &noisy(1.0, 2), Better::More, How::Wall, 0.2, 1);
        assert_eq!(two.verdict, Verdict::Unsure);
        assert!(judge(&[], &[], Better::More, How::Det, 0.2, 1).why.contains("0 runs"));
    }

    #[test]
    fn noise_that_hides_a_change_is_unsure_and_says_what_it_would_take() {
        let wild = [100.0, 300.0, 200.0, 50.0, 400.0];
        let judged = judge(&wild, &wild, Better::More, How::Wall, 0.02, 1);
        assert_eq!(judged.verdict, Verdict::Unsure);
        assert!(judged.why.contains("runs of each kernel would bound it to 2.0 %"), "{}", judged.why);
    }

    #[test]
    fn a_change_is_clear_when_all_of_its_interval_is_on_one_side_of_the_bound() {
        let judged = |ratio, low, high, verdict| Judged {
            verdict,
            ratio,
            interval: Interval { low, high },
            p: None,
            visible: None,
            why: String::new(),
        };
        assert!(judged(40.0, 30.0, 50.0, Verdict::Regression).is_clear(0.05));
        assert!(judged(0.2, 0.1, 0.3, Verdict::Regression).is_more_than(0.05));
        assert!(!judged(1.07, 1.01, 1.13, Verdict::Regression).is_clear(0.05));
        assert!(judged(1.02, 1.01, 1.03, Verdict::Regression).is_clear(0.05));
        assert!(!judged(1.0, 0.9, 1.1, Verdict::Unsure).is_clear(0.05));
    }

    #[test]
    fn the_ratio_of_pairs_is_within_its_interval() {
        // The medians are of different seeds, and their quotient is 1.37.
        let (a, b) = ([135.0, 160.0, 132.0], [172.0, 185.0, 188.0]);
        let judged = judge(&a, &b, Better::Less, How::Det, 0.02, 1);
        assert!(judged.interval.has(judged.ratio), "{judged:?}");
    }

    #[test]
    fn under_the_deterministic_engine_one_percent_is_seen_and_equal_figures_are_the_same() {
        let a = [12586.0, 12590.0, 12571.0];
        let slower: Vec<f64> = a.iter().map(|value| value * 0.99).collect();
        assert_eq!(judge(&a, &slower, Better::More, How::Det, 0.02, 1).verdict, Verdict::Regression);
        let same = judge(&a, &a, Better::More, How::Det, 0.02, 1);
        assert_eq!((same.verdict, same.why.as_str()), (Verdict::Same, "no change above 0.00 %"));
    }
}
