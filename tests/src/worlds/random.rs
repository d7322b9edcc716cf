//! Reproducible randomness: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), keyed by what is drawn.

/// A stream.
#[derive(Debug, Clone)]
pub struct Random(u64);

/// A number for a name.
pub fn text(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Random {
    /// The stream of this key.
    pub fn new(key: &[u64]) -> Self {
        let mut random = Self(0x9e37_79b9_7f4a_7c15);
        for part in key {
            random.0 ^= *part;
            random.0 = random.next();
        }
        random
    }

    /// 64 bits.
    #[allow(clippy::should_implement_trait, reason = "an endless stream")]
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to 1.
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// 1 ± `spread`.
    pub fn around_one(&mut self, spread: f64) -> f64 {
        1.0 + spread * (2.0 * self.uniform() - 1.0)
    }

    /// 0 to `end` - 1.
    pub fn below(&mut self, end: u64) -> usize {
        (self.next() % end) as usize
    }

    /// Mean 1 and the coefficient of variation `cv`: log-normal, as latencies are.
    pub fn disturbance(&mut self, cv: f64) -> f64 {
        let variance = (1.0 + cv * cv).ln();
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        (variance.sqrt() * normal - variance / 2.0).exp()
    }
}
