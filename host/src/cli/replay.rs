//! `sla-profiler replay`: a recorded run, asked again.

use std::fmt::Write as _;
use std::path::PathBuf;

use comfy_table::{ContentArrangement, Table, presets};
use schemars::JsonSchema;
use serde::Serialize;

use super::Session;
use super::profile::{json, simulated_runtime, write_out};
use crate::domain::{Demand, Sla};
use crate::output::error::AppError;
use crate::output::exit_code;
use crate::plugin::api::{Identity, Kind};
use crate::plugin::{HostOptions, PluginHost};
use crate::render::number::{grouped, short};
use crate::replay::{
    Answer, Change, Comparison, Recording, RecordingError, SweepUse, Targets, answer, compare, recorded_use,
    replay_sweep,
};
use crate::run::timeline::clock;
use crate::spec::{PluginChoice, key_value, plugin_source};

/// Version of the JSON; raised when a reader of the old form would misread the new one.
const SCHEMA_VERSION: u32 = 1;

/// Plugins to ask instead of the run's own.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Who decides")]
pub struct Judges {
    /// Selection policy instead of the run's: name of a bundled plugin or path of a .wasm file
    #[arg(long, value_name = "PLUGIN")]
    selection: Option<String>,
    /// Setting of the selection policy
    #[arg(long, value_name = "NAME=VALUE", value_parser = key_value)]
    selection_setting: Vec<(String, String)>,
    /// Planner model instead of the run's
    #[arg(long, value_name = "PLUGIN")]
    planner: Option<String>,
    /// Setting of the planner model
    #[arg(long, value_name = "NAME=VALUE", value_parser = key_value)]
    planner_setting: Vec<(String, String)>,
}

/// Ask a recorded run again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Nothing is measured and nothing in RUN is changed.\n\nExamples:\n  \
    sla-profiler replay out --selection select-cost\n  sla-profiler replay out --itl 8 --selection my.wasm\n  \
    sla-profiler replay out --sweep sweep-grid")]
pub struct Args {
    /// Directory of a run, as `profile --out` wrote it
    #[arg(value_name = "RUN")]
    run: PathBuf,
    #[command(flatten)]
    judges: Judges,
    /// Feed this sweep strategy from the recording, and say what it would have cost
    #[arg(long, value_name = "PLUGIN", help_heading = "Who decides")]
    sweep: Option<String>,
    /// Setting of the sweep strategy
    #[arg(long, value_name = "NAME=VALUE", value_parser = key_value, requires = "sweep", help_heading = "Who decides")]
    sweep_setting: Vec<(String, String)>,
    /// Target for the time to first token, instead of the run's
    #[arg(long, visible_alias = "sla-ttft", value_name = "MS", value_parser = positive, help_heading = "What is asked")]
    ttft: Option<f64>,
    /// Target for the inter-token latency, instead of the run's
    #[arg(long, visible_alias = "sla-itl", value_name = "MS", value_parser = positive, help_heading = "What is asked")]
    itl: Option<f64>,
    /// Target for the whole answer, instead of the other two
    #[arg(long, visible_alias = "sla-e2e", value_name = "MS", value_parser = positive, conflicts_with_all = ["ttft", "itl"],
          help_heading = "What is asked")]
    e2e_latency: Option<f64>,
    /// Statistic that must meet the targets: `mean`, or one of the quantiles that the recording keeps (0.5, 0.9, 0.99)
    #[arg(long, value_name = "Q", value_parser = quantile, help_heading = "What is asked")]
    sla_quantile: Option<Statistic>,
    /// Requests per second that the deployment must serve, instead of the run's
    #[arg(long, value_name = "PER_SECOND", value_parser = positive, help_heading = "What is asked")]
    request_rate: Option<f64>,
    /// GPU budget of the plan, instead of the run's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "What is asked")]
    total_gpus: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Statistic(Option<f64>);

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("want a number above 0".to_owned()),
    }
}

