//! One line for jobs of several kinds: M/G/c where the service times are a known mix.

use super::{DeterministicQueue, waiting_probability};

/// One kind of job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kind {
    /// Fraction of the arrivals; those of a queue sum up to 1.
    pub share: f64,
    /// What one job takes, in any unit of time.
    pub service: f64,
}

/// A queue with Poisson arrivals, one line for all kinds of job, and several servers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MixedQueue<'a> {
    /// Servers behind the one line.
    pub servers: u32,
    /// Arrivals of all kinds per unit of time.
    pub rate: f64,
    /// The kinds.
    pub kinds: &'a [Kind],
}

/// How the waits of a queue are distributed: some do not wait, and the tail of the others is exponential.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Waits {
    /// Mean; infinite where the load is too much.
    pub mean: f64,
    delayed: f64,
    /// Factor of the tail, above `delayed` where the tail begins later than at 0.
    factor: f64,
    decay: f64,
}

impl Waits {
    /// Fraction of the jobs that wait longer than this.
    pub fn beyond(&self, wait: f64) -> f64 {
        if !self.mean.is_finite() {
            return 1.0;
        }
        match wait {
            w if w < 0.0 => 1.0,
            w => self.delayed.min(self.factor * (-self.decay * w).exp()),
        }
    }
}

