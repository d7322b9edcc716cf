//! How long requests wait, and how many are in flight: the formulas behind [`sizing`](crate::sizing).

mod mixed;

pub use mixed::{Kind, MixedQueue, Waits};

/// Probability that an arrival has to wait in M/M/c (Erlang's C formula); a good approximation for M/D/c as well, and
/// exact for one server. `load` is arrival rate times service time, in servers. 1 where the load is not below `servers`.
///
/// A. K. Erlang 1917; computed by the recurrence of Erlang B, which neither overflows nor cancels.
pub fn waiting_probability(servers: u32, load: f64) -> f64 {
    let c = f64::from(servers);
    let keeps_up = load < c;
    if !keeps_up {
        return 1.0;
    }
    let blocked = (1..=servers).fold(1.0, |b, k| load * b / (f64::from(k) + load * b));
    c * blocked / (c - load * (1.0 - blocked))
}

/// A queue with Poisson arrivals, one line and several servers that each take the same time for every job: M/D/c.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeterministicQueue {
    /// Servers behind the one line.
    pub servers: u32,
    /// What one job takes, in any unit of time.
    pub service: f64,
    /// Arrivals per that unit.
    pub rate: f64,
}

impl DeterministicQueue {
    /// Load per server.
    pub fn utilization(&self) -> f64 {
        self.rate * self.service / f64::from(self.servers)
    }

    /// Mean wait; infinite where the load is too much.
    ///
    /// Half of M/M/c's wait (Pollaczek–Khinchine for one server; Allen–Cunneen for several), with the correction of
    /// G. P. Cosmetatos, "Approximate explicit formulae for the average queueing time in the processes (M/D/r) and
    /// (D/M/r)", INFOR 13 (1975).
    pub fn mean_wait(&self) -> f64 {
        let (c, rho) = (f64::from(self.servers), self.utilization());
        let keeps_up = rho < 1.0;
        if !keeps_up {
            return f64::INFINITY;
        }
        if rho <= 0.0 {
            return 0.0;
        }
        let exponential = self.waiting_probability() * self.service / (c * (1.0 - rho));
        // The correction was fitted for loads at which anybody waits at all.
        let correction = ((1.0 - rho) * (c - 1.0) * ((4.0 + 5.0 * c).sqrt() - 2.0) / (16.0 * rho * c)).min(1.0);
        0.5 * (1.0 + correction) * exponential
    }

    fn waiting_probability(&self) -> f64 {
        waiting_probability(self.servers, self.rate * self.service)
    }

    /// The wait that a fraction `quantile` of the jobs does not exceed.
    ///
    /// The tail of M/D/c is exponential, P(W > t) ≈ γ·exp(−ηt), with η from τ^c · exp(a·(1 − τ)) = 1, a = load,
    /// η = rate·(τ − 1) (H. C. Tijms, *A First Course in Stochastic Models*, 2003, § 9.6). γ is chosen so that the tail,
    /// cut at the waiting probability, has the mean of [`mean_wait`](Self::mean_wait); for one server that gives the
    /// exact γ to within 1 %.
    pub fn wait_quantile(&self, quantile: f64) -> f64 {
        let mean = self.mean_wait();
        if !mean.is_finite() || mean <= 0.0 {
            return mean;
        }
        let delayed = self.waiting_probability();
        let beyond = 1.0 - quantile;
        if beyond >= delayed {
            return 0.0;
        }
        let eta = self.decay();
        // ln(γ / P(W > 0)), from mean = P(W > 0) · (1 + ln(γ / P(W > 0))) / η.
        let excess = mean * eta / delayed - 1.0;
        ((excess + (delayed / beyond).ln()) / eta).max(0.0)
    }

    /// η: the rate at which the tail falls.
    fn decay(&self) -> f64 {
        let (c, load) = (f64::from(self.servers), self.rate * self.service);
        // f(τ) = c·ln τ − load·(τ − 1) is 0 at τ = 1, rises until τ = c/load, and falls for ever: the root lies beyond.
        let f = |tau: f64| c * tau.ln() - load * (tau - 1.0);
        let mut low = c / load;
        let mut high = 2.0 * low;
        while f(high) > 0.0 && high < 1e9 {
            high *= 2.0;
        }
        for _ in 0..32 {
            let middle = f64::midpoint(low, high);
            if f(middle) > 0.0 {
                low = middle;
            } else {
                high = middle;
            }
        }
        self.rate * (high - 1.0)
    }
}

/// How many requests are in flight in a pool.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InFlight {
    /// Mean number, those that wait for a place included.
    pub mean: f64,
    /// Variance of that number.
    pub variance: f64,
}

