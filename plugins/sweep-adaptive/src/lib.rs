//! `sweep-adaptive`: the default. Measures where it matters, and no longer than it matters.
//!
//! ```text
//! prior.rs     what the host's prior says, corrected by what it was wrong by so far, and within which band
//! race.rs      what each candidate can bring at best and at worst; who is out; who is next
//! prefill.rs   one look at every candidate in the race; a longer one where the SLA or the winner is in doubt
//! decode.rs    straight to where the prior expects the SLA crossing, then along the corrected prior
//! curves.rs    the winners' curves: a coarse grid, then points where interpolation is worst
//! ```
//!
//! Starting an engine costs more than measuring it, so a step asks only for candidates that fit the GPUs together, and
//! stays with them until they are finished. Whatever is known is read from the history; nothing is remembered between
//! calls, and every rule either asks for a new point or ends.

mod curves;
mod decode;
mod prefill;
mod prior;
mod race;

use std::cell::OnceCell;
use std::collections::BTreeMap;

use race::Chance;
use sla_profiler_plugin::{
    About, Candidate, Candidates, Curve, Error, Goal, History, Job, Probe, Role, Settings, Step, SweepStrategy,
};

/// The strategy.
#[derive(Debug)]
pub struct SweepAdaptive;

sla_profiler_plugin::export_sweep!(SweepAdaptive);

impl SweepStrategy for SweepAdaptive {
    fn about() -> About {
        let summary =
            "Races candidates towards the SLA crossing from a prior that it corrects; curves where they bend.";
        About::new("sweep-adaptive", env!("CARGO_PKG_VERSION"), summary)
            .setting("tolerance", "0.02", "width of the bracket around the SLA crossing, relative, 0.005 to 0.5")
            .setting("precision", "0.02", "95 % interval of a mean, as ± this fraction of it, 0.001 to 0.5")
            .setting("curve-tolerance", "0.03", "interpolation error at which a curve gets another point, 0.002 to 0.5")
            .setting("prefill-curve-points", "10", "points of the prefill curve at most, 3 to 256")
            .setting("decode-curve-points", "24", "points of the decode curve at most, 6 to 256")
            .setting("prune", "true", "skip candidates that lose even at the best end of their prior's band")
            .setting("race", "true", "stop with candidates whose measurements say that they cannot win any more")
            .setting(
                "prior-table",
                "",
                "ITL of decode candidates instead of the host's guess: tp1:1=5.1,64=9;tp2:1=3.4,64=6",
            )
    }

    fn next(job: &Job, goal: &Goal, candidates: &Candidates, history: &History) -> Result<Step, Error> {
        let settings = Settings::new(Self::about(), job)?;
        let table = match settings.text("prior-table")? {
            "" => job.extra.iter().find(|(name, _)| name == "prior-itl-ms").map_or("", |(_, text)| text.as_str()),
            given => given,
        };
        let sweep = Sweep {
            job,
            candidates,
            history,
            tolerance: settings.number("tolerance", 0.005..=0.5)?,
            precision: settings.number("precision", 0.001..=0.5)?,
            curve_tolerance: settings.number("curve-tolerance", 0.002..=0.5)?,
            prefill_curve_points: settings.number("prefill-curve-points", 3..=256)?,
            decode_curve_points: settings.number("decode-curve-points", 6..=256)?,
            prune: settings.flag("prune")?,
            race: settings.flag("race")?,
            table: prior::table(table).map_err(Error::BadSetting)?,
            chances: OnceCell::new(),
            residuals: OnceCell::new(),
        };
        let of = |curve: &Curve| {
            let unknown = || Error::Other(format!("there is no candidate {} to draw a curve of", curve.candidate));
            candidates.get(curve.candidate).ok_or_else(unknown)
        };
        Ok(match goal {
            Goal::Prefill => sweep.prefill(),
            Goal::Decode => sweep.decode(),
            Goal::PrefillCurve(curve) => sweep.prefill_curve(&of(curve)?, curve),
            Goal::DecodeCurve(curve) => sweep.decode_curve(&of(curve)?, curve),
        })
    }
}

