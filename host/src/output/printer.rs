//! Decides once what goes where: results to standard output, everything else to standard error.

use std::io::{self, IsTerminal as _, Write};

use clap::ValueEnum;

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
        let asked = || std::env::var("COLUMNS").ok()?.parse().ok();
        comfy_table::Table::new().width().or_else(asked).unwrap_or(120).clamp(60, 160)
    }

    /// Standard output.
    pub fn out(&self) -> impl Write {
        anstream::stdout()
    }

    /// A line to standard error, unless quiet.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            // Nobody is left to tell if standard error is closed.
            let _ = writeln!(anstream::stderr(), "{line}");
        }
    }
}