impl InFlight {
    /// The stationary distribution of a pool that shares its capacity: Poisson arrivals at `rate`, and `duration(n)` is
    /// what one request takes while `n` are in flight; at most `places` run at once, others wait. `None` if the pool does
    /// not keep up.
    ///
    /// Processor sharing with a speed that depends on the number of jobs is insensitive to how long the jobs are
    /// (J. W. Cohen, "The multiple phase service network with generalized processor sharing", Acta Informatica 12,
    /// 1979), so that π(n) ∝ Π rate · duration(i) / i holds for answers of a fixed length too. With a duration that does not depend on n this
    /// is the Poisson distribution of M/G/∞. The terms are summed outwards from the largest, so that nothing overflows.
    pub fn new(rate: f64, places: u32, duration: impl Fn(f64) -> f64) -> Option<Self> {
        if rate == 0.0 {
            return Some(Self { mean: 0.0, variance: 0.0 });
        }
        let full = f64::from(places);
        let growth = |n: f64| rate * duration(n.min(full)) / n.min(full);
        let last = growth(full);
        let keeps_up = places > 0 && rate > 0.0 && last < 1.0;
        if !keeps_up {
            return None;
        }
        // The most likely state: where the terms stop growing.
        let (mut low, mut high) = (0, places);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if growth(f64::from(middle)) >= 1.0 {
                low = middle;
            } else {
                high = middle;
            }
        }
        let mode = low;
        const NEGLIGIBLE: f64 = 1e-9;
        let (mut weight, mut first, mut second) = (1.0, 0.0, 0.0);
        let mut add = |term: f64, n: f64| {
            let from_mode = n - f64::from(mode);
            weight += term;
            first += term * from_mode;
            second += term * from_mode * from_mode;
        };
        let mut term = 1.0;
        for n in (1..=mode).rev() {
            term /= growth(f64::from(n));
            if term.is_nan() || term <= NEGLIGIBLE {
                break;
            }
            add(term, f64::from(n) - 1.0);
        }
        term = 1.0;
        for n in mode + 1..=places {
            term *= growth(f64::from(n));
            if term.is_nan() || term <= NEGLIGIBLE {
                break;
            }
            add(term, f64::from(n));
        }
        if term > NEGLIGIBLE {
            // Beyond the last place the terms are geometric with ratio `last`: sums of r^k, k·r^k, k²·r^k.
            let (r, from_mode) = (last, full - f64::from(mode));
            let (s0, s1, s2) = (r / (1.0 - r), r / (1.0 - r).powi(2), r * (1.0 + r) / (1.0 - r).powi(3));
            weight += term * s0;
            first += term * (from_mode * s0 + s1);
            second += term * (from_mode * from_mode * s0 + 2.0 * from_mode * s1 + s2);
        }
        let shift = first / weight;
        Some(Self { mean: f64::from(mode) + shift, variance: (second / weight - shift * shift).max(0.0) })
    }
}

