//! When a point is known well enough, and how well it is known. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Estimate, Figure};
use crate::domain::Stat;
use crate::domain::stats::{self, MIN_SAMPLES, Sequential};

/// Why measuring ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stopped {
    /// The interval is as tight as was asked.
    Precise,
    /// It is clear on which side of the target the statistic lies.
    Decided,
    /// As many requests were measured as were allowed.
    MostRequests,
}

/// Repeated looks at the same interval find "significance" too often. Looks are few ([`next_look`]), and a decision
/// takes an interval that is wider by the ratio of Pocock's bound for twenty looks to the single look's, 2.672 / 1.960
/// (Pocock, Biometrika 64, 1977; as many looks as there are from 16 to 1000 samples).
const POCOCK: f64 = 2.672 / 1.960;

/// Fewest samples for a decision: with fewer, a skewed distribution has too narrow an interval too often.
const FEWEST_TO_DECIDE: usize = 2 * MIN_SAMPLES;

/// After how many samples to look again, having looked at `n`.
pub fn next_look(n: usize) -> usize {
    n + n.div_ceil(4).max(1)
}

/// Fewest independent samples for which some interval between order statistics covers the quantile with 95 %: each tail
/// must have at most 2.5 %, and the largest of n samples lies below the quantile `q` with probability `q^n`. The mean
/// takes [`MIN_SAMPLES`].
///
/// 6 for the median, 36 for 0.9, 72 for 0.95, 368 for 0.99.
pub fn fewest_samples(quantile: Option<f64>) -> usize {
    match quantile {
        Some(q) if q > 0.0 && q < 1.0 => ((0.025_f64.ln() / q.max(1.0 - q).ln()).ceil() as usize).max(1),
        _ => MIN_SAMPLES,
    }
}

/// Summary of samples in the order of their starts.
///
/// Requests that run at the same time depend on each other, so the mean's interval is that of batch means
/// ([`Sequential::dependent`]), unless a better one is given. A quantile's interval is the distribution-free one between
/// order statistics, for as many independent samples as the mean's interval says there are.
pub fn figure(samples: &[f64], quantile: Option<f64>, mean_interval: Option<(f64, f64)>) -> Option<Figure> {
    let mut sequence = Sequential::dependent();
    samples.iter().for_each(|&x| sequence.push(x));
    let interval = mean_interval.or_else(|| sequence.interval());
    let stat = Stat::from_samples(sequence.samples(), quantile)?.with_interval(interval);
    let count = u32::try_from(sequence.len()).unwrap_or(u32::MAX);
    let (ci_low, ci_high) = match quantile {
        None => (stat.ci_low, stat.ci_high),
        Some(q) => quantile_interval(sequence.samples(), q, effective_count(sequence.samples(), interval))
            .unwrap_or((stat.target - stat.target.abs(), stat.target + stat.target.abs())),
    };
    let target = Estimate { value: stat.target, ci_low, ci_high, samples: count };
    Some(Figure { stat, target, samples: count })
}

/// As many independent samples would give the interval.
fn effective_count(samples: &[f64], interval: Option<(f64, f64)>) -> usize {
    let n = samples.len();
    match (stats::mean_interval(samples), interval) {
        (Some((low, high)), Some((wide_low, wide_high))) if wide_high - wide_low > high - low => {
            // The width falls with the root of the number.
            let ratio = (high - low) / (wide_high - wide_low);
            ((n as f64 * ratio * ratio) as usize).max(1)
        }
        _ => n,
    }
}

/// Distribution-free 95 % interval of a quantile, with at most 2.5 % in each tail: order statistics whose ranks are
/// quantiles of the binomial distribution (Hahn and Meeker, "Statistical Intervals", 1991, section 5.2). `None` where
/// the `independent` samples are too few for one.
fn quantile_interval(samples: &[f64], q: f64, independent: usize) -> Option<(f64, f64)> {
    if independent < fewest_samples(Some(q)) {
        return None;
    }
    let n = independent as f64;
    // The distribution function of Binomial(n, q), from 0 upwards; logarithms since q^n underflows.
    let (mut log_mass, mut below) = (n * (1.0 - q).ln(), 0.0);
    let (mut low, mut high) = (None, None);
    for k in 0..=independent {
        below += log_mass.exp();
        // The quantile lies below the order statistic of rank r with probability P(X < r).
        if low.is_none() && below > 0.025 {
            low = Some(k);
        }
        if below >= 0.975 {
            high = Some(k + 1);
            break;
        }
        log_mass += ((n - k as f64) / (k as f64 + 1.0)).ln() + (q / (1.0 - q)).ln();
    }
    // Ranks 1 to n as positions 0 to 1 among the samples, of which there may be more than independent ones.
    let position = |rank: usize| (rank.clamp(1, independent) - 1) as f64 / (n - 1.0).max(1.0);
    Some((stats::quantile(samples, position(low?))?, stats::quantile(samples, position(high?))?))
}

/// What must be known of one latency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// The statistic; the mean if absent.
    pub quantile: Option<f64>,
    /// Half width of the interval as a fraction of the statistic.
    pub relative_precision: f64,
    /// It is enough to know on which side of this the statistic lies.
    pub target: Option<f64>,
}

