//! What the terminal shows at the end: the candidates with their verdicts, and the plan.
//!
//! Pure: the width and whether colours may be used are told; nothing is meant by colour alone.

use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, TableComponent, Width, presets,
};

use super::number::{grouped, plain, short, with_error};
use super::result::{CandidateRow, Verdict};
use crate::domain::{Candidate, Job, Measurement, Plan, Role, Stat};

/// How to write for the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Columns of the terminal.
    pub width: u16,
    /// Whether colours and bold type may be used.
    pub styled: bool,
}

/// Mark and words.
const fn text(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Selected => "★ selected",
        Verdict::MeetsSla => "✓ meets SLA",
        Verdict::MissesSla => "✗ misses SLA",
        Verdict::Failed => "! failed",
        Verdict::NotMeasured => "– not measured",
    }
}

const fn colour(verdict: Verdict) -> Option<Color> {
    match verdict {
        Verdict::Selected => Some(Color::Green),
        Verdict::MeetsSla => None,
        Verdict::MissesSla => Some(Color::Yellow),
        Verdict::Failed => Some(Color::Red),
        Verdict::NotMeasured => None,
    }
}

/// The candidates in the order given. The reason takes what the other columns leave, and as many lines as it needs.
pub fn candidates(job: &Job, rows: &[CandidateRow], style: Style) -> String {
    let mut table = Table::new();
    // Without a terminal, as far as this crate is concerned: width and colour are the caller's to know.
    table.force_no_tty().load_preset(presets::UTF8_HORIZONTAL_ONLY);
    // Rules above and below the heading and at the end are enough.
    for line in [TableComponent::HorizontalLines, TableComponent::MiddleIntersections] {
        table.remove_style(line);
    }
    for line in [TableComponent::LeftBorderIntersections, TableComponent::RightBorderIntersections] {
        table.remove_style(line);
    }
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(style.width.max(60));
    if style.styled {
        table.enforce_styling();
    }
    let statistic = job.sla.statistic();
    let header = ["candidate", "GPUs", "latency, ms", "tok/s/GPU", "at once", "verdict"];
    table.set_header(header.map(|h| styled(Cell::new(h), style, None, true)));
    for row in rows {
        let colour = colour(row.verdict);
        let selected = row.verdict == Verdict::Selected;
        let (latency, rate, concurrency) = match &row.best {
            Some(m) => (
                latency(row.candidate.role, m, &statistic),
                short(rate(row.candidate.role, m)),
                grouped(m.concurrency.into(), 0),
            ),
            None => ("–".to_owned(), "–".to_owned(), "–".to_owned()),
        };
        let verdict = if row.reason.is_empty() {
            text(row.verdict).to_owned()
        } else {
            format!("{}: {}", text(row.verdict), row.reason)
        };
        let cells = [
            Cell::new(row.candidate.name()),
            Cell::new(row.candidate.gpus()).set_alignment(CellAlignment::Right),
            Cell::new(latency),
            Cell::new(rate).set_alignment(CellAlignment::Right),
            Cell::new(concurrency).set_alignment(CellAlignment::Right),
            Cell::new(verdict),
        ];
        table.add_row(cells.map(|cell| styled(cell, style, colour, selected)));
    }
    // Figures stay on one line; mappings may be long only where they fit no usual kind.
    for (column, widest) in table.column_iter_mut().zip([28, 6, 30, 11, 9]) {
        column.set_padding((0, 1));
        column.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(widest)));
    }
    trimmed(&table.to_string())
}

/// Latency in the SLA's statistic, with the confidence interval of the mean.
fn latency(role: Role, m: &Measurement, statistic: &str) -> String {
    let (name, stat) = match role {
        Role::Prefill => ("TTFT", m.ttft_ms),
        Role::Decode => ("ITL", m.itl_ms),
    };
    let Some(Stat { mean, ci_low, ci_high, target, .. }) = stat else { return "–".to_owned() };
    let mean = with_error(mean, (ci_high - ci_low) / 2.0);
    if statistic == "mean" {
        format!("{name} {mean}")
    } else {
        format!("{name} {statistic} {}, mean {mean}", short(target))
    }
}

