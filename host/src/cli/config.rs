//! `sla-profiler config`: what a job comes to, and what it may say.

use std::fmt::Write as _;
use std::io::Write;

use crate::render::result::ResultFile;
use crate::run::Record;
use crate::spec::{Flags, OriginEntry, Resolved, Source, SpecError, dgdr_schema, load};

/// Where the DGDR is.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct InputArgs {
    /// DGDR, YAML or JSON; `-` is standard input
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: Option<String>,
    /// DGDR or its spec as Dynamo's operator passes it: JSON text, or a path
    #[arg(long, visible_alias = "profile-config", value_name = "JSON|FILE", conflicts_with = "file")]
    pub config: Option<String>,
}

impl InputArgs {
    /// The same with a file where none is given.
    #[must_use]
    pub fn or(mut self, file: Option<String>) -> Self {
        if self.is_empty() {
            self.file = file;
        }
        self
    }

    /// Whether none is given.
    pub const fn is_empty(&self) -> bool {
        self.file.is_none() && self.config.is_none()
    }

    /// The source. Without one, an empty spec: the flags alone may make a job.
    pub fn source(&self) -> Source {
        match self.file.as_ref().or(self.config.as_ref()) {
            Some(arg) => Source::from_arg(arg),
            None => Source::Inline("{}".to_owned()),
        }
    }
}

/// Shows the resolved job, or what a DGDR may say
#[derive(Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Print every value of the job and where it came from
    Show(Box<ShowArgs>),
    /// Print the JSON schema of the input, or of a file that a run writes
    Schema {
        /// Of what
        #[arg(value_enum, default_value_t)]
        of: SchemaOf,
    },
}

/// What there are schemas of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SchemaOf {
    /// The input
    #[default]
    Dgdr,
    /// result.json
    Result,
    /// One line of journal.jsonl
    Journal,
}

impl SchemaOf {
    /// The JSON schema (draft 2020-12).
    pub fn schema(self) -> serde_json::Value {
        let generator = || schemars::generate::SchemaSettings::draft2020_12().into_generator();
        match self {
            SchemaOf::Dgdr => dgdr_schema(),
            SchemaOf::Result => generator().into_root_schema_for::<ResultFile>().to_value(),
            SchemaOf::Journal => generator().into_root_schema_for::<Record>().to_value(),
        }
    }
}

/// Arguments of `config show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Where the DGDR is.
    #[command(flatten)]
    pub input: InputArgs,
    /// Form of the listing
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Overrides.
    #[command(flatten)]
    pub flags: Flags,
}

/// Form of the listing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table
    #[default]
    Table,
    /// YAML with the origin of each value as a comment
    Yaml,
}

impl ConfigCommand {
    /// Writes the answer to `out`; with `json` as one JSON object.
    ///
    /// # Errors
    /// If the input is wrong, or `out` cannot be written to.
    pub fn run(self, out: &mut dyn Write, json: bool) -> Result<(), SpecError> {
        let text = match self {
            ConfigCommand::Schema { of } => pretty(&of.schema()),
            ConfigCommand::Show(args) => {
                let resolved = load(&args.input.source(), &args.flags)?;
                match (json, args.format) {
                    (true, _) => pretty(&as_json(&resolved)),
                    (false, Format::Table) => as_table(&resolved),
                    (false, Format::Yaml) => as_yaml(&resolved),
                }
            }
        };
        out.write_all(text.as_bytes()).map_err(|error| SpecError::output(&error))
    }
}

fn pretty(value: &serde_json::Value) -> String {
    // Alternate form: indented.
    format!("{value:#}\n")
}

/// Version of the JSON form of `config show`.
const SCHEMA_VERSION: u32 = 1;

fn as_json(resolved: &Resolved) -> serde_json::Value {
    serde_json::json!({
        "schema_version": SCHEMA_VERSION,
        "spec": resolved.spec,
        "origins": resolved.origins,
        "warnings": resolved.warnings,
    })
}

/// A value on one line.
fn plain(entry: &OriginEntry) -> String {
    match &entry.value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn as_table(resolved: &Resolved) -> String {
    let rows: Vec<[String; 3]> = resolved
        .origins
        .iter()
        .map(|entry| [entry.path.clone(), shortened(plain(entry)), entry.origin.to_string()])
        .collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|s| s.chars().count()).max();
    let (path, value) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
    let mut out = String::new();
    for [name, content, origin] in &rows {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:path$}  {content:value$}  {origin}");
    }
    for warning in &resolved.warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
    out
}

