//! Summaries of samples, with stated definitions.
//!
//! Non-finite samples are the caller's mistake; they are left out everywhere here, so that one of them cannot turn a
//! whole table into NaN.

use super::Stat;

/// Arithmetic mean; `None` without samples.
pub fn mean(samples: &[f64]) -> Option<f64> {
    // Welford's update stays accurate where the plain sum would lose digits.
    let mut moments = Moments::default();
    samples.iter().for_each(|&x| moments.push(x));
    moments.mean()
}

/// Unbiased sample variance (divisor n − 1); `None` below two samples.
pub fn variance(samples: &[f64]) -> Option<f64> {
    let mut moments = Moments::default();
    samples.iter().for_each(|&x| moments.push(x));
    moments.variance()
}

/// Quantile by linear interpolation between order statistics: numpy's default method `linear`, type 7 of Hyndman and
/// Fan, "Sample quantiles in statistical packages", The American Statistician 50 (1996).
///
/// `q` is clamped to 0..=1. `None` without samples or where `q` is NaN.
pub fn quantile(samples: &[f64], q: f64) -> Option<f64> {
    quantile_sorted(&sorted(samples), q)
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = samples.iter().copied().filter(|x| x.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn quantile_sorted(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    if q.is_nan() {
        return None;
    }
    let position = q.clamp(0.0, 1.0) * last as f64;
    let below = position.floor();
    let low = *sorted.get(below as usize)?;
    let high = *sorted.get((below as usize + 1).min(last))?;
    // The clamp keeps rounding from leaving the interval.
    Some((low + (high - low) * (position - below)).clamp(low, high))
}

/// The 0.975 quantile of Student's t distribution: the factor of a two-sided 95 % interval. `None` for 0 degrees.
///
/// Exact to three decimals from a table up to 30 degrees; above, the expansion of Abramowitz and Stegun 26.7.5, whose
/// error there is below 1e-5.
pub fn student_t_975(degrees_of_freedom: usize) -> Option<f64> {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
    ];
    let index = degrees_of_freedom.checked_sub(1)?;
    if let Some(t) = TABLE.get(index) {
        return Some(*t);
    }
    let (n, z) = (degrees_of_freedom as f64, 1.959_963_985_f64);
    let g1 = (z.powi(3) + z) / 4.0;
    let g2 = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    Some(z + g1 / n + g2 / (n * n))
}

/// Two-sided 95 % confidence interval of the mean of independent samples, by Student's t; `None` below two samples.
pub fn mean_interval(samples: &[f64]) -> Option<(f64, f64)> {
    let mut moments = Moments::default();
    samples.iter().for_each(|&x| moments.push(x));
    let (mean, half) = (moments.mean()?, moments.half_width()?);
    Some((mean - half, mean + half))
}

impl Stat {
    /// Summary of independent samples; `target` is the given quantile, or the mean where it is absent. `None` without
    /// samples.
    ///
    /// One sample says nothing about its own spread: the interval is then ± 100 % of the value, so that nothing reads
    /// it as certain and it stays a number in JSON.
    pub fn from_samples(samples: &[f64], target_quantile: Option<f64>) -> Option<Self> {
        let sorted = sorted(samples);
        let mean = mean(&sorted)?;
        let (ci_low, ci_high) = mean_interval(&sorted).unwrap_or((mean - mean.abs(), mean + mean.abs()));
        Some(Self {
            mean,
            p50: quantile_sorted(&sorted, 0.5)?,
            p90: quantile_sorted(&sorted, 0.9)?,
            p99: quantile_sorted(&sorted, 0.99)?,
            ci_low,
            ci_high,
            target: match target_quantile {
                Some(q) => quantile_sorted(&sorted, q)?,
                None => mean,
            },
        })
    }

    /// The same with the interval from [`Sequential::interval`], for samples that depend on each other.
    #[must_use]
    pub fn with_interval(mut self, interval: Option<(f64, f64)>) -> Self {
        if let Some((low, high)) = interval {
            (self.ci_low, self.ci_high) = (low, high);
        }
        self
    }
}

/// Running mean and variance (Welford, Technometrics 4, 1962).
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    n: usize,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn push(&mut self, x: f64) {
        if !x.is_finite() {
            return;
        }
        self.n += 1;
        let delta = x - self.mean;
        self.mean += delta / self.n as f64;
        self.squares += delta * (x - self.mean);
    }

    fn mean(&self) -> Option<f64> {
        (self.n > 0).then_some(self.mean)
    }

    fn variance(&self) -> Option<f64> {
        (self.n > 1).then(|| self.squares / (self.n - 1) as f64)
    }

    /// Half of the 95 % interval of the mean.
    fn half_width(&self) -> Option<f64> {
        let t = student_t_975(self.n.checked_sub(1)?)?;
        Some(t * (self.variance()? / self.n as f64).sqrt())
    }
}

