//! Our types to those of the contract: tables become columns, `None` becomes NaN in a column.

use crate::domain::{self, Candidate, Demand, Goal, History, Job, Measurement, Stat};
use crate::plugin::api::PlannedEngine;
use crate::plugin::bindings::planner::exports::sla_profiler::planner::model as planner;
use crate::plugin::bindings::sweep::exports::sla_profiler::sweep::strategy as sweep;
use crate::plugin::bindings::types;

/// The job, with the settings that the user gave to this plugin.
pub fn job(job: &Job, settings: &[(String, String)]) -> types::Job {
    let (model, hardware, moe) = (&job.model, &job.hardware, job.model.moe.as_ref());
    types::Job {
        model: types::Model {
            name: model.name.clone(),
            layers: model.layers,
            hidden: model.hidden,
            heads: model.heads,
            kv_heads: model.kv_heads,
            experts: moe.map_or(0, |moe| moe.experts),
            experts_per_token: moe.map_or(0, |moe| moe.experts_per_token),
            // What the deployment admits is what a policy may ask for, even where the model could do more.
            max_context: job.max_context_tokens,
            weight_bytes: model.weight_bytes(),
            kv_bytes_per_token: model.kv_bytes_per_token(),
            extra: Vec::new(),
        },
        hardware: types::Hardware {
            gpu: hardware.gpu.name.clone(),
            gpu_memory_bytes: hardware.gpu.memory_bytes,
            gpus_per_node: hardware.gpus_per_node,
            total_gpus: hardware.total_gpus,
            extra: Vec::new(),
        },
        backend: job.backend.as_str().to_owned(),
        workload: types::Workload { isl: job.workload.isl, osl: job.workload.osl },
        sla: types::Sla {
            ttft_ms: job.sla.ttft_ms,
            itl_ms: job.sla.itl_ms,
            e2e_ms: job.sla.e2e_ms,
            quantile: job.sla.quantile,
        },
        seed: job.seed,
        settings: settings.to_vec(),
        extra: Vec::new(),
    }
}

/// The traffic.
pub fn demand(demand: Demand) -> types::Demand {
    match demand {
        Demand::RequestsPerSecond(rate) => types::Demand::RequestsPerSecond(rate),
        Demand::Concurrency(concurrency) => types::Demand::Concurrency(concurrency),
        Demand::Budget => types::Demand::Budget,
    }
}

/// What a sweep is for.
pub fn goal(goal: &Goal) -> sweep::Goal {
    let curve = |curve: &domain::CurveGoal| sweep::Curve {
        candidate: curve.candidate,
        min_isl: curve.min_isl,
        max_isl: curve.max_isl,
        concurrency: curve.concurrency,
    };
    match goal {
        Goal::Prefill => sweep::Goal::Prefill,
        Goal::Decode => sweep::Goal::Decode,
        Goal::PrefillCurve(of) => sweep::Goal::PrefillCurve(curve(of)),
        Goal::DecodeCurve(of) => sweep::Goal::DecodeCurve(curve(of)),
    }
}

/// Fills each column from the same rows, so that none can be shorter than another.
macro_rules! columns {
    ($table:ident, $rows:expr, |$row:ident| { $($column:ident: $value:expr),+ $(,)? } $($also:tt)*) => {{
        let rows = $rows;
        types::$table { $($column: rows.clone().map(|$row| $value).collect(),)+ $($also)* }
    }};
}

/// The search space; a candidate's id is its place.
pub fn candidates(candidates: &[Candidate]) -> types::Candidates {
    columns!(Candidates, candidates.iter(), |c| {
        role: role(c.role),
        label: c.mapping.label(),
        gpus: c.gpus(),
        tp: c.mapping.tp,
        pp: c.mapping.pp,
        attention_dp: c.mapping.attention_dp,
        moe_tp: c.mapping.moe_tp,
        moe_ep: c.mapping.moe_ep,
        prior_latency_ms: c.prior.latency_ms,
        prior_tokens_per_second_per_gpu: c.prior.tokens_per_second_per_gpu,
        prior_relative_error: c.prior.relative_error,
        prior_kv_tokens: c.prior.kv_tokens,
    })
}

/// All that is known.
pub fn history(history: &History) -> types::History {
    types::History {
        facts: columns!(EngineFacts, history.facts.iter(), |f| {
            candidate: f.candidate,
            kv_tokens: f.kv_tokens,
            max_running: f.max_running,
            launch_seconds: f.launch_s,
        }),
        measurements: measurements(history.measurements.iter()),
        failures: columns!(Failures, history.failures.iter(), |f| {
            candidate: f.candidate,
            class: failure_class(f.class),
            isl: f.probe.map_or(0, |p| p.isl),
            osl: f.probe.map_or(0, |p| p.osl),
            concurrency: f.probe.map_or(0, |p| p.concurrency),
            reason: f.reason.clone(),
        }),
    }
}

/// A table of measurements.
pub fn measurements<'a>(rows: impl Iterator<Item = &'a Measurement> + Clone) -> types::Measurements {
    let ttft_ms = stats(rows.clone().map(|m| m.ttft_ms));
    let itl_ms = stats(rows.clone().map(|m| m.itl_ms));
    columns!(Measurements, rows, |m| {
        candidate: m.candidate,
        isl: m.isl,
        osl: m.osl,
        concurrency: m.concurrency,
        concurrency_seen: m.concurrency_seen,
        samples: m.samples,
        failed_requests: m.failed_requests,
        input_tokens_per_second_per_gpu: m.input_tokens_per_second_per_gpu,
        output_tokens_per_second_per_gpu: m.output_tokens_per_second_per_gpu,
        kv_usage: m.kv_usage,
    } ttft_ms, itl_ms)
}

/// One quantity of a table of measurements.
fn stats(rows: impl Iterator<Item = Option<Stat>> + Clone) -> types::StatColumns {
    let column = |value: fn(Stat) -> f64| rows.clone().map(|stat| stat.map_or(f64::NAN, value)).collect();
    types::StatColumns {
        mean: column(|s| s.mean),
        p50: column(|s| s.p50),
        p90: column(|s| s.p90),
        p99: column(|s| s.p99),
        ci_low: column(|s| s.ci_low),
        ci_high: column(|s| s.ci_high),
        target: column(|s| s.target),
    }
}

fn role(role: domain::Role) -> types::Role {
    match role {
        domain::Role::Prefill => types::Role::Prefill,
        domain::Role::Decode => types::Role::Decode,
    }
}

fn failure_class(class: domain::FailureClass) -> types::FailureClass {
    match class {
        domain::FailureClass::DoesNotFit => types::FailureClass::DoesNotFit,
        domain::FailureClass::Launch => types::FailureClass::Launch,
        domain::FailureClass::Crash => types::FailureClass::Crash,
        domain::FailureClass::Timeout => types::FailureClass::Timeout,
        domain::FailureClass::Measurement => types::FailureClass::Measurement,
        domain::FailureClass::Other => types::FailureClass::Other,
    }
}

/// One of the two engines of a plan.
pub fn engine(engine: &PlannedEngine<'_>) -> planner::Engine {
    planner::Engine {
        label: engine.candidate.mapping.label(),
        gpus: engine.candidate.gpus(),
        attention_dp: engine.candidate.mapping.attention_dp,
        kv_tokens: engine.facts.kv_tokens,
        max_running: engine.facts.max_running,
        launch_seconds: engine.facts.launch_s,
        concurrency: engine.concurrency,
    }
}
