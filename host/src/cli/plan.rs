//! `sla-profiler plan`: what a run would cost, before anything is created.

use super::cluster::ClusterArgs;
use super::config::InputArgs;
use super::{Session, profile};
use crate::output::error::AppError;
use crate::spec::Flags;

/// Print what a run would cost.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    input: InputArgs,
    /// The job, as for --file
    #[arg(value_name = "JOB", conflicts_with_all = ["file", "config"])]
    job: Option<String>,
    /// The same as --output json
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    flags: Flags,
}

impl Args {
    /// As `profile --dry-run`, which it is.
    ///
    /// # Errors
    /// See [`AppError`].
    pub fn run(self, session: &Session) -> Result<u8, AppError> {
        let Self { input, job, json, cluster, flags } = self;
        profile::Args::dry(input.or(job), cluster, flags, json).run(session)
    }
}