impl MixedQueue<'_> {
    /// Mean service time.
    pub fn mean_service(&self) -> f64 {
        self.kinds.iter().map(|k| k.share * k.service).sum()
    }

    /// Squared coefficient of variation of the service times: 0 where all take equally long.
    pub fn variability(&self) -> f64 {
        let mean = self.mean_service();
        let square: f64 = self.kinds.iter().map(|k| k.share * k.service * k.service).sum();
        (square / (mean * mean) - 1.0).max(0.0)
    }

    /// Mean and tail of the waits.
    ///
    /// The mean lies between that of M/D/c and that of M/M/c as the variability does between 0 and 1 (O. J. Boxma,
    /// J. W. Cohen and N. Huffels, "Approximations of the mean waiting time in an M/G/s queueing system", Operations
    /// Research 27, 1979), and is M/M/c's times (1 + variability)/2 beyond (A. O. Allen, *Probability, Statistics and Queueing
    /// Theory*, 1990, after Allen and Cunneen); for one server both are Pollaczek's and Khinchine's. The tail falls as
    /// exp(−ηt), where η solves E exp(η·service/servers) = 1 + η/rate (H. C. Tijms, *A First Course in Stochastic Models*,
    /// 2003, § 9.6; exact for phase-type services: Y. Takahashi, "Asymptotic exponentiality of the tail of the waiting-time
    /// distribution in a PH/PH/c queue", Advances in Applied Probability 13, 1981); its factor is such that the mean is
    /// the one above.
    pub fn waits(&self) -> Waits {
        let (service, variability) = (self.mean_service(), self.variability());
        let deterministic = DeterministicQueue { servers: self.servers, service, rate: self.rate };
        let rho = deterministic.utilization();
        let keeps_up = rho < 1.0;
        if !keeps_up {
            return Waits { mean: f64::INFINITY, delayed: 1.0, factor: 1.0, decay: 0.0 };
        }
        let delayed = waiting_probability(self.servers, self.rate * service);
        if rho <= 0.0 || delayed <= 0.0 {
            return Waits { mean: 0.0, delayed: 0.0, factor: 0.0, decay: 1.0 };
        }
        let exponential = delayed * service / (f64::from(self.servers) * (1.0 - rho));
        let mean = if variability <= 1.0 {
            variability * exponential + (1.0 - variability) * deterministic.mean_wait()
        } else {
            (1.0 + variability) / 2.0 * exponential
        };
        let decay = self.decay();
        // With a tail that begins at t0: mean = delayed·(t0 + 1/η). Where that leaves no t0, the tail begins lower.
        let excess = mean * decay / delayed - 1.0;
        let factor = if excess >= 0.0 { delayed * excess.exp() } else { mean * decay };
        Waits { mean, delayed, factor, decay }
    }

    /// η: the rate at which the tail falls.
    fn decay(&self) -> f64 {
        let c = f64::from(self.servers);
        let f = |eta: f64| {
            let growth: f64 = self.kinds.iter().map(|k| k.share * (eta * k.service / c).exp_m1()).sum();
            growth - eta / self.rate
        };
        // f falls from 0 and rises for ever from somewhere on: the root lies beyond its lowest point.
        let mut high = c / self.mean_service();
        while f(high) < 0.0 && high < 1e12 {
            high *= 2.0;
        }
        let mut low = 0.0;
        for _ in 0..48 {
            let middle = f64::midpoint(low, high);
            if f(middle) < 0.0 {
                low = middle;
            } else {
                high = middle;
            }
        }
        high
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    #[test]
    fn one_kind_is_the_queue_with_constant_service() {
        for (servers, rho) in [(1, 0.5), (4, 0.8), (32, 0.9)] {
            let rate = rho * f64::from(servers);
            let kinds = [Kind { share: 1.0, service: 1.0 }];
            let waits = MixedQueue { servers, rate, kinds: &kinds }.waits();
            let single = DeterministicQueue { servers, service: 1.0, rate };
            assert!((waits.mean / single.mean_wait() - 1.0).abs() < 1e-9);
            for q in [0.9, 0.99] {
                let wait = single.wait_quantile(q);
                assert!((waits.beyond(wait) - (1.0 - q)).abs() < 1e-3 || wait == 0.0, "{servers} {rho} {q}");
            }
        }
    }

    /// Waits of a simulated queue, sorted.
    fn simulate(queue: MixedQueue<'_>, jobs: usize, seed: u64) -> Vec<f64> {
        let mut random = Random::new(seed);
        let mut free_at = vec![0.0f64; queue.servers as usize];
        let mut now = 0.0;
        let mut waits: Vec<f64> = (0..jobs)
            .map(|_| {
                now += random.exponential(1.0 / queue.rate);
                let mut left = random.uniform();
                let kind = queue.kinds.iter().find(|k| {
                    left -= k.share;
                    left < 0.0
                });
                let service = kind.or(queue.kinds.last()).unwrap().service;
                let next = (0..free_at.len()).min_by(|a, b| free_at[*a].total_cmp(&free_at[*b])).unwrap();
                let wait = (free_at[next] - now).max(0.0);
                free_at[next] = now + wait + service;
                wait
            })
            .collect();
        waits.sort_by(f64::total_cmp);
        waits
    }

    #[test]
    fn waits_of_mixes_agree_with_a_simulation_in_mean_and_tail() {
        let mixes = [
            [Kind { share: 0.5, service: 0.5 }, Kind { share: 0.5, service: 1.5 }],
            [Kind { share: 0.8, service: 0.4 }, Kind { share: 0.2, service: 3.4 }],
        ];
        for kinds in &mixes {
            for (servers, rho) in [(1, 0.7), (2, 0.8), (4, 0.9), (16, 0.9)] {
                let queue = MixedQueue { servers, rate: rho * f64::from(servers), kinds };
                let (waits, truth) = (queue.waits(), simulate(queue, 400_000, 11));
                let mean = truth.iter().sum::<f64>() / truth.len() as f64;
                assert!((waits.mean - mean).abs() < 0.1 * mean + 0.01, "{servers} {rho}: {} {mean}", waits.mean);
                for q in [0.9, 0.95, 0.99] {
                    let wait = truth[(q * truth.len() as f64) as usize];
                    let beyond = waits.beyond(wait);
                    // Where it is off, it promises less: more are taken to wait than do.
                    let ratio = beyond / (1.0 - q);
                    assert!((0.75..1.6).contains(&ratio), "{kinds:?} {servers} {rho} p{q}: {ratio}");
                }
            }
        }
    }

    #[test]
    fn too_much_load_waits_for_ever_and_no_load_not_at_all() {
        let kinds = [Kind { share: 1.0, service: 1.0 }];
        let waits = |rate| MixedQueue { servers: 2, rate, kinds: &kinds }.waits();
        assert_eq!((waits(2.0).mean, waits(2.0).beyond(1e9)), (f64::INFINITY, 1.0));
        assert_eq!((waits(0.0).mean, waits(0.0).beyond(0.0)), (0.0, 0.0));
        assert_eq!(waits(f64::NAN).mean, f64::INFINITY);
        assert_eq!(waits(1.0).beyond(-1.0), 1.0);
    }
}
