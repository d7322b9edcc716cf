//! Measuring one point on a simulated engine, the way a load generator would do it on a real one.

use std::collections::HashMap;

use anyhow::{Result, bail, ensure};

use super::core::{BLOCK_TOKENS, Core, MAX_RUNNING_PER_RANK, Pass, Prompt};
use crate::domain::random::Random;
use crate::domain::roofline::HostCost;
use crate::domain::stats::{MIN_SAMPLES, Sequential};
use crate::domain::{Measurement, Probe, Stat};

/// Decode steps of one wave at most. With 1024 requests each costs about 0.1 ms of real time.
const MAX_WINDOW_STEPS: u32 = 256;

/// Samples of one point at most, however many are asked for; what precision they gave is in the interval.
const MAX_SAMPLES: u32 = 10_000;

/// Prompt tokens of one prefill point at most, for the same reason: more would take minutes of real time.
pub(super) const MAX_POINT_TOKENS: u32 = 1 << 28;

/// Passes in a row without a usable sample before a point is given up.
const MAX_BARREN_PASSES: u32 = 20_000;

/// Time-weighted means over the passes that count.
#[derive(Debug, Default)]
struct Window {
    time_ms: f64,
    running: f64,
    kv_usage: f64,
    decoded: f64,
}

impl Window {
    fn add(&mut self, pass: &Pass, kv_usage: f64) {
        let running = f64::from(pass.prefill_requests + pass.decode_requests);
        self.time_ms += pass.duration_ms;
        self.running += pass.duration_ms * running;
        self.kv_usage += pass.duration_ms * kv_usage;
        self.decoded += f64::from(pass.decode_requests);
    }

    fn mean(&self, weighted: f64) -> f64 {
        if self.time_ms > 0.0 { weighted / self.time_ms } else { 0.0 }
    }
}

/// What a point gave, before it is made a [`Measurement`].
pub(super) struct Outcome {
    samples: Sequential,
    window: Window,
    input_tokens_per_second: f64,
    output_tokens_per_second: f64,
    /// On the cluster's clock.
    pub(super) duration_s: f64,
}

impl Outcome {
    /// The measurement of a prefill point.
    pub(super) fn into_prefill(self, probe: &Probe, gpus: u32, kv_tokens: u32, quantile: Option<f64>) -> Measurement {
        let stat = self.stat(quantile);
        Measurement { ttft_ms: stat, ..self.measurement(probe, gpus, kv_tokens) }
    }

    /// The measurement of a decode point.
    pub(super) fn into_decode(self, probe: &Probe, gpus: u32, kv_tokens: u32, quantile: Option<f64>) -> Measurement {
        let stat = self.stat(quantile);
        Measurement { itl_ms: stat, ..self.measurement(probe, gpus, kv_tokens) }
    }

    fn stat(&self, quantile: Option<f64>) -> Option<Stat> {
        Stat::from_samples(self.samples.samples(), quantile).map(|stat| stat.with_interval(self.samples.interval()))
    }

    fn measurement(&self, probe: &Probe, gpus: u32, kv_tokens: u32) -> Measurement {
        let gpus = f64::from(gpus.max(1));
        let nominal = (f64::from(probe.isl) + f64::from(probe.osl) / 2.0) * f64::from(probe.concurrency);
        Measurement {
            candidate: probe.candidate,
            isl: probe.isl,
            osl: probe.osl,
            concurrency: probe.concurrency,
            concurrency_seen: self.window.mean(self.window.running),
            ttft_ms: None,
            itl_ms: None,
            samples: self.samples.len().try_into().unwrap_or(u32::MAX),
            failed_requests: 0,
            input_tokens_per_second_per_gpu: self.input_tokens_per_second / gpus,
            output_tokens_per_second_per_gpu: self.output_tokens_per_second / gpus,
            kv_usage: self.window.mean(self.window.kv_usage).clamp(0.0, 1.0),
            kv_usage_nominal: nominal / f64::from(kv_tokens.max(1)),
            duration_s: self.duration_s,
        }
    }
}

/// TTFT of prompts that share nothing, `probe.concurrency` in flight: each client sends its next request when it has the
/// first token of the last. The first round fills the queue and is not counted.
pub(super) fn prefill(core: &mut Core, host: HostCost, probe: &Probe, seed: u64) -> Result<Outcome> {
    let max_samples = probe.max_samples.min(MAX_SAMPLES).min(MAX_POINT_TOKENS / probe.isl.max(1)).max(1) as usize;
    let warm_up = u64::from(probe.concurrency);
    let capacity = f64::from(core.shape().kv_tokens().max(1));
    let host_ms = 1e3 * host.per_request_s;
    let mut samples = Sequential::dependent();
    let mut window = Window::default();
    let mut sent: HashMap<u64, f64> = HashMap::new();
    // Clients that wait for their next turn: when, soonest last.
    let mut turns = vec![0.0; probe.concurrency as usize];
    let (mut next, mut done) = (0_u64, 0_u64);
    let mut window_start_ms = 0.0;
    loop {
        while let Some(turn) = turns.last().copied().filter(|turn| *turn <= core.now_ms()) {
            turns.pop();
            sent.insert(next, turn);
            let seed = Random::new(&[seed, next]).next();
            core.enqueue(next, Prompt { id: next, seed, tokens: probe.isl, outputs: 1 });
            next += 1;
        }
        let Some(pass) = core.step()? else {
            let Some(turn) = turns.last().copied() else { bail!("the engine lost {} requests", sent.len()) };
            core.wait_until(turn);
            continue;
        };
        ensure!(pass.rejected.is_empty(), "the engine refused a prompt of {} tokens", probe.isl);
        if done >= warm_up {
            window.add(&pass, pass.context_tokens as f64 / capacity);
        }
        for id in &pass.finished {
            let Some(sent_ms) = sent.remove(id) else { continue };
            let answered_ms = core.now_ms() + host_ms;
            done += 1;
            if done > warm_up {
                samples.push(answered_ms - sent_ms);
            } else if done == warm_up {
                window_start_ms = answered_ms;
            }
            turns.push(answered_ms);
        }
        turns.sort_by(|a, b| b.total_cmp(a));
        if enough(&samples, probe, max_samples) {
            break;
        }
    }
    let end_ms = core.now_ms() + host_ms;
    let window_s = (end_ms - window_start_ms) / 1e3;
    let per_second = if window_s > 0.0 { (done - warm_up) as f64 / window_s } else { 0.0 };
    Ok(Outcome {
        samples,
        window,
        input_tokens_per_second: per_second * f64::from(probe.isl),
        output_tokens_per_second: per_second,
        duration_s: end_ms / 1e3,
    })
}

