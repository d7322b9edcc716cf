//! How many engines of each role a demand takes: what `planner-sla` promises and `select-cost` compares by.
//!
//! Prefill engines are one queue with several servers (M/D/c): the measured TTFT is the time a prompt takes once it is
//! its turn, and users also wait for their turn. Decode engines are a pool that shares its capacity: requests arrive at
//! random, so that the number in flight swings around its mean, and ITL with it. A replica count is good if the SLA's
//! statistic holds with all that. Sources of the formulas: [`queueing`](crate::queueing).

mod curve;
mod engines;

pub use curve::Curve;
pub use engines::{DecodeEngine, Latency, PrefillEngine, QUANTILE_MARGIN};

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::{Demand, Role, Sla};

/// Highest load per server that counts as sustainable, unless the user says otherwise.
pub const MAX_UTILIZATION: f64 = 0.95;

/// What was computed about one engine. Unless an end-to-end target couples the roles it holds whatever the other engine
/// is, so that many [`Sizing`]s may share it: [`Sizing::sharing`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known(Rc<RefCell<KnownTables>>);

#[derive(Debug, Default, PartialEq)]
struct KnownTables {
    /// By the number of engines.
    capacity: BTreeMap<u32, f64>,
    /// By the bits of the rate.
    fewest: BTreeMap<u64, Option<u32>>,
}

impl Known {
    fn capacity(&self, engines: u32, compute: impl FnOnce() -> f64) -> f64 {
        let known = self.0.borrow().capacity.get(&engines).copied();
        known.unwrap_or_else(|| {
            let capacity = compute();
            self.0.borrow_mut().capacity.insert(engines, capacity);
            capacity
        })
    }

    fn fewest(&self, rate: f64, compute: impl FnOnce() -> Option<u32>) -> Option<u32> {
        let known = self.0.borrow().fewest.get(&rate.to_bits()).copied();
        known.unwrap_or_else(|| {
            let fewest = compute();
            self.0.borrow_mut().fewest.insert(rate.to_bits(), fewest);
            fewest
        })
    }
}

/// The two engines and what is asked of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizing {
    prefill: PrefillEngine,
    decode: DecodeEngine,
    ttft_ms: Option<f64>,
    itl_ms: Option<f64>,
    e2e_ms: Option<f64>,
    quantile: Option<f64>,
    max_utilization: f64,
    out_of_reach: Vec<&'static str>,
    known_prefill: Known,
    known_decode: Known,
}

/// Engines of each role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replicas {
    /// Prefill engines.
    pub prefill: u32,
    /// Decode engines.
    pub decode: u32,
}

/// What users of a deployment see.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// Time to first token, waiting included.
    pub ttft: Latency,
    /// Inter-token latency.
    pub itl: Latency,
    /// Requests in flight per decode engine.
    pub decode_requests: f64,
}

/// An answer to a demand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deployment {
    /// How many engines.
    pub replicas: Replicas,
    /// GPUs of all of them; more than the budget only if that is less than one engine of each role.
    pub gpus: u32,
    /// Requests per second that are asked for, or as many of them as fit the budget.
    pub requests_per_second: f64,
    /// Whether the budget reached for the demand.
    pub meets_demand: bool,
    /// Fraction of the demand that is served: 1 where it is met, or where none was given.
    pub share: f64,
}

impl Sizing {
    /// A target that not even one request alone meets is put aside and named by [`out_of_reach`](Self::out_of_reach):
    /// engines are then sized to keep up, decode engines at no more than `operating_concurrency`.
    pub fn new(
        prefill: PrefillEngine,
        decode: DecodeEngine,
        sla: &Sla,
        max_utilization: f64,
        operating_concurrency: u32,
    ) -> Self {
        let mut sizing = Self {
            prefill,
            decode,
            ttft_ms: sla.ttft_ms,
            itl_ms: sla.itl_ms,
            e2e_ms: sla.e2e_ms,
            quantile: sla.quantile,
            max_utilization,
            out_of_reach: Vec::new(),
            known_prefill: Known::default(),
            known_decode: Known::default(),
        };
        let (ttft, itl) = (sizing.prefill.service.target_ms, sizing.decode.alone().target_ms);
        if sizing.ttft_ms.is_some_and(|limit| ttft > limit) {
            sizing.ttft_ms = None;
            sizing.out_of_reach.push("ttft");
        }
        if sizing.itl_ms.is_some_and(|limit| itl > limit) {
            sizing.itl_ms = None;
            sizing.out_of_reach.push("itl");
        }
        if sizing.e2e_ms.is_some_and(|limit| ttft + itl * sizing.later_tokens() > limit) {
            sizing.e2e_ms = None;
            sizing.out_of_reach.push("e2e");
        }
        if sizing.out_of_reach.iter().any(|t| *t != "ttft") {
            sizing.decode = sizing.decode.bounded(operating_concurrency);
        }
        sizing
    }

