//! Phase 4: TTFT of the selected prefill engine against input length.

use super::{Context, RunError};
use crate::domain::{Chosen, CurveGoal, Goal};
use crate::run::Phase;
use crate::spec::RunSpec;

/// What it is for.
pub const fn goal(spec: &RunSpec, chosen: &Chosen) -> (Phase, Goal) {
    let curve = CurveGoal {
        candidate: chosen.prefill.candidate,
        min_isl: spec.curve.min_isl,
        max_isl: spec.curve.max_isl,
        concurrency: chosen.prefill.concurrency,
    };
    (Phase::PrefillInterpolation, Goal::PrefillCurve(curve))
}

/// Writes the curve in Dynamo's form.
///
/// # Errors
/// If a file cannot be written.
pub fn finish(context: &Context<'_>, chosen: &Chosen, why: &str) -> Result<String, RunError> {
    let points = context.recorder.with_history(|h| h.measurements_of(chosen.prefill.candidate).count());
    if let Some(artifacts) = context.artifacts {
        artifacts.prefill_curve(context, chosen)?;
    }
    Ok(format!("{points} points; {why}"))
}
