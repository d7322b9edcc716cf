//! Random numbers for prompts and arrivals.

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// A stream for whatever the parts name.
    pub(super) fn new(parts: &[u64]) -> Self {
        let mut random = Self(0x6c6f_6164_2121_2121);
        for part in parts {
            random.0 ^= *part;
            random.0 = random.next();
        }
        random
    }

    /// 64 random bits.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Exponential with mean 1: the gaps of Poisson arrivals.
    pub(super) fn exponential(&mut self) -> f64 {
        -(((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64).ln()
    }
}
