//! What a plugin costs: once to load, and per call on inputs of three sizes.

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;

use super::ConformanceError;
use super::world::{World, large};
use crate::domain::{Demand, Goal, History, Measurement, Role};
use crate::plugin::PluginHost;
use crate::plugin::api::{CallCost, Identity, Kind, PlannedEngine};
use crate::spec::PluginChoice;

/// Candidates of the three sizes; for a planner, points per curve.
pub const SIZES: [usize; 3] = [10, 100, 1000];

/// Calls whose median is reported.
const CALLS: usize = 15;

/// One size.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Call {
    /// Candidates, or points per curve.
    pub size: usize,
    /// Median of a call, instance and conversion included, in microseconds; absent where the call failed.
    pub median_us: Option<f64>,
    /// Fuel of a call.
    pub fuel: Option<u64>,
    /// Largest linear memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Why the call failed.
    pub error: Option<String>,
}

/// One plugin.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Cost {
    /// Which.
    pub plugin: Identity,
    /// Loading it into a fresh host, in milliseconds: compiling, or reading what was compiled before.
    pub load_ms: f64,
    /// By size.
    pub calls: Vec<Call>,
}

/// Measures a plugin. `host` should be fresh, so that loading counts.
///
/// # Errors
/// If the plugin cannot be loaded.
pub fn run(host: &PluginHost, kind: Kind, choice: &PluginChoice) -> Result<Cost, ConformanceError> {
    let started = Instant::now();
    let plugin = host.load(kind, choice)?;
    let load_ms = started.elapsed().as_secs_f64() * 1e3;
    let mut calls = Vec::new();
    for size in SIZES {
        let world = large(if kind == Kind::PlannerModel { 4 } else { size })?;
        let call: Box<dyn Fn() -> Result<CallCost, String>> = match kind {
            Kind::SelectionPolicy => {
                let policy = host.selection(choice)?;
                Box::new(move || {
                    policy
                        .select(&world.job, &world.candidates, &world.history)
                        .map(|decided| decided.cost)
                        .map_err(|error| error.to_string())
                })
            }
            Kind::SweepStrategy => {
                let strategy = host.sweep(choice)?;
                Box::new(move || {
                    strategy
                        .next(&world.job, &Goal::Decode, &world.candidates, &History::default())
                        .map(|decided| decided.cost)
                        .map_err(|error| error.to_string())
                })
            }
            Kind::PlannerModel => {
                let planner = host.planner(choice)?;
                let curves = [Role::Prefill, Role::Decode].map(|role| curve(&world, role, size));
                Box::new(move || {
                    let [Some(prefill), Some(decode)] = curves.each_ref().map(|curve| engine(&world, curve)) else {
                        return Err("no engine".to_owned());
                    };
                    planner
                        .plan(&world.job, &prefill, &decode, Demand::RequestsPerSecond(10.0))
                        .map(|decided| decided.cost)
                        .map_err(|error| error.to_string())
                })
            }
        };
        calls.push(measure(size, call.as_ref()));
    }
    Ok(Cost { plugin: plugin.identity().clone(), load_ms, calls })
}

fn measure(size: usize, call: &dyn Fn() -> Result<CallCost, String>) -> Call {
    let mut times: Vec<Duration> = Vec::new();
    let mut last = CallCost::default();
    for _ in 0..CALLS {
        let started = Instant::now();
        match call() {
            Ok(cost) => {
                times.push(started.elapsed());
                last = cost;
            }
            Err(error) => return Call { size, median_us: None, fuel: None, memory_bytes: None, error: Some(error) },
        }
    }
    times.sort_unstable();
    Call {
        size,
        median_us: times.get(times.len() / 2).map(|time| time.as_secs_f64() * 1e6),
        fuel: Some(last.fuel),
        memory_bytes: Some(last.peak_memory_bytes),
        error: None,
    }
}

/// So many points of the role's first engine.
fn curve(world: &World, role: Role, points: usize) -> Vec<Measurement> {
    let of_role = |m: &&Measurement| world.candidates.get(m.candidate as usize).is_some_and(|c| c.role == role);
    let Some(first) = world.history.measurements.iter().find(of_role) else { return Vec::new() };
    (0..points as u32).map(|n| Measurement { isl: 100 + n * 10, ..first.clone() }).collect()
}

fn engine<'a>(world: &'a World, curve: &'a [Measurement]) -> Option<PlannedEngine<'a>> {
    let id = curve.first()?.candidate;
    Some(PlannedEngine {
        candidate: world.candidates.get(id as usize)?,
        facts: world.history.facts_of(id)?,
        concurrency: 32,
        curve: curve.iter().collect(),
    })
}
