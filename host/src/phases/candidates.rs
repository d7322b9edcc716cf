//! How phases 1 and 2 end: each candidate's folder, the sweep's plot, the table of all points so far.

use super::{Context, RunError};
use crate::domain::Role;

/// Writes the artifacts of one role's sweep and sums it up.
///
/// # Errors
/// If nothing was measured, or a file cannot be written.
pub fn finish(context: &Context<'_>, role: Role, why: &str) -> Result<String, RunError> {
    let history = context.recorder.history();
    let of_role = |id: u32| context.space.candidates.get(id as usize).is_some_and(|c| c.role == role);
    let points = history.measurements.iter().filter(|m| of_role(m.candidate)).count();
    let engines = history.facts.iter().filter(|f| of_role(f.candidate)).count();
    let failures: Vec<String> = history
        .failures
        .iter()
        .filter(|f| of_role(f.candidate))
        .map(|f| {
            let name = context.space.candidates.get(f.candidate as usize).map(crate::domain::Candidate::name);
            format!("{}: {}: {}", name.unwrap_or_default(), f.class, f.reason)
        })
        .collect();
    if points == 0 {
        return Err(RunError::NothingMeasured { role, failures });
    }
    if let Some(artifacts) = context.artifacts {
        artifacts.sweep(context, role)?;
    }
    let failed = if failures.is_empty() { String::new() } else { format!(", {} failures", failures.len()) };
    Ok(format!("{points} points on {engines} engines{failed}; {why}"))
}
