//! For a plugin's own tests: jobs, points and a synthetic world to run a sweep strategy in. Feature `testing`.

use crate::{
    Candidate, Candidates, Facts, Failure, FailureClass, Goal, Hardware, History, Job, Measurement, Model, Probe, Role,
    Sla, Stat, Step, SweepStrategy, Workload,
};

/// A dense 8B on one 8-GPU node, 3000 tokens in and 150 out, TTFT 200 ms, ITL 20 ms.
pub fn job() -> Job {
    Job {
        model: Model {
            name: "test-8b".into(),
            layers: 32,
            hidden: 4096,
            heads: 32,
            kv_heads: 8,
            experts: 0,
            experts_per_token: 0,
            max_context: 32_768,
            weight_bytes: 16e9,
            kv_bytes_per_token: 131_072.0,
            extra: vec![],
        },
        hardware: Hardware {
            gpu: "h200_sxm".into(),
            gpu_memory_bytes: 141e9,
            gpus_per_node: 8,
            total_gpus: 8,
            extra: vec![],
        },
        backend: "vllm".into(),
        workload: Workload { isl: 3000, osl: 150 },
        sla: Sla { ttft_ms: Some(200.0), itl_ms: Some(20.0), e2e_ms: None, quantile: None },
        seed: 1,
        settings: vec![],
        extra: vec![],
    }
}

/// Grants a folder with these files (path and text) to the test's own thread, for [`crate::files::Folder`].
pub fn grant(folder: &str, files: &[(&str, &str)]) {
    #[cfg(not(target_family = "wasm"))]
    crate::files::source::grant(folder, files);
    #[cfg(target_family = "wasm")]
    let _ = (folder, files);
}

/// A candidate without attention DP and without a prior.
pub const fn candidate(role: Role, label: &str, gpus: u32) -> Candidate<'_> {
    Candidate {
        id: 0,
        role,
        label,
        gpus,
        tp: gpus,
        pp: 1,
        attention_dp: 1,
        moe_tp: gpus,
        moe_ep: 1,
        prior_latency_ms: None,
        prior_tokens_per_second_per_gpu: None,
        prior_relative_error: None,
        prior_kv_tokens: None,
    }
}

/// A prefill measurement on one GPU with an interval of ± 1 %.
pub fn prefill_point(candidate: u32, isl: u32, concurrency: u32, ttft_ms: f64) -> Measurement {
    Measurement {
        candidate,
        isl,
        osl: 5,
        concurrency,
        concurrency_seen: f64::from(concurrency),
        ttft_ms: Some(Stat::flat(ttft_ms, 0.01)),
        itl_ms: None,
        samples: 16,
        failed_requests: 0,
        input_tokens_per_second_per_gpu: f64::from(isl) * f64::from(concurrency) / ttft_ms * 1e3,
        output_tokens_per_second_per_gpu: 0.0,
        kv_usage: 0.1,
    }
}

/// A decode measurement on one GPU with an interval of ± 1 %.
pub fn decode_point(candidate: u32, isl: u32, osl: u32, concurrency: u32, itl_ms: f64) -> Measurement {
    Measurement {
        candidate,
        isl,
        osl,
        concurrency,
        concurrency_seen: f64::from(concurrency),
        ttft_ms: None,
        itl_ms: Some(Stat::flat(itl_ms, 0.01)),
        samples: 100,
        failed_requests: 0,
        input_tokens_per_second_per_gpu: 0.0,
        output_tokens_per_second_per_gpu: f64::from(concurrency) / itl_ms * 1e3,
        kv_usage: 0.3,
    }
}

/// Numbers from a seed, the same on every machine (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for every seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Exponential with the given mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.uniform()).ln()
    }

    /// About normal: mean 0, deviation 1 (sum of twelve uniforms).
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// The truth about one candidate.
#[derive(Debug, Clone)]
pub struct SyntheticEngine {
    /// Never comes up.
    pub launch_fails: bool,
    /// Points above this concurrency fail.
    pub fails_above: u32,
    /// KV capacity in tokens.
    pub kv_tokens: u32,
    /// Most requests at once.
    pub max_running: u32,
    /// TTFT in ms = a + b·isl + c·isl².
    pub ttft: [f64; 3],
    /// ITL in ms = a + b·concurrency + c·concurrency·context, and never below d·concurrency, where the curve bends.
    pub itl: [f64; 4],
}

impl SyntheticEngine {
    /// True TTFT in milliseconds.
    pub fn ttft_ms(&self, isl: f64) -> f64 {
        let [a, b, c] = self.ttft;
        a + b * isl + c * isl * isl
    }

    /// True ITL in milliseconds at a load and a context in tokens.
    pub fn itl_ms(&self, concurrency: f64, context: f64) -> f64 {
        let [a, b, c, d] = self.itl;
        (a + b * concurrency + c * concurrency * context).max(d * concurrency)
    }
}

