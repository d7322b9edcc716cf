//! An author's own cases: what was measured, and the answer that the author expects. `plugins/README.md` shows the form.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::world::{self, World};
use super::{Checker, ConformanceError, Property, describe};
use crate::domain::{
    CandidateId, Choice, Demand, EngineFacts, Failure, FailureClass, Goal, History, Job, Mapping, Measurement, Role,
    Stat, Step,
};
use crate::plugin::PluginHost;
use crate::plugin::api::{Kind, PlannedEngine};
use crate::spec::PluginChoice;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    isl: Option<u32>,
    #[serde(default)]
    osl: Option<u32>,
    #[serde(default)]
    sla: Targets,
    #[serde(default)]
    request_rate: Option<f64>,
    #[serde(default)]
    concurrency: Option<u32>,
    #[serde(default)]
    total_gpus: Option<u32>,
    #[serde(default)]
    settings: BTreeMap<String, String>,
    engines: Vec<Engine>,
    expect: Expect,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Targets {
    #[serde(default)]
    ttft_ms: Option<f64>,
    #[serde(default)]
    itl_ms: Option<f64>,
    #[serde(default)]
    e2e_ms: Option<f64>,
    #[serde(default)]
    quantile: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Engine {
    role: Role,
    /// Tensor parallel size.
    gpus: u32,
    #[serde(default)]
    kv_tokens: Option<u32>,
    /// Absent: it was not measured.
    #[serde(default)]
    points: Vec<Point>,
    /// It did not start, because …
    #[serde(default)]
    failed: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    /// The case's, where absent.
    #[serde(default)]
    isl: Option<u32>,
    #[serde(default = "one")]
    concurrency: u32,
    /// TTFT of a prefill engine, ITL of a decode engine.
    latency_ms: f64,
    /// From latency and concurrency, where absent.
    #[serde(default)]
    tokens_per_second_per_gpu: Option<f64>,
}

const fn one() -> u32 {
    1
}

/// Whatever is absent is not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    /// Selection: mapping of the winner, `tp2`.
    #[serde(default)]
    prefill: Option<String>,
    #[serde(default)]
    decode: Option<String>,
    /// Selection: load of the decode winner. Planner: load per engine.
    #[serde(default)]
    decode_concurrency: Option<u32>,
    #[serde(default)]
    meets_sla: Option<bool>,
    /// Planner.
    #[serde(default)]
    prefill_replicas: Option<u32>,
    #[serde(default)]
    decode_replicas: Option<u32>,
    /// Sweep: mappings that the next decode step measures, in any order; empty: it is done.
    #[serde(default)]
    measures: Option<Vec<String>>,
    /// Any kind: the plugin's own error holds this.
    #[serde(default)]
    error: Option<String>,
}

