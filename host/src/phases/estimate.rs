//! What a run would cost, as a range: the prediction of a dry run, and the same where everything goes quickly or slowly.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use super::RunError;
use super::dry_run::{self, Prediction, WinnersAlone};
use super::policies::Policies;
use crate::domain::search_space::SearchSpace;
use crate::domain::{Candidate, Role};
use crate::engine::predicted::Paced;
use crate::engine::{Cluster, Launch};
use crate::spec::RunSpec;

/// Launches and points take this many times what is expected at best and at worst.
const QUICK: Pace = Pace { launch: 0.8, measure: 0.4 };
const SLOW: Pace = Pace { launch: 1.5, measure: 2.5 };

/// Points that a strategy asks for beyond those on noiseless engines, as a fraction.
const MORE_POINTS: f64 = 0.35;

#[derive(Debug, Clone, Copy)]
struct Pace {
    launch: f64,
    measure: f64,
}

/// What a run would cost.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Estimate {
    /// Engine by engine and phase by phase, where everything takes as long as expected.
    #[serde(flatten)]
    pub likely: Prediction,
    /// Where everything goes quickly.
    pub low: Totals,
    /// Where everything goes slowly.
    pub high: Totals,
    /// What the range rests on, for a person.
    pub rests_on: Vec<String>,
    /// What the budget says to it, for a person; absent without one.
    pub budget: Option<String>,
}

/// Sums over a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct Totals {
    /// Engines.
    pub launches: u32,
    /// Measurements.
    pub points: u32,
    /// GPUs times hours that engines are held.
    pub gpu_hours: f64,
    /// From start to end, in seconds.
    pub wall_s: f64,
    /// Money, where a GPU has a price.
    pub cost: Option<f64>,
}

impl Totals {
    /// Nobody but the winners is launched.
    fn least(prediction: &Prediction, spec: &RunSpec) -> Self {
        let WinnersAlone { launches, wall_s, gpu_hours } = prediction.winners_alone;
        Self { launches, points: points(prediction), gpu_hours, wall_s, cost: spec.budget.cost(gpu_hours) }
    }

    /// As predicted, with more points, and everybody who was left out is launched after all, one after the other.
    fn most(prediction: &Prediction, spec: &RunSpec, left_out: &[Launch], cluster: &Paced) -> Self {
        let launch_s = |launch: &Launch| cluster.expected_launch(launch).as_secs_f64();
        let more_gpu_s: f64 = left_out.iter().map(|left| f64::from(left.candidate.gpus()) * launch_s(left)).sum();
        let gpu_hours = prediction.gpu_hours + more_gpu_s / 3600.0;
        Self {
            launches: u32::try_from(prediction.launches.len() + left_out.len()).unwrap_or(u32::MAX),
            points: (f64::from(points(prediction)) * (1.0 + MORE_POINTS)).ceil() as u32 + left_out.len() as u32,
            gpu_hours,
            wall_s: prediction.total_s + left_out.iter().map(launch_s).sum::<f64>(),
            cost: spec.budget.cost(gpu_hours),
        }
    }
}

/// One candidate for each engine that the predicted run does without.
fn left_out(
    space: &SearchSpace,
    prediction: &Prediction,
    cluster: &dyn Cluster,
    only_role: Option<Role>,
) -> Vec<Launch> {
    let shared = cluster.serves_both_roles();
    let key = |candidate: &Candidate| (candidate.mapping, (!shared).then_some(candidate.role));
    let launched = prediction.launches.iter().filter_map(|launch| space.candidates.get(launch.candidate as usize));
    let mut known: Vec<_> = launched.map(key).collect();
    let mut left = Vec::new();
    for (candidate, id) in space.candidates.iter().zip(0..) {
        if only_role.is_none_or(|role| role == candidate.role) && !known.contains(&key(candidate)) {
            known.push(key(candidate));
            left.push(Launch { id, candidate: candidate.clone(), failed: 0 });
        }
    }
    left
}

fn points(prediction: &Prediction) -> u32 {
    prediction.phases.iter().map(|phase| phase.points).sum()
}

/// Predicts a run three times. To be called on a paused clock.
///
/// # Errors
/// As [`dry_run::predict`].
pub async fn estimate(
    spec: &RunSpec,
    space: &SearchSpace,
    policies: &mut Policies,
    cluster: Arc<dyn Cluster>,
    only_role: Option<Role>,
) -> Result<Estimate, RunError> {
    let likely = dry_run::predict(spec, space, policies, Arc::clone(&cluster), only_role).await?;
    let paced = |pace: Pace| Arc::new(Paced::new(Arc::clone(&cluster), pace.launch, pace.measure));
    let (quickly, slowly) = (paced(QUICK), paced(SLOW));
    let quick = dry_run::predict(spec, space, policies, quickly, only_role).await?;
    let slow = dry_run::predict(spec, space, policies, Arc::clone(&slowly) as Arc<dyn Cluster>, only_role).await?;
    let left_out = left_out(space, &slow, cluster.as_ref(), only_role);
    let (low, high) = (Totals::least(&quick, spec), Totals::most(&slow, spec, &left_out, &slowly));
    let rests_on = vec![
        format!(
            "engines whose speed the roofline predicts, on a {} cluster with {} GPUs; nothing was asked of it but what it has",
            cluster.kind(),
            cluster.gpus()
        ),
        format!(
            "launches that take {:.1} to {:.1} times, and points that take {:.1} to {:.1} times what is expected",
            QUICK.launch, SLOW.launch, QUICK.measure, SLOW.measure
        ),
        format!(
            "at most {:.0} % more points than on engines without noise, and no launch that fails",
            MORE_POINTS * 100.0
        ),
        "at best, a strategy that need not launch anybody but the winners; at worst, one that must launch all"
            .to_owned(),
    ];
    let budget = within_budget(spec, &low, &high);
    Ok(Estimate { likely, low, high, rests_on, budget })
}

fn within_budget(spec: &RunSpec, low: &Totals, high: &Totals) -> Option<String> {
    let hours = spec.budget.gpu_seconds().map(|s| s / 3600.0);
    let limits = [
        hours.map(|limit| (low.gpu_hours > limit, high.gpu_hours > limit, format!("{limit:.2} GPU-hours"))),
        spec.budget
            .max_wall_s
            .map(|limit| (low.wall_s > limit, high.wall_s > limit, format!("{:.0} minutes", limit / 60.0))),
    ];
    let said = limits.into_iter().flatten().map(|(always, maybe, limit)| match (always, maybe) {
        (true, _) => format!("{limit} will not do: the run would end with the best answer so far"),
        (false, true) => format!("{limit} may not do: the run might end with the best answer so far"),
        (false, false) => format!("{limit} will do"),
    });
    let said: Vec<String> = said.collect();
    (!said.is_empty()).then(|| said.join("; "))
}