/// A job, its candidates, and the truth about them.
#[derive(Debug, Clone)]
pub struct World {
    /// The question.
    pub job: Job,
    /// The search space.
    pub candidates: Candidates,
    /// One for each candidate.
    pub engines: Vec<SyntheticEngine>,
    /// What was measured so far.
    pub history: History,
    /// Coefficient of variation of a measured value's error.
    pub noise: f64,
    /// Where the errors come from.
    pub random: Random,
    /// Every probe, in order.
    pub probes: Vec<Probe>,
}

impl World {
    /// Asks the strategy and measures until it is done; returns its closing words.
    ///
    /// # Panics
    /// If the strategy errs, asks for a settled or illegal point, asks for nothing, or answers differently when asked
    /// twice, or if it is not done after 200 questions.
    #[allow(clippy::panic, reason = "an assertion helper for tests")]
    pub fn run<S: SweepStrategy>(&mut self, goal: &Goal) -> String {
        for _ in 0..200 {
            let step = S::next(&self.job, goal, &self.candidates, &self.history);
            assert_eq!(step, S::next(&self.job, goal, &self.candidates, &self.history), "not deterministic");
            match step {
                Ok(Step::Done(why)) => return why,
                Ok(Step::Measure(probes)) => {
                    assert!(!probes.is_empty(), "asked for nothing");
                    let before = self.history.clone();
                    for (i, probe) in probes.iter().enumerate() {
                        assert!(!before.is_settled(probe), "{probe:?} is settled");
                        let twin = |p: &&Probe| {
                            (p.candidate, p.isl, p.osl, p.concurrency)
                                == (probe.candidate, probe.isl, probe.osl, probe.concurrency)
                        };
                        assert_eq!(probes.iter().filter(twin).count(), 1, "{probe:?} twice in one step");
                        self.assert_legal(goal, probe);
                        self.measure(probe);
                        assert!(i < 1000);
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("not done after 200 questions; last probes: {:?}", self.probes.iter().rev().take(5).collect::<Vec<_>>())
    }

    fn assert_legal(&self, goal: &Goal, probe: &Probe) {
        let role = match goal {
            Goal::Prefill | Goal::PrefillCurve(_) => Role::Prefill,
            Goal::Decode | Goal::DecodeCurve(_) => Role::Decode,
        };
        let candidate = self.candidates.get(probe.candidate);
        assert_eq!(candidate.map(|c| c.role), Some(role), "{probe:?} is of the other role");
        assert!(probe.isl > 0 && probe.osl > 0 && probe.concurrency > 0 && probe.max_samples > 0, "{probe:?}");
        assert!(probe.relative_precision > 0.0 && probe.relative_precision.is_finite(), "{probe:?}");
        assert!(probe.isl.saturating_add(probe.osl) <= self.job.model.max_context, "{probe:?} is beyond the context");
        let dp = candidate.map_or(1, |c| c.attention_dp);
        if let (Role::Decode, Some(facts)) = (role, self.history.facts_of(probe.candidate)) {
            let kv = u64::from(probe.concurrency) * u64::from(probe.isl + probe.osl);
            let fits = kv <= u64::from(facts.kv_tokens) && probe.concurrency <= facts.max_running;
            assert!(fits || probe.concurrency <= dp, "{probe:?} does not fit {facts:?}");
        }
    }

    /// Measures one point and writes down what came of it.
    pub fn measure(&mut self, probe: &Probe) {
        self.probes.push(*probe);
        let (Some(candidate), Some(engine)) =
            (self.candidates.get(probe.candidate), self.engines.get(probe.candidate as usize))
        else {
            return;
        };
        let mut fail = |concurrency, reason| {
            let Probe { candidate, isl, osl, .. } = *probe;
            let class = FailureClass::Other;
            self.history.failures.push(Failure { candidate, class, isl, osl, concurrency, reason });
        };
        if engine.launch_fails {
            return fail(0, "the engine did not start");
        }
        if probe.concurrency > engine.fails_above {
            return fail(probe.concurrency, "too much");
        }
        if self.history.facts_of(probe.candidate).is_none() {
            let SyntheticEngine { kv_tokens, max_running, .. } = *engine;
            self.history.facts.push(Facts { candidate: probe.candidate, kv_tokens, max_running, launch_seconds: 60.0 });
        }
        let error = 1.0 + self.noise * self.random.normal().clamp(-3.0, 3.0);
        let (per_rank, gpus) =
            (f64::from(probe.concurrency) / f64::from(candidate.attention_dp), f64::from(candidate.gpus));
        let mut m = match candidate.role {
            Role::Prefill => {
                let ttft_ms = engine.ttft_ms(f64::from(probe.isl)) * per_rank.max(1.0) * error;
                prefill_point(probe.candidate, probe.isl, probe.concurrency, ttft_ms)
            }
            Role::Decode => {
                let context = f64::from(probe.isl) + f64::from(probe.osl) / 2.0;
                let itl_ms = engine.itl_ms(f64::from(probe.concurrency), context) * error;
                decode_point(probe.candidate, probe.isl, probe.osl, probe.concurrency, itl_ms)
            }
        };
        m.osl = probe.osl;
        m.samples = probe.max_samples;
        m.input_tokens_per_second_per_gpu /= gpus;
        m.output_tokens_per_second_per_gpu /= gpus;
        self.history.measurements.push(m);
    }
}
