//! What one engine of each role can do, from its measurements.

use super::curve::Curve;
use crate::queueing::{DeterministicQueue, InFlight, normal_quantile};
use crate::{Measurement, Workload};
use std::rc::Rc;

/// Quantiles of waits and of swings are taken this much larger than computed: as far as they were seen to be too small
/// in simulated deployments (`planner-sla`'s tests). A deployment with one engine too few breaks a promise; one too many
/// costs an engine.
pub const QUANTILE_MARGIN: f64 = 1.06;

/// A latency in milliseconds, infinite where the engines do not keep up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// Mean.
    pub mean_ms: f64,
    /// In the SLA's statistic.
    pub target_ms: f64,
}

impl Latency {
    /// Never.
    pub const NEVER: Self = Self { mean_ms: f64::INFINITY, target_ms: f64::INFINITY };
}

/// A prefill engine: as many servers as it has attention-DP ranks, each busy with one prompt for the measured TTFT.
#[derive(Debug, Clone, PartialEq)]
pub struct PrefillEngine {
    /// GPUs of one engine.
    pub gpus: u32,
    /// Attention-DP ranks.
    pub servers: u32,
    /// TTFT of the job's prompt without waiting.
    pub service: Latency,
}

impl PrefillEngine {
    /// From TTFTs with one prompt per rank, interpolated between the measured lengths. `None` if there are none.
    pub fn from_measurements(
        measured: impl IntoIterator<Item = Measurement>,
        isl: u32,
        attention_dp: u32,
        gpus: u32,
    ) -> Option<Self> {
        let measured: Vec<_> = measured.into_iter().filter(|m| m.ttft_ms.is_some()).collect();
        // More than one prompt per rank would time the waiting, too.
        let least = measured.iter().map(|m| m.concurrency).min()?.max(attention_dp);
        let curve = |value: fn(&crate::Stat) -> f64| {
            let alone = measured.iter().filter(|m| m.concurrency <= least);
            let points =
                alone.filter_map(|m| Some((f64::from(m.isl), value(m.ttft_ms.as_ref()?), f64::from(m.samples))));
            let isl = f64::from(isl);
            let at_isl = |c: Curve| if isl > c.end() { c.at_or_proportional(isl) } else { c.smooth_at(isl) };
            Curve::isotonic(points).map(at_isl).filter(|ms| *ms > 0.0)
        };
        let service = Latency { mean_ms: curve(|s| s.mean)?, target_ms: curve(|s| s.target)? };
        Some(Self { gpus, servers: attention_dp.max(1), service })
    }

    /// Requests per second that `engines` of them complete when never idle.
    pub fn saturation(&self, engines: u32) -> f64 {
        f64::from(engines) * f64::from(self.servers) / self.service.mean_ms * 1e3
    }

    /// TTFT behind `engines` of them at a rate: service, and waiting as in M/D/c. The measured TTFT is a service time,
    /// the SLA is about what users see.
    pub fn ttft(&self, engines: u32, requests_per_second: f64, quantile: Option<f64>) -> Latency {
        let servers = engines.saturating_mul(self.servers);
        let queue = DeterministicQueue { servers, service: self.service.mean_ms, rate: requests_per_second / 1e3 };
        let mean_wait = queue.mean_wait();
        if servers == 0 || !mean_wait.is_finite() {
            return Latency::NEVER;
        }
        let mean_ms = self.service.mean_ms + mean_wait;
        let target_ms = match quantile {
            None => mean_ms,
            // Two independent deviations from the mean service time: of the service itself, and by waiting.
            Some(q) => {
                let service = self.service.target_ms - self.service.mean_ms;
                self.service.mean_ms + service.hypot(QUANTILE_MARGIN * queue.wait_quantile(q))
            }
        };
        Latency { mean_ms, target_ms }
    }
}