/// Fewest samples before [`Sequential`] may say that it is precise enough. A stopping rule that looks after every
/// sample stops too early too often when it may stop at two or three.
pub const MIN_SAMPLES: usize = 8;

/// Batches that [`Sequential`] forms from dependent samples: 10 to 20 (Schmeiser, "Batch size effects in the analysis
/// of simulation output", Operations Research 30, 1982, advises 10 to 30).
const MAX_BATCHES: usize = 20;

/// Collects samples until the mean is known precisely enough.
///
/// Samples may be independent (TTFT of unrelated requests) or follow each other on one engine (decode steps, whose
/// context grows and whose disturbances last). For the latter, treating samples as independent makes the interval too
/// narrow; the method of batch means forms consecutive batches and applies Student's t to the batches' means.
#[derive(Debug, Clone)]
pub struct Sequential {
    samples: Vec<f64>,
    dependent: bool,
}

impl Sequential {
    /// For samples that do not depend on each other.
    pub const fn independent() -> Self {
        Self { samples: Vec::new(), dependent: false }
    }

    /// For samples in the order of time, by batch means.
    pub const fn dependent() -> Self {
        Self { samples: Vec::new(), dependent: true }
    }

    /// Adds one; a non-finite one is dropped.
    pub fn push(&mut self, sample: f64) {
        if sample.is_finite() {
            self.samples.push(sample);
        }
    }

    /// All samples so far, in order.
    pub fn samples(&self) -> &[f64] {
        &self.samples
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// 95 % confidence interval of the mean; `None` while there is too little to tell.
    pub fn interval(&self) -> Option<(f64, f64)> {
        if !self.dependent {
            return mean_interval(&self.samples);
        }
        let batch = self.samples.len().div_ceil(MAX_BATCHES).max(1);
        let mut means = Moments::default();
        // An incomplete last batch would count as much as a full one, with more noise.
        self.samples.chunks_exact(batch).filter_map(mean).for_each(|m| means.push(m));
        let half = means.half_width()?;
        let mean = mean(&self.samples)?;
        Some((mean - half, mean + half))
    }

    /// Half of the interval as a fraction of the mean; `None` while there is too little to tell, or the mean is 0.
    pub fn relative_half_width(&self) -> Option<f64> {
        let (low, high) = self.interval()?;
        let centre = (low + high) / 2.0;
        (centre != 0.0).then(|| ((high - low) / 2.0 / centre).abs())
    }

    /// Whether the mean is known to within ± `relative_precision` of itself.
    pub fn is_precise(&self, relative_precision: f64) -> bool {
        self.samples.len() >= MIN_SAMPLES && self.relative_half_width().is_some_and(|w| w <= relative_precision)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_said_about_no_samples() {
        assert_eq!(mean(&[]), None);
        assert_eq!(variance(&[1.0]), None);
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[f64::NAN], 0.5), None);
        assert!(Stat::from_samples(&[], Some(0.9)).is_none());
    }

    #[test]
    fn quantiles_are_those_of_numpy() {
        // numpy.quantile([15, 20, 35, 40, 50], [0, .05, .3, .4, .5, .95, 1])
        let x = [40.0, 15.0, 50.0, 20.0, 35.0];
        for (q, expected) in
            [(0.0, 15.0), (0.05, 16.0), (0.3, 23.0), (0.4, 29.0), (0.5, 35.0), (0.95, 48.0), (1.0, 50.0)]
        {
            let got = quantile(&x, q).unwrap();
            assert!((got - expected).abs() < 1e-9, "q={q}: {got} != {expected}");
        }
        assert_eq!(quantile(&x, -3.0), Some(15.0));
        assert_eq!(quantile(&x, 7.0), Some(50.0));
    }

    #[test]
    fn student_factors_agree_with_published_tables() {
        for (df, expected) in [(1, 12.706), (10, 2.228), (30, 2.042), (31, 2.0395), (60, 2.0003), (120, 1.9799)] {
            let got = student_t_975(df).unwrap();
            assert!((got - expected).abs() < 1e-3, "df={df}: {got}");
        }
        assert_eq!(student_t_975(0), None);
    }

