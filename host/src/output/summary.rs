//! What is printed at the end: of a run, the answer; of a dry run, what would happen.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::printer::Printer;
use crate::domain::search_space::SearchSpace;
use crate::domain::{Candidate, Choice, Demand, Job, Role};
use crate::engine::CheckReport;
use crate::phases::artifacts::{DECODE_CURVE, MEASUREMENTS, PREFILL_CURVE, RESULT};
use crate::phases::estimate::Estimate;
use crate::phases::generation::FINAL_CONFIG;
use crate::render::number::{grouped, plain};
use crate::render::result::{Incomplete, ResultFile, SelectedEngine};
use crate::render::table::{self, Style};
use crate::run::timeline::{LOG, clock};

/// Files worth opening, and what is in them.
const FILES: &[(&str, &str)] = &[
    (FINAL_CONFIG, "the deployment: kubectl apply -f"),
    ("*_performance.png, cost_sla.png", "pictures of the candidates, and of cost"),
    (PREFILL_CURVE, "TTFT over input length: NPZ and pictures"),
    (DECODE_CURVE, "ITL over load and context: likewise"),
    (MEASUREMENTS, "every point with its interval"),
    (RESULT, "the whole answer, for programs"),
    (LOG, "what happened when"),
];

/// How long a run took.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// On the cluster's clock, in seconds.
    pub cluster_s: f64,
    /// GPUs times seconds that engines were held.
    pub gpu_seconds: f64,
    /// On the clock on the wall.
    pub real: Duration,
}

/// The question in one line.
fn question(job: &Job) -> String {
    let target = |name: &str, ms: Option<f64>| ms.map(|ms| format!("{name} ≤ {} ms", plain(ms)));
    let targets: Vec<String> =
        [target("TTFT", job.sla.ttft_ms), target("ITL", job.sla.itl_ms), target("end to end", job.sla.e2e_ms)]
            .into_iter()
            .flatten()
            .collect();
    let demand = match job.demand {
        Demand::RequestsPerSecond(rate) => format!("{} requests/s", plain(rate)),
        Demand::Concurrency(n) => format!("{} requests at once", grouped(n.into(), 0)),
        Demand::Budget => "as many requests/s as the GPUs serve".to_owned(),
    };
    format!(
        "{} · {} · {} × {} · {} tokens in, {} out · {} ({}) · {demand}",
        job.model.name,
        job.backend,
        job.hardware.total_gpus,
        job.hardware.gpu.name,
        grouped(job.workload.isl.into(), 0),
        grouped(job.workload.osl.into(), 0),
        targets.join(", "),
        job.sla.statistic(),
    )
}

fn style(printer: &Printer) -> Style {
    Style { width: printer.width(), styled: printer.is_styled() }
}

/// The answer of a run.
pub fn result(printer: &Printer, result: &ResultFile, dir: &Path, took: &Took) -> String {
    let style = style(printer);
    let width = usize::from(style.width);
    let mut text = format!("\n{}\n\n", fitted(&question(&result.job), "", width));
    push_line(&mut text, &table::candidates(&result.job, &result.candidates, style));
    for note in &result.notes {
        push_line(&mut text, &fitted(&format!("Note: {note}."), "", width));
    }
    if !result.rejected.is_empty() {
        let count = match result.rejected.len() {
            1 => "1 mapping was no candidate".to_owned(),
            n => format!("{n} mappings were no candidates"),
        };
        push_line(&mut text, &format!("{count}; {RESULT} says why."));
    }
    text.push('\n');
    let candidate = |engine: &SelectedEngine| result.candidates.get(engine.id as usize).map(|row| &row.candidate);
    if let (Some(prefill), Some(decode)) = (candidate(&result.selected.prefill), candidate(&result.selected.decode)) {
        push_line(&mut text, &table::plan(&result.job, &result.plan, prefill, decode, style));
    }
    if let Some(check) = &result.check {
        push_line(&mut text, &fitted(&checked(check, &result.job), "  ", width));
    }
    if let Some(reason) = &result.not_applied {
        push_line(&mut text, &format!("  Not applied: {reason}."));
    }
    for (role, engine) in [(Role::Prefill, &result.selected.prefill), (Role::Decode, &result.selected.decode)] {
        for sentence in engine.certainty.sentences(role, &engine.label, &engine.binding) {
            push_line(&mut text, &fitted(&sentence, "  ", width));
        }
    }
    if let Some(Incomplete { reason, not_looked_at }) = &result.incomplete {
        push_line(&mut text, &fitted(&format!("! Only the best answer so far: {reason}."), "  ", width));
        if !not_looked_at.is_empty() {
            push_line(&mut text, &fitted(&format!("Not looked at: {}.", not_looked_at.join(", ")), "    ", width));
        }
    }
    if result.degraded {
        let words = "! Degraded: a bundled plugin stood in for one that failed; the log says which and why.";
        push_line(&mut text, &fitted(words, "  ", width));
    }
    if !result.feasible {
        push_line(&mut text, "  ! Infeasible: nothing that was measured meets the SLA; this is the least bad answer.");
    }
    push_line(&mut text, &format!("\nFiles in {}", dir.display()));
    // A run that ended early has not written all of them.
    let is_there = |name: &str| result.incomplete.is_none() || name.contains('*') || dir.join(name).exists();
    for (name, what) in FILES.iter().filter(|(name, _)| is_there(name)) {
        push_line(&mut text, &format!("  {name:<32} {what}"));
    }
    let effort = format!(
        "{} points on {} engines: {} and {:.2} GPU-hours on the {} cluster, {:.1} s in reality.",
        result.cost.points,
        result.cost.launches,
        duration(took.cluster_s),
        took.gpu_seconds / 3600.0,
        result.cluster,
        took.real.as_secs_f64(),
    );
    push_line(&mut text, &format!("\n{}", fitted(&effort, "", width)));
    text
}

