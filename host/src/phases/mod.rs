//! The seven phases; the only place that knows their order.
//!
//! ```text
//!   1 prefill sweep --.                      .-> 4 prefill interpolation --.
//!     TTFT of each    |                      |     TTFT against ISL         |
//!     candidate       +---> 3 selection -----+                              +--> 6 plan and deployment --> 7 auto-apply
//!   2 decode sweep ---'      one of each     '-> 5 decode interpolation ----'      replicas, capacity,      check run
//!     ITL of each            role                  ITL and throughput              YAML
//!     candidate and load                           against load and context
//! ```
//!
//! Phases 1 and 2 run at the same time where neither needs the other's answer ([`independent`]), and so do 4 and 5.
//! Each phase writes its artifacts as soon as it ends. What it finds out is in the journal before that, point by point.

pub mod artifacts;
pub mod auto_apply;
pub mod candidates;
pub mod conclude;
pub mod decode_interpolation;
pub mod decode_sweep;
pub mod dry_run;
pub mod estimate;
pub mod generation;
pub mod one_role;
pub mod policies;
pub mod prefill_interpolation;
pub mod prefill_sweep;
pub mod selection;
pub mod sweep;

use crate::dgd::DgdError;
use crate::domain::search_space::SearchSpace;
use crate::domain::{Chosen, Plan, Role};
use crate::engine::{ApplyError, CheckReport};
use crate::plugin::PluginError;
use crate::render::result::{self, Findings, Incomplete, ResultFile};
use crate::run::{DirError, Event, JournalError, Phase, Recorder};
use crate::scheduler::side_by_side::independent;
use crate::scheduler::{Halt, Scheduler};
use crate::spec::RunSpec;
use artifacts::Artifacts;
use policies::Policies;

/// What phases work with.
pub struct Context<'a> {
    /// What was asked for.
    pub spec: &'a RunSpec,
    /// The candidates.
    pub space: &'a SearchSpace,
    /// Who decides.
    pub policies: &'a mut Policies,
    /// Who measures.
    pub scheduler: &'a Scheduler,
    /// Who remembers.
    pub recorder: &'a Recorder,
    /// Where files go; none in a dry run.
    pub artifacts: Option<&'a Artifacts>,
}

/// What a run found.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Who won.
    pub chosen: Chosen,
    /// How many of each.
    pub plan: Plan,
    /// What the deployment did in phase 7, if it ran.
    pub check: Option<CheckReport>,
    /// Why phase 7 was skipped although it was asked for.
    pub not_applied: Option<String>,
    /// What was put back because the deployment missed the SLA.
    pub rolled_back: Option<String>,
    /// Whether a bundled plugin stood in for one that failed.
    pub degraded: bool,
    /// Why this is only the best answer so far.
    pub incomplete: Option<Incomplete>,
}

impl Outcome {
    /// Whether the selected engines and the plan meet the SLA.
    pub const fn feasible(&self) -> bool {
        self.chosen.feasible() && self.plan.meets_sla
    }
}

/// Why a run ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A plugin failed and nobody stands in for it.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// A plugin's answer is within the contract and yet of no use.
    #[error("plugin {plugin}: {reason}")]
    BadDecision {
        /// Its name.
        plugin: String,
        /// What is wrong.
        reason: String,
    },
    /// Not one candidate of the role could be measured.
    #[error("not one {role} candidate could be measured{}", list(.failures))]
    NothingMeasured {
        /// Which role.
        role: Role,
        /// What went wrong with each.
        failures: Vec<String>,
    },
    /// The journal cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// An artifact cannot be written.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The deployment cannot be generated.
    #[error(transparent)]
    Dgd(#[from] DgdError),
    /// An artifact cannot be put into its form.
    #[error("cannot render {name}: {reason}")]
    Render {
        /// Which file.
        name: String,
        /// Why.
        reason: String,
    },
    /// Phase 7 failed. Everything before it is done and written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The budget ended before there was an answer.
    #[error("the budget is used up before there was an answer: {0}; what was measured so far is kept")]
    OutOfBudget(String),
    /// The user asked to stop.
    #[error("interrupted; what was measured so far is kept")]
    Interrupted,
    /// It is not this process's run any more.
    #[error("stopped, since the lease of this run is lost: {0}; what was measured so far is kept")]
    LeaseLost(String),
}

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

impl From<Halt> for RunError {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Interrupted => RunError::Interrupted,
            Halt::Journal(error) => RunError::Journal(error),
        }
    }
}

