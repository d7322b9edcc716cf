//! Deployments that are simulated event by event, to hold the planner against. Nothing of its formulas is in here.
//!
//! A request waits in one line for a prefill engine, which takes the time of its length give or take a few percent; then it
//! goes to the decode engine with the fewest requests, whose step takes longer the more requests and the more tokens in the
//! cache it holds. The planner sees what a profiler would have measured of the engines, and not the formulas.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use sla_profiler_plugin::testing::{Random, decode_point, job, prefill_point};
use sla_profiler_plugin::{Curves, Demand, Engine, Engines, Job, Measurements, Plan, PlannerModel, Sla};

/// One class of requests and what it was promised.
#[derive(Debug, Clone, PartialEq)]
pub struct Class {
    pub share: f64,
    pub isl: u32,
    pub osl: u32,
    pub ttft_ms: f64,
    pub itl_ms: f64,
}

/// What the traffic is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All requests are alike.
    Alike,
    /// Three lengths under one promise.
    Lengths,
    /// Two classes with a promise each.
    Promises,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Alike, Self::Lengths, Self::Promises];
}

/// The truth about two engines, the requests, and the promises.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    pub seed: u64,
    pub kind: Kind,
    /// TTFT in ms = a + b·isl + c·isl², and its coefficient of variation.
    ttft: [f64; 3],
    ttft_cv: f64,
    servers: u32,
    /// Step in ms = a + b·requests + c·tokens in the cache.
    step: [f64; 3],
    max_running: u32,
    kv_tokens: u32,
    pub classes: Vec<Class>,
    pub quantile: Option<f64>,
    pub rate: f64,
    /// Relative error of what the planner sees of each point.
    pub measured_within: f64,
}

