//! What users of so many engines see at a rate, and how many engines a rate takes.

use sla_profiler_plugin::queueing::{InFlight, Kind, MixedQueue, normal_beyond, normal_quantile};
use sla_profiler_plugin::sizing::{DecodeEngine, Latency, QUANTILE_MARGIN, Replicas, fewest, greatest};
use sla_profiler_plugin::{Role, Sla};

use crate::traffic::{Objective, Traffic};

/// Added to [`QUANTILE_MARGIN`] for each unit of the service times' variability: as far as quantiles of waits behind mixed
/// prompts were seen to be too small in simulated deployments (`tests/simulation.rs`).
const VARIED_MARGIN: f64 = 0.08;

/// The two engines, the traffic, and what is promised.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub traffic: Traffic,
    /// Attention-DP ranks of a prefill engine: each computes one prompt after the other.
    pub servers: u32,
    /// TTFT of each class's prompt without waiting.
    pub services: Vec<Latency>,
    /// For requests of the traffic's mean length and context.
    pub decode: DecodeEngine,
    /// Highest load of an engine, as a fraction of what it could do at most.
    pub max_utilization: f64,
    /// Rates of this many times the demand have to be served, by role: headroom, and growth while engines start.
    pub surge: Surge,
    /// Engines of each role that may be down at any time.
    pub spare: u32,
    /// Targets that not even one request alone meets, as `chat TTFT`.
    pub out_of_reach: Vec<String>,
}

/// Factor on the rate, by role.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Surge {
    pub prefill: f64,
    pub decode: f64,
}

/// GPUs that the roles may use, and what they cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pools {
    /// GPUs of one engine, by role.
    pub prefill_engine: u32,
    pub decode_engine: u32,
    /// GPUs of each role's kind that there are.
    pub prefill: u32,
    pub decode: u32,
    /// GPUs of both together that may be used.
    pub total: u32,
    /// Price of one GPU, relative to any other.
    pub prefill_price: f64,
    pub decode_price: f64,
}

impl Pools {
    /// GPUs of so many engines.
    pub fn gpus(&self, replicas: Replicas) -> u32 {
        let prefill = replicas.prefill.saturating_mul(self.prefill_engine);
        prefill.saturating_add(replicas.decode.saturating_mul(self.decode_engine))
    }

    /// Whether there are so many.
    pub fn hold(&self, replicas: Replicas) -> bool {
        replicas.prefill.saturating_mul(self.prefill_engine) <= self.prefill
            && replicas.decode.saturating_mul(self.decode_engine) <= self.decode
            && self.gpus(replicas) <= self.total
    }

    pub fn price(&self, replicas: Replicas) -> f64 {
        f64::from(replicas.prefill) * f64::from(self.prefill_engine) * self.prefill_price
            + f64::from(replicas.decode) * f64::from(self.decode_engine) * self.decode_price
    }
}

/// A pool of decode engines at a rate.
struct Pool {
    /// Requests in flight per engine.
    load: f64,
    mean_itl_ms: f64,
    /// Deviation of the load that a request sees, averaged over its stay; by class.
    deviations: Vec<f64>,
}

impl Model {
    /// Puts targets aside that not even one request alone meets, and names them: engines are then sized to keep up, decode
    /// engines at no more than `operating_concurrency`.
    pub fn within_reach(mut self, operating_concurrency: u32) -> Self {
        let alone = self.decode.alone().target_ms;
        let mut named = Vec::new();
        for index in 0..self.traffic.objectives.len() {
            let ttft = self.service_ms(index);
            let tokens = self.later_tokens(index);
            let Some(Objective { name, sla, .. }) = self.traffic.objectives.get_mut(index) else { continue };
            let mut miss = |limit: &mut Option<f64>, ms: f64, what: &str| {
                if limit.take_if(|limit| ms > *limit).is_some() {
                    named.push(if name == "all" { what.to_owned() } else { format!("{name} {what}") });
                    return what != "TTFT";
                }
                false
            };
            let mut bounded = miss(&mut sla.ttft_ms, ttft, "TTFT");
            bounded |= miss(&mut sla.itl_ms, alone, "ITL");
            bounded |= miss(&mut sla.e2e_ms, ttft + alone * tokens, "E2E");
            if bounded {
                self.decode = self.decode.bounded(operating_concurrency);
            }
        }
        self.out_of_reach = named;
        self
    }

