//! What the commands share when they write: JSON, tables.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::plugin::api::Setting;

/// Version of the JSON that the commands print; a number that changes when a field goes or changes its meaning.
pub(super) const SCHEMA_VERSION: u32 = 1;

/// Readable JSON and a line end.
pub(super) fn write_json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// A table without lines, as wide as the terminal.
pub(super) fn table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// Name, default and meaning of each setting.
pub(super) fn write_settings(out: &mut dyn Write, settings: &[Setting]) -> io::Result<()> {
    let mut rows = table();
    for setting in settings {
        rows.add_row([&format!("  {}", setting.name), &format!("[{}]", setting.default), &setting.help]);
    }
    writeln!(out, "{}", rows.trim_fmt())
}
