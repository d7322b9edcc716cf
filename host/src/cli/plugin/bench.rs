//! `sla-profiler plugin bench`: what a plugin costs, beside the bundled one of its kind.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::PluginCommandError;
use super::test::find;
use super::view::{SCHEMA_VERSION, table, write_json};
use crate::conformance::bench::{self, Cost};
use crate::plugin::api::Kind;
use crate::plugin::{HostOptions, PluginHost, default_choice};
use crate::render::number::grouped;
use crate::spec::key_value;

/// Flags of `plugin bench`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// A WebAssembly component, or the name of a bundled plugin
    #[arg(value_name = "PLUGIN")]
    pub plugin: String,
    /// Setting of the plugin
    #[arg(long = "setting", value_name = "NAME=VALUE", value_parser = key_value)]
    pub settings: Vec<(String, String)>,
    /// Folder that it may read, by the name under which it asks for it
    #[arg(long = "grant", value_name = "NAME=DIR", value_parser = key_value)]
    pub grants: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Output {
    schema_version: u32,
    kind: Kind,
    /// Without a cache: compiled from scratch.
    compile_ms: f64,
    plugin: Cost,
    bundled: Cost,
}

impl Args {
    /// Measures both.
    pub(super) fn run(&self, options: &HostOptions, out: &mut dyn Write, json: bool) -> Result<(), PluginCommandError> {
        let uncached = PluginHost::new(HostOptions { cache: None, ..options.clone() })?;
        // Each on a host of its own, so that the second load is not served from memory.
        let fresh = || PluginHost::new(options.clone());
        let (kind, mut choice) = find(&fresh()?, &self.plugin, &self.settings)?;
        choice.grants.extend(self.grants.iter().map(|(name, folder)| (name.clone(), PathBuf::from(folder))));
        let compile_ms = bench::run(&uncached, kind, &choice)?.load_ms;
        let plugin = bench::run(&fresh()?, kind, &choice)?;
        // The first fills the cache where it was empty.
        let default = default_choice(kind);
        fresh()?.load(kind, &default)?;
        let bundled = bench::run(&fresh()?, kind, &default)?;
        let output = Output { schema_version: SCHEMA_VERSION, kind, compile_ms, plugin, bundled };
        if json {
            return Ok(write_json(out, &output)?);
        }
        let Output { plugin, bundled, .. } = &output;
        let what = if kind == Kind::PlannerModel { "points per curve" } else { "candidates" };
        writeln!(out, "{} {} ({kind}), compiled in {compile_ms:.0} ms", plugin.plugin.name, plugin.plugin.version)?;
        let (mut rows, mut failures) = (table(), Vec::new());
        let bundled_name = format!("bundled {}", bundled.plugin.name);
        rows.set_header(["", &plugin.plugin.name, &bundled_name, "ratio"]);
        rows.add_row([
            "load, compiled before",
            &format!("{:.1} ms", plugin.load_ms),
            &format!("{:.1} ms", bundled.load_ms),
            &ratio(plugin.load_ms, bundled.load_ms),
        ]);
        for (mine, theirs) in plugin.calls.iter().zip(&bundled.calls) {
            if let Some(error) = &mine.error {
                failures.push(format!("{} {what}: {error}", mine.size));
                continue;
            }
            let figures = |call: &bench::Call| {
                [
                    ("call, µs", call.median_us),
                    ("fuel", call.fuel.map(|fuel| fuel as f64)),
                    ("memory, kB", call.memory_bytes.map(|bytes| bytes as f64 / 1e3)),
                ]
            };
            for ((name, mine_is), (_, theirs_is)) in figures(mine).into_iter().zip(figures(theirs)) {
                let (a, b) = (mine_is.unwrap_or_default(), theirs_is.unwrap_or_default());
                let name = format!("{} {what}: {name}", mine.size);
                rows.add_row([&name, &grouped(a, 0), &grouped(b, 0), &ratio(a, b)]);
            }
        }
        writeln!(out, "{}", rows.trim_fmt())?;
        failures.iter().try_for_each(|failure| writeln!(out, "{failure}"))?;
        Ok(())
    }
}

fn ratio(a: f64, b: f64) -> String {
    if b > 0.0 { format!("{:.2} ×", a / b) } else { String::new() }
}
