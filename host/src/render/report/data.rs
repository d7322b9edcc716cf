//! The data that the page's script draws from.

use serde::Serialize;

use super::Report;
use crate::domain::{CandidateId, Measurement, Role, Stat};
use crate::replay::{Picks, Tenancy, Tenure, Totals};
use crate::run::Phase;

/// See the scripts, which read it by these names.
#[derive(Serialize)]
pub(super) struct Data<'a> {
    statistic: String,
    isl: u32,
    osl: u32,
    targets: Targets,
    candidates: Vec<Candidate>,
    phases: Vec<&'static str>,
    points: Vec<Point>,
    chosen: Option<Chosen>,
    picks: Option<&'a Picks>,
    tenancy: Time<'a>,
}

#[derive(Serialize)]
struct Targets {
    ttft: Option<f64>,
    itl: Option<f64>,
    e2e: Option<f64>,
}

#[derive(Serialize)]
struct Candidate {
    id: CandidateId,
    role: Role,
    label: String,
    gpus: u32,
}

#[derive(Serialize)]
struct Chosen {
    prefill: Winner,
    decode: Winner,
}

#[derive(Serialize)]
struct Winner {
    candidate: CandidateId,
    concurrency: u32,
}

/// Candidate, phase, tokens in, tokens out, requests at once as asked and as seen, TTFT, ITL (each as target statistic
/// and the ends of the mean's interval), tokens/s/GPU, KV usage, samples, failed requests. A row without names: there
/// may be thousands.
type Point = (CandidateId, usize, u32, u32, u32, f64, Option<[f64; 3]>, Option<[f64; 3]>, f64, f64, u32, u32);

#[derive(Serialize)]
struct Time<'a> {
    gpus: u32,
    end_s: f64,
    tenures: &'a [Tenure],
    phases: Vec<NamedSpan>,
    totals: Totals,
}

#[derive(Serialize)]
struct NamedSpan {
    title: &'static str,
    from_s: f64,
    to_s: f64,
}

pub(super) fn data<'a>(report: &Report<'a>) -> Data<'a> {
    let recording = report.recording;
    let started = recording.started();
    let job = &started.job;
    let winner = |role: Role| {
        let (_, selection) = recording.selection()?;
        let choice = selection.ranking(role).first()?;
        Some(Winner { candidate: choice.candidate, concurrency: choice.concurrency })
    };
    let chosen = winner(Role::Prefill).zip(winner(Role::Decode)).map(|(prefill, decode)| Chosen { prefill, decode });
    let candidates = (0..).zip(&started.candidates).map(|(id, candidate)| Candidate {
        id,
        role: candidate.role,
        label: candidate.mapping.label(),
        gpus: candidate.gpus(),
    });
    let point = |(phase, m): (Phase, &Measurement)| {
        let role = recording.candidate(m.candidate)?.role;
        Some(point(phase, role, m))
    };
    let Tenancy { gpus, end_s, tenures, phases, totals } = report.tenancy;
    let named =
        |span: &crate::replay::PhaseSpan| NamedSpan { title: span.phase.title(), from_s: span.from_s, to_s: span.to_s };
    Data {
        statistic: job.sla.statistic(),
        isl: job.workload.isl,
        osl: job.workload.osl,
        targets: Targets { ttft: job.sla.ttft_ms, itl: job.sla.itl_ms, e2e: job.sla.e2e_ms },
        candidates: candidates.collect(),
        phases: Phase::ALL.iter().map(|phase| phase.title()).collect(),
        points: recording.measurements().filter_map(point).collect(),
        chosen,
        picks: report.picks.ok(),
        tenancy: Time {
            gpus: *gpus,
            end_s: *end_s,
            tenures,
            phases: phases.iter().map(named).collect(),
            totals: *totals,
        },
    }
}

fn point(phase: Phase, role: Role, m: &Measurement) -> Point {
    // Six digits: a page is read by people, and full doubles would double its size.
    let digits = |value: f64| format!("{value:.5e}").parse().unwrap_or(value);
    let stat = |stat: Option<Stat>| stat.map(|s| [digits(s.target), digits(s.ci_low), digits(s.ci_high)]);
    let tokens = match role {
        Role::Prefill => m.input_tokens_per_second_per_gpu,
        Role::Decode => m.output_tokens_per_second_per_gpu,
    };
    (
        m.candidate,
        phase as usize,
        m.isl,
        m.osl,
        m.concurrency,
        digits(m.concurrency_seen),
        stat(m.ttft_ms),
        stat(m.itl_ms),
        digits(tokens),
        digits(m.kv_usage),
        m.samples,
        m.failed_requests,
    )
}
