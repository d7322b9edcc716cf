//! What the page says in words.

use super::{Html, Report};
use crate::domain::{Demand, Job, Plan, Role, Selection};
use crate::engine::CheckReport;
use crate::plugin::api::Identity;
use crate::render::number::{grouped, plain, short};
use crate::run::{Event, Phase};

/// The head of the page.
pub(super) struct Answer {
    pub(super) headline: String,
    pub(super) badge: &'static str,
    pub(super) good: bool,
}

fn selection_and_plan(report: &Report<'_>) -> Option<(Selection, Plan)> {
    Some((report.recording.selection()?.1, report.recording.plan()?.1))
}

fn check<'a>(report: &Report<'a>) -> Option<&'a CheckReport> {
    report.recording.records().iter().rev().find_map(|record| match &record.event {
        Event::Checked { report } => Some(report),
        _ => None,
    })
}

/// Label and GPUs of a role's winner.
fn winner(report: &Report<'_>, selection: &Selection, role: Role) -> (String, u32) {
    let choice = selection.ranking(role).first();
    let candidate = choice.and_then(|choice| report.recording.candidate(choice.candidate));
    candidate.map_or_else(|| ("?".to_owned(), 0), |c| (c.mapping.label(), c.gpus()))
}

fn feasible(selection: &Selection, plan: &Plan) -> bool {
    plan.meets_sla && Role::ALL.iter().all(|role| selection.ranking(*role).first().is_some_and(|c| c.meets_sla))
}

pub(super) fn answer(report: &Report<'_>) -> Answer {
    let Some((selection, plan)) = selection_and_plan(report) else {
        return Answer { headline: "No plan yet".to_owned(), badge: "The run did not come to its end", good: false };
    };
    let (prefill, decode) = (winner(report, &selection, Role::Prefill).0, winner(report, &selection, Role::Decode).0);
    let headline =
        format!("{} × {prefill} prefill + {} × {decode} decode", plan.prefill_replicas, plan.decode_replicas);
    let missed = check(report).is_some_and(|check| !check.meets_sla);
    let (badge, good) = match (feasible(&selection, &plan), missed) {
        (false, _) => ("Does not meet the SLA: the least bad answer", false),
        (true, true) => ("Meets the SLA by the plan, but the check run missed it", false),
        (true, false) => ("Meets the SLA", true),
    };
    Answer { headline, badge, good }
}

pub(super) fn job(report: &Report<'_>) -> String {
    let Job { model, backend, hardware, .. } = &report.recording.started().job;
    format!("{} · {backend} · {} × {}", model.name, hardware.total_gpus, hardware.gpu.name)
}

pub(super) fn question(report: &Report<'_>) -> String {
    let Job { workload, sla, demand, .. } = &report.recording.started().job;
    let target = |name: &str, ms: Option<f64>| ms.map(|ms| format!("{name} ≤ {} ms", plain(ms)));
    let targets: Vec<String> =
        [target("TTFT", sla.ttft_ms), target("ITL", sla.itl_ms), target("whole answer", sla.e2e_ms)]
            .into_iter()
            .flatten()
            .collect();
    let targets = if targets.is_empty() { "no target".to_owned() } else { targets.join(", ") };
    let demand = match demand {
        Demand::RequestsPerSecond(rate) => format!("{} requests/s", plain(*rate)),
        Demand::Concurrency(count) => format!("{count} requests at once"),
        Demand::Budget => "as many requests as the GPUs serve".to_owned(),
    };
    format!(
        "{} tokens in, {} out · {targets} ({}) · {demand}",
        grouped(workload.isl.into(), 0),
        grouped(workload.osl.into(), 0),
        sla.statistic()
    )
}

fn figure(list: Html, name: &str, value: &str, small: &str) -> Html {
    list.raw("<div>").element("dt", name).raw("<dd>").text(value).element("small", small).raw("</dd></div>\n")
}

