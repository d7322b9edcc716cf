//! Random numbers from named things: what is drawn for one engine or request never depends on which came before.

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): small, fast, and every seed gives an independent stream.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// A stream for whatever the parts name: the run's seed, a mapping, a point.
    pub(crate) fn new(parts: &[u64]) -> Self {
        let mut random = Self(0x5175_6172_7465_7421);
        for part in parts {
            random.0 ^= *part;
            random.0 = random.next();
        }
        random
    }

    /// 64 random bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform, above 0 and below 1.
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Standard normal (Box and Muller, 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Exponential with the given mean: the gaps of Poisson arrivals.
    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.uniform().ln()
    }

    /// Log-normal with mean 1 and the given coefficient of variation; 1 where that is 0.
    pub(crate) fn disturbance(&mut self, cv: f64) -> f64 {
        if cv <= 0.0 {
            return 1.0;
        }
        let variance = (cv * cv).ln_1p();
        (variance.sqrt() * self.normal() - variance / 2.0).exp()
    }

    /// Uniform within 1 ± `width`.
    pub(crate) fn around_one(&mut self, width: f64) -> f64 {
        1.0 + width * (2.0 * self.uniform() - 1.0)
    }
}

/// A text as a part of a seed (FNV-1a).
pub(crate) fn text(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::stats;

    #[test]
    fn disturbances_have_mean_one_and_the_variation_asked_for() {
        let mut random = Random::new(&[1, 2, 3]);
        let samples: Vec<f64> = (0..20_000).map(|_| random.disturbance(0.1)).collect();
        assert!((stats::mean(&samples).unwrap() - 1.0).abs() < 0.005);
        assert!((stats::variance(&samples).unwrap().sqrt() - 0.1).abs() < 0.005);
        assert_eq!(random.disturbance(0.0), 1.0);
    }

    #[test]
    fn streams_depend_on_every_part_and_their_order() {
        let first = |parts: &[u64]| Random::new(parts).next();
        assert_eq!(first(&[1, 2]), first(&[1, 2]));
        assert_ne!(first(&[1, 2]), first(&[2, 1]));
        assert_ne!(first(&[1, 2]), first(&[1, 3]));
        assert_ne!(text("tp1"), text("tp2"));
    }

    #[test]
    fn gaps_of_arrivals_have_the_mean_asked_for() {
        let mut random = Random::new(&[9]);
        let samples: Vec<f64> = (0..20_000).map(|_| random.exponential(2.0)).collect();
        assert!((stats::mean(&samples).unwrap() - 2.0).abs() < 0.05);
    }
}