    fn objective(&self, index: usize) -> Option<&Objective> {
        self.traffic.objectives.get(index)
    }

    /// Sum over an objective's classes of what each has, by its share.
    fn over(&self, index: usize, value: impl Fn(usize) -> f64) -> f64 {
        self.objective(index).map_or(f64::NAN, |o| o.members.iter().map(|(class, share)| share * value(*class)).sum())
    }

    fn service(&self, class: usize) -> Latency {
        self.services.get(class).copied().unwrap_or(Latency::NEVER)
    }

    fn later_tokens(&self, index: usize) -> f64 {
        self.over(index, |class| self.traffic.classes.get(class).map_or(0.0, |c| f64::from(c.osl) - 1.0))
    }

    /// TTFT without waiting, in the objective's statistic.
    fn service_ms(&self, index: usize) -> f64 {
        let mean = self.over(index, |class| self.service(class).mean_ms);
        let Some(Objective { members, sla, .. }) = self.objective(index) else { return mean };
        let Some(quantile) = sla.quantile else { return mean };
        // The shortest time within which the quantile of the requests would be served.
        let mut known: Vec<_> = members.iter().map(|(class, share)| (self.service(*class).target_ms, *share)).collect();
        known.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut served = 0.0;
        for (ms, share) in &known {
            served += share;
            if served >= quantile - 1e-9 {
                return *ms;
            }
        }
        known.last().map_or(mean, |(ms, _)| *ms)
    }

    fn kinds(&self) -> Vec<Kind> {
        let classes = self.traffic.classes.iter().zip(&self.services);
        classes.map(|(class, service)| Kind { share: class.share, service: service.mean_ms }).collect()
    }

    /// TTFT of each objective, waiting included, in its statistic.
    fn ttft_ms(&self, engines: u32, rate: f64) -> Vec<f64> {
        let kinds = self.kinds();
        let servers = engines.saturating_mul(self.servers);
        let queue = MixedQueue { servers, rate: rate / 1e3, kinds: &kinds };
        let (waits, margin) = (queue.waits(), QUANTILE_MARGIN + VARIED_MARGIN * queue.variability().min(1.5));
        let of = |(index, objective): (usize, &Objective)| {
            if servers == 0 || !waits.mean.is_finite() {
                return f64::INFINITY;
            }
            let service = self.over(index, |class| self.service(class).mean_ms);
            let Some(quantile) = objective.sla.quantile else { return service + waits.mean };
            let late =
                |limit: f64| self.over(index, |class| waits.beyond((limit - self.service(class).mean_ms) / margin));
            let longest = objective.members.iter().map(|(class, _)| self.service(*class).mean_ms).fold(0.0, f64::max);
            let on_time = least(longest, |limit| late(limit) <= 1.0 - quantile);
            // Two independent deviations from the mean: by lengths and waiting, and of the service itself.
            let spread = self.over(index, |class| self.service(class).target_ms - self.service(class).mean_ms);
            if on_time > service { service + (on_time - service).hypot(spread) } else { on_time + spread }
        };
        self.traffic.objectives.iter().enumerate().map(of).collect()
    }

    fn pool(&self, engines: u32, rate: f64) -> Option<Pool> {
        let n = f64::from(engines);
        let tokens = self.traffic.osl();
        let duration = |in_flight: f64| tokens * self.decode.itl_at(in_flight / n).mean_ms;
        let places = self.decode.limit().saturating_mul(engines);
        let pool = InFlight::new(rate / 1e3, places, duration)?;
        if pool.mean <= 0.0 {
            let deviations = vec![0.0; self.traffic.classes.len()];
            return Some(Pool { load: 0.0, mean_itl_ms: self.decode.alone().mean_ms, deviations });
        }
        // Engines of a balanced pool still differ by a request, averaged over a stay by less.
        let imbalance = if engines > 1 { 1.0 / 6.0 } else { 0.0 };
        let deviation = |osl: u32| (self.calm(f64::from(osl)) * pool.variance / (n * n) + imbalance).sqrt();
        Some(Pool {
            load: pool.mean / n,
            // Little's law gives the mean time in the pool, waiting for a place included.
            mean_itl_ms: pool.mean / (rate / 1e3) / tokens,
            deviations: self.traffic.classes.iter().map(|class| deviation(class.osl)).collect(),
        })
    }

