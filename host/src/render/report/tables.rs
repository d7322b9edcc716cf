//! The page's tables.

use super::{Html, Report};
use crate::domain::Role;
use crate::render::number::{grouped, plain, short};
use crate::replay::{Range, RoleReport, Row, Status};
use crate::run::Event;
use crate::run::timeline::clock;

const fn verdict(status: Status) -> &'static str {
    match status {
        Status::Selected => "selected",
        Status::Lost => "lost",
        Status::MissesSla => "misses SLA",
        Status::Failed => "failed",
        Status::NotMeasured => "not measured",
    }
}

/// The verdicts that occur, as options of the filter.
pub(super) fn verdicts(report: &Report<'_>) -> Html {
    let mut names: Vec<&str> = Vec::new();
    if let Ok(explanation) = report.explanation {
        for row in explanation.roles.iter().flat_map(|role| &role.rows) {
            if !names.contains(&verdict(row.status)) {
                names.push(verdict(row.status));
            }
        }
    }
    names.into_iter().fold(Html::default(), |html, name| html.element("option", name))
}

fn range(range: &Range) -> String {
    match range.below_ms {
        Some(below) => format!("{} to {} ms", plain(range.from_ms), plain(below)),
        None => format!("{} ms or more", plain(range.from_ms)),
    }
}

fn head(html: Html, columns: &[(&str, bool)]) -> Html {
    let row = columns.iter().fold(html.raw("<thead><tr>"), |html, (name, number)| {
        html.element(if *number { "th scope=\"col\" class=\"n\"" } else { "th scope=\"col\"" }, name)
    });
    row.raw("</tr></thead>\n<tbody>\n")
}

/// A number, with its value for sorting.
fn cell(html: Html, value: Option<f64>, shown: &str) -> Html {
    let html = html.raw("<td class=\"n\" data-value=\"");
    let html = html.text(&value.map_or_else(String::new, |value| value.to_string()));
    html.raw("\">").text(shown).raw("</td>")
}

pub(super) fn candidates(report: &Report<'_>) -> Html {
    let explanation = match report.explanation {
        Ok(explanation) => explanation,
        Err(reason) => return Html::default().element("p", &format!("The candidates cannot be compared: {reason}.")),
    };
    let mut html = Html::default().raw("<table id=\"candidate-table\">");
    html = head(
        html,
        &[
            ("candidate", false),
            ("GPUs", true),
            ("verdict", false),
            ("latency, ms", true),
            ("± ms", true),
            ("tokens/s/GPU", true),
            ("to the winner", true),
            ("at once", true),
            ("bound by", false),
            ("wins under", false),
            ("points", true),
            ("why", false),
        ],
    );
    for role in &explanation.roles {
        for row in &role.rows {
            html = candidate(report, html, role, row);
        }
    }
    html.raw("</tbody></table>")
}

/// Half of the interval of the mean at the operating point.
fn half_interval(report: &Report<'_>, role: Role, row: &Row) -> Option<f64> {
    let job = &report.recording.started().job;
    let m = report.recording.measurements().map(|(_, m)| m).find(|m| {
        (m.candidate, Some(m.concurrency), m.isl) == (row.candidate, row.concurrency, job.workload.isl)
            && (role == Role::Prefill || m.osl == job.workload.osl)
    })?;
    let stat = match role {
        Role::Prefill => m.ttft_ms,
        Role::Decode => m.itl_ms,
    }?;
    Some((stat.ci_high - stat.ci_low) / 2.0)
}

