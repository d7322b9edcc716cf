//! Phase 5: ITL and throughput of the selected decode engine against load and context.

use super::{Context, RunError};
use crate::domain::Chosen;
use crate::domain::{CurveGoal, Goal};
use crate::run::Phase;

/// Measures the curves and writes them in Dynamo's form. All engines are gone afterwards.
///
/// # Errors
/// As [`super::sweep::run`], or if a file cannot be written.
pub async fn run(context: &mut Context<'_>, chosen: &Chosen) -> Result<String, RunError> {
    let goal = Goal::DecodeCurve(CurveGoal {
        candidate: chosen.decode.candidate,
        min_isl: context.spec.curve.min_isl,
        max_isl: context.spec.curve.max_isl,
        concurrency: chosen.decode.concurrency,
    });
    let why = super::sweep::run(context, Phase::DecodeInterpolation, goal).await?;
    context.scheduler.retain(&[]).await?;
    let points = context.recorder.with_history(|h| h.measurements_of(chosen.decode.candidate).count());
    if let Some(artifacts) = context.artifacts {
        artifacts.decode_curve(context, chosen)?;
    }
    Ok(format!("{points} points; {why}"))
}