const fn rate(role: Role, m: &Measurement) -> f64 {
    match role {
        Role::Prefill => m.input_tokens_per_second_per_gpu,
        Role::Decode => m.output_tokens_per_second_per_gpu,
    }
}

fn styled(cell: Cell, style: Style, colour: Option<Color>, bold: bool) -> Cell {
    if !style.styled {
        return cell;
    }
    let cell = if bold { cell.add_attribute(Attribute::Bold) } else { cell };
    colour.into_iter().fold(cell, Cell::fg)
}

/// The plan in words: what to deploy, what it serves, how fast, on which assumptions.
pub fn plan(job: &Job, plan: &Plan, prefill: &Candidate, decode: &Candidate, style: Style) -> String {
    let width = usize::from(style.width.max(60));
    let bold = |text: &str| if style.styled { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() };
    let mut lines = vec![bold("Plan")];
    let mut gpus = 0;
    for (replicas, candidate, served) in [
        (plan.prefill_replicas, prefill, plan.prefill_requests_per_second),
        (plan.decode_replicas, decode, plan.decode_requests_per_second),
    ] {
        let own = u64::from(replicas) * u64::from(candidate.gpus());
        gpus += own;
        let engine = format!("{replicas} × {}", candidate.name());
        lines.push(format!("  {engine:<24} {own:>5} {:<5} {:>9} requests/s", gpu_word(own), short(served)));
    }
    let budget = job.hardware.total_gpus;
    let capacity = short(plan.capacity_requests_per_second);
    lines.push(format!("  Together {gpus} of {budget} GPUs serve {capacity} requests/s."));
    if !plan.meets_demand {
        lines.push("  ! The GPU budget does not reach for the demand.".to_owned());
    }
    let statistic = job.sla.statistic();
    for (name, expected, target) in [
        ("TTFT", plan.expected_ttft_ms, job.sla.ttft_ms),
        ("ITL", plan.expected_itl_ms, job.sla.itl_ms),
        ("End to end", end_to_end(job, plan), job.sla.e2e_ms),
    ] {
        let verdict = match target {
            Some(target) if expected <= target => format!(", ✓ meets the target of {} ms", plain(target)),
            Some(target) => format!(", ✗ misses the target of {} ms", plain(target)),
            None if name == "End to end" => continue,
            None => String::new(),
        };
        lines.push(format!("  {name} {statistic}: {} ms expected{verdict}.", short(expected)));
    }
    lines.push(format!("  Up to {} requests at once per decode engine.", grouped(plan.decode_concurrency.into(), 0)));
    if !plan.meets_sla {
        lines.push(bold("  ! Infeasible: no plan within the budget meets the SLA; this one comes nearest."));
    }
    if !plan.assumptions.is_empty() {
        let sentences: Vec<String> = plan.assumptions.iter().map(|assumption| sentence(assumption)).collect();
        lines.extend(wrapped(&sentences.join(" "), "  Assumes: ", "    ", width));
    }
    lines.join("\n")
}

/// TTFT + ITL · (OSL − 1), as the SLA defines it.
fn end_to_end(job: &Job, plan: &Plan) -> f64 {
    plan.expected_ttft_ms + plan.expected_itl_ms * f64::from(job.workload.osl.saturating_sub(1))
}

const fn gpu_word(n: u64) -> &'static str {
    if n == 1 { "GPU" } else { "GPUs" }
}

/// With a full stop, however the plugin that wrote it ends its lines.
fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

/// Words in lines of at most the width, where they have blanks to break at.
pub(crate) fn wrapped(text: &str, first: &str, rest: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = first.to_owned();
    let mut fresh = true;
    for word in text.split_whitespace() {
        if !fresh && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, rest.to_owned()));
            fresh = true;
        }
        if !fresh {
            line.push(' ');
        }
        line.push_str(word);
        fresh = false;
    }
    lines.push(line);
    lines
}