/// A decode engine: shares itself among the requests in flight.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeEngine {
    /// GPUs of one engine.
    pub gpus: u32,
    /// Output tokens of a request.
    pub osl: u32,
    /// ITL with 1, 2, … requests in flight; as long as it makes sense to run more. Never empty.
    itl: Rc<[Latency]>,
    /// How many of them count.
    limit: usize,
}

/// More requests than any engine runs; bounds memory and time.
const MOST_REQUESTS: u32 = 16_384;

impl DecodeEngine {
    /// From ITLs at the job's context (mean tokens of a request in the cache: ISL + OSL/2), interpolated between measured
    /// contexts, and isotonic in the number of requests that really ran. Bounded by KV capacity, by what the engine
    /// runs at once, and where throughput is highest: beyond that more load helps nobody. `None` without measurements.
    pub fn from_measurements(
        measured: impl IntoIterator<Item = Measurement>,
        workload: Workload,
        gpus: u32,
        kv_tokens: u32,
        max_running: u32,
    ) -> Option<Self> {
        let mut contexts: Vec<(f64, Vec<Measurement>)> = Vec::new();
        for m in measured.into_iter().filter(|m| m.itl_ms.is_some()) {
            let context = f64::from(m.isl) + f64::from(m.osl) / 2.0;
            match contexts.iter_mut().find(|(c, _)| *c == context) {
                Some((_, rows)) => rows.push(m),
                None => contexts.push((context, vec![m])),
            }
        }
        contexts.sort_by(|a, b| a.0.total_cmp(&b.0));
        let context = f64::from(workload.isl) + f64::from(workload.osl) / 2.0;
        let fit = |value: fn(&crate::Stat) -> f64| -> Vec<(f64, Curve)> {
            let curve = |rows: &[Measurement]| {
                Curve::isotonic(
                    rows.iter()
                        .filter_map(|m| Some((m.concurrency_seen, value(m.itl_ms.as_ref()?), f64::from(m.samples)))),
                )
            };
            contexts.iter().filter_map(|(c, rows)| Some((*c, curve(rows)?))).collect()
        };
        let (mean, target) = (fit(|s| s.mean), fit(|s| s.target));
        let by_memory = (f64::from(kv_tokens) / context.max(1.0)) as u32;
        let limit = by_memory.min(max_running).clamp(1, MOST_REQUESTS);
        let mut itl = Vec::new();
        for n in 1..=limit {
            let at = |curves| at_context(curves, context, f64::from(n)).filter(|ms: &f64| *ms > 0.0);
            itl.push(Latency { mean_ms: at(&mean)?, target_ms: at(&target)? });
        }
        let throughput = |(i, l): (usize, &Latency)| (i + 1) as f64 / l.mean_ms;
        let best = itl.iter().enumerate().map(throughput).fold(0.0, f64::max);
        // A hair of tolerance, so that a flat end of the curve counts as far as it goes.
        let useful = itl.iter().enumerate().rposition(|p| throughput(p) >= best * (1.0 - 1e-9))?;
        itl.truncate(useful + 1);
        Some(Self { gpus, osl: workload.osl.max(1), limit: itl.len(), itl: itl.into() })
    }

    /// Most requests that one engine runs at once.
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    fn curve(&self) -> &[Latency] {
        self.itl.get(..self.limit).unwrap_or_default()
    }

    /// No more than this many requests at once, and one at least.
    pub fn bounded(mut self, requests: u32) -> Self {
        self.limit = self.limit.min(requests.max(1) as usize);
        self
    }

    /// ITL of one request alone.
    pub fn alone(&self) -> Latency {
        self.itl.first().copied().unwrap_or(Latency::NEVER)
    }

    /// ITL at a load per engine; straight between whole numbers.
    pub fn itl_at(&self, requests: f64) -> Latency {
        let curve = self.curve();
        let below = (requests.max(1.0) as usize).min(curve.len());
        let (a, b) = (curve.get(below - 1), curve.get(below));
        match (a, b) {
            (Some(a), Some(b)) => {
                let part = (requests - below as f64).clamp(0.0, 1.0);
                Latency {
                    mean_ms: a.mean_ms + (b.mean_ms - a.mean_ms) * part,
                    target_ms: a.target_ms + (b.target_ms - a.target_ms) * part,
                }
            }
            (Some(only), None) => *only,
            (None, _) => Latency::NEVER,
        }
    }

