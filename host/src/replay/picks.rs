//! What the run's own policies answer under many an SLA, so that a page without plugins can look the answer up.
//!
//! The policies are asked at a grid of targets: the run's own, the latencies that were measured (there the selection can
//! change), and a ladder above them (there the plan changes). Between two lines of the grid the answer of the tighter
//! one stands: it keeps the looser target too, if at a few GPUs more.

use serde::Serialize;

use super::decide::{Answer, DecideError, answer, sweep_history};
use super::{Recording, Targets};
use crate::dgd::{self, DecodeTable, PrefillTable, ProfileData};
use crate::domain::{CandidateId, Choice, History, Job, Measurement, Role, Sla};
use crate::plugin::api::{PlannerModel, SelectionPolicy};
use crate::spec::Wanted;

/// Most lines of the TTFT axis, of the ITL axis, and of the axis of an end-to-end target.
const MOST_LINES: [usize; 3] = [14, 26, 160];

/// Lines closer than this, as a fraction, are one: a plan does not differ by more than an engine between them.
const LINE_GAP: f64 = 0.01;

/// One target's lines.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Axis {
    /// `ttft`, `itl` or `e2e`.
    pub target: &'static str,
    /// In milliseconds, ascending; empty where the run has no such target.
    pub lines_ms: Vec<f64>,
    /// Which line is the run's own target.
    pub own: Option<usize>,
}

/// A winner.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Winner {
    /// Index in the search space.
    pub candidate: CandidateId,
    /// `tp4`
    pub mapping: String,
    /// GPUs of one engine.
    pub gpus: u32,
    /// Requests in flight per engine.
    pub concurrency: u32,
    /// Whether it meets the SLA by itself.
    pub meets_sla: bool,
    /// How many.
    pub replicas: u32,
    /// Why, in the policy's words.
    pub reason: String,
}

/// The answer under one SLA.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pick {
    /// Prefill winner.
    pub prefill: Winner,
    /// Decode winner.
    pub decode: Winner,
    /// GPUs of the plan.
    pub gpus: u32,
    /// Requests per second that it serves.
    pub capacity_requests_per_second: f64,
    /// TTFT that it expects, in the SLA's statistic, in milliseconds.
    pub expected_ttft_ms: f64,
    /// ITL that it expects, likewise.
    pub expected_itl_ms: f64,
    /// Whether winners and plan meet the SLA.
    pub meets_sla: bool,
    /// Whether the GPU budget reaches for the demand.
    pub meets_demand: bool,
    /// The deployment, as indices into [`Picks::yaml_lines`]; empty where the journal does not hold what is needed.
    pub yaml: Vec<usize>,
}

/// Answers at every point of the grid.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Picks {
    /// One axis (end to end), or TTFT and ITL.
    pub axes: Vec<Axis>,
    /// Row by row, the last axis fastest; absent where the policies have no answer.
    pub answers: Vec<Option<Pick>>,
    /// Lines of deployments, each once.
    pub yaml_lines: Vec<String>,
    /// Whether the answer at the run's own SLA is the recorded one.
    pub same_as_recorded: bool,
}

impl Picks {
    /// The answer at the run's own SLA.
    pub fn own(&self) -> Option<&Pick> {
        let index = self.axes.iter().fold(0, |index, axis| index * axis.lines_ms.len().max(1) + axis.own.unwrap_or(0));
        self.answers.get(index)?.as_ref()
    }

