//! `sla-profiler plugin test`: the conformance suite of a plugin's kind, and its author's cases.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use super::PluginCommandError;
use super::view::{SCHEMA_VERSION, write_json};
use crate::conformance::{self, Property, Report};
use crate::output::exit_code;
use crate::plugin::api::Kind;
use crate::plugin::{Limits, PluginError, PluginHost};
use crate::spec::{PluginChoice, PluginSource, key_value, plugin_source};

/// Flags of `plugin test`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// A WebAssembly component, or the name of a plugin that is bundled or was added
    #[arg(value_name = "PLUGIN")]
    pub plugin: String,
    /// The author's own cases, in YAML; plugins/README.md shows the form
    #[arg(long, value_name = "FILE")]
    pub cases: Option<PathBuf>,
    /// Setting that every case is run with
    #[arg(long = "setting", value_name = "NAME=VALUE", value_parser = key_value)]
    pub settings: Vec<(String, String)>,
    /// Folder that it may read, by the name under which it asks for it
    #[arg(long = "grant", value_name = "NAME=DIR", value_parser = key_value)]
    pub grants: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Output<'a> {
    schema_version: u32,
    passed: bool,
    #[serde(flatten)]
    report: &'a Report,
    cases: &'a [Property],
}

/// Kind and choice of a plugin that is named without its kind.
pub(super) fn find(
    host: &PluginHost,
    plugin: &str,
    settings: &[(String, String)],
) -> Result<(Kind, PluginChoice), PluginError> {
    let source = plugin_source(plugin, None);
    let choice = PluginChoice { settings: settings.to_vec(), ..PluginChoice::new(source) };
    let kind = match &choice.source {
        PluginSource::File(path) => host.inspect(path)?.identity.kind,
        // An unknown name fails when it is loaded, with the names that there are.
        PluginSource::Named(name) => {
            let (bundled, added) = (host.bundled()?, host.added_plugins()?);
            let bundled = bundled.iter().map(|listed| (&listed.identity.name, listed.identity.kind));
            let mut all = bundled.chain(added.iter().map(|entry| (&entry.name, entry.kind)));
            all.find(|(known, _)| *known == name).map_or(Kind::SelectionPolicy, |(_, kind)| kind)
        }
    };
    Ok((kind, choice))
}

impl Args {
    /// Runs the suite; says with which code to exit.
    pub(super) fn run(
        &self,
        host: &PluginHost,
        limits: &Limits,
        out: &mut dyn Write,
        json: bool,
    ) -> Result<u8, PluginCommandError> {
        let (kind, mut choice) = find(host, &self.plugin, &self.settings)?;
        choice.grants.extend(self.grants.iter().map(|(name, folder)| (name.clone(), PathBuf::from(folder))));
        let report = conformance::run(host, limits, kind, &choice)?;
        let cases = match &self.cases {
            Some(path) => conformance::author::run(host, kind, &choice, path)?,
            None => Vec::new(),
        };
        let passed = report.passed() && cases.iter().all(|case| case.failed == 0);
        if json {
            write_json(out, &Output { schema_version: SCHEMA_VERSION, passed, report: &report, cases: &cases })?;
        } else {
            write_report(out, &report, &cases, passed)?;
        }
        Ok(if passed { exit_code::OK } else { exit_code::PLUGIN_FAILED })
    }
}

fn write_report(out: &mut dyn Write, report: &Report, cases: &[Property], passed: bool) -> io::Result<()> {
    let identity = &report.plugin;
    writeln!(out, "{} {}, {}", identity.name, identity.version, identity.kind)?;
    for property in &report.properties {
        write_property(out, property)?;
    }
    if !cases.is_empty() {
        writeln!(out, "\nCases")?;
        for case in cases {
            write_property(out, case)?;
        }
    }
    let percent = report.max_fuel as f64 * 100.0 / report.fuel_limit.max(1) as f64;
    writeln!(
        out,
        "\n{} calls; at most {} fuel ({percent:.2} % of the limit) and {:.1} MB in one call",
        report.calls,
        crate::render::number::grouped(report.max_fuel as f64, 0),
        report.max_memory_bytes as f64 / 1e6
    )?;
    writeln!(out, "{}", if passed { "passed" } else { "FAILED" })
}

pub(super) fn write_property(out: &mut dyn Write, property: &Property) -> io::Result<()> {
    let mark = if property.failed == 0 { "✓" } else { "✗" };
    let cases = match (property.failed, property.cases) {
        (0, 1) => String::new(),
        (0, n) => format!(" ({n} cases)"),
        (failed, n) => format!(" ({failed} of {n} cases)"),
    };
    writeln!(out, "{mark} {}{cases}", property.name)?;
    match &property.counterexample {
        Some(example) => writeln!(out, "    smallest: {}\n    {}", example.case, example.detail),
        None => Ok(()),
    }
}
