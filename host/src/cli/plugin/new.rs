//! `sla-profiler plugin new`.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;
use sla_profiler_plugin_build::project::{Kind, Language};
use sla_profiler_plugin_build::scaffold::Scaffold;

use super::PluginCommandError;
use super::view::{SCHEMA_VERSION, write_json};

/// Flags of `plugin new`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// Name of the plugin: lower case letters, digits and dashes
    #[arg(value_name = "NAME")]
    pub name: String,
    /// What it decides
    #[arg(long, value_enum)]
    pub kind: KindArg,
    /// What it is written in
    #[arg(long, value_enum, value_name = "LANGUAGE")]
    pub lang: LanguageArg,
    /// Folder of the project, which must not hold anything yet [default: the name]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// [`Kind`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum KindArg {
    /// What to measure next
    Sweep,
    /// Which engines win
    Selection,
    /// How many of each
    Planner,
}

impl From<KindArg> for Kind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Sweep => Self::Sweep,
            KindArg::Selection => Self::Selection,
            KindArg::Planner => Self::Planner,
        }
    }
}

/// [`Language`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LanguageArg {
    /// Rust, with the guest SDK
    Rust,
    /// Python, with componentize-py
    Python,
    /// JavaScript, with componentize-qjs
    Javascript,
    /// C, with clang and wasi-libc
    C,
}

impl From<LanguageArg> for Language {
    fn from(language: LanguageArg) -> Self {
        match language {
            LanguageArg::Rust => Self::Rust,
            LanguageArg::Python => Self::Python,
            LanguageArg::Javascript => Self::JavaScript,
            LanguageArg::C => Self::C,
        }
    }
}

#[derive(Serialize)]
struct Output {
    schema_version: u32,
    folder: PathBuf,
    files: Vec<String>,
}

impl Args {
    pub(super) fn run(self, out: &mut dyn Write, json: bool) -> Result<(), PluginCommandError> {
        let folder = self.dir.unwrap_or_else(|| PathBuf::from(&self.name));
        let scaffold = Scaffold { name: &self.name, kind: self.kind.into(), language: self.lang.into() };
        let files = scaffold.write(&folder)?;
        if json {
            write_json(out, &Output { schema_version: SCHEMA_VERSION, folder, files })?;
            return Ok(());
        }
        let (folder, name) = (folder.display(), &self.name);
        writeln!(out, "Wrote {} files to {folder}; README.md there says what is what.\n", files.len())?;
        writeln!(out, "Next:")?;
        writeln!(out, "  sla-profiler plugin build {folder}")?;
        writeln!(out, "  sla-profiler plugin test {folder}/build/{name}.wasm --cases {folder}/cases.yaml")?;
        Ok(())
    }
}
