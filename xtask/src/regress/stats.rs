// SPDX-License-Identifier: MIT OR Apache-2.0
//! What figures of two kernels say about their ratio: rank test, bootstrap interval, smallest effect that could have been
//! seen. Pure, and a function of the figures alone: random draws are seeded.
//!
//! No crate that is kept well has an exact rank test, so these few lines are our own, checked against published tables.

use serde::Serialize;

/// Draws of a bootstrap.
const DRAWS: usize = 4000;
/// Seed of the draws: the same figures give the same interval.
const SEED: u64 = 0x5eed;
/// Share of a bootstrap's draws outside its interval.
const ALPHA: f64 = 0.05;
/// Most figures of both sides together for which ranks are counted out; beyond, the normal distribution serves.
const EXACT_MAX: usize = 40;

/// An interval, 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether a value is in it.
    pub fn has(self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// The arithmetic mean; 0 of nothing.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The median; 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// A quantile, by linear interpolation between the two nearest values (type 7 of Hyndman and Fan); 0 of nothing.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = share.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * (at - at.floor())
}

/// The sample standard deviation in percent of the mean; none of fewer than two values.
pub fn stddev_percent(values: &[f64]) -> Option<f64> {
    let mean = mean(values);
    if values.len() < 2 || mean == 0.0 {
        return None;
    }
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some(100.0 * (squares / (values.len() - 1) as f64).sqrt() / mean.abs())
}

/// The two-sided p value of the Mann-Whitney rank test: how often two samples of one distribution differ as much. Exact
/// for small samples without ties, else by the normal distribution with corrections for ties and continuity.
pub fn rank_test(a: &[f64], b: &[f64]) -> f64 {
    if a.is_empty() || b.is_empty() {
        return 1.0;
    }
    let all: Vec<f64> = a.iter().chain(b).copied().collect();
    let mut sorted = all.clone();
    sorted.sort_by(f64::total_cmp);
    let ties: Vec<usize> = sorted.chunk_by(|x, y| x == y).map(<[f64]>::len).collect();
    let wins: f64 =
        a.iter().flat_map(|x| b.iter().map(move |y| if x > y { 1.0 } else { f64::from(x == y) / 2.0 })).sum();
    let (n, m) = (a.len(), b.len());
    if ties.iter().all(|&n| n == 1) && all.len() <= EXACT_MAX {
        return exact(wins as usize, n, m);
    }
    let (n, m, total) = (n as f64, m as f64, all.len() as f64);
    let tied: f64 = ties.iter().map(|&t| (t as f64).powi(3) - t as f64).sum();
    let variance = n * m / 12.0 * (total + 1.0 - tied / (total * (total - 1.0)).max(1.0));
    if variance <= 0.0 {
        return 1.0;
    }
    let distance = ((wins - n * m / 2.0).abs() - 0.5).max(0.0);
    (2.0 * upper_tail(distance / variance.sqrt())).min(1.0)
}

/// Two-sided, from the number of orders of `n` and `m` values in which the first win as often or more rarely.
fn exact(wins: usize, n: usize, m: usize) -> f64 {
    // ways[i][u]: orders of i of the first with j of the second, j growing, in which the first win u times.
    let mut ways = vec![vec![0.0; n * m + 1]; n + 1];
    ways.iter_mut().for_each(|of_i| of_i[0] = 1.0);
    for j in 1..=m {
        for i in 1..=n {
            // The largest is one of the first: it wins against all j. Or one of the second: as with j - 1.
            for u in (0..=n * m).rev() {
                let first = if u >= j { ways[i - 1][u - j] } else { 0.0 };
                ways[i][u] += first;
            }
        }
    }
    let of_all = &ways[n];
    let total: f64 = of_all.iter().sum();
    let few = wins.min(n * m - wins);
    let tail: f64 = of_all[..=few].iter().sum();
    (2.0 * tail / total).min(1.0)
}