impl World {
    /// One for each seed and kind.
    pub fn new(seed: u64, kind: Kind, measured_within: f64) -> Self {
        let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9).wrapping_add(kind as u64));
        let mut between = |low: f64, high: f64| low + (high - low) * random.uniform();
        let speed = (between(0.0, 2.0)).exp();
        let ttft = [between(8.0, 20.0), 0.03 * speed, 6e-7 * speed];
        let step = [between(4.0, 12.0), between(0.01, 0.06), between(0.2e-5, 2e-5)];
        let servers = [1, 1, 1, 2, 4][between(0.0, 5.0) as usize];
        let quantile = [None, Some(0.9), Some(0.95), Some(0.99)][between(0.0, 4.0) as usize];
        let length = |x: f64| (x.exp() / 16.0).round() as u32 * 16;
        let mut class = |share: f64, isl: (f64, f64)| Class {
            share,
            isl: length(between(isl.0.ln(), isl.1.ln())),
            osl: length(between(64f64.ln(), 600f64.ln())),
            ttft_ms: 0.0,
            itl_ms: 0.0,
        };
        let mut classes = match kind {
            Kind::Alike => vec![class(1.0, (800.0, 8000.0))],
            Kind::Lengths => {
                vec![class(0.5, (500.0, 2000.0)), class(0.3, (2000.0, 4000.0)), class(0.2, (4000.0, 9000.0))]
            }
            Kind::Promises => vec![class(0.7, (500.0, 3000.0)), class(0.3, (3000.0, 10_000.0))],
        };
        let engine = Self {
            seed,
            kind,
            ttft,
            ttft_cv: 0.03,
            servers,
            step,
            max_running: 256,
            kv_tokens: between(2e5, 9e5) as u32,
            classes: Vec::new(),
            quantile,
            rate: 0.0,
            measured_within,
        };
        let mean_ttft: f64 = classes.iter().map(|c| c.share * engine.ttft_ms(f64::from(c.isl))).sum();
        let shared = (between(1.3, 4.0), between(1.3, 3.0));
        let longest = classes.iter().map(|c| engine.ttft_ms(f64::from(c.isl))).fold(0.0, f64::max);
        for class in &mut classes {
            let own = engine.ttft_ms(f64::from(class.isl));
            let (ttft, itl) = if kind == Kind::Promises { (between(1.3, 5.0), between(1.3, 3.0)) } else { shared };
            class.ttft_ms = if kind == Kind::Promises { own * ttft } else { longest * ttft };
            class.itl_ms = step[0] * itl + step[2] * 4000.0;
        }
        // From less than one engine's load to about twelve.
        let rate = between(0.3f64.ln(), 12f64.ln()).exp() / mean_ttft * 1e3 * f64::from(servers);
        Self { classes, rate, ..engine }
    }

    fn ttft_ms(&self, isl: f64) -> f64 {
        let [a, b, c] = self.ttft;
        a + b * isl + c * isl * isl
    }

    fn step_ms(&self, requests: f64, tokens: f64) -> f64 {
        let [a, b, c] = self.step;
        a + b * requests + c * tokens
    }

    /// What the planner is asked.
    pub fn plan<P: PlannerModel>(&self, knows_the_traffic: bool) -> Plan {
        let mut random = Random::new(self.seed ^ 0xabcd);
        let mut seen = |ms: f64| ms * (1.0 + self.measured_within * random.normal().clamp(-2.5, 2.5));
        let prefill: Measurements = [250u32, 500, 1000, 2000, 4000, 8000, 12_000]
            .map(|isl| {
                let mut point = prefill_point(0, isl, self.servers, seen(self.ttft_ms(f64::from(isl))));
                // The share of requests that take longer than the mean plus z deviations.
                if let (Some(stat), Some(q)) = (&mut point.ttft_ms, self.quantile) {
                    let z = sla_profiler_plugin::queueing::normal_quantile(q);
                    stat.target = stat.mean * (1.0 + self.ttft_cv * z);
                }
                point
            })
            .into_iter()
            .collect();
        let mut decode = Vec::new();
        for isl in [500u32, 2000, 4000, 8000] {
            let context = f64::from(isl) + 75.0;
            let most = self.max_running.min((f64::from(self.kv_tokens) / context) as u32);
            for n in [1u32, 2, 4, 8, 16, 32, 64, 128, 256].into_iter().filter(|n| *n <= most) {
                let itl_ms = seen(self.step_ms(f64::from(n), f64::from(n) * context));
                decode.push(decode_point(1, isl, 150, n, itl_ms));
            }
        }
        let engine = |label: &str, attention_dp| Engine {
            label: label.into(),
            gpus: 1,
            attention_dp,
            kv_tokens: self.kv_tokens,
            max_running: self.max_running,
            launch_seconds: 300.0,
            concurrency: 8,
        };
        let engines = Engines { prefill: engine("tp1", self.servers), decode: engine("tp1", 1) };
        let curves = Curves { prefill, decode: decode.into_iter().collect() };
        P::plan(&self.job(knows_the_traffic), &engines, &curves, &Demand::RequestsPerSecond(self.rate)).unwrap()
    }

    fn job(&self, knows_the_traffic: bool) -> Job {
        let mut job = job();
        job.hardware.total_gpus = 1_000_000;
        let strictest = |of: fn(&Class) -> f64| self.classes.iter().map(of).fold(f64::INFINITY, f64::min);
        job.sla = Sla {
            ttft_ms: Some(strictest(|c| c.ttft_ms)),
            itl_ms: Some(strictest(|c| c.itl_ms)),
            e2e_ms: None,
            quantile: self.quantile,
        };
        let mean =
            |of: fn(&Class) -> u32| self.classes.iter().map(|c| c.share * f64::from(of(c))).sum::<f64>().round() as u32;
        (job.workload.isl, job.workload.osl) = (mean(|c| c.isl), mean(|c| c.osl));
        if knows_the_traffic && self.kind != Kind::Alike {
            let class = |(i, c): (usize, &Class)| {
                let own = if self.kind == Kind::Promises {
                    format!(" ttft={} itl={}", c.ttft_ms, c.itl_ms)
                } else {
                    String::new()
                };
                format!("c{i} {} {}/{}{own}", c.share, c.isl, c.osl)
            };
            let text: Vec<_> = self.classes.iter().enumerate().map(class).collect();
            job.settings = vec![("traffic".into(), text.join("; "))];
        }
        job
    }

    /// Which class each of so many requests is of, and when it comes, in ms.
    fn requests(&self, count: usize) -> Vec<(usize, f64)> {
        let mut random = Random::new(self.seed ^ 0x5eed);
        let mut now = 0.0;
        (0..count)
            .map(|_| {
                now += random.exponential(1e3 / self.rate);
                let mut left = random.uniform();
                let class = self.classes.iter().position(|c| {
                    left -= c.share;
                    left < 0.0
                });
                (class.unwrap_or(0), now)
            })
            .collect()
    }

    /// TTFT of each request behind so many prefill engines, and the requests in the order in which they were done.
    fn prefill(&self, engines: u32, count: usize) -> (Vec<(usize, f64)>, Vec<(usize, f64)>) {
        let mut random = Random::new(self.seed ^ 0x7f7f);
        let ns = |ms: f64| (ms * 1e6) as u64;
        let mut free_at: BinaryHeap<Reverse<u64>> = (0..engines * self.servers).map(|_| Reverse(0)).collect();
        let (mut ttft, mut done) = (Vec::new(), Vec::new());
        for (class, came) in self.requests(count) {
            let service = self.ttft_ms(f64::from(self.classes[class].isl)) * (1.0 + self.ttft_cv * random.normal());
            let Reverse(free) = free_at.pop().unwrap();
            let end = free.max(ns(came)) + ns(service);
            free_at.push(Reverse(end));
            ttft.push((class, end as f64 / 1e6 - came));
            done.push((class, end as f64 / 1e6));
        }
        done.sort_by(|a, b| a.1.total_cmp(&b.1));
        (ttft, done)
    }

    /// Mean ITL of each request on so many decode engines.
    fn decode(&self, engines: u32, arrivals: &[(usize, f64)]) -> Vec<(usize, f64)> {
        let mut pool: Vec<_> = (0..engines).map(|_| DecodeEngine::default()).collect();
        let mut waiting: VecDeque<(usize, f64)> = VecDeque::new();
        let (mut next, mut itl) = (0, Vec::new());
        loop {
            let finish = pool.iter().enumerate().filter_map(|(i, e)| Some((e.finish_ms(self)?, i)));
            let finish = finish.min_by(|a, b| a.0.total_cmp(&b.0));
            let ended = match (finish, arrivals.get(next)) {
                (Some((at, i)), Some((_, comes))) if at <= *comes => Some((at, i)),
                (_, Some(_)) => None,
                (Some(ended), None) => Some(ended),
                (None, None) => return itl,
            };
            let now = ended.map_or_else(|| arrivals[next].1, |(at, _)| at);
            match ended {
                Some((_, i)) => {
                    pool[i].advance(self, now);
                    let Reverse((_, class, came)) = pool[i].running.pop().unwrap();
                    let came = f64::from_bits(came);
                    pool[i].tokens -= self.tokens(class);
                    itl.push((class, (now - came) / f64::from(self.classes[class].osl)));
                }
                None => {
                    waiting.push_back(arrivals[next]);
                    next += 1;
                }
            }
            while let Some(&(class, came)) = waiting.front() {
                let e = pool.iter_mut().min_by_key(|e| e.running.len()).unwrap();
                let full = e.tokens + self.tokens(class) > f64::from(self.kv_tokens) && !e.running.is_empty();
                if e.running.len() >= self.max_running as usize || full {
                    break;
                }
                e.advance(self, now);
                let until = e.progress + f64::from(self.classes[class].osl);
                e.running.push(Reverse(((until * 1e6) as u64, class, came.to_bits())));
                e.tokens += self.tokens(class);
                waiting.pop_front();
            }
        }
    }

    /// Mean tokens of a request in the cache.
    fn tokens(&self, class: usize) -> f64 {
        let class = &self.classes[class];
        f64::from(class.isl) + f64::from(class.osl) / 2.0
    }

    /// Whether the promises hold for these values, after a start-up of a tenth.
    fn holds(&self, values: &[(usize, f64)], limit: fn(&Class) -> f64) -> bool {
        let steady = &values[values.len() / 10..];
        let of = |member: &dyn Fn(usize) -> bool, limit: f64| {
            let mut of: Vec<f64> = steady.iter().filter(|(class, _)| member(*class)).map(|(_, ms)| *ms).collect();
            of.sort_by(f64::total_cmp);
            let statistic = match self.quantile {
                None => of.iter().sum::<f64>() / of.len() as f64,
                Some(q) => of[((q * of.len() as f64) as usize).min(of.len() - 1)],
            };
            statistic <= limit
        };
        if self.kind == Kind::Promises {
            return (0..self.classes.len()).all(|class| of(&|c| c == class, limit(&self.classes[class])));
        }
        of(&|_| true, limit(&self.classes[0]))
    }

    /// Whether so many engines keep the promises, and what the decode engines got from the prefill engines.
    pub fn attains(&self, prefill: u32, decode: u32, count: usize) -> [bool; 2] {
        let (ttft, arrivals) = self.prefill(prefill, count);
        [self.holds(&ttft, |c| c.ttft_ms), self.holds(&self.decode(decode, &arrivals), |c| c.itl_ms)]
    }

    /// The fewest engines of each role that keep the promises, looked for around a guess.
    pub fn truth(&self, guess: [u32; 2], count: usize) -> [u32; 2] {
        let prefill = around(guess[0], |n| self.holds(&self.prefill(n, count).0, |c| c.ttft_ms));
        let (_, arrivals) = self.prefill(prefill, count);
        let decode = around(guess[1], |n| self.holds(&self.decode(n, &arrivals), |c| c.itl_ms));
        [prefill, decode]
    }
}

