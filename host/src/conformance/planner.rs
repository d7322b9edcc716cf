//! What every planner model must keep.

use super::world::{World, large};
use super::{BOUNDED, Checker, EMPTY, FUEL_SHARE, KEEPS_CONTRACT, ROWS, SAME_TWICE};
use crate::domain::{CandidateId, Demand, History, Measurement, Plan, Role};
use crate::plugin::Limits;
use crate::plugin::api::{PlannedEngine, PlannerModel};

const MONOTONE: &str = "more demand never takes fewer engines, as long as the budget serves it";
const CAPACITY: &str = "a plan that serves the demand has the capacity for it";

/// The engines of a plan and their curves, by value, so that the rows can be put in another order.
struct Engines {
    ids: [CandidateId; 2],
    history: History,
}

impl Engines {
    fn of(world: &World) -> Option<Self> {
        let first = |role| {
            let mut ids = (0_u32..).zip(&world.candidates).filter(|(_, c)| c.role == role).map(|(id, _)| id);
            ids.find(|id| world.history.measurements_of(*id).next().is_some())
        };
        let ids = [first(Role::Prefill)?, first(Role::Decode)?];
        Some(Self { ids, history: world.history.clone() })
    }

    fn plan(
        &self,
        checker: &mut Checker,
        planner: &dyn PlannerModel,
        world: &World,
        demand: Demand,
    ) -> Result<Option<Plan>, String> {
        let engine = |id: CandidateId| {
            let curve: Vec<&Measurement> = self.history.measurements_of(id).collect();
            Some(PlannedEngine {
                candidate: world.candidates.get(id as usize)?,
                facts: self.history.facts_of(id)?,
                concurrency: 32,
                curve,
            })
        };
        let [prefill, decode] = self.ids.map(engine);
        match (prefill, decode) {
            (Some(prefill), Some(decode)) => checker.graceful(planner.plan(&world.job, &prefill, &decode, demand)),
            _ => Ok(None),
        }
    }
}

/// Asks for a plan of the first measured engine of each role.
pub(super) fn ask(
    checker: &mut Checker,
    planner: &dyn PlannerModel,
    world: &World,
    demand: Demand,
) -> Result<Option<Plan>, String> {
    match Engines::of(world) {
        Some(engines) => engines.plan(checker, planner, world, demand),
        None => Ok(None),
    }
}

pub(super) fn check(checker: &mut Checker, worlds: &[World], planner: &dyn PlannerModel, limits: &Limits) {
    for world in worlds {
        if checker.given_up() {
            return;
        }
        let Some(engines) = Engines::of(world) else { continue };
        let case = &world.name;
        let demand = world.job.demand;
        let answer = match engines.plan(checker, planner, world, demand) {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                let why = "it declines a job with measured curves of both engines".to_owned();
                checker.check(KEEPS_CONTRACT, case, Err(why));
                continue;
            }
            Err(error) => {
                checker.check(KEEPS_CONTRACT, case, Err(error));
                continue;
            }
        };
        checker.check(KEEPS_CONTRACT, case, Ok(()));
        let again = engines.plan(checker, planner, world, demand).and_then(|again| same(&answer, again, 0.0));
        checker.check(SAME_TWICE, case, again);
        let shuffled = Engines { ids: engines.ids, history: world.shuffled_history() };
        // Sums in another order round differently.
        let rows = shuffled.plan(checker, planner, world, demand).and_then(|other| same(&answer, other, 1e-6));
        checker.check(ROWS, case, rows);

        let mut last: Option<(f64, Plan)> = None;
        for doubling in -3_i32..=6 {
            let rate = 4.0 * 2.0_f64.powi(doubling);
            let plan = match engines.plan(checker, planner, world, Demand::RequestsPerSecond(rate)) {
                Ok(Some(plan)) => plan,
                Ok(None) => continue,
                Err(error) => {
                    checker.check(KEEPS_CONTRACT, &format!("{case}, {rate} requests/s"), Err(error));
                    continue;
                }
            };
            if !plan.meets_demand {
                continue;
            }
            let capacity = plan.capacity_requests_per_second;
            let enough = if capacity >= rate * (1.0 - 1e-6) {
                Ok(())
            } else {
                Err(format!("it says that {capacity} requests/s serve {rate}"))
            };
            checker.check(CAPACITY, &format!("{case}, {rate} requests/s"), enough);
            if let Some((less, before)) = &last {
                let engines = |plan: &Plan| (plan.prefill_replicas, plan.decode_replicas);
                let ((p, d), (more_p, more_d)) = (engines(before), engines(&plan));
                let result = if more_p >= p && more_d >= d {
                    Ok(())
                } else {
                    Err(format!("{p} + {d} engines for {less} requests/s, {more_p} + {more_d} for {rate}"))
                };
                checker.check(MONOTONE, &format!("{case}, {less} and {rate} requests/s"), result);
            }
            last = Some((rate, plan));
        }

        let mut bare = Engines { ids: engines.ids, history: world.history.clone() };
        bare.history.measurements.clear();
        let result = bare.plan(checker, planner, world, demand).map(drop);
        checker.check(EMPTY, &format!("{case}, no curve"), result);
        let mut one = Engines { ids: engines.ids, history: History::default() };
        one.history.facts.clone_from(&world.history.facts);
        for id in one.ids {
            one.history.measurements.extend(world.history.measurements_of(id).take(1).cloned());
        }
        let result = one.plan(checker, planner, world, demand).map(drop);
        checker.check(EMPTY, &format!("{case}, one point each"), result);
    }
    for copies in [10_usize, 100, 1000] {
        let case = format!("{copies} points per curve");
        let before = checker.max_fuel;
        checker.max_fuel = 0;
        let result = large(4).map_err(|error| error.to_string()).and_then(|world| {
            let Some(mut engines) = Engines::of(&world) else { return Ok(()) };
            for id in engines.ids {
                let template: Vec<Measurement> = engines.history.measurements_of(id).take(1).cloned().collect();
                let more = template.iter().flat_map(|m| {
                    (0..copies as u32).map(move |n| Measurement {
                        isl: 100 + n,
                        concurrency: m.concurrency,
                        ..m.clone()
                    })
                });
                engines.history.measurements.extend(more);
            }
            engines.plan(checker, planner, &world, Demand::RequestsPerSecond(10.0))?;
            let fuel = checker.max_fuel;
            if fuel <= limits.fuel / FUEL_SHARE { Ok(()) } else { Err(format!("{fuel} of {} fuel", limits.fuel)) }
        });
        checker.max_fuel = checker.max_fuel.max(before);
        checker.check(BOUNDED, &case, result);
    }
}

/// Equal to within a fraction.
fn same(a: &Plan, b: Option<Plan>, tolerance: f64) -> Result<(), String> {
    let Some(b) = b else { return Err("it declines the second time".to_owned()) };
    let counts = |plan: &Plan| (plan.prefill_replicas, plan.decode_replicas, plan.meets_sla, plan.meets_demand);
    if counts(a) != counts(&b) {
        return Err(format!("{:?} becomes {:?}", counts(a), counts(&b)));
    }
    let figures = |plan: &Plan| {
        [
            plan.capacity_requests_per_second,
            plan.prefill_requests_per_second,
            plan.decode_requests_per_second,
            plan.expected_ttft_ms,
            plan.expected_itl_ms,
        ]
    };
    for (x, y) in figures(a).into_iter().zip(figures(&b)) {
        if (x - y).abs() > tolerance * x.abs().max(y.abs()) {
            return Err(format!("{x} becomes {y}"));
        }
    }
    Ok(())
}