fn quantile(text: &str) -> Result<Statistic, String> {
    match (text, text.parse::<f64>()) {
        ("mean", _) => Ok(Statistic(None)),
        (_, Ok(q)) if q > 0.0 && q < 1.0 => Ok(Statistic(Some(q))),
        _ => Err("want `mean` or a number between 0 and 1".to_owned()),
    }
}

/// What the command answers, as JSON has it.
#[derive(Debug, Serialize, JsonSchema)]
struct Output<'a> {
    schema_version: u32,
    run: String,
    targets: Sla,
    demand: Demand,
    recorded_targets: Sla,
    recorded_demand: Demand,
    #[serde(flatten)]
    comparison: &'a Comparison,
    answer: &'a Answer,
    #[serde(skip_serializing_if = "Option::is_none")]
    sweep: Option<&'a SweepOutput>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct SweepOutput {
    recorded_by: Option<Identity>,
    replayed_by: Identity,
    recorded: SweepUse,
    replayed: SweepUse,
    same_selection: bool,
}

impl Args {
    /// Runs it and says with which code to exit.
    ///
    /// # Errors
    /// See [`AppError`].
    pub fn run(self, session: &Session) -> Result<u8, AppError> {
        let recording = Recording::open(&self.run)?;
        let host = PluginHost::new(HostOptions::default())?;
        let mut notes = Vec::new();
        let judges = &self.judges;
        let choice = choice(&recording, Kind::SelectionPolicy, judges.selection.as_deref(), &judges.selection_setting)?;
        let policy = host.selection(&choice)?;
        notes.extend(other_than_recorded(&recording, policy.identity(), judges.selection.is_some()));
        let choice = self::choice(&recording, Kind::PlannerModel, judges.planner.as_deref(), &judges.planner_setting)?;
        let planner = host.planner(&choice)?;
        notes.extend(other_than_recorded(&recording, planner.identity(), judges.planner.is_some()));
        let targets = Targets {
            ttft_ms: self.ttft,
            itl_ms: self.itl,
            e2e_ms: self.e2e_latency,
            quantile: self.sla_quantile.map(|statistic| statistic.0),
            demand: self.request_rate.map(Demand::RequestsPerSecond),
            total_gpus: self.total_gpus,
        };
        let job = targets.job(&recording.started().job);
        let answer = answer(&recording, &job, policy.as_ref(), planner.as_ref())?;
        let mut comparison = compare(&recording, &answer);
        comparison.notes.extend(notes);

        let sweep = match &self.sweep {
            None => None,
            Some(name) => {
                let choice = self::choice(&recording, Kind::SweepStrategy, Some(name), &self.sweep_setting)?;
                let strategy = host.sweep(&choice)?;
                let replayed =
                    simulated_runtime()?.block_on(replay_sweep(&recording, strategy.as_ref(), policy.as_ref()))?;
                let recorded = recorded_use(&recording);
                Some(SweepOutput {
                    recorded_by: recording.identity(Kind::SweepStrategy).cloned(),
                    replayed_by: strategy.identity().clone(),
                    same_selection: recorded.winners == replayed.winners,
                    recorded,
                    replayed,
                })
            }
        };

        let started = recording.started();
        let text = if session.printer.is_json() {
            json(&Output {
                schema_version: SCHEMA_VERSION,
                run: self.run.display().to_string(),
                targets: job.sla,
                demand: job.demand,
                recorded_targets: started.job.sla,
                recorded_demand: started.job.demand,
                comparison: &comparison,
                answer: &answer,
                sweep: sweep.as_ref(),
            })?
        } else {
            let mut text = heading(&recording, &job, &answer);
            if sweep.is_none() || self.judges.selection.is_some() || targets != Targets::default() {
                text.push_str(&comparison_text(&comparison));
            }
            if let Some(sweep) = &sweep {
                text.push_str(&sweep_text(sweep));
            }
            text
        };
        write_out(session, &text)?;
        Ok(exit_code::OK)
    }
}

