//! What each phase leaves behind in the run directory.

use super::{Chosen, Context, Outcome, RunError};
use crate::dgd::Files;
use crate::domain::Role;
use crate::run::{Event, RunDir};

/// The answer for programs.
pub const RESULT: &str = "result.json";

/// Writes a run's files and records that it did.
pub struct Artifacts {
    dir: RunDir,
}

impl Artifacts {
    /// Into this directory.
    pub const fn new(dir: RunDir) -> Self {
        Self { dir }
    }

    pub fn sweep(&self, _context: &Context<'_>, _role: Role) -> Result<(), RunError> { Ok(()) }
    pub fn selection(&self, _context: &Context<'_>, _chosen: &Chosen) -> Result<(), RunError> { Ok(()) }
    pub fn prefill_curve(&self, _context: &Context<'_>, _chosen: &Chosen) -> Result<(), RunError> { Ok(()) }
    pub fn decode_curve(&self, _context: &Context<'_>, _chosen: &Chosen) -> Result<(), RunError> { Ok(()) }
    pub fn deployment(&self, _context: &Context<'_>, _files: &Files, _chosen: &Chosen) -> Result<(), RunError> { Ok(()) }
    pub fn result(&self, context: &Context<'_>, outcome: &Outcome) -> Result<(), RunError> {
        let file = crate::output::result::result_file(&context.spec.job, context.scheduler.cluster().kind(), context.policies.identities(), context.space, &context.recorder.history(), outcome);
        self.dir.write(RESULT, &serde_json::to_vec_pretty(&file).unwrap_or_default())?; Ok(()) }
}
