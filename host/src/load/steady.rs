//! Where steady state begins, and whether there is one. Pure.

/// Fewest samples of which to say anything.
const FEWEST: usize = 20;

/// Samples in a batch: single ones are too noisy.
const BATCH: usize = 5;

/// How many samples at the start belong to the transient: the truncation that minimises the standard error of what
/// remains, MSER-5 (White, "An effective truncation heuristic for bias reduction in simulation output", Simulation 69,
/// 1997), over at most half of them.
pub fn transient(samples: &[f64]) -> usize {
    if samples.len() < FEWEST {
        return 0;
    }
    let batches: Vec<f64> = samples.chunks_exact(BATCH).map(|b| b.iter().sum::<f64>() / BATCH as f64).collect();
    // Sums from the end, so that each truncation is one step.
    let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
    let mut best = (f64::INFINITY, 0);
    let centre = batches.iter().sum::<f64>() / batches.len() as f64;
    for (index, batch) in batches.iter().enumerate().rev() {
        // Centred: squares of large numbers lose the small difference.
        let x = batch - centre;
        n += 1.0;
        sum += x;
        squares += x * x;
        let error = (squares - sum * sum / n) / (n * n);
        if index <= batches.len() / 2 && error <= best.0 {
            best = (error, index);
        }
    }
    best.1 * BATCH
}

/// By which fraction of its mean the series grows from its first to its last sample, where the slope is beyond chance;
/// the t statistic of 5 makes that a chance of one in a million for independent samples, and rare for dependent ones.
pub fn growth(samples: &[f64]) -> Option<f64> {
    if samples.len() < FEWEST {
        return None;
    }
    let n = samples.len() as f64;
    let (x_mean, y_mean) = ((n - 1.0) / 2.0, samples.iter().sum::<f64>() / n);
    let (mut sxx, mut sxy, mut syy) = (0.0, 0.0, 0.0);
    for (index, y) in samples.iter().enumerate() {
        let (dx, dy) = (index as f64 - x_mean, y - y_mean);
        sxx += dx * dx;
        sxy += dx * dy;
        syy += dy * dy;
    }
    let slope = sxy / sxx;
    let residual = ((syy - slope * sxy).max(0.0) / (n - 2.0)).sqrt();
    let significant = slope > 5.0 * residual / sxx.sqrt();
    (significant && y_mean > 0.0).then(|| slope * (n - 1.0) / y_mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, n: usize) -> Vec<f64> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
            })
            .collect()
    }

    #[test]
    fn a_slow_start_is_cut_off() {
        let samples: Vec<f64> =
            noise(3, 200).iter().enumerate().map(|(i, e)| 10.0 + e + if i < 40 { 30.0 } else { 0.0 }).collect();
        let cut = transient(&samples);
        assert!((40..=60).contains(&cut), "{cut}");
    }

    #[test]
    fn little_is_cut_from_what_is_steady() {
        let mean = (0..50).map(|seed| transient(&noise(seed + 1, 200)) as f64).sum::<f64>() / 50.0;
        assert!(mean < 60.0, "{mean} of 200");
        assert_eq!(transient(&[5.0; 100]), 0);
        assert_eq!(transient(&[9.0, 1.0, 1.0]), 0);
    }

    #[test]
    fn a_growing_queue_is_told_from_noise() {
        let growing: Vec<f64> = noise(5, 100).iter().enumerate().map(|(i, e)| 50.0 + i as f64 + 20.0 * e).collect();
        assert!((0.7..1.3).contains(&growth(&growing).unwrap()));
        assert_eq!((0..200).filter(|seed| growth(&noise(seed + 1, 100)).is_some()).count(), 0);
        let falling: Vec<f64> = (0..100).map(|i| 200.0 - f64::from(i)).collect();
        assert_eq!(growth(&falling), None);
    }
}