/// Which plugin to ask: the one on the command line, else the run's own, with its settings.
pub(super) fn choice(
    recording: &Recording,
    kind: Kind,
    asked: Option<&str>,
    settings: &[(String, String)],
) -> Result<PluginChoice, RecordingError> {
    if let Some(name) = asked {
        return Ok(PluginChoice { settings: settings.to_vec(), ..PluginChoice::new(plugin_source(name, None)) });
    }
    let gone = |name: &str, reason: &str| RecordingError::PluginGone {
        kind,
        name: name.to_owned(),
        reason: reason.to_owned(),
    };
    let (source, mut own) = match (recording.choice(kind), recording.identity(kind)) {
        (Some(choice), _) => (plugin_source(&choice.plugin, None), choice.settings.clone()),
        (None, Some(identity)) if identity.bundled => (plugin_source(&identity.name, None), Vec::new()),
        (None, Some(identity)) => return Err(gone(&identity.name, "the journal does not say which file it was")),
        (None, None) => return Err(gone("", "the journal names none")),
    };
    own.retain(|(name, _)| settings.iter().all(|(given, _)| given != name));
    own.extend_from_slice(settings);
    Ok(PluginChoice { settings: own, ..PluginChoice::new(source) })
}

/// A word of caution where the run's own plugin has become another one.
pub(super) fn other_than_recorded(recording: &Recording, now: &Identity, asked: bool) -> Option<String> {
    let recorded = recording.identity(now.kind)?;
    (!asked && recorded.sha256 != now.sha256).then(|| {
        format!(
            "the {} {} {} is not byte by byte the one of the run ({} {})",
            now.kind, now.name, now.version, recorded.name, recorded.version
        )
    })
}

/// `TTFT ≤ 300 ms, ITL ≤ 10 ms (mean)`
pub(super) fn targets_text(sla: &Sla) -> String {
    let part = |name: &str, target: Option<f64>| target.map(|ms| format!("{name} ≤ {} ms", short(ms)));
    let parts: Vec<String> =
        [part("TTFT", sla.ttft_ms), part("ITL", sla.itl_ms), part("E2E", sla.e2e_ms)].into_iter().flatten().collect();
    let parts = if parts.is_empty() { "no target".to_owned() } else { parts.join(", ") };
    format!("{parts} ({})", sla.statistic())
}

fn demand_text(demand: Demand) -> String {
    match demand {
        Demand::RequestsPerSecond(rate) => format!("{} requests/s", short(rate)),
        Demand::Concurrency(n) => format!("{n} requests at once"),
        Demand::Budget => "as much as the GPUs serve".to_owned(),
    }
}

