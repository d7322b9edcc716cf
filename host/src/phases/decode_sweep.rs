//! Phase 2: how good is each decode candidate, and up to which concurrency?

use super::{Context, RunError, candidates};
use crate::domain::{Goal, Role};
use crate::run::Phase;

/// What it is for.
pub const GOAL: (Phase, Goal) = (Phase::DecodeSweep, Goal::Decode);

/// Writes what it found.
///
/// # Errors
/// If not one candidate could be measured, or a file cannot be written.
pub fn finish(context: &Context<'_>, why: &str) -> Result<String, RunError> {
    candidates::finish(context, Role::Decode, why)
}
