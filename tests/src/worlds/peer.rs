//! The peer's loop, NVIDIA's thorough profiler of ai-dynamo 1.6.1 as its code and its captured runs tell it: one engine at
//! a time, each mapping for prefill, each for decode, both winners once more for the curves; fixed grids; one request
//! for a TTFT, one burst for an ITL and another before it to fill the prefix cache.
//!
//! To its credit: a terminal failure is noticed at once, its curves reach no farther than ours (in truth they go up to the
//! model's context), the next launch does not wait for GPUs of the last, and a launch that hangs costs half an hour and
//! not the whole one that 1.6.1 allows.

use sla_profiler::domain::Role;

use super::cluster::SHUTDOWN_S;
use super::random::{Random, text};
use super::truth::EngineTruth;
use super::{Outcome, Pick, World};

/// Every so often it looks whether an engine is ready, in seconds.
const POLL_S: f64 = 20.0;

const PREFILL_STEPS: u32 = 16;
const DECODE_STEPS: u32 = 6;
const MOST_REQUESTS: u32 = 2000;
const CURVE_OSL: u32 = 500;
/// Of each prefill point, before the one that counts.
const WARM_UPS: f64 = 3.0;

struct Loop<'a> {
    world: &'a World,
    client_s: f64,
    outcome: Outcome,
}

/// Runs it. Each start of its load generator takes `client_s` seconds.
pub fn run(world: &World, client_s: f64) -> Outcome {
    let mut the = Loop { world, client_s, outcome: Outcome::default() };
    let job = &world.spec.job;
    let (isl, osl) = (job.workload.isl, job.workload.osl);
    let mut prefill: Vec<(u32, u32, f64, f64)> = Vec::new();
    let mut decode: Vec<(u32, u32, f64, f64)> = Vec::new();
    for (id, truth) in (0..).zip(&world.truths) {
        let Some(launch_s) = the.launch(truth) else { continue };
        let mut busy_s = 0.0;
        if truth.role == Role::Prefill {
            let (ttft_ms, s) = the.prefill(truth, isl);
            busy_s += s;
            let rate = 1e3 * f64::from(isl * truth.ranks) / ttft_ms / f64::from(truth.gpus);
            prefill.push((id, truth.ranks, ttft_ms, rate));
        } else {
            for n in loads(truth, isl, osl) {
                let (itl_ms, s) = the.decode(truth, isl, osl, n);
                busy_s += s;
                decode.push((id, n, itl_ms, 1e3 * truth.running(isl, osl, n) / itl_ms / f64::from(truth.gpus)));
            }
        }
        the.spend(truth, launch_s + busy_s + SHUTDOWN_S);
    }
    let picks = [(Role::Prefill, &prefill), (Role::Decode, &decode)].map(|(role, points)| {
        let within = |p: &&(u32, u32, f64, f64)| p.2 <= world.limit_ms(role);
        let best = points.iter().filter(within).max_by(|a, b| a.3.total_cmp(&b.3));
        let least_bad = || points.iter().min_by(|a, b| a.2.total_cmp(&b.2));
        best.or_else(least_bad).map(|p| Pick { candidate: p.0, concurrency: p.1, meets_sla: best.is_some() })
    });
    let [Some(prefill), Some(decode)] = picks else {
        the.outcome.failed = Some("nothing was measured".to_owned());
        return the.outcome;
    };
    the.outcome.chosen = vec![prefill, decode];
    the.curves(prefill, decode);
    the.outcome
}

/// `get_num_request_range`.
fn loads(truth: &EngineTruth, isl: u32, osl: u32) -> Vec<u32> {
    let dp = truth.ranks;
    let per_rank = (truth.kv_tokens / (isl + osl)).min(MOST_REQUESTS) / dp;
    if per_rank < DECODE_STEPS {
        return (1..=per_rank).map(|n| n * dp).collect();
    }
    let step = f64::from(per_rank - 1) / f64::from(DECODE_STEPS - 1);
    (0..DECODE_STEPS).map(|i| dp + (f64::from(i) * step) as u32 * dp).collect()
}