/// A decode engine at work.
#[derive(Default)]
struct DecodeEngine {
    /// Tokens so far of a request that was there from the start.
    progress: f64,
    at_ms: f64,
    tokens: f64,
    /// Progress at which each is done in millionths, its class, and the bits of when it came.
    running: BinaryHeap<Reverse<(u64, usize, u64)>>,
}

impl DecodeEngine {
    fn step_ms(&self, world: &World) -> f64 {
        world.step_ms(self.running.len() as f64, self.tokens)
    }

    fn advance(&mut self, world: &World, now: f64) {
        if !self.running.is_empty() {
            self.progress += (now - self.at_ms) / self.step_ms(world);
        }
        self.at_ms = now;
    }

    fn finish_ms(&self, world: &World) -> Option<f64> {
        let Reverse((until, ..)) = self.running.peek()?;
        Some(self.at_ms + (*until as f64 / 1e6 - self.progress).max(0.0) * self.step_ms(world))
    }
}

fn around(guess: u32, mut holds: impl FnMut(u32) -> bool) -> u32 {
    let mut n = guess.max(1);
    while !holds(n) {
        n += 1;
        assert!(n < guess.max(1) * 8 + 64, "no number of engines keeps the promise");
    }
    while n > 1 && holds(n - 1) {
        n -= 1;
    }
    n
}