impl Rule {
    /// Whether the figure satisfies the rule, and by what. `behind` is the number of samples behind its interval.
    pub fn verdict(&self, figure: &Figure, behind: usize) -> Option<Stopped> {
        if behind < fewest_samples(self.quantile).max(MIN_SAMPLES) {
            return None;
        }
        let Estimate { value, ci_low, ci_high, .. } = figure.target;
        if figure.target.relative_half_width() <= self.relative_precision {
            return Some(Stopped::Precise);
        }
        let target = self.target.filter(|_| behind >= FEWEST_TO_DECIDE)?;
        let low = value - (value - ci_low) * POCOCK;
        let high = value + (ci_high - value) * POCOCK;
        (target < low || target > high).then_some(Stopped::Decided)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exponential: skewed, as latencies are.
    fn latencies(seed: u64, mean: f64) -> impl FnMut() -> f64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            -mean * (((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64).ln()
        }
    }

    /// Samples until the rule is satisfied or the cap is met.
    fn run(rule: Rule, cap: usize, mut sample: impl FnMut() -> f64) -> (Figure, Option<Stopped>) {
        let (mut samples, mut look) = (Vec::new(), 1);
        loop {
            samples.push(sample());
            if samples.len() < look && samples.len() < cap {
                continue;
            }
            look = next_look(samples.len());
            let figure = figure(&samples, rule.quantile, None).unwrap();
            let verdict = rule.verdict(&figure, samples.len());
            if verdict.is_some() || samples.len() >= cap {
                return (figure, verdict);
            }
        }
    }

    #[test]
    fn the_fewest_samples_are_those_of_the_literature() {
        let fewest = [0.5, 0.9, 0.95, 0.99].map(|q| fewest_samples(Some(q)));
        assert_eq!(fewest, [6, 36, 72, 368]);
        assert_eq!(fewest_samples(Some(0.1)), 36);
        assert_eq!(fewest_samples(None), MIN_SAMPLES);
    }

    #[test]
    fn nothing_is_decided_before_the_fewest_samples() {
        // Constant samples: as precise as can be.
        for (quantile, fewest) in [(None, 8), (Some(0.5), 8), (Some(0.99), 368)] {
            let rule = Rule { quantile, relative_precision: 0.5, target: Some(1.0) };
            let at = |n: usize| rule.verdict(&figure(&vec![5.0; n], quantile, None).unwrap(), n);
            assert_eq!(at(fewest - 1), None);
            assert_eq!(at(fewest), Some(Stopped::Precise));
        }
    }

    #[test]
    fn intervals_of_quantiles_cover_them_as_often_as_they_say() {
        for (q, n) in [(0.5, 30), (0.9, 60), (0.95, 100)] {
            let truth = -(1.0_f64 - q).ln();
            let covered = (0..1000)
                .filter(|seed| {
                    let mut sample = latencies(seed * 31 + 7, 1.0);
                    let samples: Vec<f64> = (0..n).map(|_| sample()).collect();
                    let (low, high) = quantile_interval(&samples, q, n).unwrap();
                    low <= truth && truth <= high
                })
                .count();
            assert!(covered >= 935, "q={q} n={n}: {covered} of 1000");
        }
    }

    #[test]
    fn intervals_still_cover_after_stopping_when_they_are_tight() {
        let rule = Rule { quantile: None, relative_precision: 0.1, target: None };
        let covered = (0..500)
            .filter(|seed| {
                let (figure, stopped) = run(rule, 5000, latencies(seed * 97 + 3, 10.0));
                assert_eq!(stopped, Some(Stopped::Precise));
                figure.target.ci_low <= 10.0 && 10.0 <= figure.target.ci_high
            })
            .count();
        assert!(covered >= 440, "{covered} of 500");
    }

    #[test]
    fn the_wrong_side_of_a_target_is_chosen_in_at_most_one_case_of_twenty() {
        for (quantile, truth) in [(None, 10.0), (Some(0.9), 10.0 * 10.0_f64.ln())] {
            for target in [truth * 0.9, truth * 1.1] {
                let rule = Rule { quantile, relative_precision: 0.0, target: Some(target) };
                let wrong = (0..400)
                    .filter(|seed| {
                        let (figure, stopped) = run(rule, 4000, latencies(seed * 53 + 11, 10.0));
                        stopped == Some(Stopped::Decided) && (figure.target.value > target) != (truth > target)
                    })
                    .count();
                assert!(wrong <= 20, "{quantile:?} against {target}: {wrong} of 400");
            }
        }
    }

    #[test]
    fn a_decision_takes_fewer_samples_the_farther_the_target_is() {
        let samples = |target: f64| {
            let rule = Rule { quantile: None, relative_precision: 0.01, target: Some(target) };
            (0..50).map(|seed| run(rule, 20_000, latencies(seed * 71 + 5, 10.0)).0.samples).sum::<u32>()
        };
        let (far, near) = (samples(40.0), samples(12.0));
        assert!(far * 3 < near, "{far} and {near}");
    }

    #[test]
    fn samples_that_depend_on_each_other_count_for_fewer() {
        // Runs of 20 equal samples.
        let mut sample = latencies(9, 1.0);
        let samples: Vec<f64> = (0..20).flat_map(|_| vec![sample(); 20]).collect();
        let dependent = figure(&samples, Some(0.5), None).unwrap().target;
        let (low, high) = quantile_interval(&samples, 0.5, samples.len()).unwrap();
        assert!(dependent.ci_high - dependent.ci_low > 1.5 * (high - low));
    }
}
