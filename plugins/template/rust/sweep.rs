//! `my-plugin`: doubles the load of each decode engine until the ITL target breaks.

use sla_profiler_plugin::{
    About, Candidates, Curve, Error, Goal, History, Job, Probe, Role, Settings, Step, SweepStrategy,
};

/// The strategy.
#[derive(Debug)]
pub struct MyPlugin;

sla_profiler_plugin::export_sweep!(MyPlugin);

/// Points of a curve, per axis.
const CURVE_POINTS: u32 = 6;

/// Tokens out of a prefill measurement: as few as give a TTFT.
const PREFILL_OSL: u32 = 5;

impl SweepStrategy for MyPlugin {
    fn about() -> About {
        let summary = "Doubles the load of each decode engine until the ITL target breaks.";
        About::new("my-plugin", env!("CARGO_PKG_VERSION"), summary)
            .setting("samples", "64", "samples per point at most, 1 to 10000")
    }

    /// What to measure next; called again and again, with all that was measured so far, until it says `Done`.
    fn next(job: &Job, goal: &Goal, candidates: &Candidates, history: &History) -> Result<Step, Error> {
        let samples = Settings::new(Self::about(), job)?.number("samples", 1..=10_000)?;
        let sweep = Sweep { job, candidates, history, samples };
        let osl = job.workload.osl;
        let mut probes: Vec<Probe> = match goal {
            Goal::Prefill => candidates
                .of(Role::Prefill)
                .map(|c| sweep.probe(c.id, job.workload.isl, PREFILL_OSL, c.attention_dp))
                .collect(),
            Goal::Decode => candidates.of(Role::Decode).filter_map(|c| sweep.doubling(c.id)).collect(),
            Goal::PrefillCurve(curve) => sweep
                .lengths(curve, PREFILL_OSL)
                .map(|isl| sweep.probe(curve.candidate, isl, PREFILL_OSL, sweep.ranks(curve.candidate)))
                .collect(),
            Goal::DecodeCurve(curve) => sweep.lengths(curve, osl).flat_map(|isl| sweep.loads(curve, isl)).collect(),
        };
        probes.retain(|probe| !history.is_settled(probe));
        if probes.is_empty() {
            return Ok(Step::Done(format!("{} points are measured", history.measurements.candidate.len())));
        }
        Ok(Step::Measure(probes))
    }
}

struct Sweep<'a> {
    job: &'a Job,
    candidates: &'a Candidates,
    history: &'a History,
    samples: u32,
}

impl Sweep<'_> {
    fn probe(&self, candidate: u32, isl: u32, osl: u32, concurrency: u32) -> Probe {
        Probe { candidate, isl, osl, concurrency, relative_precision: 0.02, max_samples: self.samples }
    }

    fn ranks(&self, candidate: u32) -> u32 {
        self.candidates.get(candidate).map_or(1, |c| c.attention_dp)
    }

    /// Requests that fit the engine's KV cache; unknown before it has run.
    fn room(&self, candidate: u32, isl: u32) -> u32 {
        let fits = self.history.facts_of(candidate).map_or(0, |facts| {
            facts.max_running.min(facts.kv_tokens / isl.saturating_add(self.job.workload.osl).max(1))
        });
        fits.max(self.ranks(candidate))
    }

    /// The first load of the series that is not measured yet, unless the series has ended.
    fn doubling(&self, candidate: u32) -> Option<Probe> {
        let isl = self.job.workload.isl;
        let mut load = self.ranks(candidate);
        loop {
            let probe = self.probe(candidate, isl, self.job.workload.osl, load);
            let point = (candidate, probe.isl, probe.osl, load);
            let Some(measured) = self.history.measurements.rows().find(|m| m.point() == point) else {
                return Some(probe);
            };
            let itl_ms = measured.itl_ms.map_or(f64::NAN, |itl| itl.target);
            let broken = self.job.sla.itl_ms.is_some_and(|limit| itl_ms > limit);
            if broken || load.saturating_mul(2) > self.room(candidate, isl) {
                return None;
            }
            load = load.saturating_mul(2);
        }
    }

    fn lengths(&self, curve: &Curve, osl: u32) -> impl Iterator<Item = u32> + use<> {
        let longest = self.job.model.max_context.saturating_sub(osl).min(curve.max_isl);
        spaced(curve.min_isl, longest)
    }

    fn loads<'a>(&'a self, curve: &'a Curve, isl: u32) -> impl Iterator<Item = Probe> + 'a {
        let ranks = self.ranks(curve.candidate);
        let per_rank = spaced(1, self.room(curve.candidate, isl) / ranks);
        per_rank.map(move |load| self.probe(curve.candidate, isl, self.job.workload.osl, load * ranks))
    }
}

/// Whole numbers from `least` to `most`, both included, without repeats.
fn spaced(least: u32, most: u32) -> impl Iterator<Item = u32> {
    let width = most.saturating_sub(least);
    let mut points: Vec<u32> = (0..CURVE_POINTS)
        .map(|i| least + (u64::from(width) * u64::from(i) / u64::from(CURVE_POINTS - 1)) as u32)
        .collect();
    points.dedup();
    points.into_iter()
}