/// ITL of `probe.concurrency` requests whose prompts are in the prefix cache.
///
/// Timed are steps in which all requests that run are decoding. Only a window in the middle of the answers is
/// simulated, since a step's time depends on the mean context alone: requests start with half of the rest of their
/// answer as if it had been generated, so that the window's mean context is that of the whole answer,
/// `isl + osl / 2`. The time for the part that is skipped is charged to the cluster's clock.
pub(super) fn decode(core: &mut Core, probe: &Probe, noise_cv: f64, seed: u64) -> Result<Outcome> {
    ensure!(probe.osl >= 2, "an inter-token latency needs at least two output tokens, not {}", probe.osl);
    let max_samples = probe.max_samples.clamp(1, MAX_SAMPLES);
    let steps = window_steps(probe, noise_cv).min(max_samples);
    let skipped = (probe.osl - 1 - steps) / 2;
    let tokens = probe.isl + skipped;
    // Requests beyond those whose cache fits to the end of the window, or that the engine runs at once, only wait.
    // Sending them too would have their prompts evict those of the others from the prefix cache.
    let footprint = (tokens + steps + 1).next_multiple_of(BLOCK_TOKENS);
    let per_rank = (core.shape().kv_tokens_per_rank() / footprint).clamp(1, MAX_RUNNING_PER_RANK);
    let prompts = u64::from(probe.concurrency.min(core.shape().ranks.saturating_mul(per_rank)));
    let prompt = |id, index, outputs| Prompt { id, seed: Random::new(&[seed, index]).next(), tokens, outputs };
    let mut next_id = 0_u64;
    let mut send = |core: &mut Core, outputs| {
        for index in 0..prompts {
            core.enqueue(index, prompt(next_id, index, outputs));
            next_id += 1;
        }
    };
    send(core, 1);
    while let Some(pass) = core.step()? {
        ensure!(pass.rejected.is_empty(), "the engine refused a prompt of {tokens} tokens");
    }
    let (mut samples, mut window) = (Sequential::dependent(), Window::default());
    let mut barren = 0;
    'waves: loop {
        // One more than the window: the first token comes from the pass that admits the request.
        send(core, probe.osl - skipped);
        let mut ended = false;
        while let Some(pass) = core.step()? {
            // Once requests have begun to end, what follows is another load.
            let after_end = ended;
            ended |= !pass.finished.is_empty();
            if after_end || pass.prefill_requests > 0 || pass.decode_requests == 0 || pass.duration_ms <= 0.0 {
                barren += 1;
                ensure!(barren < MAX_BARREN_PASSES, "the engine reaches no steady state with {prompts} requests");
                continue;
            }
            window.add(&pass, pass.kv_usage);
            samples.push(pass.duration_ms);
            barren = 0;
            if enough(&samples, probe, max_samples as usize) {
                break 'waves;
            }
        }
        ensure!(!samples.is_empty(), "no decode step ran with all {prompts} requests");
    }
    let rate = if window.time_ms > 0.0 { 1e3 * window.decoded / window.time_ms } else { 0.0 };
    let skipped_ms = f64::from(skipped) * window.time_ms / samples.len().max(1) as f64;
    Ok(Outcome {
        samples,
        window,
        input_tokens_per_second: 0.0,
        output_tokens_per_second: rate,
        duration_s: (core.now_ms() + skipped_ms) / 1e3,
    })
}

/// Whether to stop. Looks after every hundredth more samples only: looking costs time, and each look is a chance to stop
/// too early.
fn enough(samples: &Sequential, probe: &Probe, max_samples: usize) -> bool {
    let n = samples.len();
    n >= max_samples || (n.is_multiple_of(1 + n / 100) && samples.is_precise(probe.relative_precision))
}

/// Steps that the precision should take at this noise (normal theory, doubled for the sequential look), within bounds.
fn window_steps(probe: &Probe, noise_cv: f64) -> u32 {
    let needed = (2.0 * noise_cv / probe.relative_precision.max(1e-3)).powi(2) * 2.0 + MIN_SAMPLES as f64;
    (needed.min(f64::from(MAX_WINDOW_STEPS)) as u32).min(probe.osl - 1).max(1)
}
