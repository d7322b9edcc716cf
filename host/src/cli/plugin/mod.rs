//! `sla-profiler plugin`: one file per command.

pub mod bench;
pub mod diff;
pub mod inspect;
pub mod list;
pub mod test;
mod view;

use std::io::{self, Write};

use clap::Subcommand;

use crate::conformance::ConformanceError;
use crate::output::exit_code;
use crate::plugin::{HostOptions, PluginError, PluginHost};
use crate::replay::RecordingError;

/// Looks at plugins: sweep strategies, selection policies and planner models.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum PluginCommand {
    /// Lists the plugins that come with the program, with their settings
    List,
    /// Checks a plugin file and shows what it is, what it asks for and which settings it takes
    Inspect(inspect::Args),
    /// Runs the conformance suite of the plugin's kind, and its author's own cases
    Test(test::Args),
    /// Measures what a plugin costs, beside the bundled one of its kind
    Bench(bench::Args),
    /// Compares two policies, or two planners, over recorded runs
    Diff(diff::Args),
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum PluginCommandError {
    /// The plugin is at fault.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// A recorded run cannot be used.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The conformance suite cannot run.
    #[error(transparent)]
    Conformance(ConformanceError),
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The answer could not be written.
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

impl From<ConformanceError> for PluginCommandError {
    fn from(error: ConformanceError) -> Self {
        match error {
            ConformanceError::Plugin(error) => Self::Plugin(error),
            other => Self::Conformance(other),
        }
    }
}

impl PluginCommand {
    /// Does it; tables for people, or JSON. Says with which code to exit.
    ///
    /// # Errors
    /// See [`PluginCommandError`].
    pub fn run(self, out: &mut dyn Write, json: bool) -> Result<u8, PluginCommandError> {
        self.run_with(HostOptions::default(), out, json)
    }

    /// The same with other limits or another cache.
    ///
    /// # Errors
    /// See [`PluginCommandError`].
    pub fn run_with(self, options: HostOptions, out: &mut dyn Write, json: bool) -> Result<u8, PluginCommandError> {
        let host = || PluginHost::new(options.clone());
        match self {
            Self::List => list::run(&host()?, out, json)?,
            Self::Inspect(args) => args.run(&host()?, out, json)?,
            Self::Test(args) => return args.run(&host()?, &options.limits, out, json),
            Self::Bench(args) => args.run(&options, out, json)?,
            Self::Diff(args) => args.run(&host()?, out, json)?,
        }
        Ok(exit_code::OK)
    }
}
