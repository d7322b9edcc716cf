//! Phase 2: how good is each decode candidate, and up to which concurrency?

use super::{Context, RunError, candidates};
use crate::domain::{Goal, Role};
use crate::run::Phase;

/// Measures the decode candidates.
///
/// # Errors
/// If not one of them could be measured, and as [`super::sweep::run`].
pub async fn run(context: &mut Context<'_>) -> Result<String, RunError> {
    let why = super::sweep::run(context, Phase::DecodeSweep, Goal::Decode).await?;
    candidates::finish(context, Role::Decode, &why)
}
