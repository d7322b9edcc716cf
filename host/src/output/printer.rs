//! Decides once what goes where: results to standard output, everything else to standard error.

use std::io::{self, IsTerminal as _, Write};

use clap::ValueEnum;

use super::error::AppError;

/// How results are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a person.
    #[default]
    Text,
    /// For a program; one document, with a schema version.
    Json,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

fn columns() -> Option<u16> {
    std::env::var("COLUMNS").ok()?.parse().ok()
}

/// Where the program's words go.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    format: Format,
    quiet: bool,
    progress: bool,
    out_styled: bool,
}

impl Printer {
    /// From the global flags.
    pub fn new(format: Format, quiet: bool, no_progress: bool, color: Color) -> Self {
        let choice = match color {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
        let out_styled = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
        let progress = !quiet && !no_progress && io::stderr().is_terminal() && std::env::var_os("CI").is_none();
        Self { format, quiet, progress, out_styled }
    }

    /// Whether results are for a program.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether to say only what was asked for.
    pub const fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether to draw a progress bar.
    pub const fn shows_progress(&self) -> bool {
        self.progress
    }

    /// Whether results may carry colour.
    pub const fn is_styled(&self) -> bool {
        self.out_styled
    }

    /// Columns of the terminal that results go to; without one, what COLUMNS says, or 120.
    pub fn width(&self) -> u16 {
        comfy_table::Table::new().width().or_else(columns).unwrap_or(120).clamp(60, 160)
    }

    /// Columns for errors: those of the terminal that they go to; without one, what COLUMNS says, or 120.
    pub fn width_of_errors(&self) -> u16 {
        let terminal = comfy_table::Table::new().use_stderr().width();
        terminal.or_else(columns).unwrap_or(120).clamp(60, 160)
    }

    /// Writes the answer to standard output.
    ///
    /// # Errors
    /// If standard output does not take it. A reader that went away, as `head` does, is no error: that is its right.
    pub fn answer(&self, text: &[u8]) -> Result<(), AppError> {
        let mut out = anstream::stdout();
        match out.write_all(text).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|source| AppError::Io { action: "write to standard output", source }),
        }
    }

    /// A line to standard error, unless quiet.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            // Nobody is left to tell if standard error is closed.
            let _ = writeln!(anstream::stderr(), "{line}");
        }
    }
}