/// Output tokens of a prefill probe: enough for the engine to answer, too few to matter. As NVIDIA's profiler has it.
const PREFILL_OSL: u32 = 5;

/// Requests in flight and ITL in milliseconds, by load.
type Loads = Vec<(f64, f64)>;

/// The question, what is known, and the settings.
struct Sweep<'a> {
    job: &'a Job,
    candidates: &'a Candidates,
    history: &'a History,
    tolerance: f64,
    precision: f64,
    curve_tolerance: f64,
    prefill_curve_points: usize,
    decode_curve_points: usize,
    prune: bool,
    race: bool,
    /// What is expected of decode candidates, by label.
    table: BTreeMap<&'a str, Loads>,
    /// By candidate, once somebody asks.
    chances: OnceCell<Vec<Option<Chance>>>,
    /// Of prefill and of decode candidates, likewise.
    residuals: OnceCell<[Vec<f64>; 2]>,
}

impl Sweep<'_> {
    /// A probe as precise as asked, or as the SLA's statistic needs.
    fn probe(&self, candidate: u32, isl: u32, osl: u32, concurrency: u32, precision: f64, samples: u32) -> Probe {
        let (relative_precision, max_samples) = match self.job.sla.quantile {
            None => (precision, samples),
            // A quantile is known by the samples beyond it, not by the mean's interval: with ln 0.05 / ln q samples the
            // largest lies above it in 95 % of cases.
            Some(q) => (1e-6, samples.max((0.05f64.ln() / q.clamp(0.01, 0.999_9).ln()).ceil() as u32)),
        };
        Probe { candidate, isl, osl, concurrency, relative_precision, max_samples }
    }

    fn prefill_probe(&self, candidate: &Candidate<'_>, isl: u32) -> Probe {
        self.probe(candidate.id, isl, PREFILL_OSL, candidate.attention_dp, self.precision, 48)
    }

    fn decode_probe(&self, candidate: &Candidate<'_>, isl: u32, osl: u32, concurrency: u32) -> Probe {
        self.probe(candidate.id, isl, osl, concurrency, self.precision, 128)
    }

    /// Most requests of so many tokens that the engine holds at once, as a multiple of its attention-DP ranks. 0 if not
    /// even one per rank fits; `None` if the engine did not say.
    fn reach(&self, candidate: &Candidate<'_>, isl: u32, osl: u32) -> Option<u32> {
        let facts = self.history.facts_of(candidate.id)?;
        let most = (facts.kv_tokens / isl.saturating_add(osl).max(1)).min(facts.max_running);
        Some(most - most % candidate.attention_dp)
    }

    /// The ITL that a decode engine may take: the target, or what an end-to-end target leaves after the best TTFT.
    fn itl_limit_ms(&self) -> Option<f64> {
        let sla = &self.job.sla;
        let Some(e2e_ms) = sla.e2e_ms else { return sla.itl_ms };
        let is_prefill = |id| self.candidates.role_of(id) == Some(Role::Prefill);
        let rows = self.history.measurements.rows();
        let at_job = rows.filter(|m| m.isl == self.job.workload.isl && is_prefill(m.candidate));
        let best = at_job.filter_map(|m| Some(m.ttft_ms?.target)).fold(f64::INFINITY, f64::min);
        let ttft_ms = if best.is_finite() { best } else { 0.0 };
        let later_tokens = self.job.workload.osl.saturating_sub(1);
        (later_tokens > 0).then(|| (e2e_ms - ttft_ms) / f64::from(later_tokens))
    }

    /// The limit of a role by itself; infinite where there is none.
    fn limit_ms(&self, role: Role) -> f64 {
        match role {
            Role::Prefill => self.job.sla.ttft_ms.or(self.job.sla.e2e_ms),
            Role::Decode => self.itl_limit_ms(),
        }
        .unwrap_or(f64::INFINITY)
    }
}

/// A number between two others, in the middle of their ratio.
fn geometric_middle(a: u32, b: u32) -> u32 {
    (f64::from(a) * f64::from(b)).sqrt().round() as u32
}

#[cfg(test)]
mod tests;