    /// The same with what is known about the two engines from other pairs that they are part of, under the same SLA,
    /// utilisation and operating concurrency.
    pub fn sharing(mut self, prefill: &Known, decode: &Known) -> Self {
        if self.e2e_ms.is_none() && !self.out_of_reach.contains(&"e2e") {
            (self.known_prefill, self.known_decode) = (prefill.clone(), decode.clone());
        }
        self
    }

    /// Targets that no number of these engines meets: `ttft`, `itl`, `e2e`.
    pub fn out_of_reach(&self) -> &[&'static str] {
        &self.out_of_reach
    }

    fn later_tokens(&self) -> f64 {
        f64::from(self.decode.osl.saturating_sub(1))
    }

    /// The prefill engine.
    pub const fn prefill(&self) -> &PrefillEngine {
        &self.prefill
    }

    /// The decode engine, bounded where a target is out of reach.
    pub const fn decode(&self) -> &DecodeEngine {
        &self.decode
    }

    /// Whether the role's own target, and not what it could do at most, bounds what so many engines serve.
    pub fn is_bound_by_target(&self, role: Role, engines: u32) -> bool {
        let saturation = match role {
            Role::Prefill => self.prefill.saturation(engines),
            Role::Decode => self.decode.saturation(engines),
        };
        self.role_capacity(role, engines) < saturation * self.max_utilization * 0.999
    }

    /// GPUs of so many engines.
    pub fn gpus(&self, replicas: Replicas) -> u32 {
        let prefill = replicas.prefill.saturating_mul(self.prefill.gpus);
        prefill.saturating_add(replicas.decode.saturating_mul(self.decode.gpus))
    }

    /// What users see at a rate.
    pub fn expected(&self, replicas: Replicas, requests_per_second: f64) -> Expected {
        let ttft = self.prefill.ttft(replicas.prefill, requests_per_second, self.quantile);
        let (itl, decode_requests) = self.decode.itl(replicas.decode, requests_per_second, self.quantile);
        Expected { ttft, itl, decode_requests }
    }

    fn prefill_keeps_up(&self, engines: u32, rate: f64) -> bool {
        rate <= self.prefill.saturation(engines) * self.max_utilization
            && self.ttft_ms.is_none_or(|limit| self.prefill.ttft(engines, rate, self.quantile).target_ms <= limit)
    }

    fn decode_keeps_up(&self, engines: u32, rate: f64) -> bool {
        rate <= self.decode.saturation(engines) * self.max_utilization
            && self.itl_ms.is_none_or(|limit| self.decode.itl(engines, rate, self.quantile).0.target_ms <= limit)
    }

    fn answers_in_time(&self, ttft_ms: f64, itl_ms: f64) -> bool {
        self.e2e_ms.is_none_or(|limit| ttft_ms + itl_ms * self.later_tokens() <= limit)
    }

    /// Whether every target that is within reach holds at the rate.
    pub fn keeps_up(&self, replicas: Replicas, requests_per_second: f64) -> bool {
        self.prefill_keeps_up(replicas.prefill, requests_per_second)
            && self.decode_keeps_up(replicas.decode, requests_per_second)
            && (self.e2e_ms.is_none() || {
                let expected = self.expected(replicas, requests_per_second);
                self.answers_in_time(expected.ttft.target_ms, expected.itl.target_ms)
            })
    }

