//! `sla-profiler plugin diff`: where two plugins of one kind decide differently, over many recorded runs.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::PluginCommandError;
use super::test::find;
use super::view::{SCHEMA_VERSION, table, write_json};
use crate::cli::replay;
use crate::domain::{Candidate, Role};
use crate::plugin::api::{Identity, Kind};
use crate::plugin::{PluginError, PluginHost};
use crate::replay::{Answer, Recording, SweepError, SweepUse, answer, replay_sweep};
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
struct SweepOutput {
    schema_version: u32,
    kind: Kind,
    a: Identity,
    b: Identity,
    agree: usize,
    differ: usize,
    runs: Vec<SweepRow>,
}

/// Two strategies on one run: they agree where they lead to the same winners.
#[derive(Serialize)]
struct SweepRow {
    run: String,
    same: bool,
    a: SweepUse,
    b: SweepUse,
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
            return self.sweeps(host, [&first, &second], identities, out, json);
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

impl Args {
    /// Feeds both strategies from every run, and compares what they find and what it takes.
    fn sweeps(
        &self,
        host: &PluginHost,
        choices: [&PluginChoice; 2],
        [a, b]: [Identity; 2],
        out: &mut dyn Write,
        json: bool,
    ) -> Result<(), PluginCommandError> {
        let [first, second] = choices.map(|choice| host.sweep(choice));
        let strategies = [first?, second?];
        let mut runs = Vec::new();
        for path in &self.runs {
            let recording = Recording::open(path)?;
            let policy = host.selection(&replay::choice(&recording, Kind::SelectionPolicy, None, &[])?)?;
            let [a, b] = strategies.each_ref().map(|strategy| {
                // A clock of its own for each: it begins at zero.
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
                runtime
                    .block_on(replay_sweep(&recording, strategy.as_ref(), policy.as_ref()))
                    .map_err(|error| sweep_error(error, path))
            });
            let (a, b) = (a?, b?);
            runs.push(SweepRow { run: path.display().to_string(), same: a.winners == b.winners, a, b });
        }
        let agree = runs.iter().filter(|row| row.same).count();
        let differ = runs.len() - agree;
        let output =
            SweepOutput { schema_version: SCHEMA_VERSION, kind: Kind::SweepStrategy, a, b, agree, differ, runs };
        if json {
            return Ok(write_json(out, &output)?);
        }
        let mut shown = table();
        shown.set_header(["run", "strategy", "points", "unknown", "launches", "GPU-seconds", "wall s", "winners"]);
        for row in &output.runs {
            for (name, used, run) in [(&output.a.name, &row.a, row.run.as_str()), (&output.b.name, &row.b, "")] {
                shown.add_row([
                    run.to_owned(),
                    name.clone(),
                    used.measurements.to_string(),
                    used.unknown.to_string(),
                    used.launches.to_string(),
                    format!("{:.0}", used.gpu_seconds),
                    format!("{:.0}", used.wall_s),
                    used.winners.join(", "),
                ]);
            }
        }
        writeln!(out, "{}\n", shown.trim_fmt())?;
        writeln!(out, "They lead to the same winners in {agree} of {} runs.", output.runs.len())?;
        let total = |of: fn(&SweepUse) -> f64| {
            let sum = |which: fn(&SweepRow) -> &SweepUse| output.runs.iter().map(which).map(of).sum::<f64>();
            sum(|row| &row.b) / sum(|row| &row.a)
        };
        writeln!(
            out,
            "{} takes {:.2} of the points of {}, {:.2} of its GPU-seconds and {:.2} of its time.",
            output.b.name,
            total(|used| used.measurements as f64),
            output.a.name,
            total(|used| used.gpu_seconds),
            total(|used| used.wall_s),
        )?;
        Ok(())
    }
}

fn sweep_error(error: SweepError, run: &Path) -> PluginCommandError {
    match error {
        SweepError::Plugin(error) => error.into(),
        SweepError::Recording(error) => error.into(),
        SweepError::Halt(halt) => PluginCommandError::Usage(format!("{}: {halt}", run.display())),
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