pub(super) fn figures(report: &Report<'_>) -> Html {
    let job = &report.recording.started().job;
    let mut list = Html::default().raw("<dl class=\"figures\">\n");
    if let Some((selection, plan)) = selection_and_plan(report) {
        let gpus = winner(report, &selection, Role::Prefill).1 * plan.prefill_replicas
            + winner(report, &selection, Role::Decode).1 * plan.decode_replicas;
        let total = job.hardware.total_gpus;
        list = figure(list, "GPUs", &gpus.to_string(), &format!("of {total} that may be used"));
        let asked = match job.demand {
            Demand::RequestsPerSecond(rate) => format!("{} are asked for", plain(rate)),
            Demand::Concurrency(count) => format!("{count} at once are asked for"),
            Demand::Budget => "no rate is asked for".to_owned(),
        };
        list = figure(list, "Requests per second", &short(plan.capacity_requests_per_second), &asked);
        let within = |target: Option<f64>, value: f64| {
            target.map_or_else(
                || "no target of its own".to_owned(),
                |ms| format!("{} {} ms", if value <= ms { "within" } else { "MISSES" }, plain(ms)),
            )
        };
        let (ttft, itl) = (plan.expected_ttft_ms, plan.expected_itl_ms);
        list = figure(list, "TTFT expected", &format!("{} ms", short(ttft)), &within(job.sla.ttft_ms, ttft));
        list = figure(list, "ITL expected", &format!("{} ms", short(itl)), &within(job.sla.itl_ms, itl));
    }
    if let Some(check) = check(report) {
        let value = if check.meets_sla { "holds" } else { "missed" };
        let small = format!(
            "at {} requests/s: TTFT {} ms, ITL {} ms",
            short(check.load.requests_per_second),
            short(check.ttft_ms.target),
            short(check.itl_ms.target)
        );
        list = figure(list, "Check run", value, &small);
    }
    let totals = &report.tenancy.totals;
    let hours = (totals.launching + totals.measuring + totals.idle) / 3600.0;
    let points = report.recording.measurements().count();
    let small = format!("GPU-hours for {} points in {} s", grouped(points as f64, 0), grouped(report.tenancy.end_s, 0));
    list = figure(list, "Measuring took", &grouped(hours, 2), &small);
    list.raw("</dl>")
}

pub(super) fn notes(report: &Report<'_>) -> Html {
    let records = report.recording.records();
    let mut items = Html::default();
    for record in records {
        let warning = match &record.event {
            Event::Infeasible { reason } => Some(format!("Infeasible: {reason}.")),
            Event::PluginFailed { plugin, error, fallback, .. } => Some(match fallback {
                Some(other) => format!("{} failed, and {} decided in its place: {error}", plugin.name, other.name),
                None => format!("{} failed: {error}", plugin.name),
            }),
            Event::PhaseSkipped { phase: Phase::AutoApply, reason } => Some(format!("Not applied: {reason}.")),
            Event::RolledBack { what } => Some(format!("Rolled back: {what}.")),
            _ => None,
        };
        if let Some(warning) = warning {
            items = items.element("li class=\"warn\"", &warning).raw("\n");
        }
    }
    if !matches!(records.last().map(|record| &record.event), Some(Event::RunFinished { .. })) {
        let text = "The run did not come to its end: `sla-profiler profile` with --resume goes on with it.";
        items = items.element("li class=\"warn\"", text).raw("\n");
    }
    items = shortfall(report, items);
    let said = report.recording.selection().map(|(_, selection)| selection.notes).unwrap_or_default();
    for note in said.iter().chain(report.notes) {
        items = items.element("li", note).raw("\n");
    }
    if let Some((_, plan)) = report.recording.plan().filter(|(_, plan)| !plan.assumptions.is_empty()) {
        items = items.element("li", &format!("The plan assumes: {}", plan.assumptions.join(" "))).raw("\n");
    }
    if items.is_empty() { items } else { Html(format!("<ul class=\"notes\">\n{}</ul>", items.0)) }
}

/// What would have been met, where the plan falls short.
fn shortfall(report: &Report<'_>, mut items: Html) -> Html {
    let Some(plan) = report.explanation.ok().and_then(|explanation| explanation.plan.as_ref()) else { return items };
    if let Some(gpus) = plan.gpus_needed {
        let text = format!("The {} GPUs do not reach for the demand. {gpus} would.", plan.total_gpus);
        items = items.element("li class=\"warn\"", &text).raw("\n");
    }
    if let Some(loosened) = &plan.loosened {
        let target = |name: &str, ms: Option<f64>| ms.map(|ms| format!("{name} ≤ {} ms", plain(ms)));
        let sla = &loosened.targets;
        let targets = [target("TTFT", sla.ttft_ms), target("ITL", sla.itl_ms), target("whole answer", sla.e2e_ms)];
        let targets = targets.into_iter().flatten().collect::<Vec<_>>().join(", ");
        let text = format!("{targets} would be met: targets {:.2} times as loose.", loosened.factor);
        items = items.element("li class=\"warn\"", &text).raw("\n");
    }
    items
}

