//! `sla-profiler explain`: why a recorded run came out as it did.

use std::fmt::Write as _;
use std::path::PathBuf;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::Session;
use super::profile::{json, write_out};
use super::replay::{choice, other_than_recorded, targets_text};
use crate::domain::{Job, Role};
use crate::output::error::AppError;
use crate::output::exit_code;
use crate::plugin::api::Kind;
use crate::plugin::{HostOptions, PluginHost};
use crate::render::number::{grouped, short};
use crate::replay::{Explanation, PlanReport, Range, Recording, RoleReport, Row, Status, explain};
use crate::spec::key_value;

/// Version of the JSON; raised when a reader of the old form would misread the new one.
const SCHEMA_VERSION: u32 = 1;

/// Explain a recorded run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Nothing is measured and nothing in RUN is changed.\n\nExamples:\n  \
    sla-profiler explain out\n  sla-profiler explain out 'decode tp4'")]
pub struct Args {
    /// Directory of a run, as `profile --out` wrote it
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// One candidate only: `decode tp4`, `tp4`, or its number
    #[arg(value_name = "CANDIDATE")]
    candidate: Option<String>,
    /// Selection policy to ask instead of the run's
    #[arg(long, value_name = "PLUGIN")]
    selection: Option<String>,
    /// Setting of the selection policy
    #[arg(long, value_name = "NAME=VALUE", value_parser = key_value)]
    selection_setting: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Output<'a> {
    schema_version: u32,
    run: String,
    #[serde(flatten)]
    explanation: &'a Explanation,
}

#[derive(Serialize)]
struct OneOutput<'a> {
    schema_version: u32,
    run: String,
    candidates: Vec<One<'a>>,
}

#[derive(Serialize)]
struct One<'a> {
    role: Role,
    #[serde(flatten)]
    row: &'a Row,
}

impl Args {
    /// Runs it and says with which code to exit.
    ///
    /// # Errors
    /// See [`AppError`].
    pub fn run(self, session: &Session) -> Result<u8, AppError> {
        let recording = Recording::open(&self.run)?;
        let host = PluginHost::new(HostOptions::default())?;
        let choice = choice(&recording, Kind::SelectionPolicy, self.selection.as_deref(), &self.selection_setting)?;
        let policy = host.selection(&choice)?;
        // Without the planner there is less to say, but most of it is there.
        let planner = self::choice(&recording, Kind::PlannerModel, None, &[])
            .map_err(AppError::from)
            .and_then(|choice| Ok(host.planner(&choice)?));
        let mut explanation = explain(&recording, policy.as_ref(), planner.as_deref().ok())?;
        explanation.notes.extend(planner.err().map(|error| format!("the plan is not explained: {error}")));
        explanation.notes.extend(other_than_recorded(&recording, policy.identity(), self.selection.is_some()));
        let run = self.run.display().to_string();
        let job = &recording.started().job;
        let is_json = session.printer.is_json();
        let text = match &self.candidate {
            None if is_json => json(&Output { schema_version: SCHEMA_VERSION, run, explanation: &explanation })?,
            None => whole_text(&recording, job, &explanation),
            Some(wanted) => {
                let found = explanation.find(wanted).map_err(|known| match explanation.rejection(wanted) {
                    Some(reason) => AppError::Usage {
                        message: format!("`{wanted}` was no candidate: {reason}"),
                        hint: Some(format!("there are: {}", known.join(", "))),
                    },
                    None => AppError::Usage {
                        message: format!("the run has no candidate `{wanted}`"),
                        hint: Some(format!("there are: {}", known.join(", "))),
                    },
                })?;
                if is_json {
                    let candidates = found.into_iter().map(|(report, row)| One { role: report.role, row }).collect();
                    json(&OneOutput { schema_version: SCHEMA_VERSION, run, candidates })?
                } else {
                    found.into_iter().map(|(report, row)| one_text(job, report, row)).collect::<Vec<_>>().join("\n")
                }
            }
        };
        write_out(session, &text)?;
        Ok(exit_code::OK)
    }
}

