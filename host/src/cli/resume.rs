//! `sla-profiler resume RUN`: a run goes on by the command that it was started with.

use std::path::PathBuf;

use clap::Parser as _;

use super::{Cli, Command, Session};
use crate::output::error::AppError;
use crate::run::{DirError, RunDir, command};

/// Go on with a run.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The same as the command that started the run, in the folder where it was started, with --resume. The \
    environment (KUBECONFIG, CUDA_VISIBLE_DEVICES, …) is the present one."
)]
pub struct Args {
    /// Directory of the run
    #[arg(value_name = "RUN")]
    run: PathBuf,
}

impl Args {
    /// Goes on, and says with which code to exit.
    ///
    /// # Errors
    /// If the run does not say how it was started; else as `profile`.
    pub fn run(self, session: &Session) -> Result<u8, AppError> {
        let path = std::path::absolute(&self.run).unwrap_or_else(|_| self.run.clone());
        if !path.is_dir() {
            return Err(DirError::NothingToResume { path: self.run }.into());
        }
        let dir = RunDir::shared(&path)?;
        let remembered = command::Command::read(&dir)?;
        let words = std::iter::once("sla-profiler".to_owned()).chain(remembered.arguments.iter().cloned());
        let unreadable = |reason: String| {
            AppError::from(command::CommandError::Unreadable { path: path.join(command::COMMAND), reason })
        };
        let cli = Cli::try_parse_from(words).map_err(|error| {
            let first = error.to_string().lines().next().unwrap_or_default().to_owned();
            unreadable(format!("version {} of the program wrote it, and this one says: {first}", remembered.version))
        })?;
        let Command::Profile(args) = cli.command else {
            return Err(unreadable("it is no `profile`".to_owned()));
        };
        std::env::set_current_dir(&remembered.folder)
            .map_err(|source| AppError::Io { action: "go to the folder where the run was started", source })?;
        args.going_on(path, remembered.standard_input).run(session)
    }
}