impl Loop<'_> {
    /// Until it is ready; none if it never is.
    fn launch(&mut self, truth: &EngineTruth) -> Option<f64> {
        self.outcome.launches += 1;
        let fate = self.world.fate(&truth.mapping);
        let noticed_s = (fate.after_s / POLL_S).ceil() * POLL_S;
        if fate.fault.is_some() {
            self.spend(truth, noticed_s + SHUTDOWN_S);
            return None;
        }
        Some(noticed_s)
    }

    fn spend(&mut self, truth: &EngineTruth, seconds: f64) {
        self.outcome.wall_s += seconds;
        self.outcome.gpu_s += seconds * f64::from(truth.gpus);
    }

    fn noise(&mut self, truth: &EngineTruth, isl: u32, n: u32, samples: u32) -> f64 {
        self.outcome.measurements += 1;
        let key = [text(truth.role.as_str()), text(&truth.mapping.label()), u64::from(isl), u64::from(n)];
        let mut random = Random::new(&key);
        let mut random = Random::new(&[random.next(), u64::from(self.world.setting.seed), text("peer")]);
        let noise = self.world.setting.noise;
        (0..samples).map(|_| random.disturbance(noise)).sum::<f64>() / f64::from(samples.max(1))
    }

    /// TTFT as it sees it, and how long that takes. With ranks, it sends four requests to each.
    fn prefill(&mut self, truth: &EngineTruth, isl: u32) -> (f64, f64) {
        let requests = if truth.ranks > 1 { 4 * truth.ranks } else { 1 };
        let ttft_ms = truth.ttft_ms(f64::from(isl));
        let rounds = f64::from(requests / truth.ranks) + WARM_UPS;
        (ttft_ms * self.noise(truth, isl, 1, requests), self.client_s + rounds * ttft_ms / 1e3)
    }

    /// ITL as it sees it, over a whole answer, and how long that takes: the prompts, the answers, and the answers again.
    fn decode(&mut self, truth: &EngineTruth, isl: u32, osl: u32, n: u32) -> (f64, f64) {
        let itl_ms = truth.latency_ms(isl, osl, n);
        let waves = (f64::from(n) / truth.running(isl, osl, n)).ceil();
        let prompts_s = f64::from(n.div_ceil(truth.ranks)) * truth.ttft_ms(f64::from(isl)) / 1e3;
        let answers_s = waves * f64::from(osl) * itl_ms / 1e3;
        (itl_ms * self.noise(truth, isl, n, osl), 2.0 * self.client_s + prompts_s + 2.0 * answers_s)
    }

    fn curves(&mut self, prefill: Pick, decode: Pick) {
        let world = self.world;
        let (start, end) = (world.spec.curve.min_isl, world.spec.curve.max_isl);
        let range = |step: u32| (start..end).step_by(step.max(1) as usize);
        let truth = &world.truths[prefill.candidate as usize];
        let mut seconds = self.launch(truth).unwrap_or_default();
        for isl in range((end - start) / PREFILL_STEPS) {
            let (ttft_ms, s) = self.prefill(truth, isl);
            seconds += s;
            self.outcome.ttft.push((f64::from(isl), ttft_ms));
        }
        self.spend(truth, seconds + SHUTDOWN_S);
        let truth = &world.truths[decode.candidate as usize];
        let mut seconds = self.launch(truth).unwrap_or_default();
        for isl in range((end - start) / DECODE_STEPS) {
            for n in loads(truth, isl, CURVE_OSL) {
                let (itl_ms, s) = self.decode(truth, isl, CURVE_OSL, n);
                seconds += s;
                self.outcome.itl.push((isl, CURVE_OSL, f64::from(n), itl_ms));
            }
        }
        self.spend(truth, seconds + SHUTDOWN_S);
        self.outcome.curve_points = (self.outcome.ttft.len() + self.outcome.itl.len()) as u32;
    }
}
