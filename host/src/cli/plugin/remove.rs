//! `sla-profiler plugin remove`.

use std::io::Write;

use serde::Serialize;

use super::PluginCommandError;
use super::view::{SCHEMA_VERSION, write_json};
use crate::plugin::HostOptions;
use crate::plugin::store::{Entry, Store};

/// Flags of `plugin remove`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// Name of a plugin that was added
    #[arg(value_name = "NAME")]
    pub name: String,
}

#[derive(Serialize)]
struct Output {
    schema_version: u32,
    removed: Entry,
}

impl Args {
    pub(super) fn run(self, options: &HostOptions, out: &mut dyn Write, json: bool) -> Result<(), PluginCommandError> {
        let removed = Store::new(super::store_dir(options)?).remove(&self.name)?;
        match json {
            true => write_json(out, &Output { schema_version: SCHEMA_VERSION, removed })?,
            false => writeln!(out, "Removed {} {}, sha256 {}", removed.name, removed.version, removed.sha256)?,
        }
        Ok(())
    }
}