    /// Requests per second that so many engines serve within the SLA.
    pub fn capacity(&self, replicas: Replicas) -> f64 {
        if self.e2e_ms.is_none() {
            let prefill = self.role_capacity(Role::Prefill, replicas.prefill);
            return prefill.min(self.role_capacity(Role::Decode, replicas.decode));
        }
        let most = self.prefill.saturation(replicas.prefill).min(self.decode.saturation(replicas.decode));
        greatest(most, |rate| self.keeps_up(replicas, rate))
    }

    /// The same for one role by itself, as if the other had engines to spare.
    pub fn role_capacity(&self, role: Role, engines: u32) -> f64 {
        // Each target as what is left of it at a rate.
        let left = |limit: Option<f64>, ms: f64| limit.map_or(f64::INFINITY, |limit| (limit - ms) / limit);
        match role {
            Role::Prefill => self.known_prefill.capacity(engines, || {
                greatest_with(self.prefill.saturation(engines) * self.max_utilization, |rate| {
                    let ttft = self.prefill.ttft(engines, rate, self.quantile).target_ms;
                    let e2e = ttft + self.decode.alone().target_ms * self.later_tokens();
                    left(self.ttft_ms, ttft).min(left(self.e2e_ms, e2e))
                })
            }),
            Role::Decode => self.known_decode.capacity(engines, || {
                greatest_with(self.decode.saturation(engines) * self.max_utilization, |rate| {
                    let itl = self.decode.itl(engines, rate, self.quantile).0.target_ms;
                    let e2e = self.prefill.service.target_ms + itl * self.later_tokens();
                    left(self.itl_ms, itl).min(left(self.e2e_ms, e2e))
                })
            }),
        }
    }

    /// The fewest GPUs that serve the rate within the SLA; among equals the fewest prefill engines. `None` for a rate that
    /// is no number or beyond any cluster.
    pub fn replicas(&self, requests_per_second: f64) -> Option<Replicas> {
        let rate = requests_per_second;
        let prefill = self.known_prefill.fewest(rate, || fewest(|n| self.prefill_keeps_up(n, rate)))?;
        let decode = self.known_decode.fewest(rate, || fewest(|n| self.decode_keeps_up(n, rate)))?;
        let fewest_of_each = Replicas { prefill, decode };
        if self.e2e_ms.is_none() {
            return Some(fewest_of_each);
        }
        // Time that prefill saves is time that decode may take, so more of one can replace some of the other.
        let mut best: Option<Replicas> = None;
        let mut prefill = prefill;
        loop {
            let cheapest = self.gpus(Replicas { prefill, ..fewest_of_each });
            if best.is_some_and(|b| cheapest >= self.gpus(b)) || cheapest == u32::MAX {
                return best;
            }
            let ttft = self.prefill.ttft(prefill, requests_per_second, self.quantile).target_ms;
            if self.answers_in_time(ttft, self.decode.alone().target_ms) {
                let decode = fewest(|n| {
                    let (itl, _) = self.decode.itl(n, requests_per_second, self.quantile);
                    self.decode_keeps_up(n, requests_per_second) && self.answers_in_time(ttft, itl.target_ms)
                });
                let found = decode.map(|decode| Replicas { prefill, decode });
                best = best.into_iter().chain(found).min_by_key(|r| self.gpus(*r));
            }
            // Without waiting there is nothing more to gain.
            if ttft <= self.prefill.service.target_ms * 1.000_1 {
                return best;
            }
            prefill = prefill.saturating_add(1);
        }
    }

    /// [`replicas`](Self::replicas), for many rates: from capacities, which need to be known once.
    fn replicas_by_capacity(&self, rate: f64) -> Option<Replicas> {
        if self.e2e_ms.is_some() {
            return self.replicas(rate);
        }
        let of = |role| {
            let most = match role {
                Role::Prefill => self.prefill.saturation(1),
                Role::Decode => self.decode.saturation(1),
            };
            let least = (rate / most).ceil().clamp(1.0, f64::from(MOST_ENGINES)) as u32;
            let enough = first_from(least, MOST_ENGINES, |n| self.role_capacity(role, n) >= rate);
            (enough < MOST_ENGINES).then_some(enough)
        };
        Some(Replicas { prefill: of(Role::Prefill)?, decode: of(Role::Decode)? })
    }