/// Long values are cut in the table; the other forms have them whole.
fn shortened(text: String) -> String {
    const MOST: usize = 48;
    if text.chars().count() <= MOST { text } else { text.chars().take(MOST - 1).chain(['…']).collect() }
}

fn as_yaml(resolved: &Resolved) -> String {
    let mut out = String::new();
    let mut open: Vec<&str> = Vec::new();
    let entries = nested(&resolved.origins);
    for entry in &entries {
        let parts: Vec<&str> = entry.path.split('.').collect();
        let Some((leaf, folders)) = parts.split_last() else { continue };
        let shared = open.iter().zip(folders).take_while(|(a, b)| a == b).count();
        open.truncate(shared);
        for folder in folders.iter().skip(shared) {
            let _ = writeln!(out, "{:indent$}{folder}:", "", indent = 2 * open.len());
            open.push(folder);
        }
        // JSON is YAML, so that a value of any shape stays on its line.
        let _ = writeln!(out, "{:indent$}{leaf}: {} # {}", "", entry.value, entry.origin, indent = 2 * open.len());
    }
    for warning in &resolved.warnings {
        let _ = writeln!(out, "# warning: {warning}");
    }
    out
}

/// The entries so that those under one key stand together, in the order in which keys first appear. A key that has both a
/// value and keys below it keeps the value as `value`.
fn nested(entries: &[OriginEntry]) -> Vec<OriginEntry> {
    let mut out: Vec<OriginEntry> = entries
        .iter()
        .map(|entry| {
            let below = format!("{}.", entry.path);
            let mut entry = entry.clone();
            if entries.iter().any(|other| other.path.starts_with(&below)) {
                entry.path.push_str(".value");
            }
            entry
        })
        .collect();
    // Keys rank by first appearance, level by level.
    let rank = |path: &str| -> Vec<usize> {
        let mut prefix = String::new();
        path.split('.')
            .map(|part| {
                prefix.push_str(part);
                let first = entries.iter().position(|entry| {
                    entry.path == prefix || entry.path.strip_prefix(&prefix).is_some_and(|rest| rest.starts_with('.'))
                });
                prefix.push('.');
                first.unwrap_or(0)
            })
            .collect()
    };
    out.sort_by_key(|entry| rank(&entry.path));
    out
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        command: ConfigCommand,
    }

    const INLINE: &str = r#"{"model": "Qwen/Qwen3-8B", "hardware": {"gpuSku": "h200_sxm"},
        "profiler": {"sweep": {"settings": {"points": 3}}}}"#;

    fn show(arguments: &[&str], json: bool) -> String {
        let all = ["x", "show", "--config", INLINE].iter().chain(arguments);
        let mut out = Vec::new();
        Cli::try_parse_from(all).unwrap().command.run(&mut out, json).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_table_names_value_and_origin() {
        let out = show(&["--isl", "2000"], false);
        let line = |start: &str| {
            let line = out.lines().find(|line| line.starts_with(start)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line("workload.isl "), "workload.isl 2000 --isl");
        assert_eq!(line("workload.osl "), "workload.osl 1000 default");
        assert_eq!(line("model "), "model Qwen/Qwen3-8B line 1");
    }

    #[test]
    fn the_yaml_form_is_yaml_with_the_same_values() {
        let out = show(&["--format", "yaml", "--ttft", "250"], false);
        let value: serde_json::Value = serde_yaml::from_str(&out).unwrap();
        assert_eq!(value["sla"]["ttft"], 250.0);
        assert_eq!(value["hardware"]["gpuSku"], "h200_sxm");
        assert_eq!(value["profiler"]["sweep"]["settings"]["points"], "3");
        assert!(out.contains("# --ttft"), "{out}");
    }

    #[test]
    fn the_json_form_has_the_whole_job() {
        let value: serde_json::Value = serde_json::from_str(&show(&[], true)).unwrap();
        assert_eq!(value["schema_version"], 1);
        assert_eq!(value["spec"]["job"]["workload"]["isl"], 4000);
        assert!(value["origins"].as_array().unwrap().len() > 20);
    }

    #[test]
    fn flags_alone_make_a_job() {
        let mut out = Vec::new();
        let cli = Cli::try_parse_from(["x", "show", "--model", "qwen3-8b", "--gpu-sku", "h100"]).unwrap();
        cli.command.run(&mut out, false).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("h100_sxm"));
    }
}
