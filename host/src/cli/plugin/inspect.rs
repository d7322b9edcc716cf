//! `sla-profiler plugin inspect`.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use super::PluginCommandError;
use super::view::{SCHEMA_VERSION, table, write_json, write_settings};
use crate::plugin::{CONTRACT_VERSION, Inspection, Interface, PluginHost};

/// Flags of `plugin inspect`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// A WebAssembly component
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Serialize)]
struct InspectOutput {
    schema_version: u32,
    #[serde(flatten)]
    plugin: Inspection,
}

impl Args {
    pub(super) fn run(&self, host: &PluginHost, out: &mut dyn Write, json: bool) -> Result<(), PluginCommandError> {
        let plugin = host.inspect(&self.file)?;
        match json {
            true => write_json(out, &InspectOutput { schema_version: SCHEMA_VERSION, plugin })?,
            false => write_inspection(out, &plugin)?,
        }
        Ok(())
    }
}

fn write_inspection(out: &mut dyn Write, plugin: &Inspection) -> io::Result<()> {
    let identity = &plugin.identity;
    let compiled = match plugin.cached {
        true => format!("loaded in {:.1} ms from the cache", plugin.compile_ms),
        false => format!("compiled in {:.0} ms", plugin.compile_ms),
    };
    let contract = format!("{} (this program: {CONTRACT_VERSION})", plugin.contract_version);
    let mut facts = table();
    facts
        .add_row(["Kind", identity.kind.as_str()])
        .add_row(["Name", &identity.name])
        .add_row(["Version", &identity.version])
        .add_row(["Summary", &plugin.summary])
        .add_row(["Contract", &contract])
        .add_row(["Asks for", &interfaces(&plugin.imports)])
        .add_row(["Offers", &interfaces(&plugin.exports)])
        .add_row(["SHA-256", &identity.sha256])
        .add_row(["Size", &format!("{:.1} kB", bytes_to_kb(plugin.file_bytes))])
        .add_row(["Machine code", &compiled]);
    writeln!(out, "{}", facts.trim_fmt())?;
    if plugin.settings.is_empty() {
        return writeln!(out, "\nIt takes no settings.");
    }
    writeln!(out, "\nSettings")?;
    write_settings(out, &plugin.settings)
}

#[allow(clippy::cast_precision_loss, reason = "a size for people")]
fn bytes_to_kb(bytes: u64) -> f64 {
    bytes as f64 / 1e3
}

/// `sla-profiler:base/log@0.1.0 (write)`; interfaces that hold types only ask for nothing.
fn interfaces(interfaces: &[Interface]) -> String {
    let able: Vec<String> = interfaces
        .iter()
        .filter(|interface| !interface.functions.is_empty())
        .map(|interface| format!("{} ({})", interface.name, interface.functions.join(", ")))
        .collect();
    if able.is_empty() { "nothing".to_owned() } else { able.join("\n") }
}