    /// Variance of the load averaged over the stay of a request with so many tokens, as a fraction of the variance of the
    /// load itself.
    ///
    /// Requests that stay for D and come at random are in flight together with a share (D − u)⁺ of those u later, so that the
    /// covariance of two moments falls linearly, and the mean over a window T has the variance
    /// Σ share · 2/T² · ∫(T − u)(D − u)⁺ du / Σ share · D (M/G/∞; D. R. Cox and V. Isham, *Point Processes*, 1980, § 5.6).
    /// 2/3 where all are equally long.
    fn calm(&self, stay: f64) -> f64 {
        let part = |other: f64| {
            let m = stay.min(other);
            2.0 / (stay * stay) * (stay * other * m - (stay + other) * m * m / 2.0 + m * m * m / 3.0)
        };
        let sum: f64 = self.traffic.classes.iter().map(|class| class.share * part(f64::from(class.osl))).sum();
        sum / self.traffic.osl()
    }

    fn itl_of(&self, pool: &Pool, index: usize, sla: &Sla) -> f64 {
        let Some(quantile) = sla.quantile else { return pool.mean_itl_ms };
        let beyond = |load: f64| {
            self.over(index, |class| {
                let deviation = QUANTILE_MARGIN * pool.deviations.get(class).copied().unwrap_or(0.0);
                if deviation > 0.0 {
                    normal_beyond((load - pool.load) / deviation)
                } else {
                    f64::from(load < pool.load)
                }
            })
        };
        let most = pool.deviations.iter().copied().fold(0.0, f64::max);
        let swing = QUANTILE_MARGIN * most * normal_quantile(quantile);
        let alike = pool.deviations.iter().all(|d| (d - most).abs() <= 1e-12 * most);
        let load = if alike {
            pool.load + swing
        } else {
            let from = (pool.load - 6.0 * most).max(0.0);
            from + least(12.0 * most, |above| beyond(from + above) <= 1.0 - quantile)
        };
        let at_mean = self.decode.itl_at(pool.load);
        let by_load = self.decode.itl_at(load).mean_ms - at_mean.mean_ms;
        let spread = at_mean.target_ms - at_mean.mean_ms;
        pool.mean_itl_ms + if by_load > 0.0 { by_load.hypot(spread) } else { by_load + spread }
    }

    fn surge(&self, role: Role) -> f64 {
        match role {
            Role::Prefill => self.surge.prefill,
            Role::Decode => self.surge.decode,
        }
    }

    /// Requests per second that so many engines complete when never idle.
    fn saturation(&self, role: Role, engines: u32) -> f64 {
        match role {
            Role::Prefill => {
                let service: f64 = self.kinds().iter().map(|k| k.share * k.service).sum();
                f64::from(engines) * f64::from(self.servers) / service * 1e3
            }
            Role::Decode => {
                let full = self.decode.itl_at(f64::from(self.decode.limit())).mean_ms;
                f64::from(engines) * f64::from(self.decode.limit()) / (self.traffic.osl() * full) * 1e3
            }
        }
    }

    /// Whether the role's own targets hold at the rate, with `spare` of the engines down and the surge on top.
    fn role_keeps_up(&self, role: Role, engines: u32, rate: f64) -> bool {
        let rate = rate * self.surge(role);
        let engines = engines.saturating_sub(self.spare);
        if engines == 0 || rate > self.saturation(role, engines) * self.max_utilization {
            return false;
        }
        let within = |limit: Option<f64>, ms: f64| limit.is_none_or(|limit| ms <= limit);
        match role {
            Role::Prefill => {
                let mut all = self.traffic.objectives.iter().zip(self.ttft_ms(engines, rate));
                all.all(|(objective, ttft)| within(objective.sla.ttft_ms, ttft))
            }
            Role::Decode => {
                let Some(pool) = self.pool(engines, rate) else { return false };
                let mut all = self.traffic.objectives.iter().enumerate();
                all.all(|(i, o)| o.sla.itl_ms.is_none() || within(o.sla.itl_ms, self.itl_of(&pool, i, &o.sla)))
            }
        }
    }