fn heading(recording: &Recording, job: &crate::domain::Job, answer: &Answer) -> String {
    let recorded = &recording.started().job;
    let mut text = format!(
        "{}: {} on {} × {}, {} points\n",
        recording.path().display(),
        recorded.model.name,
        recorded.hardware.total_gpus,
        recorded.hardware.gpu.name,
        recording.full_history().measurements.len()
    );
    let question = |job: &crate::domain::Job| {
        format!("{}, {}, {} GPUs", targets_text(&job.sla), demand_text(job.demand), job.hardware.total_gpus)
    };
    let by = format!("{} and {}", answer.selected_by.name, answer.planned_by.name);
    let recorded_by = |kind| recording.identity(kind).map_or("nobody", |identity| identity.name.as_str());
    let recorded_by = format!("{} and {}", recorded_by(Kind::SelectionPolicy), recorded_by(Kind::PlannerModel));
    // Writing to a string cannot fail.
    let _ = writeln!(text, "  recorded  {} by {recorded_by}", question(recorded));
    let _ = writeln!(text, "  asked     {} by {by}", question(job));
    text
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

fn cell<T>(value: Option<&T>, show: impl Fn(&T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

fn row<T: PartialEq>(table: &mut Table, what: &str, change: &Change<T>, show: impl Fn(&T) -> String) {
    let mark = if change.before == change.after { "same" } else { "changed" };
    table.add_row([what, &cell(change.before.as_ref(), &show), &cell(change.after.as_ref(), &show), mark]);
}

fn comparison_text(comparison: &Comparison) -> String {
    let mut table = plain_table();
    table.set_header(["", "recorded", "now", ""]);
    for role in &comparison.roles {
        let mark = if role.changed { "changed" } else { "same" };
        let show = |winner: &Option<String>, choice: &Option<crate::domain::Choice>| match (winner, choice) {
            (Some(winner), Some(choice)) => {
                let missed = if choice.meets_sla { "" } else { ", misses the SLA" };
                format!("{winner}, {} at once{missed}", choice.concurrency)
            }
            _ => "-".to_owned(),
        };
        table.add_row([
            &role.role.to_string(),
            &show(&role.winner.before, &role.choice.before),
            &show(&role.winner.after, &role.choice.after),
            mark,
        ]);
    }
    let [prefill, decode] = &comparison.replicas;
    row(&mut table, "prefill engines", prefill, u32::to_string);
    row(&mut table, "decode engines", decode, u32::to_string);
    row(&mut table, "GPUs", &comparison.gpus, u32::to_string);
    row(&mut table, "requests/s", &comparison.capacity_requests_per_second, |rate| grouped(*rate, 1));
    row(&mut table, "meets the SLA", &comparison.meets_sla, |meets| if *meets { "yes" } else { "no" }.to_owned());
    let mut text = format!("\n{}\n\n", table.trim_fmt());
    if !comparison.changed {
        text.push_str("Nothing changes.\n");
    }
    for role in &comparison.roles {
        let margin = role.margin.map_or(String::new(), |margin| format!(" (ahead by {:.1} %)", margin * 100.0));
        let _ = writeln!(text, "{}: {}{margin}", role.role, role.why);
    }
    for note in &comparison.notes {
        let _ = writeln!(text, "Note: {note}");
    }
    text
}

fn sweep_text(sweep: &SweepOutput) -> String {
    let mut table = plain_table();
    let recorded = sweep.recorded_by.as_ref().map_or("recorded", |identity| identity.name.as_str());
    let (a, b) = (&sweep.recorded, &sweep.replayed);
    let ratio = |a: f64, b: f64| if a > 0.0 { format!("{:.2} ×", b / a) } else { String::new() };
    let count = |n: usize| n as f64;
    table
        .set_header(["phases 1 to 5", &format!("recorded: {recorded}"), &sweep.replayed_by.name, ""])
        .add_row([
            "measurements",
            &a.measurements.to_string(),
            &b.measurements.to_string(),
            &ratio(count(a.measurements), count(b.measurements)),
        ])
        .add_row(["  from the recording", "", &b.from_recording.to_string(), ""])
        .add_row(["  from the simulated cluster", "", &b.from_simulation.to_string(), ""])
        .add_row(["  nobody knows", "", &b.unknown.to_string(), ""])
        .add_row(["engines launched", &a.launches.to_string(), &b.launches.to_string(), ""])
        .add_row([
            "GPU-seconds",
            &grouped(a.gpu_seconds, 0),
            &grouped(b.gpu_seconds, 0),
            &ratio(a.gpu_seconds, b.gpu_seconds),
        ])
        .add_row(["wall time", &clock(a.wall_s), &clock(b.wall_s), &ratio(a.wall_s, b.wall_s)])
        .add_row(["calls of the strategy", &a.steps.to_string(), &b.steps.to_string(), ""]);
    let mut text = format!("\n{}\n\n", table.trim_fmt());
    let verdict = if sweep.same_selection {
        format!("The selection is the same: {}.\n", b.winners.join(" and "))
    } else {
        format!("The selection changes: {} instead of {}.\n", b.winners.join(" and "), a.winners.join(" and "))
    };
    text.push_str(&verdict);
    if b.unknown > 0 {
        let _ = writeln!(
            text,
            "Note: {} points were never measured and the run was not simulated; the strategy was told that they failed.",
            b.unknown
        );
    }
    text
}
