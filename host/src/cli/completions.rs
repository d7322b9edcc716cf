//! `sla-profiler completions` and `sla-profiler man`: made from the same definitions as the help.

use std::path::PathBuf;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, Session};
use crate::output::error::AppError;
use crate::output::exit_code;
use crate::run::dir::write_atomically;

/// Print a shell's completions.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sla-profiler completions bash > ~/.local/share/bash-completion/completions/sla-profiler\n  \
    sla-profiler completions zsh > \"${fpath[1]}/_sla-profiler\"\n  \
    sla-profiler completions fish > ~/.config/fish/completions/sla-profiler.fish")]
pub struct CompletionArgs {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

impl CompletionArgs {
    /// Runs it and says with which code to exit.
    ///
    /// # Errors
    /// If standard output does not take it.
    pub fn run(self, session: &Session) -> Result<u8, AppError> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "sla-profiler", &mut text);
        session.printer.answer(&text).map(|()| exit_code::OK)
    }
}

/// Write the manual pages.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sla-profiler man ~/.local/share/man/man1 && man sla-profiler-profile")]
pub struct ManArgs {
    /// Folder for them, one per command; it must exist
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl ManArgs {
    /// Runs it and says with which code to exit.
    ///
    /// # Errors
    /// If a page cannot be written.
    pub fn run(self, session: &Session) -> Result<u8, AppError> {
        let pages = pages()?;
        for (name, page) in &pages {
            write_atomically(&self.dir.join(name), page)?;
        }
        session.printer.note(&format!("{} pages in {}", pages.len(), self.dir.display()));
        Ok(exit_code::OK)
    }
}

/// File name and content of each page: the program's, and one for each command below it.
///
/// # Errors
/// If a page cannot be rendered.
pub fn pages() -> Result<Vec<(String, Vec<u8>)>, AppError> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut found = Vec::new();
    below(&root, "sla-profiler", &mut found)?;
    Ok(found)
}

fn below(command: &clap::Command, name: &str, found: &mut Vec<(String, Vec<u8>)>) -> Result<(), AppError> {
    let mut page = Vec::new();
    // clap wants names for ever, and there are a few dozen commands.
    let named = command.clone().name(String::leak(name.to_owned()) as &'static str);
    clap_mangen::Man::new(named)
        .render(&mut page)
        .map_err(|source| AppError::Io { action: "render a manual page", source })?;
    found.push((format!("{name}.1"), page));
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        below(sub, &format!("{name}-{}", sub.get_name()), found)?;
    }
    Ok(())
}
