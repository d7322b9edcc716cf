//! `sla-profiler plugin diff`: where two plugins of one kind decide differently, over many recorded runs.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::PluginCommandError;
use super::test::find;
use super::view::{SCHEMA_VERSION, table, write_json};
use crate::cli::replay;
use crate::domain::{Candidate, Role};
use crate::plugin::api::{Identity, Kind};
use crate::plugin::{PluginError, PluginHost};
use crate::replay::{Answer, Recording, answer};
use crate::spec::{PluginChoice, plugin_source};

/// Flags of `plugin diff`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// A plugin: a WebAssembly component, or the name of a bundled one
    #[arg(value_name = "A")]
    pub a: String,
    /// Another plugin of the same kind
    #[arg(value_name = "B")]
    pub b: String,
    /// Directories of runs, as `profile --out` wrote them
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Output {
    schema_version: u32,
    kind: Kind,
    a: Identity,
    b: Identity,
    agree: usize,
    differ: usize,
    runs: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    run: String,
    same: bool,
    a: String,
    b: String,
}

impl Args {
    /// Asks both about every run.
    pub(super) fn run(&self, host: &PluginHost, out: &mut dyn Write, json: bool) -> Result<(), PluginCommandError> {
        let (kind, first) = find(host, &self.a, &[])?;
        let second = PluginChoice::new(plugin_source(&self.b, None));
        let identities = [host.load(kind, &first)?.identity().clone(), host.load(kind, &second)?.identity().clone()];
        if kind == Kind::SweepStrategy {
            return Err(PluginCommandError::Usage(
                "plugin diff compares selection policies and planner models; for a sweep strategy: \
                 sla-profiler replay RUN --sweep PLUGIN"
                    .to_owned(),
            ));
        }
        let mut rows = Vec::new();
        for path in &self.runs {
            let recording = Recording::open(path)?;
            let [a, b] = [&first, &second].map(|choice| decide(host, &recording, kind, choice));
            let (a, b) = (a?, b?);
            rows.push(Row { run: path.display().to_string(), same: a == b, a, b });
        }
        let agree = rows.iter().filter(|row| row.same).count();
        let [a, b] = identities;
        let output =
            Output { schema_version: SCHEMA_VERSION, kind, a, b, agree, differ: rows.len() - agree, runs: rows };
        if json {
            return Ok(write_json(out, &output)?);
        }
        let mut shown = table();
        shown.set_header(["run", &output.a.name, &output.b.name, ""]);
        for row in &output.runs {
            let (b, mark) = if row.same { ("same", "") } else { (row.b.as_str(), "differs") };
            shown.add_row([&row.run, &row.a, b, mark]);
        }
        writeln!(out, "{}\n", shown.trim_fmt())?;
        writeln!(out, "They agree on {} of {} runs.", output.agree, output.runs.len())?;
        Ok(())
    }
}

/// The decision in words that are equal where it is. A plugin that fails on a run has said that, too.
fn decide(
    host: &PluginHost,
    recording: &Recording,
    kind: Kind,
    choice: &PluginChoice,
) -> Result<String, PluginCommandError> {
    let own = |wanted: Kind| -> Result<PluginChoice, PluginCommandError> {
        if wanted == kind { Ok(choice.clone()) } else { Ok(replay::choice(recording, wanted, None, &[])?) }
    };
    let load = || -> Result<_, PluginCommandError> {
        Ok((host.selection(&own(Kind::SelectionPolicy)?)?, host.planner(&own(Kind::PlannerModel)?)?))
    };
    let (policy, planner) = load()?;
    match answer(recording, &recording.started().job, policy.as_ref(), planner.as_ref()) {
        Ok(answer) => Ok(words(recording, kind, &answer)),
        Err(crate::replay::DecideError::Plugin(error)) => Ok(failed(&error)),
        Err(crate::replay::DecideError::Recording(error)) => Err(error.into()),
    }
}

fn failed(error: &PluginError) -> String {
    format!("fails: {error}")
}

fn words(recording: &Recording, kind: Kind, answer: &Answer) -> String {
    let winner = |role: Role| {
        let choice = answer.selection.ranking(role).first()?;
        let name = recording.candidate(choice.candidate).map(Candidate::name)?;
        let missed = if choice.meets_sla { "" } else { " (misses the SLA)" };
        Some(format!("{name} at {}{missed}", choice.concurrency))
    };
    let mut parts: Vec<String> = Vec::new();
    if kind == Kind::SelectionPolicy {
        parts.extend(Role::ALL.into_iter().filter_map(winner));
    }
    match (&answer.plan, &answer.plan_error) {
        (Some(plan), _) => parts.push(format!(
            "{} + {} engines, {:.1} requests/s",
            plan.prefill_replicas, plan.decode_replicas, plan.capacity_requests_per_second
        )),
        (None, Some(error)) => parts.push(format!("no plan: {error}")),
        (None, None) => {}
    }
    parts.join(", ")
}