/// How plans compare with the truth.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    pub roles: u32,
    pub equal: u32,
    pub within_one: u32,
    pub fewer: u32,
    pub worlds: u32,
    /// Worlds in which all promises hold.
    pub attained: u32,
    pub planned_gpus: u32,
    pub true_gpus: u32,
    /// Seed of the world that is furthest off, and by how many engines.
    pub worst: (u64, i64),
}

impl Score {
    pub fn add(&mut self, world: &World, plan: &Plan, count: usize) {
        let planned = [plan.prefill_replicas, plan.decode_replicas];
        let truth = world.truth(planned, count);
        for (planned, truth) in planned.into_iter().zip(truth) {
            self.roles += 1;
            self.equal += u32::from(planned == truth);
            self.within_one += u32::from(planned.abs_diff(truth) <= 1);
            self.fewer += u32::from(planned < truth);
            let off = i64::from(planned) - i64::from(truth);
            if off.abs() > self.worst.1.abs() {
                self.worst = (world.seed, off);
            }
        }
        self.worlds += 1;
        self.attained += u32::from(world.attains(planned[0], planned[1], count) == [true, true]);
        self.planned_gpus += planned.iter().sum::<u32>();
        self.true_gpus += truth.iter().sum::<u32>();
    }

    pub fn percent(part: u32, of: u32) -> f64 {
        f64::from(part) * 100.0 / f64::from(of.max(1))
    }
}
