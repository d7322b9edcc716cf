//! Phase 1: how good is each prefill candidate?

use super::{Context, RunError, candidates};
use crate::domain::{Goal, Role};
use crate::run::Phase;

/// Measures the prefill candidates.
///
/// # Errors
/// If not one of them could be measured, and as [`super::sweep::run`].
pub async fn run(context: &mut Context<'_>) -> Result<String, RunError> {
    let why = super::sweep::run(context, Phase::PrefillSweep, Goal::Prefill).await?;
    candidates::finish(context, Role::Prefill, &why)
}