pub(super) fn picker(report: &Report<'_>) -> Html {
    let picks = match report.picks {
        Ok(picks) => picks,
        Err(reason) => {
            let text = format!(
                "There is no picker for this run: {reason}. `sla-profiler replay RUN --ttft MS --itl MS` asks other policies."
            );
            return Html::default().element("p", &text);
        }
    };
    let named = |identity: Option<&Identity>| identity.map_or("?", |identity| identity.name.as_str()).to_owned();
    let by = report.recording;
    let (selection, planner) = (
        named(by.identity(crate::plugin::api::Kind::SelectionPolicy)),
        named(by.identity(crate::plugin::api::Kind::PlannerModel)),
    );
    let asked = picks.answers.len();
    let mut html = Html::default().raw("<p class=\"hint\" id=\"pick-rule\">").text(&format!(
        "Who decides here: the run's own policies, {selection} and {planner}. They run in a sandbox that a page does not \
         have, so that they were asked beforehand, under {asked} combinations of targets; between two of these the answer \
         of the tighter one is shown, which keeps the looser target too. For targets in between, another policy, another \
         rate or another GPU budget: "
    ));
    html = html
        .element("code", "sla-profiler replay RUN --ttft MS --itl MS --selection PLUGIN --request-rate R")
        .raw(".</p>\n");
    if !picks.same_as_recorded {
        html = html.element(
            "p class=\"no\"",
            "Asked again, these policies answer otherwise at the run's own SLA than the run did; the answer above is the run's.",
        );
    }
    html.raw(concat!(
        "<form class=\"controls\" id=\"pick-form\" aria-label=\"Targets\" aria-describedby=\"pick-rule\" hidden></form>\n",
        "<noscript><p>The picker needs a script, which does not run here.</p></noscript>\n",
        "<div class=\"pick-answer\"><div id=\"pick-result\" aria-live=\"polite\"><h3></h3><dl></dl></div>\n",
        "<div><div class=\"controls\"><button type=\"button\" id=\"pick-copy\" disabled>Copy the YAML</button>",
        "<button type=\"button\" id=\"pick-download\" disabled>Save it as a file</button>",
        "<output id=\"pick-said\" aria-live=\"polite\"></output></div>\n",
        "<pre id=\"pick-yaml\" tabindex=\"0\" role=\"region\" aria-label=\"Deployment, for kubectl apply -f\"></pre></div></div>",
    ))
}

pub(super) fn points_summary(report: &Report<'_>) -> String {
    format!("All {} measured points", grouped(report.recording.measurements().count() as f64, 0))
}

/// Points that were not measured anew, by the run that measured them.
fn reused(report: &Report<'_>) -> std::collections::BTreeMap<String, usize> {
    let mut runs = std::collections::BTreeMap::new();
    for record in report.recording.records() {
        if let Event::Reused { run, .. } = &record.event {
            *runs.entry(run.clone()).or_insert(0) += 1;
        }
    }
    runs
}

fn entry(list: Html, name: &str, value: &str) -> Html {
    list.element("dt", name).raw("<dd>").element("code", value).raw("</dd>\n")
}

pub(super) fn provenance(report: &Report<'_>) -> Html {
    let started = report.recording.started();
    let resumed = report.recording.records().iter().filter(|r| matches!(r.event, Event::Resumed { .. })).count();
    let mut list = Html::default().raw("<div class=\"provenance\"><dl>\n");
    list = entry(list, "Program", &format!("sla-profiler {}", started.version));
    list = entry(list, "Cluster", &started.cluster);
    list = entry(list, "Seed", &started.job.seed.to_string());
    list = entry(list, "Digest of what was asked for", &started.spec_sha256);
    list = entry(list, "Resumed", &format!("{resumed} times"));
    for (run, points) in reused(report) {
        list = entry(list, "Taken over", &format!("{points} points of {run}"));
    }
    list = entry(list, "Journal", &format!("{} records", grouped(report.recording.records().len() as f64, 0)));
    list = list
        .raw("</dl>\n<h3>Plugins</h3>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Plugins\">");
    list = list.raw("<table><thead><tr>");
    for head in ["decides", "plugin", "version", "from", "SHA-256", "settings"] {
        list = list.element("th scope=\"col\"", head);
    }
    list = list.raw("</tr></thead><tbody>\n");
    for plugin in &started.plugins {
        let choice = report.recording.choice(plugin.kind);
        let settings = choice.map_or_else(String::new, |choice| {
            choice.settings.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ")
        });
        let from = match choice {
            _ if plugin.bundled => "bundled",
            Some(choice) => choice.plugin.as_str(),
            None => "a file",
        };
        list = list.raw("<tr>").element("th scope=\"row\"", &plugin.kind.to_string()).element("td", &plugin.name);
        list = list.element("td", &plugin.version).element("td", from).raw("<td>").element("code", &plugin.sha256);
        list = list.raw("</td>").element("td", if settings.is_empty() { "defaults" } else { &settings });
        list = list.raw("</tr>\n");
    }
    list = list.raw("</tbody></table></div>\n");
    let pretty = |value: serde_json::Result<String>| value.unwrap_or_else(|error| error.to_string());
    let block = |list: Html, id: &str, title: &str, text: &str| {
        let list = list
            .raw("<details><summary>")
            .text(title)
            .raw("</summary><pre tabindex=\"0\" role=\"region\" aria-label=\"");
        list.text(title).raw("\" id=\"").raw(id).raw("\">").text(text).raw("</pre></details>\n")
    };
    list = block(list, "job-json", "The job, as policies saw it", &pretty(serde_json::to_string_pretty(&started.job)));
    if let Some(simulation) = &started.simulation {
        list =
            block(list, "simulation-json", "The simulated cluster", &pretty(serde_json::to_string_pretty(simulation)));
    }
    list.raw("</div>")
}
