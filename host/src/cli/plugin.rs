//! `sla-profiler plugin`: what plugins there are, and what is in a file.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Subcommand;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::plugin::api::Setting;
use crate::plugin::{CONTRACT_VERSION, HostOptions, Inspection, Interface, Listed, PluginError, PluginHost};

/// Version of the JSON that both commands print; a number that changes when a field goes or changes its meaning.
const SCHEMA_VERSION: u32 = 1;

/// Looks at plugins: sweep strategies, selection policies and planner models.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum PluginCommand {
    /// Lists the plugins that come with the program, with their settings
    List,
    /// Checks a plugin file and shows what it is, what it asks for and which settings it takes
    Inspect {
        /// A WebAssembly component
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
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

#[derive(Serialize)]
struct ListOutput {
    schema_version: u32,
    contract_version: &'static str,
    plugins: Vec<Listed>,
}

#[derive(Serialize)]
struct InspectOutput {
    schema_version: u32,
    #[serde(flatten)]
    plugin: Inspection,
}

impl PluginCommand {
    /// Does it; tables for people, or JSON.
    ///
    /// # Errors
    /// See [`PluginCommandError`].
    pub fn run(self, out: &mut dyn Write, json: bool) -> Result<(), PluginCommandError> {
        self.run_with(HostOptions::default(), out, json)
    }

    /// The same with other limits or another cache.
    ///
    /// # Errors
    /// See [`PluginCommandError`].
    pub fn run_with(self, options: HostOptions, out: &mut dyn Write, json: bool) -> Result<(), PluginCommandError> {
        let host = PluginHost::new(options)?;
        match self {
            Self::List => {
                let plugins = host.bundled()?;
                match json {
                    true => {
                        let schema_version = SCHEMA_VERSION;
                        write_json(out, &ListOutput { schema_version, contract_version: CONTRACT_VERSION, plugins })?;
                    }
                    false => write_list(out, &plugins)?,
                }
            }
            Self::Inspect { file } => {
                let plugin = host.inspect(&file)?;
                match json {
                    true => write_json(out, &InspectOutput { schema_version: SCHEMA_VERSION, plugin })?,
                    false => write_inspection(out, &plugin)?,
                }
            }
        }
        Ok(())
    }
}

fn write_json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

fn write_list(out: &mut dyn Write, plugins: &[Listed]) -> io::Result<()> {
    let mut list = table();
    list.set_header(["KIND", "NAME", "VERSION", "WHAT IT DOES"]);
    for plugin in plugins {
        let identity = &plugin.identity;
        let name = if plugin.default { format!("{} (default)", identity.name) } else { identity.name.clone() };
        list.add_row([identity.kind.as_str(), &name, &identity.version, &plugin.summary]);
    }
    writeln!(out, "{}", list.trim_fmt())?;
    for plugin in plugins.iter().filter(|plugin| !plugin.settings.is_empty()) {
        writeln!(out, "\nSettings of {}", plugin.identity.name)?;
        write_settings(out, &plugin.settings)?;
    }
    Ok(())
}

fn write_settings(out: &mut dyn Write, settings: &[Setting]) -> io::Result<()> {
    let mut rows = table();
    for setting in settings {
        rows.add_row([&format!("  {}", setting.name), &format!("[{}]", setting.default), &setting.help]);
    }
    writeln!(out, "{}", rows.trim_fmt())
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