/// What was found out about an engine in one role.
pub fn one_role(printer: &Printer, job: &Job, role: Role, choice: &Choice, dir: &Path, took: &Took) -> String {
    let width = usize::from(style(printer).width);
    let verdict = if choice.meets_sla { "✓ within the SLA" } else { "✗ NOT within the SLA" };
    let mut text = format!("\n{}\n\n", fitted(&question(job), "", width));
    push_line(&mut text, &fitted(&format!("{role} engine: {}, {verdict}.", choice.reason), "  ", width));
    push_line(&mut text, &format!("\nFiles in {}", dir.display()));
    let curve = match role {
        Role::Prefill => PREFILL_CURVE,
        Role::Decode => DECODE_CURVE,
    };
    push_line(&mut text, &format!("  {:<32} the curve in Dynamo's form, and its pictures", format!("{curve}/")));
    push_line(&mut text, &format!("  {MEASUREMENTS:<32} every point with interval and sample count"));
    push_line(&mut text, &format!("\nMeasured for {}.", duration(took.cluster_s)));
    text
}

fn checked(check: &CheckReport, job: &Job) -> String {
    let verdict = if check.meets_sla { "✓ the plan holds" } else { "✗ the plan does NOT hold" };
    format!(
        "Check run at {} requests/s: {verdict}. TTFT {} ms, ITL {} ms ({}); {:.0} % of the requests are within every \
         target by themselves.",
        plain((check.load.requests_per_second * 100.0).round() / 100.0),
        plain(check.ttft_ms.target.round()),
        plain((check.itl_ms.target * 10.0).round() / 10.0),
        job.sla.statistic(),
        check.slo_attainment * 100.0,
    )
}

/// Wrapped at the width; further lines are indented a little more.
fn fitted(text: &str, indent: &str, width: usize) -> String {
    table::wrapped(text, indent, &format!("{indent}  "), width).join(
        "
",
    )
}

/// In words, since "10:24" may be hours and minutes or minutes and seconds.
fn duration(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, min, s) => format!("{min} min {s} s"),
        (h, min, _) => format!("{h} h {min} min"),
    }
}

/// What a run would do.
pub fn dry_run(printer: &Printer, job: &Job, space: &SearchSpace, estimate: &Estimate) -> String {
    let Estimate { likely: prediction, low, high, rests_on, budget } = estimate;
    let mut text = format!("\n{}\n\n", fitted(&question(job), "", usize::from(printer.width())));
    push_line(&mut text, "Would launch, one after the other or side by side as GPUs allow:");
    for launch in &prediction.launches {
        push_line(
            &mut text,
            &format!(
                "  at {:>8}  {:<24} {:>3} GPUs  {:>4} s to load  {:>3} points",
                clock(launch.at_s),
                if launch.also_for.is_empty() { launch.name.clone() } else { format!("{}, both roles", launch.name) },
                launch.gpus,
                launch.launch_s.round(),
                launch.points,
            ),
        );
    }
    push_line(&mut text, "\nWould measure:");
    for phase in prediction.phases.iter().filter(|phase| phase.points > 0) {
        push_line(
            &mut text,
            &format!(
                "  phase {} {:<22} {:>3} points  {:>8}",
                phase.phase.number(),
                phase.phase.title(),
                phase.points,
                clock(phase.seconds)
            ),
        );
    }
    let idle: Vec<String> = space
        .candidates
        .iter()
        .zip(0..)
        .filter(|(_, id)| !prediction.launches.iter().any(|l| l.candidate == *id || l.also_for.contains(id)))
        .map(|(candidate, _)| Candidate::name(candidate))
        .collect();
    if !idle.is_empty() {
        let line = format!("Would leave out: {}", idle.join(", "));
        push_line(&mut text, &format!("\n{}", fitted(&line, "", usize::from(printer.width()))));
    }
    if !space.rejected.is_empty() {
        push_line(&mut text, "\nNo candidates:");
        for rejected in &space.rejected {
            let role = rejected.role.map_or(String::new(), |role| format!("{role} "));
            let line = format!("{role}{}: {}", rejected.mapping, rejected.reason);
            push_line(&mut text, &fitted(&line, "  ", usize::from(printer.width())));
        }
    }
    push_line(
        &mut text,
        &format!(
            "\nPredicted: {} and {:.2} GPU-hours. Nothing was created.",
            duration(prediction.total_s),
            prediction.gpu_hours
        ),
    );
    let money =
        low.cost.zip(high.cost).map_or_else(String::new, |(low, high)| format!(", a cost of {low:.2} to {high:.2}"));
    let range = format!(
        "Range: {} to {}, {:.2} to {:.2} GPU-hours{money}; {} to {} launches, {} to {} points.",
        duration(low.wall_s),
        duration(high.wall_s),
        low.gpu_hours,
        high.gpu_hours,
        low.launches.min(high.launches),
        low.launches.max(high.launches),
        low.points.min(high.points),
        low.points.max(high.points),
    );
    let width = usize::from(printer.width());
    push_line(&mut text, &fitted(&range, "", width));
    push_line(&mut text, &fitted(&format!("It rests on {}.", rests_on.join("; ")), "  ", width));
    if let Some(budget) = budget {
        push_line(&mut text, &fitted(&format!("Budget: {budget}."), "", width));
    }
    text
}

fn push_line(text: &mut String, line: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}