    #[test]
    fn one_sample_is_not_taken_for_a_certainty() {
        let stat = Stat::from_samples(&[3.0], None).unwrap();
        assert_eq!((stat.mean, stat.ci_low, stat.ci_high), (3.0, 0.0, 6.0));
    }

    #[test]
    fn a_target_is_the_quantile_that_the_sla_names() {
        let samples: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(Stat::from_samples(&samples, Some(0.95)).unwrap().target, 95.0);
        assert_eq!(Stat::from_samples(&samples, None).unwrap().target, 50.0);
    }

    /// Standard normal by Box and Muller over a small generator.
    fn noise(seed: u64, n: usize) -> Vec<f64> {
        let mut state = seed;
        let mut uniform = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
        };
        (0..n).map(|_| (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()).collect()
    }

    #[test]
    fn intervals_of_independent_samples_cover_the_mean_as_often_as_they_say() {
        let covered = (0..2000)
            .filter(|&seed| {
                let samples: Vec<f64> = noise(seed * 7919 + 1, 12).iter().map(|z| 10.0 + z).collect();
                mean_interval(&samples).is_some_and(|(low, high)| low <= 10.0 && 10.0 <= high)
            })
            .count();
        assert!((1860..=1940).contains(&covered), "{covered} of 2000");
    }

    #[test]
    fn batch_means_cover_autocorrelated_samples_where_independence_does_not() {
        let (mut batched, mut naive) = (0, 0);
        for seed in 0..500 {
            let mut sequence = Sequential::dependent();
            let mut state = 0.0;
            for z in noise(seed * 104_729 + 3, 400) {
                // AR(1) with correlation 0.7.
                state = 0.7 * state + z;
                sequence.push(100.0 + state);
            }
            let inside = |(low, high): (f64, f64)| low <= 100.0 && 100.0 <= high;
            batched += usize::from(sequence.interval().is_some_and(inside));
            naive += usize::from(mean_interval(sequence.samples()).is_some_and(inside));
        }
        assert!(batched >= 440, "batch means covered {batched} of 500");
        assert!(naive < 370, "the naive interval covered {naive} of 500");
    }

    #[test]
    fn precision_is_not_claimed_before_the_minimum_number_of_samples() {
        let mut sequence = Sequential::independent();
        for _ in 0..MIN_SAMPLES - 1 {
            sequence.push(5.0);
            assert!(!sequence.is_precise(0.5));
        }
        sequence.push(5.0);
        assert!(sequence.is_precise(0.0));
    }

    proptest! {
        #[test]
        fn mean_and_variance_agree_with_the_naive_sums(x in prop::collection::vec(-1e6_f64..1e6, 2..200)) {
            let n = x.len() as f64;
            let m = x.iter().sum::<f64>() / n;
            let v = x.iter().map(|y| (y - m).powi(2)).sum::<f64>() / (n - 1.0);
            prop_assert!((mean(&x).unwrap() - m).abs() <= 1e-6);
            prop_assert!((variance(&x).unwrap() - v).abs() <= 1e-9 * v.max(1.0));
        }

        #[test]
        fn quantiles_lie_within_the_samples_and_grow_with_q(
            x in prop::collection::vec(-1e6_f64..1e6, 1..100), a in 0.0_f64..=1.0, b in 0.0_f64..=1.0,
        ) {
            let (low, high) = (a.min(b), a.max(b));
            let (p, q) = (quantile(&x, low).unwrap(), quantile(&x, high).unwrap());
            let min = x.iter().copied().fold(f64::INFINITY, f64::min);
            let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            prop_assert!(min <= p && p <= q && q <= max);
        }

        #[test]
        fn a_quantile_at_a_rank_is_that_order_statistic(x in prop::collection::vec(-1e3_f64..1e3, 2..60), k in 0_usize..60) {
            let mut s = x.clone();
            s.sort_by(f64::total_cmp);
            let k = k % s.len();
            let q = k as f64 / (s.len() - 1) as f64;
            prop_assert!((quantile(&x, q).unwrap() - s[k]).abs() < 1e-6);
        }

        #[test]
        fn an_interval_contains_the_mean(x in prop::collection::vec(0.1_f64..1e3, 1..100)) {
            let stat = Stat::from_samples(&x, Some(0.9)).unwrap();
            prop_assert!(stat.ci_low <= stat.mean && stat.mean <= stat.ci_high);
            prop_assert!(stat.p50 <= stat.p90 && stat.p90 <= stat.p99);
            prop_assert_eq!(stat.target, stat.p90);
        }
    }
}
