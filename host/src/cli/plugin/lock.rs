//! `sla-profiler plugin lock`: writes the SHA-256 of each plugin that a job names into the job file.
//!
//! The file is edited as text, so that comments and order stay; what comes out is read again and has to say the same as
//! before plus the pins, or the file is left alone.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::PluginCommandError;
use super::view::{SCHEMA_VERSION, write_json};
use crate::plugin::PluginHost;
use crate::plugin::api::Kind;
use crate::spec::{self, Flags, PluginChoice, Plugins, Source};

/// Flags of `plugin lock`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// DGDR whose plugins are pinned
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: PathBuf,
    /// Change nothing; fail where a pin is missing or differs
    #[arg(long)]
    pub check: bool,
}

/// A plugin and its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Pin {
    role: &'static str,
    sha256: String,
    /// The file said so already.
    unchanged: bool,
}

#[derive(Serialize)]
struct Output<'a> {
    schema_version: u32,
    pins: &'a [Pin],
}

const ROLES: [(&str, Kind); 3] =
    [("sweep", Kind::SweepStrategy), ("selection", Kind::SelectionPolicy), ("planner", Kind::PlannerModel)];

fn choice<'a>(plugins: &'a Plugins, role: &str) -> &'a PluginChoice {
    match role {
        "sweep" => &plugins.sweep,
        "selection" => &plugins.selection,
        _ => &plugins.planner,
    }
}

impl Args {
    pub(super) fn run(self, host: &PluginHost, out: &mut dyn Write, json: bool) -> Result<(), PluginCommandError> {
        let plugins = read(&self.file)?;
        let mut pins = Vec::new();
        for (role, kind) in ROLES {
            let choice = choice(&plugins, role);
            if let Some(sha256) = host.digest(kind, choice)? {
                let unchanged = choice.sha256.as_ref() == Some(&sha256);
                pins.push(Pin { role, sha256, unchanged });
            }
        }
        let open: Vec<&Pin> = pins.iter().filter(|pin| !pin.unchanged).collect();
        match open.as_slice() {
            [] => {}
            [first, ..] if self.check => {
                let reason =
                    format!("{}: the {} is not pinned to sha256 {}", self.file.display(), first.role, first.sha256);
                return Err(PluginCommandError::Unpinned(reason));
            }
            open => self.write(&plugins, open)?,
        }
        if json {
            write_json(out, &Output { schema_version: SCHEMA_VERSION, pins: &pins })?;
            return Ok(());
        }
        if pins.is_empty() {
            writeln!(out, "Nothing to pin: bundled plugins belong to the program.")?;
        }
        for Pin { role, sha256, unchanged } in &pins {
            let state = if *unchanged { " (unchanged)" } else { "" };
            writeln!(out, "{role}: sha256 {sha256}{state}")?;
        }
        Ok(())
    }

    fn write(&self, before: &Plugins, pins: &[&Pin]) -> Result<(), PluginCommandError> {
        let text = fs::read_to_string(&self.file)?;
        let by_hand = || {
            let lines: Vec<String> =
                pins.iter().map(|pin| format!("under `profiler.{}`: sha256: {}", pin.role, pin.sha256)).collect();
            let reason = format!("{} has a form that is not edited here", self.file.display());
            PluginCommandError::Unpinned(format!("{reason}; write {}", lines.join(", and ")))
        };
        let pinned =
            pins.iter().try_fold(text, |text, pin| insert(&text, pin.role, &pin.sha256)).ok_or_else(by_hand)?;
        let mut wanted = before.clone();
        for pin in pins {
            let choice = match pin.role {
                "sweep" => &mut wanted.sweep,
                "selection" => &mut wanted.selection,
                _ => &mut wanted.planner,
            };
            choice.sha256 = Some(pin.sha256.clone());
        }
        // Beside the file, since it names plugins relative to itself.
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let draft = self.file.with_file_name(format!(".{name}.{}.draft", std::process::id()));
        fs::write(&draft, pinned)?;
        let same = read(&draft).is_ok_and(|found| found == wanted);
        let done = if same { fs::rename(&draft, &self.file) } else { fs::remove_file(&draft) };
        done?;
        if same { Ok(()) } else { Err(by_hand()) }
    }
}

fn read(path: &Path) -> Result<Plugins, PluginCommandError> {
    let source = Source::from_arg(&path.display().to_string());
    spec::load(&source, &Flags::default()).map(|resolved| resolved.spec.plugins).map_err(PluginCommandError::Job)
}

