//! Phase 4: TTFT of the selected prefill engine against input length.

use super::{Context, RunError};
use crate::domain::Chosen;
use crate::domain::{CurveGoal, Goal};
use crate::run::Phase;

/// Measures the curve and writes it in Dynamo's form.
///
/// # Errors
/// As [`super::sweep::run`], or if a file cannot be written.
pub async fn run(context: &mut Context<'_>, chosen: &Chosen) -> Result<String, RunError> {
    let goal = Goal::PrefillCurve(CurveGoal {
        candidate: chosen.prefill.candidate,
        min_isl: context.spec.curve.min_isl,
        max_isl: context.spec.curve.max_isl,
        concurrency: chosen.prefill.concurrency,
    });
    let why = super::sweep::run(context, Phase::PrefillInterpolation, goal).await?;
    let points = context.recorder.with_history(|h| h.measurements_of(chosen.prefill.candidate).count());
    if let Some(artifacts) = context.artifacts {
        artifacts.prefill_curve(context, chosen)?;
    }
    Ok(format!("{points} points; {why}"))
}
