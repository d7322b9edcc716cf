//! `sla-profiler plugin`: one file per command.

pub mod inspect;
pub mod list;
mod view;

use std::io::{self, Write};

use clap::Subcommand;

use crate::output::exit_code;
use crate::plugin::{HostOptions, PluginError, PluginHost};

/// Looks at plugins: sweep strategies, selection policies and planner models.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum PluginCommand {
    /// Lists the plugins that come with the program, with their settings
    List,
    /// Checks a plugin file and shows what it is, what it asks for and which settings it takes
    Inspect(inspect::Args),
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum PluginCommandError {
    /// The plugin is at fault.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The answer could not be written.
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
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
        let host = || PluginHost::new(options);
        match self {
            Self::List => list::run(&host()?, out, json)?,
            Self::Inspect(args) => args.run(&host()?, out, json)?,
        }
        Ok(exit_code::OK)
    }
}