    fn has_e2e(&self) -> bool {
        self.traffic.objectives.iter().any(|objective| objective.sla.e2e_ms.is_some())
    }

    /// Whether whole answers are in time.
    fn answers_in_time(&self, replicas: Replicas, rate: f64) -> bool {
        if !self.has_e2e() {
            return true;
        }
        let ttft = self.ttft_ms(replicas.prefill.saturating_sub(self.spare), rate * self.surge.prefill);
        let Some(pool) = self.pool(replicas.decode.saturating_sub(self.spare), rate * self.surge.decode) else {
            return false;
        };
        let mut all = self.traffic.objectives.iter().enumerate().zip(ttft);
        all.all(|((i, o), ttft)| {
            o.sla.e2e_ms.is_none_or(|limit| ttft + self.itl_of(&pool, i, &o.sla) * self.later_tokens(i) <= limit)
        })
    }

    /// Requests per second that so many engines serve within the promises.
    pub fn capacity(&self, replicas: Replicas) -> f64 {
        let prefill = self.role_capacity(Role::Prefill, replicas.prefill);
        let most = prefill.min(self.role_capacity(Role::Decode, replicas.decode));
        if self.has_e2e() { greatest(most, |rate| self.answers_in_time(replicas, rate)) } else { most }
    }

    /// The same for one role by itself, as if the other had engines to spare.
    pub fn role_capacity(&self, role: Role, engines: u32) -> f64 {
        let up = engines.saturating_sub(self.spare);
        greatest(self.saturation(role, up) * self.max_utilization / self.surge(role), |rate| {
            self.role_keeps_up(role, engines, rate)
        })
    }

    /// The cheapest engines that serve the rate; among equals the fewest prefill engines.
    pub fn replicas(&self, rate: f64, pools: &Pools) -> Option<Replicas> {
        let least_prefill = fewest(|n| self.role_keeps_up(Role::Prefill, n, rate))?;
        let least_decode = fewest(|n| self.role_keeps_up(Role::Decode, n, rate))?;
        let mut best: Option<Replicas> = None;
        let mut prefill = least_prefill;
        // Time that prefill saves is time that decode may take, so more of one can replace some of the other: until
        // prefill alone costs as much as the best pair, or nobody waits any more.
        loop {
            let cheapest = Replicas { prefill, decode: least_decode };
            if best.is_some_and(|b| pools.price(cheapest) >= pools.price(b))
                || prefill > least_prefill.saturating_mul(8)
            {
                return best;
            }
            let in_time = |n: u32| self.answers_in_time(Replicas { prefill, decode: n.max(least_decode) }, rate);
            if let Some(decode) = fewest_within(least_decode.saturating_mul(64), in_time) {
                let found = Replicas { prefill, decode: decode.max(least_decode) };
                best = best.into_iter().chain([found]).min_by(|a, b| pools.price(*a).total_cmp(&pools.price(*b)));
            }
            if !self.has_e2e() {
                return best;
            }
            prefill = prefill.saturating_add(1);
        }
    }

    /// The greatest rate that the pools serve, with the fewest engines that do. `None` if they do not reach for one
    /// engine of each role, beside the spare ones.
    pub fn within(&self, pools: &Pools) -> Option<(Replicas, f64)> {
        let least = self.spare.saturating_add(1);
        let left = |prefill: u32| pools.total.saturating_sub(prefill.saturating_mul(pools.prefill_engine));
        let split =
            |prefill: u32| Replicas { prefill, decode: left(prefill).min(pools.decode) / pools.decode_engine.max(1) };
        let for_prefill = pools.total.checked_sub(least.checked_mul(pools.decode_engine)?)?.min(pools.prefill);
        let most = for_prefill / pools.prefill_engine.max(1);
        if most < least || split(least).decode < least {
            return None;
        }
        // More prefill engines can do more, and the decode engines that are left less: the best is where they meet.
        let suffices = |prefill: u32| {
            let of = split(prefill);
            self.role_capacity(Role::Prefill, prefill) >= self.role_capacity(Role::Decode, of.decode)
        };
        let (mut low, mut high) = (least.saturating_sub(1), most);
        while high.saturating_sub(low) > 1 {
            let middle = low + (high - low) / 2;
            if suffices(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        // An end-to-end target couples the roles and moves the best away from there.
        let around = if self.has_e2e() { 4 } else { 1 };
        let splits = high.saturating_sub(around).max(least)..=high.saturating_add(around).min(most);
        let (best, capacity) = splits
            .map(|prefill| (split(prefill), self.capacity(split(prefill))))
            .max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.prefill.cmp(&a.0.prefill)))?;
        // The last GPUs may serve nobody.
        let enough = |replicas: Replicas| self.capacity(replicas) >= capacity * 0.999;
        let decode = fewest_within(best.decode, |decode| enough(Replicas { decode, ..best })).unwrap_or(best.decode);
        let best = Replicas { decode, ..best };
        let prefill = fewest_within(best.prefill, |prefill| enough(Replicas { prefill, ..best }));
        let trimmed = Replicas { prefill: prefill.unwrap_or(best.prefill), ..best };
        Some((trimmed, self.capacity(trimmed)))
    }