/// Fraction of a standard normal distribution beyond `z`, to within 1e-7 (Abramowitz & Stegun 26.2.17).
pub fn normal_beyond(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let series =
        t * (0.319_381_530 + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    let beyond = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * series;
    if z < 0.0 { 1.0 - beyond } else { beyond }
}

/// Quantile of the standard normal distribution, to within 0.0005 (Abramowitz & Stegun 26.2.23); 0 for what is no
/// probability.
pub fn normal_quantile(probability: f64) -> f64 {
    if !(probability > 0.0 && probability < 1.0) {
        return 0.0;
    }
    let tail = probability.min(1.0 - probability);
    let t = (-2.0 * tail.ln()).sqrt();
    let z =
        t - (2.515_517 + t * (0.802_853 + t * 0.010_328)) / (1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308)));
    if probability < 0.5 { -z } else { z }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn close(a: f64, b: f64, tolerance: f64) -> bool {
        (a - b).abs() <= tolerance * b.abs().max(1e-9)
    }

    #[test]
    fn erlang_c_agrees_with_published_values() {
        // L. Kleinrock's and any call-centre table: 1 server at 0.8; 2 servers at 1.6; 10 servers at 8.
        assert!(close(waiting_probability(1, 0.8), 0.8, 1e-12));
        assert!(close(waiting_probability(2, 1.6), 0.711_1, 1e-3));
        assert!(close(waiting_probability(10, 8.0), 0.409_2, 1e-3));
        assert_eq!(waiting_probability(3, 3.0), 1.0);
        assert_eq!(waiting_probability(3, f64::NAN), 1.0);
    }

    #[test]
    fn one_deterministic_server_waits_as_pollaczek_and_khinchine_say() {
        for rho in [0.2, 0.5, 0.8, 0.95] {
            let queue = DeterministicQueue { servers: 1, service: 1.0, rate: rho };
            assert!(close(queue.mean_wait(), rho / (2.0 * (1.0 - rho)), 1e-9));
        }
    }

    /// Waits of a simulated M/D/c, sorted.
    fn simulate(queue: DeterministicQueue, jobs: usize, seed: u64) -> Vec<f64> {
        let mut random = Random::new(seed);
        let mut free_at = vec![0.0f64; queue.servers as usize];
        let mut now = 0.0;
        let mut waits: Vec<f64> = (0..jobs)
            .map(|_| {
                now += random.exponential(1.0 / queue.rate);
                let next = (0..free_at.len()).min_by(|a, b| free_at[*a].total_cmp(&free_at[*b])).unwrap();
                let wait = (free_at[next] - now).max(0.0);
                free_at[next] = now + wait + queue.service;
                wait
            })
            .collect();
        waits.sort_by(f64::total_cmp);
        waits
    }

    #[test]
    fn waits_agree_with_a_simulation_in_mean_and_tail() {
        for (servers, rho) in [(1, 0.7), (2, 0.8), (4, 0.7), (4, 0.9), (16, 0.9), (32, 0.93)] {
            let queue = DeterministicQueue { servers, service: 1.0, rate: rho * f64::from(servers) };
            let waits = simulate(queue, 400_000, 7);
            let mean = waits.iter().sum::<f64>() / waits.len() as f64;
            assert!(
                (queue.mean_wait() - mean).abs() < 0.08 * mean + 0.01,
                "{servers} {rho}: {} {mean}",
                queue.mean_wait()
            );
            for q in [0.9, 0.95, 0.99] {
                let (model, truth) = (queue.wait_quantile(q), waits[(q * waits.len() as f64) as usize]);
                assert!((model - truth).abs() < 0.08 * truth + 0.05, "{servers} {rho} p{q}: {model} {truth}");
            }
        }
    }

    #[test]
    fn too_much_load_waits_for_ever_and_no_load_not_at_all() {
        assert_eq!(DeterministicQueue { servers: 2, service: 1.0, rate: 2.0 }.mean_wait(), f64::INFINITY);
        assert_eq!(DeterministicQueue { servers: 2, service: 1.0, rate: 2.0 }.wait_quantile(0.9), f64::INFINITY);
        assert_eq!(DeterministicQueue { servers: 2, service: 1.0, rate: 0.0 }.wait_quantile(0.99), 0.0);
        assert_eq!(DeterministicQueue { servers: 2, service: f64::NAN, rate: 1.0 }.mean_wait(), f64::INFINITY);
    }

    #[test]
    fn a_constant_duration_gives_the_poisson_distribution() {
        let pool = InFlight::new(5.0, 10_000, |_| 40.0).unwrap();
        assert!(close(pool.mean, 200.0, 1e-7) && close(pool.variance, 200.0, 1e-5), "{pool:?}");
    }

    #[test]
    fn few_places_are_an_m_m_c_queue() {
        // With duration(n) constant and c places: M/M/c. Mean in system = load + C·ρ/(1−ρ).
        let (servers, load) = (4u32, 3.2);
        let expected = load + waiting_probability(servers, load) * 0.8 / 0.2;
        let pool = InFlight::new(load, servers, |_| 1.0).unwrap();
        assert!(close(pool.mean, expected, 1e-9), "{} {expected}", pool.mean);
    }

    #[test]
    fn a_pool_that_does_not_keep_up_has_no_distribution() {
        assert_eq!(InFlight::new(10.0, 100, |n| n), None);
        assert_eq!(InFlight::new(f64::NAN, 100, |_| 1.0), None);
        assert_eq!(InFlight::new(1.0, 0, |_| 1.0), None);
        assert_eq!(InFlight::new(1.0, 10, |_| f64::NAN), None);
        assert_eq!(InFlight::new(0.0, 10, |_| 1.0).unwrap().mean, 0.0);
    }

    #[test]
    fn normal_quantiles_are_those_of_the_tables() {
        for (p, z) in [(0.5, 0.0), (0.9, 1.281_55), (0.95, 1.644_85), (0.99, 2.326_35), (0.05, -1.644_85)] {
            assert!((normal_quantile(p) - z).abs() < 5e-4, "{p}");
        }
        assert_eq!(normal_quantile(f64::NAN), 0.0);
        for (z, beyond) in [(0.0, 0.5), (1.281_55, 0.1), (1.959_96, 0.025), (-1.644_85, 0.95), (4.0, 3.167e-5)] {
            assert!((normal_beyond(z) - beyond).abs() < 2e-6, "{z}");
        }
    }
}