fn candidate(report: &Report<'_>, html: Html, of: &RoleReport, row: &Row) -> Html {
    let number = |value: Option<f64>, show: fn(f64) -> String| value.map_or_else(|| "–".to_owned(), show);
    let html = html.raw(if row.status == Status::Selected { "<tr class=\"selected\"" } else { "<tr" });
    let html =
        html.raw(&format!(" data-id=\"{}\" data-role=\"{}\" data-gpus=\"{}\"", row.candidate, of.role, row.gpus));
    let html = html.raw(" data-verdict=\"").text(verdict(row.status)).raw("\">");
    let html = html.element("th scope=\"row\"", &format!("{} {}", of.role, row.mapping));
    let html = cell(html, Some(row.gpus.into()), &row.gpus.to_string());
    let html = html.element("td", verdict(row.status));
    let html = cell(html, row.latency_ms, &number(row.latency_ms, short));
    let half = half_interval(report, of.role, row);
    let html = cell(html, half, &number(half, short));
    let html = cell(html, row.tokens_per_second_per_gpu, &number(row.tokens_per_second_per_gpu, |v| grouped(v, 0)));
    let gap = row.throughput_gap.filter(|_| row.status != Status::Selected);
    let html = cell(html, gap, &number(gap, |gap| format!("{:+.0} %", gap * 100.0)));
    let at_once = row.concurrency.map(f64::from);
    let html = cell(html, at_once, &number(at_once, |v| grouped(v, 0)));
    let html = html.element("td", if row.binding.is_empty() { "–" } else { &row.binding });
    let ranges: Vec<String> = row.wins_under.iter().map(range).collect();
    let wins = match (row.points, ranges.as_slice()) {
        (0, _) => "unknown".to_owned(),
        (_, []) => "none".to_owned(),
        (_, ranges) => format!("{} {}", of.scanned.to_uppercase(), ranges.join(", ")),
    };
    let html = html.element("td class=\"wins\"", &wins);
    let html = cell(html, Some(row.points as f64), &row.points.to_string());
    html.element("td class=\"why\"", &row.reason).raw("</tr>\n")
}

/// The front of each role, and what an SLA would have to be to be met.
pub(super) fn front(report: &Report<'_>) -> Html {
    let Ok(explanation) = report.explanation else { return Html::default() };
    let mut html = Html::default();
    for role in &explanation.roles {
        let target = role.scanned.to_uppercase();
        html = html.raw("<details><summary>").text(&format!("Pareto front, {}", role.role)).raw("</summary>\n");
        html = html.raw("<table>");
        html = head(html, &[("candidate", false), ("at once", true), ("latency, ms", true), ("tokens/s/GPU", true)]);
        for point in &role.front {
            html = html.raw("<tr>").element("th scope=\"row\"", &format!("{} {}", role.role, point.mapping));
            html = html.element("td class=\"n\"", &point.concurrency.to_string());
            html = html.element("td class=\"n\"", &short(point.latency_ms));
            html = html.element("td class=\"n\"", &grouped(point.tokens_per_second_per_gpu, 0)).raw("</tr>\n");
        }
        html = html.raw("</tbody></table></details>\n");
        let text = match (role.feasible, role.nearest_achievable_ms) {
            (true, Some(ms)) => {
                format!("The tightest {target} that a measured {} point meets is {} ms.", role.role, plain(ms))
            }
            (false, Some(ms)) => format!(
                "No {} candidate meets the SLA. The nearest achievable target is {target} {} ms.",
                role.role,
                plain(ms)
            ),
            (_, None) => format!("No {target} target makes any measured {} point meet the SLA.", role.role),
        };
        html = html.element(if role.feasible { "p" } else { "p class=\"no\"" }, &text).raw("\n");
    }
    html
}

pub(super) fn rejected(report: &Report<'_>) -> Html {
    let rejected = &report.recording.started().rejected;
    if rejected.is_empty() {
        return Html::default();
    }
    let title = format!("No candidates: {}", rejected.len());
    let mut html = Html::default().raw("<details><summary>").text(&title).raw("</summary>\n<ul>\n");
    for one in rejected {
        let role = one.role.map_or(String::new(), |role| format!("{role} "));
        html = html.element("li", &format!("{role}{}: {}", one.mapping.label(), one.reason)).raw("\n");
    }
    html.raw("</ul></details>\n")
}