/// Tries the cases of a YAML file.
///
/// # Errors
/// If the file cannot be read or says something that no case can, or the plugin cannot be loaded.
pub fn run(
    host: &PluginHost,
    kind: Kind,
    choice: &PluginChoice,
    path: &Path,
) -> Result<Vec<Property>, ConformanceError> {
    let bad = |reason: String| ConformanceError::Cases { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    let file: File = serde_yaml::from_str(&text).map_err(|error| bad(error.to_string()))?;
    let mut checker = Checker::default();
    for case in &file.cases {
        let world = build(case).map_err(|reason| bad(format!("case `{}`: {reason}", case.name)))?;
        let mut settings = choice.settings.clone();
        settings.retain(|(name, _)| !case.settings.contains_key(name));
        settings.extend(case.settings.iter().map(|(name, value)| (name.clone(), value.clone())));
        let choice = PluginChoice { settings, ..choice.clone() };
        let result = match kind {
            Kind::SelectionPolicy => selection(host, &choice, &world, &case.expect)?,
            Kind::SweepStrategy => sweep(host, &choice, &world, &case.expect)?,
            Kind::PlannerModel => planner(host, &choice, &world, &case.expect)?,
        };
        checker.check(&case.name, "as written", result);
    }
    Ok(checker.properties)
}

fn build(case: &Case) -> Result<World, String> {
    let template = world::large(0).map_err(|error| error.to_string())?;
    let mut job: Job = template.job.clone();
    job.workload.isl = case.isl.unwrap_or(job.workload.isl);
    job.workload.osl = case.osl.unwrap_or(job.workload.osl);
    let Targets { ttft_ms, itl_ms, e2e_ms, quantile } = case.sla;
    (job.sla.ttft_ms, job.sla.itl_ms, job.sla.e2e_ms, job.sla.quantile) = (ttft_ms, itl_ms, e2e_ms, quantile);
    job.demand = match (case.request_rate, case.concurrency) {
        (Some(rate), None) => Demand::RequestsPerSecond(rate),
        (None, Some(n)) => Demand::Concurrency(n),
        (None, None) => Demand::Budget,
        (Some(_), Some(_)) => return Err("give `request_rate` or `concurrency`, not both".to_owned()),
    };
    job.hardware.total_gpus = case.total_gpus.unwrap_or(job.hardware.total_gpus);
    let mut world = World { name: case.name.clone(), job, ..template };
    world.history = History::default();
    for (id, engine) in (0_u32..).zip(&case.engines) {
        if engine.gpus == 0 {
            return Err(format!("engine {id} has no GPUs"));
        }
        world.candidates.push(world::candidate(engine.role, Mapping::tensor(engine.gpus)));
        if let Some(reason) = &engine.failed {
            world.history.failures.push(Failure {
                candidate: id,
                class: FailureClass::Launch,
                cause: None,
                probe: None,
                reason: reason.clone(),
            });
        } else if !engine.points.is_empty() {
            let kv_tokens = engine.kv_tokens.unwrap_or(engine.gpus.saturating_mul(400_000));
            world.history.facts.push(EngineFacts {
                candidate: id,
                kv_tokens,
                max_running: 256,
                launch_s: 60.0,
                kv_sources: Vec::new(),
            });
        }
        for point in &engine.points {
            if !(point.latency_ms.is_finite() && point.latency_ms > 0.0) || point.concurrency == 0 {
                return Err(format!("engine {id} has a point without latency or without requests"));
            }
            world.history.measurements.push(measurement(id, engine, point, &world.job));
        }
    }
    Ok(world)
}

fn measurement(id: CandidateId, engine: &Engine, point: &Point, job: &Job) -> Measurement {
    let ms = point.latency_ms;
    let stat = Stat { mean: ms, p50: ms, p90: ms, p99: ms, ci_low: ms * 0.99, ci_high: ms * 1.01, target: ms };
    let isl = point.isl.unwrap_or(job.workload.isl);
    let running = f64::from(point.concurrency);
    let is_prefill = engine.role == Role::Prefill;
    let tokens = if is_prefill { f64::from(isl) } else { running };
    let tokens = point.tokens_per_second_per_gpu.unwrap_or(tokens * 1e3 / ms / f64::from(engine.gpus));
    Measurement {
        candidate: id,
        isl,
        osl: if is_prefill { 2 } else { job.workload.osl },
        concurrency: point.concurrency,
        concurrency_seen: running,
        ttft_ms: is_prefill.then_some(stat),
        itl_ms: (!is_prefill).then_some(stat),
        samples: 30,
        failed_requests: 0,
        input_tokens_per_second_per_gpu: if is_prefill { tokens } else { 0.0 },
        output_tokens_per_second_per_gpu: if is_prefill { 0.0 } else { tokens },
        kv_usage: 0.1,
        kv_usage_nominal: 0.1,
        duration_s: 5.0,
    }
}

/// The case's verdict; a plugin that cannot be loaded is the suite's error.
type Verdict = Result<Result<(), String>, ConformanceError>;

fn expected<T: std::fmt::Debug + PartialEq>(what: &str, wanted: Option<&T>, got: &T) -> Result<(), String> {
    match wanted {
        Some(wanted) if wanted != got => Err(format!("{what}: expected {wanted:?}, got {got:?}")),
        _ => Ok(()),
    }
}

/// What came back, or the verdict where an error was expected or came instead.
fn returned<T>(
    called: Result<crate::plugin::api::Decided<T>, crate::plugin::PluginError>,
    expect: &Expect,
) -> Result<T, Result<(), String>> {
    match (called, &expect.error) {
        (Ok(_), Some(wanted)) => Err(Err(format!("expected an error with `{wanted}`, got an answer"))),
        (Ok(decided), None) => Ok(decided.value),
        (Err(error), Some(wanted)) if error.to_string().contains(wanted) => Err(Ok(())),
        (Err(error), _) => Err(Err(describe(&error))),
    }
}

fn selection(host: &PluginHost, choice: &PluginChoice, world: &World, expect: &Expect) -> Verdict {
    let policy = host.selection(choice)?;
    let called = policy.select(&world.job, &world.candidates, &world.history);
    Ok((|| {
        let answer = match returned(called, expect) {
            Ok(answer) => answer,
            Err(verdict) => return verdict,
        };
        let first = |role| answer.ranking(role).first();
        let label = |choice: Option<&Choice>| {
            choice
                .and_then(|choice| world.candidates.get(choice.candidate as usize))
                .map_or_else(|| "nobody".to_owned(), |candidate| candidate.mapping.label())
        };
        expected("prefill winner", expect.prefill.as_ref(), &label(first(Role::Prefill)))?;
        expected("decode winner", expect.decode.as_ref(), &label(first(Role::Decode)))?;
        let load = first(Role::Decode).map_or(0, |choice| choice.concurrency);
        expected("requests at once on the decode winner", expect.decode_concurrency.as_ref(), &load)?;
        let meets = Role::ALL.iter().all(|role| first(*role).is_some_and(|choice| choice.meets_sla));
        expected("meets the SLA", expect.meets_sla.as_ref(), &meets)
    })())
}

fn sweep(host: &PluginHost, choice: &PluginChoice, world: &World, expect: &Expect) -> Verdict {
    let strategy = host.sweep(choice)?;
    let called = strategy.next(&world.job, &Goal::Decode, &world.candidates, &world.history);
    Ok((|| {
        let probes = match returned(called, expect) {
            Ok(Step::Measure(probes)) => probes,
            Ok(Step::Done(_)) => Vec::new(),
            Err(verdict) => return verdict,
        };
        let label = |id: CandidateId| world.candidates.get(id as usize).map(|candidate| candidate.mapping.label());
        let mut measured: Vec<String> = probes.iter().filter_map(|probe| label(probe.candidate)).collect();
        measured.sort();
        measured.dedup();
        let mut wanted = expect.measures.clone();
        wanted.iter_mut().for_each(|wanted| wanted.sort());
        expected("the next decode step measures", wanted.as_ref(), &measured)
    })())
}

fn planner(host: &PluginHost, choice: &PluginChoice, world: &World, expect: &Expect) -> Verdict {
    let planner = host.planner(choice)?;
    let engine = |role: Role| {
        let (id, candidate) = (0_u32..)
            .zip(&world.candidates)
            .find(|(id, candidate)| candidate.role == role && world.history.facts_of(*id).is_some())?;
        let curve: Vec<&Measurement> = world.history.measurements_of(id).collect();
        let concurrency = curve.iter().map(|m| m.concurrency).max()?;
        Some(PlannedEngine { candidate, facts: world.history.facts_of(id)?, concurrency, curve })
    };
    let (Some(prefill), Some(decode)) = (engine(Role::Prefill), engine(Role::Decode)) else {
        return Ok(Err("a planner needs a measured engine of each role".to_owned()));
    };
    let called = planner.plan(&world.job, &prefill, &decode, world.job.demand);
    Ok((|| {
        let plan = match returned(called, expect) {
            Ok(plan) => plan,
            Err(verdict) => return verdict,
        };
        expected("prefill engines", expect.prefill_replicas.as_ref(), &plan.prefill_replicas)?;
        expected("decode engines", expect.decode_replicas.as_ref(), &plan.decode_replicas)?;
        expected("requests at once per decode engine", expect.decode_concurrency.as_ref(), &plan.decode_concurrency)?;
        expected("meets the SLA", expect.meets_sla.as_ref(), &plan.meets_sla)
    })())
}