/// The text with the pin of a role; nothing where the role's block is not found in one of the usual forms.
fn insert(text: &str, role: &str, sha256: &str) -> Option<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let profiler = block(&lines, 0..lines.len(), "profiler")?;
    let key = block(&lines, profiler, role)?;
    let head = key.start.checked_sub(1)?;
    let flow = lines.get(head)?.clone();
    if flow.contains('{') {
        let line = match flow.find("sha256:") {
            Some(at) => replace_value(&flow, at + "sha256:".len(), sha256)?,
            None => flow.replacen("plugin:", &format!("sha256: {sha256}, plugin:"), 1),
        };
        *lines.get_mut(head)? = line;
    } else if let Some(at) = key.clone().find(|at| starts(&lines, *at, "sha256")) {
        let line = lines.get_mut(at)?;
        *line = replace_value(line, line.find("sha256:")? + "sha256:".len(), sha256)?;
    } else {
        let at = key.clone().find(|at| starts(&lines, *at, "plugin"))?;
        let indent = " ".repeat(indent(lines.get(at)?));
        lines.insert(at + 1, format!("{indent}sha256: {sha256}"));
    }
    Some(lines.join("\n") + if text.ends_with('\n') { "\n" } else { "" })
}

/// The word after `at`, in quotes or not, becomes `value`.
fn replace_value(line: &str, at: usize, value: &str) -> Option<String> {
    let (head, rest) = line.split_at_checked(at)?;
    let rest = rest.trim_start();
    let end = rest.find(|c: char| c == ',' || c == '}' || c == '#' || c.is_whitespace()).unwrap_or(rest.len());
    Some(format!("{head} {value}{}", rest.get(end..)?))
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn starts(lines: &[String], at: usize, key: &str) -> bool {
    let rest = lines.get(at).and_then(|line| line.trim_start().strip_prefix(key));
    rest.is_some_and(|rest| rest.starts_with(':'))
}

/// The lines below `key` that are indented further than it, as far as they lie in the range.
fn block(lines: &[String], range: std::ops::Range<usize>, key: &str) -> Option<std::ops::Range<usize>> {
    let head = range.clone().find(|at| starts(lines, *at, key))?;
    let depth = indent(lines.get(head)?);
    let is_within =
        |line: &String| line.trim().is_empty() || line.trim_start().starts_with('#') || indent(line) > depth;
    let below = (head + 1..range.end).take_while(|at| lines.get(*at).is_some_and(is_within)).count();
    Some(head + 1..head + 1 + below)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str = "1111111111111111111111111111111111111111111111111111111111111111";

    #[test]
    fn a_pin_goes_below_the_plugin_and_all_else_stays() {
        let text = "spec:\n  # ours\n  profiler:\n    selection: # who\n      settings: { a: 1 }\n      plugin: x.wasm # mine\n\
                    \n    planner:\n      plugin: y.wasm\n  sla: {}\n";
        let pinned = insert(text, "selection", NEW).unwrap();
        let expected = text.replace("# mine\n", &format!("# mine\n      sha256: {NEW}\n"));
        assert_eq!(pinned, expected);
        let both = insert(&pinned, "planner", NEW).unwrap();
        assert!(both.contains(&format!("      plugin: y.wasm\n      sha256: {NEW}\n  sla")), "{both}");
    }

    #[test]
    fn an_old_pin_is_replaced() {
        let text = "profiler:\n  sweep:\n    sha256: 'abc' # old\n    plugin: x.wasm";
        let pinned = insert(text, "sweep", NEW).unwrap();
        assert_eq!(pinned, format!("profiler:\n  sweep:\n    sha256: {NEW} # old\n    plugin: x.wasm"));
        let flow = "profiler:\n  sweep: { plugin: x.wasm, sha256: abc }\n";
        assert_eq!(insert(flow, "sweep", NEW).unwrap(), flow.replace("abc", NEW));
    }

    #[test]
    fn a_flow_mapping_gets_its_pin_within_the_braces() {
        let text = "profiler:\n  planner: { plugin: x.wasm }\n";
        assert_eq!(
            insert(text, "planner", NEW).unwrap(),
            format!("profiler:\n  planner: {{ sha256: {NEW}, plugin: x.wasm }}\n")
        );
    }

    #[test]
    fn what_is_not_there_is_not_made_up() {
        for text in
            ["", "profiler:\n", "profiler:\n  sweep:\n    settings: {}\n", "other:\n  sweep:\n    plugin: a.wasm\n"]
        {
            assert_eq!(insert(text, "sweep", NEW), None, "{text:?}");
        }
    }
}
