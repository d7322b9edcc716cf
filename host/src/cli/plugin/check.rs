//! `sla-profiler plugin check`.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::PluginCommandError;
use super::view::{SCHEMA_VERSION, write_json};
use crate::conformance::{self, Report};
use crate::output::exit_code;
use crate::plugin::{Inspection, Limits, PluginHost};
use crate::spec::{PluginChoice, PluginSource};

/// Flags of `plugin check`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// A WebAssembly component
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Folder that it may read, by the name under which it asks for it
    #[arg(long = "grant", value_name = "NAME=DIR", value_parser = crate::spec::key_value)]
    pub grants: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Output<'a> {
    schema_version: u32,
    conforms: bool,
    plugin: &'a Inspection,
    conformance: &'a Report,
}

impl Args {
    /// What stands against loading it is an error; what it does wrong once it runs is the answer.
    pub(super) fn run(
        self,
        host: &PluginHost,
        limits: &Limits,
        out: &mut dyn Write,
        json: bool,
    ) -> Result<u8, PluginCommandError> {
        let plugin = host.inspect(&self.file)?;
        let kind = plugin.identity.kind;
        let grants = self.grants.into_iter().map(|(name, folder)| (name, PathBuf::from(folder))).collect();
        let choice = PluginChoice { grants, ..PluginChoice::new(PluginSource::File(self.file)) };
        let report = conformance::run(host, limits, kind, &choice)?;
        let conforms = report.passed();
        if json {
            let schema_version = SCHEMA_VERSION;
            write_json(out, &Output { schema_version, conforms, plugin: &plugin, conformance: &report })?;
        } else {
            let identity = &plugin.identity;
            writeln!(
                out,
                "✓ loads: {} {}, {kind}, contract {}",
                identity.name, identity.version, plugin.contract_version
            )?;
            let asked: Vec<&str> = plugin
                .imports
                .iter()
                .filter(|import| !import.functions.is_empty())
                .map(|import| import.name.as_str())
                .collect();
            let asked = if asked.is_empty() { "nothing".to_owned() } else { asked.join(", ") };
            writeln!(out, "✓ asks for what a plugin may have: {asked}")?;
            let failed: Vec<_> = report.properties.iter().filter(|property| property.failed > 0).collect();
            let (mark, all) = (if conforms { "✓" } else { "✗" }, report.properties.len());
            writeln!(out, "{mark} conforms: {} of {all} properties hold", all - failed.len())?;
            for property in failed {
                super::test::write_property(out, property)?;
            }
        }
        Ok(if conforms { exit_code::OK } else { exit_code::PLUGIN_FAILED })
    }
}