/// The share of a standard normal distribution above `z`, which is not negative (Abramowitz and Stegun 26.2.17, error below
/// 7.5e-8).
fn upper_tail(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let factors = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let sum = factors.iter().rev().fold(0.0, |sum, factor| (sum + factor) * t);
    sum * (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// A bootstrap interval of the ratio of medians, b over a. None where a's median is 0.
pub fn ratio_interval(a: &[f64], b: &[f64]) -> Option<Interval> {
    let mut ratios = ratios(a, b, DRAWS);
    ratios.retain(|ratio| ratio.is_finite());
    (!ratios.is_empty())
        .then(|| Interval { low: quantile(&ratios, ALPHA / 2.0), high: quantile(&ratios, 1.0 - ALPHA / 2.0) })
}

fn ratios(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
    if a.is_empty() || b.is_empty() {
        return Vec::new();
    }
    let mut rand = fastrand::Rng::with_seed(SEED);
    let mut draw = |from: &[f64]| {
        let drawn: Vec<f64> = from.iter().map(|_| from[rand.usize(..from.len())]).collect();
        median(&drawn)
    };
    (0..n).map(|_| draw(b) / draw(a)).collect()
}

/// The smallest change of the ratio that samples as noisy as these would have shown: half the width of the interval that
/// the side with the larger spread has against itself.
pub fn smallest_effect(a: &[f64], b: &[f64]) -> Option<f64> {
    let of_one = |side: &[f64]| ratio_interval(side, side).map(|found| (found.high - found.low) / 2.0);
    Some(of_one(a)?.max(of_one(b)?))
}

/// The interval of the mean of paired log ratios, by Student's t: for runs that differ by a seed, not by noise.
pub fn paired_interval(a: &[f64], b: &[f64]) -> Option<Interval> {
    let logs: Vec<f64> = a.iter().zip(b).map(|(a, b)| (b / a).ln()).filter(|log| log.is_finite()).collect();
    let centre = mean(&logs);
    if logs.is_empty() {
        return None;
    }
    if logs.len() == 1 {
        return Some(Interval { low: centre.exp(), high: centre.exp() });
    }
    let squares: f64 = logs.iter().map(|log| (log - centre).powi(2)).sum();
    let error = (squares / (logs.len() - 1) as f64 / logs.len() as f64).sqrt();
    let reach = student(logs.len() - 1) * error;
    Some(Interval { low: (centre - reach).exp(), high: (centre + reach).exp() })
}

/// The two-sided 95 % point of Student's distribution.
fn student(freedom: usize) -> f64 {
    const TABLE: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    match freedom {
        0 => f64::INFINITY,
        1..=10 => TABLE[freedom - 1],
        11..=20 => 2.2,
        21..=40 => 2.08,
        _ => 2.02,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles_are_those_of_the_textbook() {
        let values = [1.0, 2.0, 3.0, 4.0];
        assert_eq!((median(&values), mean(&values)), (2.5, 2.5));
        assert_eq!((quantile(&values, 0.25), quantile(&values, 1.0)), (1.75, 4.0));
        assert_eq!((median(&[]), mean(&[])), (0.0, 0.0));
        assert!((stddev_percent(&[2.0, 4.0]).unwrap() - 47.140_45).abs() < 1e-4);
        assert_eq!(stddev_percent(&[2.0]), None);
    }

    /// Critical values of the published tables (two-sided, 0.05): U of 8 with 8 is 13, of 5 with 5 is 2, of 10 with 10 is 23.
    #[test]
    fn the_rank_test_has_the_critical_values_of_the_tables() {
        for (n, critical) in [(5, 2), (8, 13), (10, 23)] {
            assert!(exact(critical, n, n) <= 0.05, "{n}");
            assert!(exact(critical + 1, n, n) > 0.05, "{n}");
        }
        // All of one side below all of the other: 2 of all 70 orders of 4 and 4.
        let (a, b) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
        assert!((rank_test(&a, &b) - 2.0 / 70.0).abs() < 1e-12);
        assert_eq!(rank_test(&a, &[]), 1.0);
        assert_eq!(rank_test(&[3.0; 9], &[3.0; 9]), 1.0);
    }

    /// R: wilcox.test(c(0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46), c(1.15, 0.88, 0.90, 0.74, 1.21)),
    /// Hollander & Wolfe (1973), 69f: W = 35, exact two-sided p = 0.2544.
    #[test]
    fn the_rank_test_agrees_with_a_published_example() {
        let a = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46];
        let b = [1.15, 0.88, 0.90, 0.74, 1.21];
        assert!((rank_test(&a, &b) - 0.2544).abs() < 1e-4, "{}", rank_test(&a, &b));
    }

    #[test]
    fn the_normal_tail_has_the_values_of_the_table() {
        for (z, p) in [(0.0, 0.5), (1.0, 0.158_655), (1.959_964, 0.025), (3.0, 0.001_349_9)] {
            assert!((upper_tail(z) - p).abs() < 1e-6, "{z}");
        }
    }

    #[test]
    fn an_interval_of_a_ratio_holds_what_is_plain() {
        let a: Vec<f64> = (0..10).map(|n| 100.0 + f64::from(n)).collect();
        let b: Vec<f64> = a.iter().map(|value| value / 5.0).collect();
        let found = ratio_interval(&a, &b).unwrap();
        assert!(found.has(0.2) && found.low > 0.18 && found.high < 0.22, "{found:?}");
        assert!(smallest_effect(&a, &b).unwrap() < 0.1);
        assert_eq!(ratio_interval(&[0.0], &[1.0]), None);
        let paired = paired_interval(&a, &b).unwrap();
        assert!((paired.low - 0.2).abs() < 1e-12 && (paired.high - 0.2).abs() < 1e-12);
        // t = 4.303 with 2 degrees of freedom: logs 0.1, 0.2, 0.3 give 0.2 +- 0.2484.
        let b: Vec<f64> = [0.1_f64, 0.2, 0.3].iter().map(|log| log.exp()).collect();
        let paired = paired_interval(&[1.0; 3], &b).unwrap();
        assert!((paired.high.ln() - 0.4484).abs() < 1e-3, "{paired:?}");
    }

    proptest! {
        #[test]
        fn sides_change_places_and_scale_does_not_matter(
            a in proptest::collection::vec(1.0..1e6_f64, 2..12),
            b in proptest::collection::vec(1.0..1e6_f64, 2..12),
        ) {
            let p = rank_test(&a, &b);
            prop_assert!((0.0..=1.0).contains(&p));
            prop_assert!((p - rank_test(&b, &a)).abs() < 1e-9);
            let scaled = |side: &[f64]| side.iter().map(|value| value * 4.0).collect::<Vec<_>>();
            prop_assert!((p - rank_test(&scaled(&a), &scaled(&b))).abs() < 1e-9);
            let found = ratio_interval(&a, &b).unwrap();
            prop_assert!(found.low <= found.high);
            let again = ratio_interval(&scaled(&a), &scaled(&b)).unwrap();
            prop_assert!((found.low - again.low).abs() < 1e-9 * found.low.abs());
            prop_assert!(ratio_interval(&a, &a).unwrap().has(1.0));
        }
    }
}
