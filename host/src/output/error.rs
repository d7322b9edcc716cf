//! The one error that a command ends with: what, where, what next, and the exit code.

use std::fmt::{self, Display};

use super::exit_code as code;
use crate::cli::plugin::PluginCommandError;
use crate::phases::RunError;
use crate::plugin::PluginError;
use crate::replay::{DecideError, RecordingError, SweepError};
use crate::run::command::CommandError;
use crate::run::reuse::ReuseError;
use crate::run::{DirError, JournalError};
use crate::spec::{ErrorKind, SpecError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The DGDR or a flag.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Flags that do not go together.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A plugin.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// A plugin command.
    #[error(transparent)]
    PluginCommand(#[from] PluginCommandError),
    /// The output directory.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A recorded run.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// How a run was started.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A run whose results were to be reused.
    #[error(transparent)]
    Reuse(#[from] ReuseError),
    /// The run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// No legal mapping fits.
    #[error("{model} fits none of the mappings that {gpus} x {gpu} allow:{rejected}")]
    NoCandidate {
        /// The model's name.
        model: String,
        /// GPU budget.
        gpus: u32,
        /// SKU.
        gpu: String,
        /// One line per mapping.
        rejected: String,
    },
    /// Weights fit, requests do not.
    #[error(
        "one request of {tokens} tokens fits into the KV cache of none of the mappings that {gpus} x {gpu} allow:{rejected}"
    )]
    KvTooSmall {
        /// Prompt and answer.
        tokens: u32,
        /// GPU budget.
        gpus: u32,
        /// SKU.
        gpu: String,
        /// One line per mapping.
        rejected: String,
    },
    /// The cluster cannot be reached, or does not have what is asked for.
    #[error("{message}")]
    Cluster {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
    /// Something that measuring real engines needs is missing.
    #[error("{message}")]
    Setup {
        /// What is missing.
        message: String,
        /// How to get it.
        hint: String,
    },
    /// The program's own surroundings: no runtime, standard output closed.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

impl AppError {
    /// See [`super::exit_code`]. Exhaustive, so that a new error does not compile without a code.
    pub fn exit_code(&self) -> u8 {
        match self {
            AppError::Spec(error) => match error.kind() {
                ErrorKind::Usage => code::USAGE,
                ErrorKind::Config => code::INPUT,
            },
            AppError::Usage { .. } => code::USAGE,
            AppError::Plugin(error) | AppError::PluginCommand(PluginCommandError::Plugin(error)) => plugin_code(error),
            AppError::PluginCommand(PluginCommandError::Output(_)) => code::UNEXPECTED,
            AppError::PluginCommand(PluginCommandError::Usage(_)) => code::USAGE,
            AppError::PluginCommand(
                PluginCommandError::Fetch(_)
                | PluginCommandError::Push(_)
                | PluginCommandError::Digest { .. }
                | PluginCommandError::Unsigned { .. }
                | PluginCommandError::Keys(_)
                | PluginCommandError::Reserved(_)
                | PluginCommandError::Store(_)
                | PluginCommandError::NoStore,
            ) => code::PLUGIN_LOAD,
            AppError::PluginCommand(PluginCommandError::Job(_) | PluginCommandError::Unpinned(_)) => code::INPUT,
            AppError::PluginCommand(PluginCommandError::Build(error)) => match error {
                sla_profiler_plugin_build::Error::Project { .. } => code::INPUT,
                _ => code::PLUGIN_LOAD,
            },
            AppError::PluginCommand(PluginCommandError::Conformance(_)) => code::INPUT,
            AppError::Dir(_) | AppError::Journal(_) | AppError::Command(_) => code::OUTPUT,
            AppError::Reuse(_) => code::INPUT,
            AppError::Recording(error) | AppError::PluginCommand(PluginCommandError::Recording(error)) => match error {
                RecordingError::Statistic { .. } => code::INPUT,
                RecordingError::PluginGone { .. } => code::PLUGIN_LOAD,
                RecordingError::NothingMeasured { .. } => code::NOTHING_MEASURED,
                _ => code::OUTPUT,
            },
            AppError::Run(error) => match error {
                RunError::Plugin(error) => plugin_code(error),
                RunError::BadDecision { .. } => code::PLUGIN_FAILED,
                RunError::NothingMeasured { .. } => code::NOTHING_MEASURED,
                RunError::Journal(_) | RunError::Dir(_) => code::OUTPUT,
                RunError::Dgd(_) | RunError::Apply(_) => code::DEPLOYMENT,
                RunError::Render { .. } => code::UNEXPECTED,
                RunError::Interrupted | RunError::LeaseLost(_) => code::INTERRUPTED,
                RunError::OutOfBudget(_) => code::OUT_OF_BUDGET,
            },
            AppError::NoCandidate { .. } => code::NO_CANDIDATE,
            AppError::KvTooSmall { .. } => code::KV_TOO_SMALL,
            AppError::Cluster { .. } => code::CLUSTER,
            AppError::Setup { .. } => code::INPUT,
            AppError::Io { .. } => code::UNEXPECTED,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            AppError::Spec(error) => error.hint().map(str::to_owned),
            AppError::Usage { hint, .. } => hint.clone(),
            AppError::Cluster { hint, .. } | AppError::Setup { hint, .. } => Some(hint.clone()),
            AppError::Plugin(error) | AppError::Run(RunError::Plugin(error)) => error.hint(),
            AppError::PluginCommand(error) => error.hint(),
            AppError::Dir(error) | AppError::Run(RunError::Dir(error)) => error.hint(),
            AppError::Journal(error) | AppError::Run(RunError::Journal(error)) => error.hint(),
            AppError::Recording(error) => error.hint(),
            AppError::Command(_) => {
                Some("`sla-profiler profile … --resume`, with the flags that started it, goes on".to_owned())
            }
            AppError::Reuse(_) => Some("leave --reuse out: then everything is measured".to_owned()),
            AppError::Run(RunError::BadDecision { .. }) => {
                Some("without --strict-plugins the bundled plugin of that kind stands in".to_owned())
            }
            AppError::Run(RunError::NothingMeasured { .. }) => {
                Some("profile_sla.log and each candidate's engine.log tell more".to_owned())
            }
            AppError::Run(RunError::OutOfBudget(_)) => {
                Some("the same command with a larger budget and --resume goes on".to_owned())
            }
            AppError::Run(RunError::Interrupted) => Some("the same command with --resume goes on".to_owned()),
            AppError::Run(RunError::LeaseLost(_)) => {
                Some("the same command with --resume goes on, once no other process has the run".to_owned())
            }
            AppError::NoCandidate { .. } => Some(
                "give more GPUs (--total-gpus, --num-gpus-per-node), GPUs with more memory, or a smaller or quantised model"
                    .to_owned(),
            ),
            AppError::KvTooSmall { .. } => Some(
                "give more GPUs (--total-gpus, --num-gpus-per-node) or GPUs with more memory, or ask for shorter requests \
                 (--isl, --osl)"
                    .to_owned(),
            ),
            AppError::Run(_) | AppError::Io { .. } => None,
        }
    }

    /// For the terminal, whose width is `columns`.
    pub fn render(&self, columns: u16) -> String {
        // An error in a text comes with its line, which must not be wrapped.
        if let AppError::Spec(error) = self
            && error.place().is_some()
        {
            let mut text = format!("  × {}", error.render());
            text.truncate(text.trim_end().len());
            return text.replace('\n', "\n  ");
        }
        let handler = miette::MietteHandlerOpts::new().width(columns.into()).break_words(false).build();
        let shown = Shown { message: self.to_string(), hint: self.hint() };
        let mut text = Rendered(&handler, &shown).to_string();
        text.truncate(text.trim_end().len());
        text
    }
}

impl From<DecideError> for AppError {
    fn from(error: DecideError) -> Self {
        match error {
            DecideError::Recording(error) => AppError::Recording(error),
            DecideError::Plugin(error) => AppError::Run(RunError::Plugin(error)),
        }
    }
}

impl From<SweepError> for AppError {
    fn from(error: SweepError) -> Self {
        match error {
            SweepError::Recording(error) => AppError::Recording(error),
            SweepError::Plugin(error) => AppError::Run(RunError::Plugin(error)),
            SweepError::Halt(halt) => AppError::Run(halt.into()),
        }
    }
}

fn plugin_code(error: &PluginError) -> u8 {
    if error.is_load() { code::PLUGIN_LOAD } else { code::PLUGIN_FAILED }
}

/// What miette makes of an error.
struct Rendered<'a>(&'a miette::MietteHandler, &'a Shown);

impl Display for Rendered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        miette::ReportHandler::debug(self.0, self.1, f)
    }
}

/// What miette draws.
#[derive(Debug)]
struct Shown {
    message: String,
    hint: Option<String>,
}

impl Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Shown {}

impl miette::Diagnostic for Shown {
    fn help<'a>(&'a self) -> Option<Box<dyn Display + 'a>> {
        self.hint.as_ref().map(|hint| Box::new(hint) as Box<dyn Display>)
    }
}