    /// The greatest rate that the GPUs serve within the SLA, with the fewest of them that do. `None` if they do not
    /// reach for one engine of each role.
    pub fn within(&self, gpus: u32) -> Option<(Replicas, f64)> {
        let most_prefill = gpus.checked_sub(self.decode.gpus)? / self.prefill.gpus.max(1);
        if most_prefill == 0 {
            return None;
        }
        let split = |prefill: u32| Replicas {
            prefill,
            decode: gpus.saturating_sub(prefill.saturating_mul(self.prefill.gpus)) / self.decode.gpus.max(1),
        };
        // More prefill engines can do more, and the decode engines that are left less: the best is where they meet. The
        // search starts where they would meet if half as many engines did half as much.
        let prefill_suffices = |prefill: u32| {
            let r = split(prefill);
            self.role_capacity(Role::Prefill, r.prefill) >= self.role_capacity(Role::Decode, r.decode)
        };
        let low = first_from(self.balanced(gpus).clamp(1, most_prefill), most_prefill, prefill_suffices);
        // An end-to-end target couples the roles and moves the best away from there.
        let around = if self.e2e_ms.is_some() { 4 } else { 1 };
        let splits = low.saturating_sub(around).max(1)..=low.saturating_add(around).min(most_prefill);
        let (best, capacity) = splits
            .map(|prefill| (split(prefill), self.capacity(split(prefill))))
            .max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.prefill.cmp(&a.0.prefill)))?;
        // The last GPUs may serve nobody.
        let enough = capacity * 0.999;
        let suffices = |replicas: Replicas| self.capacity(replicas) >= enough;
        let decode = first_from(best.decode, best.decode, |decode| suffices(Replicas { decode, ..best }));
        let best = Replicas { decode, ..best };
        let prefill = first_from(best.prefill, best.prefill, |prefill| suffices(Replicas { prefill, ..best }));
        let trimmed = Replicas { prefill, ..best };
        Some((trimmed, self.capacity(trimmed)))
    }

    /// GPUs that one request per second takes of each role, were engines divisible: from the capacity of as many engines
    /// as half of the GPUs make, since few engines serve less each than many do.
    pub fn gpus_per_request(&self, role: Role, gpus: u32) -> f64 {
        let of = if role == Role::Prefill { self.prefill.gpus } else { self.decode.gpus };
        // Past a few dozen engines each serves as much as among more of them.
        let engines = (gpus / 2 / of.max(1)).clamp(1, 32);
        f64::from(of) * f64::from(engines) / self.role_capacity(role, engines)
    }

    /// Prefill engines of a split of the GPUs at which both roles can do about as much.
    fn balanced(&self, gpus: u32) -> u32 {
        let (p, d) = (self.gpus_per_request(Role::Prefill, gpus), self.gpus_per_request(Role::Decode, gpus));
        (f64::from(gpus) * p / (p + d) / f64::from(self.prefill.gpus.max(1))).round() as u32
    }

    /// The rate at which so many requests are in flight (Little's law: rate = number / time), where the time depends on the
    /// deployment, which depends on the rate.
    fn rate_of(&self, concurrency: u32) -> Option<f64> {
        let answer_ms = |e: &Expected| e.ttft.mean_ms + e.itl.mean_ms * self.later_tokens();
        let alone = Expected { ttft: self.prefill.service, itl: self.decode.alone(), decode_requests: 0.0 };
        let most = f64::from(concurrency) / answer_ms(&alone) * 1e3;
        let rate = greatest(most, |rate| {
            self.replicas_by_capacity(rate).is_some_and(|replicas| {
                rate / 1e3 * answer_ms(&self.expected(replicas, rate)) <= f64::from(concurrency)
            })
        });
        (rate > 0.0).then_some(rate)
    }

    /// The deployment for a demand within a budget of GPUs; the best one within it where it does not reach. Where it does
    /// not reach for one engine of each role, it is those two, on more GPUs than the budget. `None` if the demand is no
    /// number.
    pub fn deployment(&self, demand: &Demand, total_gpus: u32) -> Option<Deployment> {
        let wanted = match demand {
            Demand::RequestsPerSecond(rate) => Some(*rate),
            Demand::Concurrency(n) => Some(self.rate_of(*n)?),
            Demand::Budget => None,
        };
        if let Some(rate) = wanted {
            let replicas = self.replicas(rate)?;
            let gpus = self.gpus(replicas);
            if gpus <= total_gpus {
                let requests_per_second = rate;
                return Some(Deployment { replicas, gpus, requests_per_second, meets_demand: true, share: 1.0 });
            }
        }
        let (replicas, capacity) = self.within(total_gpus).unwrap_or_else(|| {
            let least = Replicas { prefill: 1, decode: 1 };
            (least, self.capacity(least))
        });
        let gpus = self.gpus(replicas);
        let meets_demand = wanted.is_none() && gpus <= total_gpus;
        let share = wanted.map_or(1.0, |rate| (capacity / rate).clamp(0.0, 1.0));
        Some(Deployment { replicas, gpus, requests_per_second: capacity, meets_demand, share })
    }
}

