//! When requests of an open loop should start.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::domain::random::Random;
use crate::load::Traffic;

/// Intended starts, as distances from the first.
#[derive(Debug)]
struct Arrivals {
    random: Random,
    mean_gap_s: f64,
    poisson: bool,
    at_s: f64,
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let at = Duration::try_from_secs_f64(self.at_s).ok()?;
        self.at_s += if self.poisson { self.random.exponential(self.mean_gap_s) } else { self.mean_gap_s };
        Some(at)
    }
}

/// `None` for a closed loop.
fn arrivals(traffic: Traffic, seed: u64) -> Option<Arrivals> {
    let (rate, poisson) = match traffic {
        Traffic::Closed { .. } => return None,
        Traffic::Poisson { requests_per_second } => (requests_per_second, true),
        Traffic::Constant { requests_per_second } => (requests_per_second, false),
    };
    Some(Arrivals { random: Random::new(&[seed, 3]), mean_gap_s: 1.0 / rate, poisson, at_s: 0.0 })
}

/// Sends each intended start when it has come, until nobody listens. `None` for a closed loop.
///
/// On a thread of its own: tokio's timers have a grain of a millisecond, the kernel's one of 50 µs.
pub(super) fn start(traffic: Traffic, seed: u64) -> Option<mpsc::UnboundedReceiver<Instant>> {
    /// Wakes up in time to see that nobody listens any more.
    const LONGEST_NAP: Duration = Duration::from_millis(100);
    let arrivals = arrivals(traffic, seed)?;
    let (sender, receiver) = mpsc::unbounded_channel();
    let pacing = std::thread::Builder::new().name("load-pace".to_owned()).spawn(move || {
        let start = Instant::now();
        for after in arrivals {
            loop {
                let wait = (start + after).saturating_duration_since(Instant::now());
                if wait.is_zero() {
                    break;
                }
                std::thread::sleep(wait.min(LONGEST_NAP));
                if sender.is_closed() {
                    return;
                }
            }
            if sender.send(start + after).is_err() {
                return;
            }
        }
    });
    if let Err(error) = pacing {
        tracing::error!("no thread for pacing: {error}");
    }
    Some(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(traffic: Traffic, n: usize) -> Vec<f64> {
        arrivals(traffic, 7).unwrap().take(n).map(|d| d.as_secs_f64()).collect()
    }

    #[test]
    fn constant_arrivals_have_equal_distances() {
        assert_eq!(seconds(Traffic::Constant { requests_per_second: 4.0 }, 4), [0.0, 0.25, 0.5, 0.75]);
    }

    #[test]
    fn poisson_arrivals_have_exponential_distances() {
        let at = seconds(Traffic::Poisson { requests_per_second: 10.0 }, 10_001);
        let gaps: Vec<f64> = at.windows(2).map(|w| w[1] - w[0]).collect();
        let mean = crate::domain::stats::mean(&gaps).unwrap();
        let cv = crate::domain::stats::variance(&gaps).unwrap().sqrt() / mean;
        assert!((mean - 0.1).abs() < 0.005 && (cv - 1.0).abs() < 0.05, "{mean} {cv}");
    }

    #[test]
    fn a_seed_gives_the_same_arrivals_again() {
        let traffic = Traffic::Poisson { requests_per_second: 3.0 };
        assert_eq!(seconds(traffic, 100), seconds(traffic, 100));
        assert!(arrivals(Traffic::Closed { concurrency: 1 }, 7).is_none());
    }
}