    /// The deployment of an answer as text.
    pub fn yaml(&self, pick: &Pick) -> String {
        pick.yaml.iter().filter_map(|n| self.yaml_lines.get(*n)).map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// Asks the policies at every point of the grid.
///
/// # Errors
/// If a role was not measured at all, or the selection policy fails.
pub fn picks(
    recording: &Recording,
    policy: &dyn SelectionPolicy,
    planner: &dyn PlannerModel,
) -> Result<Picks, DecideError> {
    let job = &recording.started().job;
    let history = recording.full_history();
    let axes = axes(recording, job, &sweep_history(recording, job)?);
    let mut lines = Lines::default();
    let mut answers = Vec::new();
    let count = |axis: &Axis| axis.lines_ms.len().max(1);
    for index in 0..axes.iter().map(count).product() {
        let mut targets = Targets::default();
        let mut rest = index;
        for axis in axes.iter().rev() {
            let ms = axis.lines_ms.get(rest % count(axis)).copied();
            rest /= count(axis);
            match axis.target {
                "ttft" => targets.ttft_ms = ms,
                "itl" => targets.itl_ms = ms,
                _ => targets.e2e_ms = ms,
            }
        }
        let asked = targets.job(job);
        let given = answer(recording, &asked, policy, planner)?;
        answers.push(pick(recording, &history, &asked, &given, &mut lines));
    }
    let mut picks = Picks { axes, answers, yaml_lines: lines.all, same_as_recorded: true };
    picks.same_as_recorded = is_recorded(recording, picks.own());
    Ok(picks)
}

/// Whether the run decided the same.
fn is_recorded(recording: &Recording, own: Option<&Pick>) -> bool {
    let (Some((_, selection)), Some((_, plan)), Some(own)) = (recording.selection(), recording.plan(), own) else {
        // A run that was cut off has decided nothing that could be contradicted.
        return true;
    };
    let same = |choice: Option<&Choice>, engine: &Winner| {
        choice.is_some_and(|c| (c.candidate, c.concurrency) == (engine.candidate, engine.concurrency))
    };
    same(selection.ranking(Role::Prefill).first(), &own.prefill)
        && same(selection.ranking(Role::Decode).first(), &own.decode)
        && (plan.prefill_replicas, plan.decode_replicas) == (own.prefill.replicas, own.decode.replicas)
        && plan.capacity_requests_per_second == own.capacity_requests_per_second
}

/// Lines of text, each kept once: deployments differ in a few of theirs.
#[derive(Default)]
struct Lines {
    all: Vec<String>,
    index: std::collections::HashMap<String, usize>,
}

impl Lines {
    fn of(&mut self, text: &str) -> Vec<usize> {
        text.split('\n')
            .map(|line| {
                *self.index.entry(line.to_owned()).or_insert_with(|| {
                    self.all.push(line.to_owned());
                    self.all.len() - 1
                })
            })
            .collect()
    }
}

fn pick(recording: &Recording, history: &History, job: &Job, given: &Answer, lines: &mut Lines) -> Option<Pick> {
    let plan = given.plan.as_ref()?;
    let engine = |role: Role, replicas| {
        let choice = given.selection.ranking(role).first()?;
        let candidate = recording.candidate(choice.candidate)?;
        Some(Winner {
            candidate: choice.candidate,
            mapping: candidate.mapping.label(),
            gpus: candidate.gpus(),
            concurrency: choice.concurrency,
            meets_sla: choice.meets_sla,
            replicas,
            reason: choice.reason.clone(),
        })
    };
    let prefill = engine(Role::Prefill, plan.prefill_replicas)?;
    let decode = engine(Role::Decode, plan.decode_replicas)?;
    let meets_sla = prefill.meets_sla && decode.meets_sla && plan.meets_sla;
    let yaml = yaml(recording, history, job, given, meets_sla).map_or_else(Vec::new, |text| lines.of(&text));
    Some(Pick {
        gpus: prefill.gpus * prefill.replicas + decode.gpus * decode.replicas,
        capacity_requests_per_second: plan.capacity_requests_per_second,
        expected_ttft_ms: plan.expected_ttft_ms,
        expected_itl_ms: plan.expected_itl_ms,
        meets_sla,
        meets_demand: plan.meets_demand,
        prefill,
        decode,
        yaml,
    })
}

/// The deployment, as phase 6 writes it.
fn yaml(recording: &Recording, history: &History, job: &Job, given: &Answer, feasible: bool) -> Option<String> {
    let deployment = recording.started().deployment.as_ref()?;
    let plan = given.plan.as_ref()?;
    let winner = |role: Role| given.selection.ranking(role).first().map(|choice| choice.candidate);
    let (p, d) = (winner(Role::Prefill)?, winner(Role::Decode)?);
    let profile = ProfileData {
        prefill: PrefillTable::new(history.measurements_of(p)),
        decode: DecodeTable::new(history.measurements_of(d), history.facts_of(d)?.kv_tokens),
    };
    let (prefill, decode) = (recording.candidate(p)?.mapping, recording.candidate(d)?.mapping);
    let wanted = Wanted { job, deployment };
    let request = dgd::Request { spec: wanted, prefill, decode, plan, profile: Some(&profile) };
    // A deployment that cannot be written is not offered; `profile` says why when it meets it.
    dgd::generate(&request).and_then(|made| made.to_file(&dgd::summary(prefill, decode, plan), feasible)).ok()
}

fn latency_ms(role: Role, measurement: &Measurement) -> Option<f64> {
    let stat = match role {
        Role::Prefill => measurement.ttft_ms,
        Role::Decode => measurement.itl_ms,
    };
    stat.map(|stat| stat.target).filter(|ms| ms.is_finite() && *ms > 0.0)
}

fn axes(recording: &Recording, job: &Job, history: &History) -> Vec<Axis> {
    let measured = |role: Role| -> Vec<f64> {
        let of_role = |m: &&Measurement| recording.candidate(m.candidate).is_some_and(|c| c.role == role);
        let at_lengths =
            |m: &&Measurement| m.isl == job.workload.isl && (role == Role::Prefill || m.osl == job.workload.osl);
        history.measurements.iter().filter(of_role).filter(at_lengths).filter_map(|m| latency_ms(role, m)).collect()
    };
    let (ttft, itl) = (measured(Role::Prefill), measured(Role::Decode));
    let Sla { ttft_ms, itl_ms, e2e_ms, .. } = job.sla;
    let [ttft_lines, itl_lines, e2e_lines] = MOST_LINES;
    if e2e_ms.is_some() {
        let tokens = f64::from(job.workload.osl.saturating_sub(1));
        let pairs = ttft.iter().flat_map(|t| itl.iter().map(move |i| t + i * tokens)).collect();
        return vec![axis("e2e", pairs, e2e_ms, e2e_lines)];
    }
    vec![axis("ttft", ttft, ttft_ms, ttft_lines), axis("itl", itl, itl_ms, itl_lines)]
}

/// Where `own` is a target: it, the measured latencies, and a ladder from the lowest of them to well beyond both.
fn axis(target: &'static str, mut measured: Vec<f64>, own: Option<f64>, most: usize) -> Axis {
    let Some(own) = own else { return Axis { target, lines_ms: Vec::new(), own: None } };
    measured.sort_by(f64::total_cmp);
    measured.dedup();
    // Up, so that the value itself meets the target that is written down.
    let measured: Vec<f64> = measured.into_iter().map(|ms| (ms * 1e3).ceil() / 1e3).collect();
    let kept = spread(&measured, most * 2 / 3);
    let (low, high) = (measured.first().copied().unwrap_or(own), measured.last().copied().unwrap_or(own));
    let top = (own * 4.0).max(high * 2.0);
    let rungs = most.saturating_sub(kept.len() + 1).max(1);
    let step = (top / low.max(1e-3)).max(1.0).powf(1.0 / rungs as f64);
    // Three digits: a target that a person could have asked for.
    let ladder = (1..=rungs).map(|n| rounded(low * step.powi(i32::try_from(n).unwrap_or(i32::MAX))));
    let mut lines: Vec<f64> = kept.into_iter().chain(ladder).collect();
    lines.sort_by(f64::total_cmp);
    let mut thinned: Vec<f64> = Vec::new();
    for line in lines {
        let far = |other: f64| (line - other).abs() > LINE_GAP * line;
        if thinned.last().is_none_or(|last| far(*last)) && far(own) {
            thinned.push(line);
        }
    }
    let at = thinned.partition_point(|line| *line < own);
    thinned.insert(at, own);
    Axis { target, lines_ms: thinned, own: Some(at) }
}

/// At most `most` of the values, spread evenly over their order, the first and the last among them.
fn spread(values: &[f64], most: usize) -> Vec<f64> {
    if values.len() <= most || most < 2 {
        return values.to_vec();
    }
    (0..most).filter_map(|n| values.get(n * (values.len() - 1) / (most - 1)).copied()).collect()
}

/// To three significant digits.
fn rounded(value: f64) -> f64 {
    let unit = 10_f64.powf(value.abs().log10().floor() - 2.0);
    // Twice, since multiples of a power of ten below one are not exact.
    (((value / unit).round() * unit) * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runs_own_target_is_a_line_and_no_line_is_closer_to_another_than_the_gap() {
        let measured = vec![9.9, 9.95, 2.95, 3.1, 17.8, 28.0, 10.05];
        let axis = axis("itl", measured, Some(10.0), 26);
        assert_eq!(axis.own.map(|n| axis.lines_ms[n]), Some(10.0));
        assert!(axis.lines_ms.is_sorted(), "{axis:?}");
        assert!(axis.lines_ms.windows(2).all(|pair| pair[1] > pair[0]), "{axis:?}");
        assert!(axis.lines_ms[0] <= 2.951 && axis.lines_ms.last().is_some_and(|last| *last >= 28.0), "{axis:?}");
        assert!(axis.lines_ms.len() <= 27);
    }

    #[test]
    fn many_measured_latencies_are_thinned_and_the_ends_kept() {
        let measured: Vec<f64> = (0..500).map(|n| 5.0 + f64::from(n)).collect();
        let axis = axis("ttft", measured, Some(100.0), 14);
        assert!(axis.lines_ms.len() <= 15, "{axis:?}");
        assert_eq!(axis.lines_ms[0], 5.0);
        assert!(axis.lines_ms.contains(&504.0), "{axis:?}");
    }

    #[test]
    fn without_a_target_there_is_no_axis() {
        assert_eq!(axis("itl", vec![1.0], None, 9), Axis { target: "itl", lines_ms: vec![], own: None });
    }

    #[test]
    fn lines_that_deployments_share_are_kept_once() {
        let mut lines = Lines::default();
        assert_eq!(lines.of("a\nb\na"), [0, 1, 0]);
        assert_eq!(lines.of("b\nc"), [1, 2]);
        assert_eq!(lines.all, ["a", "b", "c"]);
    }

    #[test]
    fn rounding_keeps_three_digits() {
        assert_eq!([rounded(123_456.0), rounded(1.2345), rounded(0.012_345)], [123_000.0, 1.23, 0.0123]);
    }
}
