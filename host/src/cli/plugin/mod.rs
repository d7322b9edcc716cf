//! `sla-profiler plugin`: one file per command.

pub mod add;
pub mod bench;
pub mod build;
pub mod check;
pub mod diff;
pub mod inspect;
pub mod list;
pub mod lock;
pub mod new;
pub mod push;
pub mod remove;
pub mod test;
mod view;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Subcommand;

use crate::conformance::ConformanceError;
use crate::output::exit_code;
use crate::plugin::store::StoreError;
use crate::plugin::store::fetch::FetchError;
use crate::plugin::store::oci::OciError;
use crate::plugin::store::signature::SignatureError;
use crate::plugin::{HostOptions, PluginError, PluginHost};
use crate::replay::RecordingError;
use crate::spec::SpecError;

/// Makes, checks and keeps plugins: sweep strategies, selection policies and planner models.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum PluginCommand {
    /// Writes a small project that builds and passes its tests at once
    New(new::Args),
    /// Builds a project; fetches the tools of its language the first time
    Build(build::Args),
    /// Tells whether a plugin file will load and conform, and why not
    Check(check::Args),
    /// Keeps a plugin from a file, an https server or a registry, to be used by its name; a run refuses a changed file
    Add(add::Args),
    /// Puts a plugin into an OCI registry
    Push(push::Args),
    /// Forgets a plugin that was added
    Remove(remove::Args),
    /// Writes the SHA-256 of each plugin that a job names into the job file
    Lock(lock::Args),
    /// Lists the plugins that come with the program, with their settings, and those that were added
    List,
    /// Checks a plugin file and shows what it is, what it asks for and which settings it takes
    Inspect(inspect::Args),
    /// Runs the conformance suite of the plugin's kind, and its author's own cases
    Test(test::Args),
    /// Measures what a plugin costs, beside the bundled one of its kind
    Bench(bench::Args),
    /// Compares two plugins of one kind over recorded runs
    Diff(diff::Args),
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum PluginCommandError {
    /// The plugin is at fault.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// A project cannot be written or built.
    #[error(transparent)]
    Build(#[from] sla_profiler_plugin_build::Error),
    /// A plugin cannot be had from where it is.
    #[error("cannot get the plugin: {0}")]
    Fetch(#[from] FetchError),
    /// A registry does not take it.
    #[error("cannot push the plugin: {0}")]
    Push(OciError),
    /// It is not what was wanted.
    #[error("{location} has the SHA-256 {found}, but {wanted} is wanted")]
    Digest {
        /// Where it came from.
        location: String,
        /// Of the content.
        found: String,
        /// By the flag.
        wanted: String,
    },
    /// Nobody whom the user trusts has signed it.
    #[error("{location} {error}")]
    Unsigned {
        /// Where it came from.
        location: String,
        /// What is wrong with its signature.
        error: SignatureError,
    },
    /// The trusted keys cannot be read.
    #[error("trusted keys: {0}")]
    Keys(#[from] SignatureError),
    /// The store of added plugins.
    #[error("the plugin {0}")]
    Reserved(StoreError),
    /// The store of added plugins.
    #[error(transparent)]
    Store(StoreError),
    /// There is no place for added plugins.
    #[error("there is no folder for plugins: neither XDG_DATA_HOME nor HOME is set")]
    NoStore,
    /// The job cannot be read.
    #[error(transparent)]
    Job(SpecError),
    /// A pin is missing and is not written.
    #[error("{0}")]
    Unpinned(String),
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

impl From<StoreError> for PluginCommandError {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Reserved { .. }) { Self::Reserved(error) } else { Self::Store(error) }
    }
}

impl PluginCommandError {
    /// What to do about it, where that can be said.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Plugin(error) => error.hint(),
            Self::Recording(error) => error.hint(),
            Self::Job(error) => error.hint().map(str::to_owned),
            Self::Fetch(error) => add::hint(error),
            Self::Push(error) => error.hint().map(str::to_owned),
            Self::Unsigned { .. } => Some(format!(
                "trusted keys are in {}; --trusted-key adds one, --signature names a signature that lies elsewhere, and \
                 --allow-unsigned does without",
                add::keys_file()
            )),
            Self::Reserved(_) => Some("give the plugin another name and build it again".to_owned()),
            _ => None,
        }
    }
}

/// Where added plugins are.
fn store_dir(options: &HostOptions) -> Result<PathBuf, PluginCommandError> {
    options.store.clone().ok_or(PluginCommandError::NoStore)
}

impl PluginCommand {
    /// Does it; tables for people, or JSON. Says with which code to exit. `note` is told about steps that take a while.
    ///
    /// # Errors
    /// See [`PluginCommandError`].
    pub fn run(self, note: &dyn Fn(&str), out: &mut dyn Write, json: bool) -> Result<u8, PluginCommandError> {
        let options = HostOptions::default();
        match self {
            Self::Build(args) => args.run(options.cache.as_deref(), note, out, json).map(|()| exit_code::OK),
            other => other.run_with(options, out, json),
        }
    }

    /// The same with other limits or another cache.
    ///
    /// # Errors
    /// See [`PluginCommandError`].
    pub fn run_with(self, options: HostOptions, out: &mut dyn Write, json: bool) -> Result<u8, PluginCommandError> {
        let host = || PluginHost::new(options.clone());
        match self {
            Self::New(args) => args.run(out, json)?,
            Self::Build(args) => args.run(options.cache.as_deref(), &|_| {}, out, json)?,
            Self::Check(args) => return args.run(&host()?, &options.limits, out, json),
            Self::Add(args) => args.run(&options, out, json)?,
            Self::Push(args) => args.run(&options, out, json)?,
            Self::Remove(args) => args.run(&options, out, json)?,
            Self::Lock(args) => args.run(&host()?, out, json)?,
            Self::List => list::run(&host()?, out, json)?,
            Self::Inspect(args) => args.run(&host()?, out, json)?,
            Self::Test(args) => return args.run(&host()?, &options.limits, out, json),
            Self::Bench(args) => args.run(&options, out, json)?,
            Self::Diff(args) => args.run(&host()?, out, json)?,
        }
        Ok(exit_code::OK)
    }
}