/// Without blanks at line ends.
fn trimmed(text: &str) -> String {
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Backend, Demand, Dtype, GpuSku, Hardware, Mapping, Model, Sla, Workload, candidate::Prior};

    fn job(quantile: Option<f64>) -> Job {
        Job {
            model: Model {
                name: "m".to_owned(),
                architecture: "LlamaForCausalLM".to_owned(),
                layers: 1,
                hidden: 1,
                heads: 1,
                kv_heads: 1,
                head_dim: 1,
                intermediate: 1,
                vocabulary: 1,
                tied_embeddings: false,
                max_context_tokens: 1,
                weight_dtype: Dtype::Bf16,
                kv_dtype: Dtype::Bf16,
                quant_block: None,
                moe: None,
                latent_attention: None,
                source: String::new(),
            },
            hardware: Hardware {
                gpu: GpuSku {
                    name: "h200_sxm".to_owned(),
                    memory_bytes: 1.0,
                    bf16_flops: 1.0,
                    fp8_flops: None,
                    fp4_flops: None,
                    memory_bytes_per_second: 1.0,
                    link_bytes_per_second: 1.0,
                    network_bytes_per_second: 1.0,
                    gpus_per_node: 8,
                    source: String::new(),
                },
                gpus_per_node: 8,
                total_gpus: 16,
            },
            backend: Backend::Vllm,
            workload: Workload { isl: 3000, osl: 150 },
            sla: Sla { ttft_ms: Some(200.0), itl_ms: Some(20.0), e2e_ms: None, quantile },
            demand: Demand::Budget,
            max_context_tokens: 1,
            seed: 1,
        }
    }

    fn candidate(role: Role, mapping: Mapping) -> Candidate {
        let prior = Prior { latency_ms: 1.0, tokens_per_second_per_gpu: 1.0, relative_error: 0.0, kv_tokens: 1.0 };
        Candidate { role, mapping, prior }
    }

    fn row(role: Role, gpus: u32, latency_ms: Option<f64>, verdict: Verdict, reason: &str) -> CandidateRow {
        let best = latency_ms.map(|mean| {
            let stat = Stat {
                mean,
                p50: mean,
                p90: mean,
                p99: mean,
                ci_low: mean * 0.98,
                ci_high: mean * 1.02,
                target: mean * 1.2,
            };
            Measurement {
                candidate: 0,
                isl: 3000,
                osl: 150,
                concurrency: 1234,
                concurrency_seen: 1000.0,
                ttft_ms: (role == Role::Prefill).then_some(stat),
                itl_ms: (role == Role::Decode).then_some(stat),
                samples: 9,
                failed_requests: 0,
                input_tokens_per_second_per_gpu: 12_345.6,
                output_tokens_per_second_per_gpu: 1234.5,
                kv_usage: 0.5,
                kv_usage_nominal: 0.5,
                duration_s: 1.0,
            }
        });
        CandidateRow {
            id: 0,
            candidate: candidate(role, Mapping::tensor(gpus)),
            label: String::new(),
            gpus,
            facts: None,
            best,
            verdict,
            reason: reason.to_owned(),
            binding: String::new(),
        }
    }

    fn rows() -> Vec<CandidateRow> {
        vec![
            row(Role::Prefill, 4, Some(181.3), Verdict::Selected, "highest throughput per GPU within TTFT ≤ 200 ms"),
            row(Role::Prefill, 8, Some(110.0), Verdict::MeetsSla, "31 % less throughput per GPU than tp4"),
            row(Role::Prefill, 2, Some(322.1), Verdict::MissesSla, "TTFT 322 ms > 200 ms"),
            row(Role::Decode, 1, None, Verdict::Failed, "does not fit: weights take 141 GB of 141 GB"),
            row(Role::Decode, 8, Some(9.4), Verdict::NotMeasured, ""),
        ]
    }

    fn a_plan() -> Plan {
        Plan {
            prefill_replicas: 2,
            decode_replicas: 1,
            capacity_requests_per_second: 12.34,
            prefill_requests_per_second: 14.0,
            decode_requests_per_second: 12.34,
            decode_concurrency: 96,
            expected_ttft_ms: 190.0,
            expected_itl_ms: 21.0,
            meets_sla: false,
            meets_demand: false,
            assumptions: vec![
                "arrivals are Poisson and each prefill engine takes one prompt at a time, first come first served"
                    .to_owned(),
            ],
        }
    }

    fn widest(text: &str) -> usize {
        text.lines().map(|l| l.chars().count()).max().unwrap_or(0)
    }

    #[test]
    fn tables_keep_to_the_width_and_lose_nothing() {
        for width in [80, 100, 120, 200] {
            for quantile in [None, Some(0.95)] {
                let text = candidates(&job(quantile), &rows(), Style { width, styled: false });
                assert!(widest(&text) <= usize::from(width), "{width}:\n{text}");
                assert!(!text.contains('\u{1b}'));
                let words: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
                for part in ["★ selected", "✗ misses", "12,346", "tp4", "prefill", "1,234"] {
                    assert!(words.contains(part), "{part} at {width}:\n{text}");
                }
            }
        }
    }

    #[test]
    fn the_table_at_120_columns_reads_like_this() {
        let text = candidates(&job(None), &rows(), Style { width: 120, styled: false });
        let expected = r"────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
candidate    GPUs  latency, ms     tok/s/GPU  at once   verdict
════════════════════════════════════════════════════════════════════════════════════════════════════════════════════
prefill tp4     4  TTFT 181 ±4        12,346    1,234   ★ selected: highest throughput per GPU within TTFT ≤ 200 ms
prefill tp8     8  TTFT 110 ±2        12,346    1,234   ✓ meets SLA: 31 % less throughput per GPU than tp4
prefill tp2     2  TTFT 322 ±6        12,346    1,234   ✗ misses SLA: TTFT 322 ms > 200 ms
decode tp1      1  –                       –        –   ! failed: does not fit: weights take 141 GB of 141 GB
decode tp8      8  ITL 9.40 ±0.19      1,234    1,234   – not measured
────────────────────────────────────────────────────────────────────────────────────────────────────────────────────";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn colours_come_only_when_told_so_and_change_no_letter() {
        let plain = candidates(&job(None), &rows(), Style { width: 100, styled: false });
        let coloured = candidates(&job(None), &rows(), Style { width: 100, styled: true });
        assert!(coloured.contains('\u{1b}'));
        let mut stripped = String::new();
        let mut chars = coloured.chars();
        while let Some(c) = chars.next() {
            if c == '\u{1b}' {
                chars.by_ref().find(|c| *c == 'm');
            } else {
                stripped.push(c);
            }
        }
        assert_eq!(trimmed(&stripped), plain);
    }

    #[test]
    fn the_plan_says_what_is_missed() {
        let (p, d) = (candidate(Role::Prefill, Mapping::tensor(4)), candidate(Role::Decode, Mapping::tensor(8)));
        let text = plan(&job(None), &a_plan(), &p, &d, Style { width: 80, styled: false });
        assert!(widest(&text) <= 80, "{text}");
        let expected = r"Plan
  2 × prefill tp4              8 GPUs       14.0 requests/s
  1 × decode tp8               8 GPUs       12.3 requests/s
  Together 16 of 16 GPUs serve 12.3 requests/s.
  ! The GPU budget does not reach for the demand.
  TTFT mean: 190 ms expected, ✓ meets the target of 200 ms.
  ITL mean: 21.0 ms expected, ✗ misses the target of 20 ms.
  Up to 96 requests at once per decode engine.
  ! Infeasible: no plan within the budget meets the SLA; this one comes nearest.
  Assumes: arrivals are Poisson and each prefill engine takes one prompt at a
    time, first come first served.";
        assert_eq!(text, expected, "\n{text}");
    }
}