fn start(recorder: &Recorder, phase: Phase) -> Result<(), JournalError> {
    recorder.record(Event::PhaseStarted { phase })
}

fn finish(recorder: &Recorder, phase: Phase, summary: String) -> Result<(), JournalError> {
    recorder.record(Event::PhaseFinished { phase, summary })
}

/// Phases 1 to 5: everything that is measured before anything is deployed.
///
/// # Errors
/// See [`RunError`].
pub async fn measure(context: &mut Context<'_>) -> Result<Chosen, RunError> {
    let recorder = context.recorder;

    let sweeps = [prefill_sweep::GOAL, decode_sweep::GOAL];
    // Where roles depend on each other, one after the other.
    let at_once = if independent(&context.spec.job) { sweeps.len() } else { 1 };
    for goals in sweeps.chunks(at_once) {
        let finish = |context: &Context<'_>, phase, why: &str| match phase {
            Phase::PrefillSweep => prefill_sweep::finish(context, why),
            _ => decode_sweep::finish(context, why),
        };
        sweep::run(context, goals, &finish).await?;
    }

    start(recorder, Phase::Selection)?;
    let (chosen, summary) = selection::run(context).await?;
    finish(recorder, Phase::Selection, summary)?;

    let curves =
        [prefill_interpolation::goal(context.spec, &chosen), decode_interpolation::goal(context.spec, &chosen)];
    let finish = |context: &Context<'_>, phase, why: &str| match phase {
        Phase::PrefillInterpolation => prefill_interpolation::finish(context, &chosen, why),
        _ => decode_interpolation::finish(context, &chosen, why),
    };
    sweep::run(context, &curves, &finish).await?;
    context.scheduler.retain(&[]).await?;
    Ok(chosen)
}

/// All phases. Whatever happens, no engine is left running.
///
/// # Errors
/// See [`RunError`].
pub async fn run(context: &mut Context<'_>) -> Result<(Outcome, Box<ResultFile>), RunError> {
    let result = all(context).await;
    let released = context.scheduler.retain(&[]).await;
    let outcome = result?;
    released?;
    Ok(outcome)
}

async fn all(context: &mut Context<'_>) -> Result<(Outcome, Box<ResultFile>), RunError> {
    let recorder = context.recorder;
    let chosen = measure(context).await?;

    start(recorder, Phase::Generation)?;
    let (generated, plan, summary) = generation::run(context, &chosen)?;
    finish(recorder, Phase::Generation, summary)?;

    let degraded = context.policies.degraded();
    let mut outcome =
        Outcome { chosen, plan, check: None, not_applied: None, rolled_back: None, degraded, incomplete: None };
    if context.spec.auto_apply {
        // Whatever phase 7 comes to, the answer is on the disk by then.
        outcome.not_applied = auto_apply::objection(context, &outcome);
        result(context, &outcome)?;
        match &outcome.not_applied {
            Some(reason) => {
                recorder.record(Event::PhaseSkipped { phase: Phase::AutoApply, reason: reason.clone() })?;
            }
            None => {
                start(recorder, Phase::AutoApply)?;
                let (report, rolled_back, summary) = auto_apply::run(context, &generated, &outcome.plan).await?;
                finish(recorder, Phase::AutoApply, summary)?;
                (outcome.check, outcome.rolled_back) = (Some(report), rolled_back);
            }
        }
    }
    let result = result(context, &outcome)?;
    recorder.record(Event::RunFinished { feasible: outcome.feasible() })?;
    Ok((outcome, result))
}

/// Puts the answer together and writes it.
fn result(context: &Context<'_>, outcome: &Outcome) -> Result<Box<ResultFile>, RunError> {
    let file = result::result_file(
        &context.spec.job,
        context.scheduler.cluster().kind(),
        context.policies.identities(),
        context.space,
        &context.recorder.history(),
        Findings {
            chosen: &outcome.chosen,
            plan: &outcome.plan,
            check: outcome.check.as_ref(),
            not_applied: outcome.not_applied.as_deref(),
            degraded: outcome.degraded,
            incomplete: outcome.incomplete.as_ref(),
            taken_over: &context.recorder.taken_over(),
            retries: &context.recorder.retries(),
        },
    );
    // Choices come from the search space, so that this does not happen; and if it did, a file without them would lie.
    let file = Box::new(file.ok_or(RunError::Render {
        name: artifacts::RESULT.to_owned(),
        reason: "a choice names a candidate that does not exist".to_owned(),
    })?);
    if let Some(artifacts) = context.artifacts {
        artifacts.result(context, &file)?;
    }
    Ok(file)
}