    /// The mean of [`itl_at`](Self::itl_at): asked for thousands of times in every look at a pool.
    fn mean_itl_at(&self, requests: f64) -> f64 {
        let curve = self.curve();
        let below = (requests.max(1.0) as usize).min(curve.len());
        match (curve.get(below - 1), curve.get(below)) {
            (Some(a), Some(b)) => {
                let part = (requests - below as f64).clamp(0.0, 1.0);
                a.mean_ms + (b.mean_ms - a.mean_ms) * part
            }
            (Some(only), None) => only.mean_ms,
            (None, _) => f64::INFINITY,
        }
    }

    /// Requests per second that `engines` of them complete when always full.
    pub fn saturation(&self, engines: u32) -> f64 {
        let full = self.curve().last().map_or(f64::INFINITY, |l| l.mean_ms);
        f64::from(engines) * f64::from(self.limit()) / (f64::from(self.osl) * full) * 1e3
    }

    /// ITL and requests in flight per engine at a rate, if the router gives each request to the engine with the fewest.
    pub fn itl(&self, engines: u32, requests_per_second: f64, quantile: Option<f64>) -> (Latency, f64) {
        let n = f64::from(engines);
        let tokens = f64::from(self.osl);
        let duration = |in_flight: f64| tokens * self.mean_itl_at(in_flight / n);
        let places = self.limit().saturating_mul(engines);
        let Some(pool) = InFlight::new(requests_per_second / 1e3, places, duration) else {
            return (Latency::NEVER, f64::INFINITY);
        };
        let load = pool.mean / n;
        if pool.mean <= 0.0 {
            return (self.alone(), 0.0);
        }
        // Little's law gives the mean time in the pool, waiting for a place included.
        let mean_ms = pool.mean / (requests_per_second / 1e3) / tokens;
        let target_ms = match quantile {
            None => mean_ms,
            Some(q) => {
                // A request's ITL is an average over its stay, in which the load changes. The mean over a window as long
                // as the stay has 2/3 of the variance of the load itself, since two moments of it share the part
                // (1 - |s - t|/stay) of their requests. Engines of a balanced pool still differ by a request, on
                // average over the stay by less.
                let imbalance = if engines > 1 { 1.0 / 6.0 } else { 0.0 };
                let deviation =
                    QUANTILE_MARGIN * normal_quantile(q) * (2.0 / 3.0 * pool.variance / (n * n) + imbalance).sqrt();
                let at_mean = self.itl_at(load);
                let by_load = self.itl_at(load + deviation).mean_ms - at_mean.mean_ms;
                mean_ms + by_load.hypot(at_mean.target_ms - at_mean.mean_ms)
            }
        };
        (Latency { mean_ms, target_ms }, load)
    }
}

/// The value at a context: straight between the two measured ones around it, that of the nearest outside.
///
/// Of a longer context fewer requests fit the cache, so that its curve ends early; where it only supports another
/// context it is carried on straight. By itself it is carried on without more throughput, which promises less.
fn at_context(curves: &[(f64, Curve)], context: f64, requests: f64) -> Option<f64> {
    let after = curves.partition_point(|(c, _)| *c < context);
    let before = after.checked_sub(1).and_then(|i| curves.get(i));
    match (before, curves.get(after)) {
        (_, Some((c, curve))) if *c == context => Some(curve.at_or_proportional(requests)),
        (Some((c0, low)), Some((c1, high))) => {
            let (y0, y1) = (low.at_or_straight(requests), high.at_or_straight(requests));
            Some(y0 + (y1 - y0) * (context - c0) / (c1 - c0))
        }
        (Some((_, curve)), None) | (None, Some((_, curve))) => Some(curve.at_or_proportional(requests)),
        (None, None) => None,
    }
}
