//! `planner-sla`: replicas by role and the request rate that they serve within the SLA.
//!
//! The curves say how fast one engine is; the SLA is about what users of a whole deployment see. Between the two lie
//! waiting (prefill) and the swings of the load (decode), which `sla_profiler_plugin::sizing` models; a count of
//! replicas that leaves them out, as `ceil(demand / engine rate)` does, misses the SLA at the rate it was made for.

use sla_profiler_plugin::sizing::{DecodeEngine, Deployment, MAX_UTILIZATION, PrefillEngine, Replicas, Sizing};
use sla_profiler_plugin::text::{count, figure};
use sla_profiler_plugin::{About, Curves, Demand, Engine, Engines, Error, Job, Plan, PlannerModel, Role, Settings};

/// The model.
#[derive(Debug)]
pub struct PlannerSla;

sla_profiler_plugin::export_planner!(PlannerSla);

impl PlannerModel for PlannerSla {
    fn about() -> About {
        let summary = "Replicas by role from the measured curves, with waiting and swings of the load.";
        About::new("planner-sla", env!("CARGO_PKG_VERSION"), summary).setting(
            "max-utilization",
            &MAX_UTILIZATION.to_string(),
            "highest load of an engine, as a fraction of what it could do at most, 0.05 to 0.99",
        )
    }

    fn plan(job: &Job, engines: &Engines, curves: &Curves, demand: &Demand) -> Result<Plan, Error> {
        let max_utilization = Settings::new(Self::about(), job)?.number("max-utilization", 0.05..=0.99)?;
        check(job, demand)?;
        let sizing = sizing(job, engines, curves, max_utilization)?;
        let total_gpus = job.hardware.total_gpus;
        let deployment = sizing.deployment(demand, total_gpus).ok_or_else(|| beyond(demand))?;
        Ok(plan(job, engines, curves, demand, &sizing, &deployment, max_utilization))
    }
}

fn check(job: &Job, demand: &Demand) -> Result<(), Error> {
    let bad_demand = match demand {
        Demand::RequestsPerSecond(rate) => !(rate.is_finite() && *rate > 0.0 && *rate < 1e6),
        Demand::Concurrency(n) => *n == 0,
        Demand::Budget => false,
    };
    if bad_demand {
        return Err(Error::Unsupported(format!(
            "there is no deployment for {demand:?}: it has to be a number above 0"
        )));
    }
    if job.sla.quantile.is_some_and(|q| !(q > 0.0 && q < 1.0)) {
        return Err(Error::Unsupported("the SLA's quantile has to lie between 0 and 1".to_owned()));
    }
    Ok(())
}

fn beyond(demand: &Demand) -> Error {
    Error::Unsupported(format!("{demand:?} is beyond any cluster of these engines"))
}

fn sizing(job: &Job, engines: &Engines, curves: &Curves, max_utilization: f64) -> Result<Sizing, Error> {
    let Engines { prefill, decode } = engines;
    let missing = |role: &str, engine: &Engine| {
        Error::Other(format!("nothing was measured of {role} {}, so there is no curve to plan with", engine.label))
    };
    let prefill_engine = PrefillEngine::from_measurements(
        curves.prefill.rows(),
        job.workload.isl,
        prefill.attention_dp.max(1),
        prefill.gpus.max(1),
    );
    let decode_engine = DecodeEngine::from_measurements(
        curves.decode.rows(),
        job.workload,
        decode.gpus.max(1),
        decode.kv_tokens,
        decode.max_running,
    );
    Ok(Sizing::new(
        prefill_engine.ok_or_else(|| missing("prefill", prefill))?,
        decode_engine.ok_or_else(|| missing("decode", decode))?,
        &job.sla,
        max_utilization,
        decode.concurrency,
    ))
}

fn plan(
    job: &Job,
    engines: &Engines,
    curves: &Curves,
    demand: &Demand,
    sizing: &Sizing,
    deployment: &Deployment,
    max_utilization: f64,
) -> Plan {
    let Deployment { replicas, requests_per_second: rate, meets_demand, .. } = *deployment;
    let capacity = sizing.capacity(replicas);
    let expected = sizing.expected(replicas, rate);
    Plan {
        prefill_replicas: replicas.prefill,
        decode_replicas: replicas.decode,
        // Bisection may stop a hair below the rate that the count was chosen for.
        capacity_requests_per_second: if meets_demand { capacity.max(rate) } else { capacity },
        prefill_requests_per_second: sizing.role_capacity(Role::Prefill, replicas.prefill).max(capacity),
        decode_requests_per_second: sizing.role_capacity(Role::Decode, replicas.decode).max(capacity),
        decode_concurrency: (expected.decode_requests.ceil() as u32).max(1),
        expected_ttft_ms: expected.ttft.target_ms,
        expected_itl_ms: expected.itl.target_ms,
        meets_sla: sizing.out_of_reach().is_empty(),
        meets_demand,
        assumptions: assumptions(job, engines, curves, demand, sizing, deployment, max_utilization),
        extra: vec![],
    }
}

fn assumptions(
    job: &Job,
    engines: &Engines,
    curves: &Curves,
    demand: &Demand,
    sizing: &Sizing,
    deployment: &Deployment,
    max_utilization: f64,
) -> Vec<String> {
    let workload = job.workload;
    let Deployment { replicas, requests_per_second: rate, meets_demand, gpus, .. } = *deployment;
    let Replicas { prefill, decode } = replicas;
    let mut said = vec![
        format!(
            "Requests arrive at random (Poisson), each with {} input and {} output tokens.",
            workload.isl, workload.osl
        ),
        format!(
            "Prompts wait in one line before {}, each of which takes the measured time (M/D/c).",
            count(prefill, "prefill engine")
        ),
        format!(
            "Each request goes to the least busy of {}; ITL at the load that this brings about, swings \
             included.",
            count(decode, "decode engine")
        ),
        format!("No engine is loaded beyond {} % of what it could do.", figure(max_utilization * 100.0)),
        "Sending the KV cache from prefill to decode engines costs nothing.".to_owned(),
    ];
    match demand {
        Demand::Concurrency(n) => {
            said.push(format!("{n} requests in flight are {} requests/s, by Little's law.", figure(rate)))
        }
        Demand::Budget if meets_demand => said.push(format!(
            "No demand was given: this is what {} serve, {gpus} of them used.",
            count(job.hardware.total_gpus, "GPU")
        )),
        Demand::RequestsPerSecond(_) | Demand::Budget => {}
    }
    if gpus > job.hardware.total_gpus {
        said.push(format!(
            "One prefill {} and one decode {} need {gpus} GPUs already, more than the {} that may be used.",
            engines.prefill.label, engines.decode.label, job.hardware.total_gpus
        ));
    } else if !meets_demand {
        said.push(format!(
            "The demand needs more than {}; this is the best within them.",
            count(job.hardware.total_gpus, "GPU")
        ));
    }
    for target in sizing.out_of_reach() {
        said.push(format!(
            "These engines miss the {} target even without load; they are sized to keep up, not to meet it.",
            target.to_uppercase()
        ));
    }
    let isls = || curves.prefill.rows().map(|m| m.isl);
    if let (Some(least), Some(most)) = (isls().min(), isls().max())
        && !(least..=most).contains(&workload.isl)
    {
        said.push(format!(
            "Prefill {} was measured at {least} to {most} input tokens; {} lie outside.",
            engines.prefill.label, workload.isl
        ));
    }
    said
}

#[cfg(test)]
mod tests;