pub(super) fn failures(report: &Report<'_>) -> Html {
    let mut html = Html::default();
    for record in report.recording.records() {
        let (phase, failure, then) = match &record.event {
            Event::Failed { phase, failure } => (phase, failure, String::new()),
            Event::Retrying { phase, retry } => {
                (phase, &retry.failure, format!("; tried again after {:.0} s", retry.pause_s))
            }
            _ => continue,
        };
        let name =
            report.recording.candidate(failure.candidate).map(crate::domain::Candidate::name).unwrap_or_default();
        html = html.raw("<tr>").element("td class=\"n\"", &clock(record.at_s)).element("td", phase.title());
        html = html.element("th scope=\"row\"", &name).element("td", &class_text(failure));
        html = html.element("td class=\"why\"", &format!("{}{then}", failure.reason)).raw("</tr>\n");
    }
    if html.is_empty() {
        return html;
    }
    let top = Html::default()
        .raw("<h3>Failures</h3>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Failures\"><table>");
    let columns = [("at", true), ("phase", false), ("candidate", false), ("class", false), ("reason", false)];
    head(top, &columns).raw(&html.0).raw("</tbody></table></div>\n")
}

/// `launch failed (evicted)`
fn class_text(failure: &crate::domain::Failure) -> String {
    failure.cause.map_or_else(|| failure.class.to_string(), |cause| format!("{} ({cause})", failure.class))
}

pub(super) fn totals(report: &Report<'_>) -> Html {
    let totals = &report.tenancy.totals;
    let all = totals.launching + totals.measuring + totals.idle + totals.free;
    let mut html = head(Html::default().raw("<table>"), &[("GPUs were", false), ("GPU-hours", true), ("share", true)]);
    for (name, seconds) in [
        ("launching", totals.launching),
        ("measuring", totals.measuring),
        ("held, not measuring", totals.idle),
        ("held by nobody", totals.free),
    ] {
        let share = if all > 0.0 { seconds / all * 100.0 } else { 0.0 };
        html = html.raw("<tr>").element("th scope=\"row\"", name);
        html = html.element("td class=\"n\"", &grouped(seconds / 3600.0, 3));
        html = html.element("td class=\"n\"", &format!("{share:.0} %")).raw("</tr>\n");
    }
    html.raw("</tbody></table>\n")
}

/// The same as the picture, as a table.
pub(super) fn tenures(report: &Report<'_>) -> Html {
    let mut html = Html::default().raw("<details><summary>Engines, one by one</summary>\n<div class=\"scroll tall\" tabindex=\"0\" role=\"region\" aria-label=\"Engines, one by one\"><table>");
    html = head(
        html,
        &[
            ("engine", false),
            ("GPUs", true),
            ("from", true),
            ("to", true),
            ("launching, s", true),
            ("measuring, s", true),
            ("idle, s", true),
            ("", false),
        ],
    );
    for tenure in &report.tenancy.tenures {
        let name = match tenure.candidate.and_then(|id| report.recording.candidate(id)) {
            Some(first) => {
                let others = tenure.also.iter().filter_map(|id| report.recording.candidate(*id));
                let others: String = others.map(|other| format!(" and {}", other.role)).collect();
                format!("{}{others} {}", first.role, first.mapping.label())
            }
            None => "the deployment".to_owned(),
        };
        let gpus: u32 = tenure.lanes.iter().map(|[_, count]| count).sum();
        let launching = tenure.launched_s.unwrap_or(tenure.to_s) - tenure.from_s;
        let measuring: f64 = tenure.measuring.iter().map(|[from, to]| to - from).sum();
        let idle = (tenure.to_s - tenure.from_s - launching - measuring).max(0.0);
        html = html.raw("<tr>").element("th scope=\"row\"", &name);
        for text in [gpus.to_string(), clock(tenure.from_s), clock(tenure.to_s)] {
            html = html.element("td class=\"n\"", &text);
        }
        for seconds in [launching, measuring, idle] {
            html = html.element("td class=\"n\"", &grouped(seconds, 1));
        }
        html = html.element("td", if tenure.failed { "failed" } else { "" }).raw("</tr>\n");
    }
    html.raw("</tbody></table></div></details>\n")
}
