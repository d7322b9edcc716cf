//! `sla-profiler plugin list`.

use std::io::{self, Write};

use serde::Serialize;

use super::PluginCommandError;
use super::view::{SCHEMA_VERSION, table, write_json, write_settings};
use crate::plugin::store::Entry;
use crate::plugin::{CONTRACT_VERSION, Listed, PluginHost};

#[derive(Serialize)]
struct ListOutput {
    schema_version: u32,
    contract_version: &'static str,
    plugins: Vec<Listed>,
    added: Vec<Entry>,
}

pub(super) fn run(host: &PluginHost, out: &mut dyn Write, json: bool) -> Result<(), PluginCommandError> {
    let plugins = host.bundled()?;
    let added = host.added_plugins()?;
    match json {
        true => {
            let schema_version = SCHEMA_VERSION;
            write_json(out, &ListOutput { schema_version, contract_version: CONTRACT_VERSION, plugins, added })?;
        }
        false => {
            write_list(out, &plugins)?;
            write_added(out, &added)?;
        }
    }
    Ok(())
}

fn write_added(out: &mut dyn Write, added: &[Entry]) -> io::Result<()> {
    if added.is_empty() {
        return Ok(());
    }
    let mut list = table();
    list.set_header(["ADDED", "NAME", "VERSION", "FROM"]);
    for entry in added {
        list.add_row([entry.kind.as_str(), &entry.name, &entry.version, &entry.source]);
    }
    writeln!(out, "\n{}", list.trim_fmt())
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