/// Greatest rate up to `most` at which `holds` is true, if it is true below and false above; to within a few millionths
/// of `most`, on the side where it holds.
pub fn greatest(most: f64, holds: impl Fn(f64) -> bool) -> f64 {
    if !most.is_finite() || most <= 0.0 {
        return 0.0;
    }
    if holds(most) {
        return most;
    }
    let (mut low, mut high) = (0.0, most);
    for _ in 0..18 {
        let middle = f64::midpoint(low, high);
        if holds(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// [`greatest`] for something that falls with the rate and must not be negative; about half the steps, since it is
/// smooth. By regula falsi in the form of G. Dahlquist and Å. Björck, *Numerical Methods* (1974), called Illinois: where
/// one end stays, its value is halved.
fn greatest_with(most: f64, left: impl Fn(f64) -> f64) -> f64 {
    if !most.is_finite() || most <= 0.0 {
        return 0.0;
    }
    let at_most = left(most);
    if at_most >= 0.0 {
        return most;
    }
    let (mut low, mut high) = ((0.0, left(0.0)), (most, at_most));
    if low.1.is_nan() || low.1 <= 0.0 {
        return 0.0;
    }
    let enough = most / f64::from(1 << 18);
    for step in 0..60 {
        let straight = low.0 + (high.0 - low.0) * low.1 / (low.1 - high.1);
        // Where there is no number to go by, and now and then for safety, halfway.
        let usable = straight > low.0 && straight < high.0 && step % 8 != 7;
        let x = if usable { straight } else { f64::midpoint(low.0, high.0) };
        let y = left(x);
        if y >= 0.0 {
            low = (x, y);
            high.1 /= 2.0;
            if y < 1e-6 {
                break;
            }
        } else {
            high = (x, y);
            low.1 /= 2.0;
        }
        if high.0 - low.0 <= enough {
            break;
        }
    }
    low.0
}

/// Smallest n from 1 to `most` for which `holds` is true, `most` if for none; if it is false below and true above. Looks
/// around `near` first.
fn first_from(near: u32, most: u32, holds: impl Fn(u32) -> bool) -> u32 {
    // `low` does not hold (0 stands for nothing), `high` does or is the last.
    let (mut low, mut high) = (0, most);
    let mut step = 1;
    let mut at = near.clamp(1, most.max(1));
    while low + 1 < high {
        if holds(at) {
            high = at;
            if at == low + 1 {
                break;
            }
            at = at.saturating_sub(step).max(low + 1);
        } else {
            low = at;
            at = at.saturating_add(step).min(high.saturating_sub(1).max(low + 1));
        }
        step *= 2;
        if high < most && low > 0 {
            break;
        }
    }
    while high.saturating_sub(low) > 1 {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

/// More engines than any cluster has.
pub const MOST_ENGINES: u32 = 1 << 20;

/// Smallest n from 1 for which `holds` is true, if it is false below and true above.
pub fn fewest(holds: impl Fn(u32) -> bool) -> Option<u32> {
    let mut high = 1;
    while !holds(high) {
        if high >= MOST_ENGINES {
            return None;
        }
        high *= 2;
    }
    let mut low = high / 2;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(high)
}

#[cfg(test)]
mod tests;