    /// What users of all the engines see at the rate, the worst objective first by how near it is to its target: TTFT
    /// and ITL in the statistic of each, and requests in flight per decode engine.
    pub fn expected(&self, replicas: Replicas, rate: f64) -> Expected {
        let pool = self.pool(replicas.decode, rate);
        let ttft_ms = self.ttft_ms(replicas.prefill, rate);
        let objectives = self.traffic.objectives.iter().enumerate().zip(ttft_ms).map(|((i, o), ttft_ms)| {
            let itl_ms = pool.as_ref().map_or(f64::INFINITY, |pool| self.itl_of(pool, i, &o.sla));
            (ttft_ms, itl_ms)
        });
        Expected { objectives: objectives.collect(), decode_requests: pool.map_or(f64::INFINITY, |pool| pool.load) }
    }

    /// Mean time of a request in the deployment, in ms.
    pub fn mean_answer_ms(&self, replicas: Replicas, rate: f64) -> f64 {
        let kinds = self.kinds();
        let servers = replicas.prefill.saturating_mul(self.servers);
        let queue = MixedQueue { servers, rate: rate / 1e3, kinds: &kinds };
        let ttft = queue.mean_service() + queue.waits().mean;
        ttft + self.pool(replicas.decode, rate).map_or(f64::INFINITY, |p| p.mean_itl_ms * self.traffic.osl())
    }

    /// The rate at which so many requests are in flight (Little's law), where the time depends on the deployment, which
    /// depends on the rate.
    pub fn rate_of(&self, concurrency: u32, pools: &Pools) -> Option<f64> {
        let service: f64 = self.kinds().iter().map(|k| k.share * k.service).sum();
        let alone_ms = service + self.decode.alone().mean_ms * self.traffic.osl();
        let rate = greatest(f64::from(concurrency) / alone_ms * 1e3, |rate| {
            self.replicas(rate, pools)
                .is_some_and(|replicas| rate / 1e3 * self.mean_answer_ms(replicas, rate) <= f64::from(concurrency))
        });
        (rate > 0.0).then_some(rate)
    }
}

/// What users see.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// TTFT and ITL of each objective, in its statistic.
    pub objectives: Vec<(f64, f64)>,
    /// Requests in flight per decode engine.
    pub decode_requests: f64,
}

/// Smallest n up to `most` for which `holds`, if it is false below and true above; `None` if there is none.
fn fewest_within(most: u32, holds: impl Fn(u32) -> bool) -> Option<u32> {
    if most == 0 || !holds(most) {
        return None;
    }
    fewest(|n| n >= most || holds(n))
}

/// Smallest value from 0 for which `holds`, if it is false below and true above; `scale` is of its order.
fn least(scale: f64, holds: impl Fn(f64) -> bool) -> f64 {
    if !(scale > 0.0 && scale.is_finite()) {
        return 0.0;
    }
    let mut high = scale;
    while !holds(high) {
        high *= 2.0;
        if high > scale * 1e9 {
            return f64::INFINITY;
        }
    }
    let mut low = 0.0;
    while high - low > 1e-7 * high {
        let middle = f64::midpoint(low, high);
        if holds(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}
