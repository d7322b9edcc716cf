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

/// What the host expects of each decode candidate's ITL over load, as `prior-itl-ms` of a sweep's `job.extra`.
pub fn prior_itl(job: &Job, candidates: &[Candidate]) -> (String, String) {
    let decode = candidates.iter().filter(|candidate| candidate.role == domain::Role::Decode);
    let rows = decode.map(|candidate| {
        let told = domain::search_space::prior_itl(job, candidate);
        let points: Vec<String> = told.iter().map(|(requests, itl_ms)| format!("{requests}={itl_ms:.4}")).collect();
        format!("{}:{}", candidate.mapping.label(), points.join(","))
    });
    ("prior-itl-ms".to_owned(), rows.collect::<Vec<_>>().join(";"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::candidate::Prior;
    use crate::domain::{EngineFacts, Failure, FailureClass, Mapping, Probe, Role};

    fn stat(target: f64) -> Stat {
        Stat { mean: 1.0, p50: 2.0, p90: 3.0, p99: 4.0, ci_low: 5.0, ci_high: 6.0, target }
    }

    fn measurement(candidate: u32, ttft_ms: Option<Stat>, itl_ms: Option<Stat>) -> Measurement {
        Measurement {
            candidate,
            isl: 11,
            osl: 12,
            concurrency: 13,
            concurrency_seen: 14.0,
            ttft_ms,
            itl_ms,
            samples: 15,
            failed_requests: 16,
            input_tokens_per_second_per_gpu: 17.0,
            output_tokens_per_second_per_gpu: 18.0,
            kv_usage: 0.19,
            kv_usage_nominal: 0.2,
            duration_s: 21.0,
        }
    }

    #[test]
    fn no_candidates_row_is_lost_or_moved() {
        let prior = |n: u32| Prior {
            latency_ms: f64::from(n),
            tokens_per_second_per_gpu: f64::NAN,
            relative_error: 0.5,
            kv_tokens: 1e6,
        };
        let all: Vec<Candidate> = [Mapping::tensor(2), Mapping::data_expert(8), Mapping::tensor_expert(4)]
            .into_iter()
            .zip([Role::Decode, Role::Prefill, Role::Decode])
            .zip(0..)
            .map(|((mapping, role), n)| Candidate { role, mapping, prior: prior(n) })
            .collect();
        let table = candidates(&all);
        assert_eq!(table.role, [types::Role::Decode, types::Role::Prefill, types::Role::Decode]);
        assert_eq!(table.label, ["tp2", "dep8", "tep4"]);
        assert_eq!(table.gpus, [2, 8, 4]);
        assert_eq!((table.tp, table.pp), (vec![2, 1, 4], vec![1, 1, 1]));
        assert_eq!((table.attention_dp, table.moe_tp, table.moe_ep), (vec![1, 8, 1], vec![2, 1, 1], vec![1, 8, 4]));
        assert_eq!(table.prior_latency_ms, [0.0, 1.0, 2.0]);
        assert_eq!(table.prior_tokens_per_second_per_gpu.iter().filter(|rate| rate.is_nan()).count(), 3);
        assert_eq!((table.prior_relative_error.len(), table.prior_kv_tokens.len()), (3, 3));
    }

    #[test]
    fn what_was_not_measured_is_nan_in_its_row_only() {
        let rows = [measurement(7, Some(stat(70.0)), None), measurement(9, None, Some(stat(90.0)))];
        let table = measurements(rows.iter());
        assert_eq!(table.candidate, [7, 9]);
        assert!(table.ttft_ms.target[0] == 70.0 && table.ttft_ms.target[1].is_nan());
        assert!(table.itl_ms.target[0].is_nan() && table.itl_ms.target[1] == 90.0);
        let columns = [&table.ttft_ms, &table.itl_ms].map(|s| [&s.mean, &s.p50, &s.p90, &s.p99, &s.ci_low, &s.ci_high]);
        assert!(columns.iter().flatten().all(|column| column.len() == 2));
        let first = columns[0].map(|column| column[0]);
        assert_eq!(first, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "no statistic stands in another's column");
        assert_eq!((table.isl, table.osl, table.concurrency), (vec![11; 2], vec![12; 2], vec![13; 2]));
        assert_eq!(
            (table.concurrency_seen, table.samples, table.failed_requests),
            (vec![14.0; 2], vec![15; 2], vec![16; 2])
        );
        assert_eq!(table.input_tokens_per_second_per_gpu, [17.0; 2]);
        assert_eq!(table.output_tokens_per_second_per_gpu, [18.0; 2]);
        assert_eq!(table.kv_usage, [0.19; 2], "the measured one");
    }

    #[test]
    fn a_failed_engine_has_concurrency_zero() {
        let probe = Probe { candidate: 1, isl: 10, osl: 20, concurrency: 30, relative_precision: 0.1, max_samples: 5 };
        let failure = |class, probe| Failure { candidate: 1, class, cause: None, probe, reason: "no".into() };
        let table = history(&History {
            facts: vec![EngineFacts { candidate: 1, kv_tokens: 2, max_running: 3, launch_s: 4.0, kv_sources: vec![] }],
            measurements: vec![],
            failures: vec![failure(FailureClass::Launch, None), failure(FailureClass::Timeout, Some(probe))],
        });
        assert_eq!(table.failures.concurrency, [0, 30]);
        assert_eq!((table.failures.isl, table.failures.osl), (vec![0, 10], vec![0, 20]));
        assert_eq!(table.failures.class, [types::FailureClass::Launch, types::FailureClass::Timeout]);
        assert_eq!((table.facts.kv_tokens, table.facts.max_running), (vec![2], vec![3]));
    }
}