const fn verdict(status: Status) -> &'static str {
    match status {
        Status::Selected => "selected",
        Status::Lost => "lost",
        Status::MissesSla => "misses SLA",
        Status::Failed => "failed",
        Status::NotMeasured => "not measured",
    }
}

const fn latency_name(role: Role) -> &'static str {
    match role {
        Role::Prefill => "TTFT",
        Role::Decode => "ITL",
    }
}

/// `ITL 4.2 to 9.9 ms`
fn range_text(range: &Range) -> String {
    match range.below_ms {
        Some(below) => format!("{} to {} ms", exact(range.from_ms), exact(below)),
        None => format!("{} ms or more", exact(range.from_ms)),
    }
}

/// A target that can be given as a flag: three decimals at most.
fn exact(ms: f64) -> String {
    let text = format!("{ms:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn wins_text(row: &Row, report: &RoleReport) -> String {
    if row.wins_under.is_empty() {
        let none = if row.points == 0 { "unknown" } else { "none" };
        return none.to_owned();
    }
    let ranges: Vec<String> = row.wins_under.iter().map(range_text).collect();
    format!("{} {}", report.scanned.to_uppercase(), ranges.join(", "))
}

fn whole_text(recording: &Recording, job: &Job, explanation: &Explanation) -> String {
    let mut text = format!(
        "{}: {} on {} × {}; {}; judged by {}\n",
        recording.path().display(),
        job.model.name,
        job.hardware.total_gpus,
        job.hardware.gpu.name,
        targets_text(&job.sla),
        explanation.policy.name
    );
    for report in &explanation.roles {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        let latency = format!("{}, ms", latency_name(report.role));
        table.set_header([
            report.role.as_str(),
            "GPUs",
            "verdict",
            &latency,
            "tokens/s/GPU",
            "bound by",
            "wins under",
            "why",
        ]);
        for row in &report.rows {
            let number = |value: Option<f64>, show: fn(f64) -> String| value.map_or_else(|| "-".to_owned(), show);
            let behind = match (row.status, row.throughput_gap) {
                (Status::Selected, _) | (_, None) => String::new(),
                (_, Some(gap)) => format!(" ({:+.0} %)", gap * 100.0),
            };
            table.add_row([
                row.mapping.clone(),
                row.gpus.to_string(),
                verdict(row.status).to_owned(),
                number(row.latency_ms, short),
                number(row.tokens_per_second_per_gpu, |value| grouped(value, 0)) + &behind,
                if row.binding.is_empty() { "-".to_owned() } else { row.binding.clone() },
                wins_text(row, report),
                row.reason.clone(),
            ]);
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n{}", table.trim_fmt());
        for row in &report.rows {
            for why in &row.tried_again {
                let _ = writeln!(text, "  {} {}: {why}", report.role, row.mapping);
            }
        }
        let front: Vec<String> = report
            .front
            .iter()
            .map(|p| {
                format!(
                    "{} at {} ({} ms, {})",
                    p.mapping,
                    p.concurrency,
                    short(p.latency_ms),
                    grouped(p.tokens_per_second_per_gpu, 0)
                )
            })
            .collect();
        let _ = writeln!(text, "  Pareto front of latency and tokens/s/GPU: {}", front.join(", "));
        text.push_str(&feasible_text(report));
    }
    if let Some(plan) = &explanation.plan {
        text.push_str(&plan_text(plan));
    }
    for (mapping, reason) in &explanation.rejected {
        let _ = writeln!(text, "No candidate: {mapping}: {reason}");
    }
    for note in &explanation.notes {
        let _ = writeln!(text, "Note: {note}");
    }
    text
}

/// The plan, and what it would take where it falls short.
fn plan_text(plan: &PlanReport) -> String {
    let ([prefill, decode], [p, d]) = (plan.replicas, &plan.mappings);
    let mut text = format!(
        "\nPlan by {}: {prefill} × {p} prefill + {decode} × {d} decode, {} of {} GPUs, {} requests/s; TTFT {} ms, ITL {} ms\n",
        plan.planner.name,
        plan.gpus,
        plan.total_gpus,
        short(plan.capacity_requests_per_second),
        short(plan.expected_ttft_ms),
        short(plan.expected_itl_ms),
    );
    // Writing to a string cannot fail.
    if plan.meets_sla && (!plan.meets_demand || plan.gpus > plan.total_gpus) {
        let _ = match plan.gpus_needed {
            Some(gpus) => writeln!(text, "  The GPUs do not reach for the demand. {gpus} would."),
            None => writeln!(
                text,
                "  The GPUs do not reach for the demand, nor would 64 times as many under these targets."
            ),
        };
    }
    if !plan.meets_sla {
        let _ = match &plan.loosened {
            Some(loosened) => writeln!(
                text,
                "  It does not meet the SLA. {} would be met: targets {:.2} times as loose.",
                targets_text(&loosened.targets),
                loosened.factor
            ),
            None => writeln!(text, "  It does not meet the SLA, nor would it one 64 times as loose."),
        };
    }
    text
}

fn feasible_text(report: &RoleReport) -> String {
    let target = report.scanned.to_uppercase();
    match (report.feasible, report.nearest_achievable_ms) {
        (true, Some(ms)) => format!("  The tightest {target} that a measured point meets is {} ms.\n", exact(ms)),
        (false, Some(ms)) => {
            format!("  No candidate meets the SLA. The nearest achievable target is {target} {} ms.\n", exact(ms))
        }
        (_, None) => format!("  No {target} target makes any measured point meet the SLA.\n"),
    }
}

fn one_text(job: &Job, report: &RoleReport, row: &Row) -> String {
    let latency = latency_name(report.role);
    let statistic = job.sla.statistic();
    let place = row.place.map_or(String::new(), |place| format!(", place {place} of {}", report.rows.len()));
    let mut text = format!("{} {} ({} GPUs): {}{place}\n", report.role, row.mapping, row.gpus, verdict(row.status));
    let _ = writeln!(text, "  why          {}", row.reason);
    if let (Some(ms), Some(tokens), Some(concurrency)) =
        (row.latency_ms, row.tokens_per_second_per_gpu, row.concurrency)
    {
        let _ = writeln!(
            text,
            "  at its best  {concurrency} at once: {latency} {} ms ({statistic}), {} tokens/s/GPU",
            short(ms),
            grouped(tokens, 0)
        );
    }
    if let (Some(slack), Some(target)) = (row.slack, report.target_ms) {
        let side = if slack < 0.0 { "over" } else { "within" };
        let _ = writeln!(text, "  target       {:.1} % {side} {latency} {} ms", slack.abs() * 100.0, short(target));
    }
    if let Some(gap) = row.throughput_gap.filter(|_| row.status != Status::Selected) {
        let _ = writeln!(text, "  to winner    {:+.1} % tokens/s/GPU", gap * 100.0);
    }
    let binding = if row.binding.is_empty() { "nothing" } else { &row.binding };
    let _ = writeln!(text, "  bound by     {binding}");
    let _ = writeln!(text, "  measured     {} points at the job's lengths", row.points);
    if let Some(ms) = row.lowest_latency_ms {
        let _ = writeln!(text, "  lowest {latency:<5} {} ms", short(ms));
    }
    let front: Vec<String> = row.on_front_at.iter().map(u32::to_string).collect();
    let front = if front.is_empty() { "nowhere".to_owned() } else { format!("at {} at once", front.join(", ")) };
    let _ = writeln!(text, "  Pareto front {front}");
    let _ = writeln!(text, "  wins under   {}", wins_text(row, report));
    for why in &row.tried_again {
        let _ = writeln!(text, "  tried again  {why}");
    }
    text
}
