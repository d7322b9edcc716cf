//! Pictures of a run: each answers one question and shows targets, uncertainty and what was chosen.
//!
//! [`Figure`] is a picture as data; `figure.rs` lays it out and draws it, `canvas.rs` turns it into PNG or SVG. The
//! functions here say what is plotted. None of them fails on odd data: points that are not finite are left out, and
//! without any point the picture says so.

mod canvas;
mod figure;
mod fit;
pub mod labels;
mod palette;
mod scale;

use std::{cmp::Ordering, collections::BTreeMap};

use super::number::{grouped, plain, short};
use crate::{
    dgd::{DecodePoint, DecodeTable, PrefillTable},
    domain::{Candidate, CandidateId, Choice, Job, Mapping, Measurement, Role, Stat},
};

pub use figure::{Along, Axis, Figure, Limit, Point, Series};
pub use palette::Marker;
pub use scale::Start;

/// A picture cannot be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlotError {
    /// The embedded font is broken.
    #[error("the embedded font cannot be read")]
    Font,
    /// Drawing or encoding failed.
    #[error("cannot draw the picture: {0}")]
    Draw(String),
}

/// A measurement and whose it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample<'a> {
    /// Whose.
    pub candidate: &'a Candidate,
    /// What was measured.
    pub measurement: &'a Measurement,
}

impl Sample<'_> {
    fn is(&self, choice: Option<&Choice>) -> bool {
        let m = self.measurement;
        choice.is_some_and(|c| c.candidate == m.candidate && c.concurrency == m.concurrency)
    }

    fn id(&self) -> CandidateId {
        self.measurement.candidate
    }
}

/// `prefill_performance.png`: TTFT against throughput, a point for each measurement at the job's input length.
pub fn prefill_performance(job: &Job, samples: &[Sample<'_>], chosen: Option<&Choice>) -> Figure {
    let mut families: BTreeMap<Family, Vec<Point>> = BTreeMap::new();
    for sample in samples {
        let m = sample.measurement;
        let Some(ttft) = m.ttft_ms else { continue };
        // Measured more than once: the fastest tells the name for all.
        let best = |other: &&Sample<'_>| {
            other.id() == sample.id()
                && other.measurement.input_tokens_per_second_per_gpu > m.input_tokens_per_second_per_gpu
        };
        let choice = chosen.filter(|_| sample.is(chosen));
        let named = choice.is_some() || !samples.iter().any(|s| best(&s));
        families.entry(Family::of(sample.candidate.mapping)).or_default().push(Point {
            x: ttft.target,
            y: m.input_tokens_per_second_per_gpu,
            x_range: interval(job, &ttft),
            label: named.then(|| mark(choice, sample.candidate.mapping.label())),
            chosen: choice.is_some(),
            ..Point::default()
        });
    }
    let series = families.into_iter().map(|(family, points)| {
        let (colour, marker) = palette::category(family as usize);
        Series { name: family.name().to_owned(), colour, marker: Some(marker), points, line: Vec::new() }
    });
    Figure {
        title: question("prefill", "TTFT", job.sla.ttft_ms),
        subtitle: subtitle(job),
        note: note(job, "A point is one mapping."),
        bars: BARS.to_owned(),
        x: axis(format!("Time to first token, {} (ms)", job.sla.statistic()), Start::Zero),
        y: axis("Input tokens/s per GPU", Start::Zero),
        series: series.collect(),
        limits: target(job, Along::X, "TTFT", job.sla.ttft_ms).into_iter().collect(),
        legend: "Mapping".to_owned(),
    }
}

/// `decode_performance.png`: ITL against throughput, a line for each mapping over concurrency.
pub fn decode_performance(job: &Job, samples: &[Sample<'_>], chosen: Option<&Choice>) -> Figure {
    let mut candidates: Vec<CandidateId> = Vec::new();
    for sample in samples {
        if !candidates.contains(&sample.id()) {
            candidates.push(sample.id());
        }
    }
    // In the order of the search space, whichever came first.
    candidates.sort_unstable();
    let series = candidates.into_iter().enumerate().filter_map(|(n, id)| {
        let mut own: Vec<_> = samples.iter().filter(|s| s.id() == id && s.measurement.itl_ms.is_some()).collect();
        own.sort_by_key(|s| s.measurement.concurrency);
        let name = own.first()?.candidate.mapping.label();
        let points: Vec<Point> = own
            .iter()
            .filter_map(|s| {
                let (m, itl) = (s.measurement, s.measurement.itl_ms?);
                let choice = chosen.filter(|_| s.is(chosen));
                Some(Point {
                    x: itl.target,
                    y: m.output_tokens_per_second_per_gpu,
                    x_range: interval(job, &itl),
                    label: choice.map(|_| mark(choice, format!("{name}, {}", requests(m.concurrency)))),
                    chosen: choice.is_some(),
                    ..Point::default()
                })
            })
            .collect();
        let line = points.iter().map(|p| (p.x, p.y)).collect();
        let (colour, marker) = palette::category(n);
        Some(Series { name, colour, marker: Some(marker), points, line })
    });
    Figure {
        title: question("decode", "ITL", job.sla.itl_ms),
        subtitle: subtitle(job),
        note: note(job, "Along a line, more requests run at once."),
        bars: BARS.to_owned(),
        x: axis(format!("Inter-token latency, {} (ms)", job.sla.statistic()), Start::Data),
        y: axis("Output tokens/s per GPU", Start::Zero),
        series: series.collect(),
        limits: target(job, Along::X, "ITL", job.sla.itl_ms).into_iter().collect(),
        legend: "Mapping".to_owned(),
    }
}

/// `prefill_ttft_interpolation.png`: TTFT of the chosen prefill engine against input length.
pub fn prefill_ttft_interpolation(job: &Job, candidate: &Candidate, table: &PrefillTable) -> Figure {
    let measured: Vec<_> = table.points.iter().map(|p| (f64::from(p.isl), p.ttft_ms.target)).collect();
    let (line, fitted) = match fit::Quadratic::fit(&measured) {
        Some(curve) => {
            let error = curve.mean_relative_error(&measured);
            let line = between(&measured).map(|x| (x, curve.at(x))).collect();
            (line, format!("Line: quadratic fit, mean error {} %.", grouped(error * 100.0, 1)))
        }
        None => (measured.clone(), "Line: through the points.".to_owned()),
    };
    let points = table.points.iter().map(|p| Point {
        x: p.isl.into(),
        y: p.ttft_ms.target,
        y_range: interval(job, &p.ttft_ms),
        ..Point::default()
    });
    Figure {
        title: "How long does the first token take as inputs grow?".to_owned(),
        y: axis(format!("Time to first token, {} (ms)", job.sla.statistic()), Start::Zero),
        limits: target(job, Along::Y, "TTFT", job.sla.ttft_ms).into_iter().chain([job_isl(job)]).collect(),
        ..prefill_curve(job, candidate, points.collect(), line, &fitted)
    }
}

/// `prefill_throughput_interpolation.png`: throughput of the chosen prefill engine against input length.
pub fn prefill_throughput_interpolation(job: &Job, candidate: &Candidate, table: &PrefillTable) -> Figure {
    let mut measured: Vec<_> = table.points.iter().map(|p| (f64::from(p.isl), p.tokens_per_second_per_gpu)).collect();
    measured.dedup_by(|b, a| a.0 >= b.0);
    let points = measured.iter().map(|(x, y)| Point { x: *x, y: *y, ..Point::default() }).collect();
    Figure {
        title: "At which input length does prefill use its GPUs best?".to_owned(),
        y: axis("Input tokens/s per GPU", Start::Zero),
        limits: vec![job_isl(job)],
        ..prefill_curve(job, candidate, points, fit::monotone(&measured, 12), "Line: monotone interpolation.")
    }
}

fn prefill_curve(job: &Job, candidate: &Candidate, points: Vec<Point>, line: Vec<(f64, f64)>, fitted: &str) -> Figure {
    let (colour, marker) = palette::category(0);
    Figure {
        title: String::new(),
        subtitle: subtitle_of(job, candidate),
        note: note(job, fitted),
        bars: BARS.to_owned(),
        x: axis("Input length (tokens)", Start::Zero),
        y: axis("", Start::Zero),
        series: vec![Series { name: String::new(), colour, marker: Some(marker), points, line }],
        limits: Vec::new(),
        legend: String::new(),
    }
}

/// `decode_itl_interpolation.png`: ITL of the chosen decode engine against the KV cache in use, a line for each context
/// length. `operating` is the measurement that selection chose.
pub fn decode_itl_interpolation(
    job: &Job,
    candidate: &Candidate,
    table: &DecodeTable,
    operating: Option<&Measurement>,
) -> Figure {
    Figure {
        title: "How does load slow down each token?".to_owned(),
        y: axis(format!("Inter-token latency, {} (ms)", job.sla.statistic()), Start::Data),
        limits: target(job, Along::Y, "ITL", job.sla.itl_ms).into_iter().collect(),
        ..decode_surface(job, candidate, table, operating, |itl, _| (itl.target, interval(job, itl)))
    }
}

/// `decode_throughput_interpolation.png`: throughput of the chosen decode engine against the KV cache in use, a line for
/// each context length.
pub fn decode_throughput_interpolation(
    job: &Job,
    candidate: &Candidate,
    table: &DecodeTable,
    operating: Option<&Measurement>,
) -> Figure {
    Figure {
        title: "How much does a decode engine give as its cache fills?".to_owned(),
        y: axis("Output tokens/s per GPU", Start::Zero),
        ..decode_surface(job, candidate, table, operating, |_, throughput| (throughput, None))
    }
}

/// Most lines that can be told apart.
const MAX_LINES: usize = 8;

fn decode_surface(
    job: &Job,
    candidate: &Candidate,
    table: &DecodeTable,
    operating: Option<&Measurement>,
    y: impl Fn(&Stat, f64) -> (f64, Option<(f64, f64)>),
) -> Figure {
    // The table is sorted by context.
    let groups: Vec<_> =
        table.points.chunk_by(|a, b| a.context_tokens().total_cmp(&b.context_tokens()).is_eq()).collect();
    let shown = evenly(groups.len(), MAX_LINES);
    let last = u32::try_from(shown.len().saturating_sub(1)).map_or(1.0, f64::from).max(1.0);
    let mut series: Vec<Series> = shown
        .iter()
        .filter_map(|at| groups.get(*at))
        .zip(0u32..)
        .filter_map(|(group, n)| {
            let context = group.first()?.context_tokens();
            let point = |p: &DecodePoint| {
                let (value, range) = y(&p.itl_ms, p.tokens_per_second_per_gpu);
                Point { x: p.kv_usage * 100.0, y: value, y_range: range, ..Point::default() }
            };
            let mut points: Vec<Point> = group.iter().map(point).collect();
            points.sort_by(|a, b| a.x.total_cmp(&b.x));
            Some(Series {
                name: format!("{} tokens", grouped(context, 0)),
                colour: palette::ordered(f64::from(n) / last),
                marker: usize::try_from(n).ok().map(palette::marker),
                line: points.iter().map(|p| (p.x, p.y)).collect(),
                points,
            })
        })
        .collect();
    if let Some(m) = operating
        && let Some(itl) = &m.itl_ms
    {
        let (value, range) = y(itl, m.output_tokens_per_second_per_gpu);
        let context = f64::from(m.isl) + f64::from(m.osl) / 2.0;
        let label = format!("{} at {} tokens", requests(m.concurrency), grouped(context, 0));
        series.push(Series {
            name: String::new(),
            colour: palette::INK,
            marker: Some(Marker::Circle),
            points: vec![Point {
                x: m.kv_usage * 100.0,
                y: value,
                y_range: range,
                label: Some(format!("Chosen: {label}")),
                chosen: true,
                ..Point::default()
            }],
            line: Vec::new(),
        });
    }
    let capacity = grouped(table.max_kv_tokens.into(), 0);
    Figure {
        title: String::new(),
        subtitle: subtitle_of(job, candidate),
        note: note(job, &format!("KV cache: {capacity} tokens, use as the engine reported it.")),
        bars: BARS.to_owned(),
        x: axis("KV cache in use (%)", Start::Whole),
        y: axis("", Start::Zero),
        series,
        limits: Vec::new(),
        legend: "Context".to_owned(),
    }
}

/// `cost_sla.png`: what a thousand requests cost in GPU time against the speed that users see, for each pair of a prefill
/// and a decode point that no other beats.
///
/// GPU-seconds of a request are `ISL / prefill tokens/s/GPU + OSL / decode tokens/s/GPU`: both throughputs are per GPU
/// already, so that GPU counts do not enter again.
pub fn cost_sla(
    job: &Job,
    prefill: &[Sample<'_>],
    decode: &[Sample<'_>],
    chosen: Option<(&Choice, &Choice)>,
) -> Figure {
    let (isl, osl) = (f64::from(job.workload.isl), f64::from(job.workload.osl));
    let (chosen_prefill, chosen_decode) = (chosen.map(|c| c.0), chosen.map(|c| c.1));
    let fronts = (
        front(prefill, chosen_prefill, |m| Some((m.ttft_ms?.target, m.input_tokens_per_second_per_gpu))),
        front(decode, chosen_decode, |m| Some((m.itl_ms?.target, m.output_tokens_per_second_per_gpu))),
    );
    // Many pairs would be unreadable; the chosen one stays in any case.
    let mut lines: Vec<_> = evenly(fronts.0.len(), 6).into_iter().filter_map(|at| fronts.0.get(at)).collect();
    if let Some(own) = fronts.0.iter().find(|f| f.0.is(chosen_prefill))
        && !lines.iter().any(|l| l.0.is(chosen_prefill))
    {
        lines.push(own);
    }
    // Of the two winners the one that misses the SLA, if any does.
    let worse = [chosen_prefill, chosen_decode].into_iter().flatten().min_by_key(|choice| choice.meets_sla);
    let series = lines.into_iter().enumerate().map(|(n, (p, ttft, input_rate))| {
        let own = p.is(chosen_prefill);
        let points: Vec<Point> = fronts
            .1
            .iter()
            .map(|(d, itl, output_rate)| {
                let chosen = own && d.is(chosen_decode);
                let (pm, dm) = (p.candidate.mapping.label(), d.candidate.mapping.label());
                Point {
                    x: 1000.0 / itl,
                    y: (isl / input_rate + osl / output_rate) * 1000.0 / 3600.0,
                    label: chosen
                        .then(|| mark(worse, format!("{pm} and {dm} at {}", requests(d.measurement.concurrency)))),
                    chosen,
                    ..Point::default()
                }
            })
            .collect();
        let (colour, marker) = palette::category(n);
        let misses = if job.sla.ttft_ms.is_some_and(|target| *ttft > target) { ", misses SLA" } else { "" };
        Series {
            name: format!("{}: {} ms{misses}", p.candidate.mapping.label(), short(*ttft)),
            colour,
            marker: Some(marker),
            line: points.iter().map(|p| (p.x, p.y)).collect(),
            points,
        }
    });
    let limit = job.sla.itl_ms.map(|itl_ms| Limit {
        along: Along::X,
        value: 1000.0 / itl_ms,
        text: format!("SLA: ITL ≤ {} ms", plain(itl_ms)),
        good: Some(Ordering::Greater),
    });
    Figure {
        title: "What does speed cost?".to_owned(),
        subtitle: subtitle(job),
        note: format!("Points that no other beats in both latency and throughput. {}", statistic(job)),
        bars: BARS.to_owned(),
        x: axis("Output tokens/s per user", Start::Data),
        y: axis("GPU-hours per 1,000 requests", Start::Zero),
        series: series.collect(),
        limits: limit.into_iter().collect(),
        legend: "Prefill, TTFT".to_owned(),
    }
}

/// Samples that no other beats in both, and the chosen one, by latency; each with latency and throughput.
fn front<'a, 'b>(
    samples: &'b [Sample<'a>],
    chosen: Option<&Choice>,
    figures: impl Fn(&Measurement) -> Option<(f64, f64)>,
) -> Vec<(&'b Sample<'a>, f64, f64)> {
    let mut all: Vec<_> = samples
        .iter()
        .filter_map(|s| figures(s.measurement).map(|(latency, rate)| (s, latency, rate)))
        .filter(|(_, latency, rate)| latency.is_finite() && rate.is_finite() && *latency > 0.0 && *rate > 0.0)
        .collect();
    all.sort_by(|a, b| a.1.total_cmp(&b.1).then(b.2.total_cmp(&a.2)));
    let mut best = 0.0;
    all.retain(|(sample, _, rate)| {
        let better = *rate > best;
        best = rate.max(best);
        better || sample.is(chosen)
    });
    all
}

/// Up to `most` of `0..n`, evenly spread, both ends among them.
fn evenly(n: usize, most: usize) -> Vec<usize> {
    if n <= most || most < 2 {
        return (0..n.min(most)).collect();
    }
    (0..most).map(|i| i * (n - 1) / (most - 1)).collect()
}

/// 100 values from the first to the last x.
fn between(points: &[(f64, f64)]) -> impl Iterator<Item = f64> {
    let low = points.iter().map(|p| p.0).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|p| p.0).fold(f64::NEG_INFINITY, f64::max);
    (0..100u32).map(move |i| low + (high - low) * f64::from(i) / 99.0)
}

/// Kinds of mapping, in the order of their colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    Tp,
    Tep,
    Dep,
    Mixed,
}

impl Family {
    fn of(m: Mapping) -> Self {
        match m {
            Mapping { attention_dp: 1, moe_ep: 1, .. } => Self::Tp,
            Mapping { attention_dp: 1, moe_tp: 1, .. } => Self::Tep,
            Mapping { tp: 1, moe_tp: 1, .. } => Self::Dep,
            _ => Self::Mixed,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Tp => "TP: tensor parallel",
            Self::Tep => "TEP: tensor + expert",
            Self::Dep => "DEP: data + expert",
            Self::Mixed => "Mixed",
        }
    }
}

fn axis(label: impl Into<String>, start: Start) -> Axis {
    Axis { label: label.into(), start }
}

fn requests(n: u32) -> String {
    if n == 1 { "1 request".to_owned() } else { format!("{} requests", grouped(n.into(), 0)) }
}

/// `choice` is there for the point that selection chose.
fn mark(choice: Option<&Choice>, label: String) -> String {
    match choice {
        None => label,
        Some(choice) if choice.meets_sla => format!("Chosen: {label}"),
        Some(_) => format!("Chosen, misses the SLA: {label}"),
    }
}

fn question(role: &str, quantity: &str, target_ms: Option<f64>) -> String {
    match target_ms {
        Some(ms) => format!("Which {role} mapping meets {quantity} ≤ {} ms at the highest throughput?", plain(ms)),
        None => format!("Which {role} mapping has the highest throughput?"),
    }
}

fn target(job: &Job, along: Along, quantity: &str, target_ms: Option<f64>) -> Option<Limit> {
    target_ms.map(|value| {
        let statistic = if job.sla.quantile.is_some() { format!("{} ", job.sla.statistic()) } else { String::new() };
        let text = format!("SLA: {statistic}{quantity} ≤ {} ms", plain(value));
        Limit { along, value, text, good: Some(Ordering::Less) }
    })
}

fn job_isl(job: &Job) -> Limit {
    let isl = job.workload.isl;
    Limit { along: Along::X, value: isl.into(), text: format!("This job: {}", grouped(isl.into(), 0)), good: None }
}

/// The confidence interval belongs to the mean; it is no statement about a quantile.
fn interval(job: &Job, stat: &Stat) -> Option<(f64, f64)> {
    job.sla.quantile.is_none().then_some((stat.ci_low, stat.ci_high))
}

fn statistic(job: &Job) -> String {
    format!("Latency: {}.", job.sla.statistic())
}

/// What error bars show; they are drawn where they are wider than the point.
const BARS: &str = "Bars: 95 % confidence interval of the mean.";

fn note(job: &Job, first: &str) -> String {
    if job.sla.quantile.is_some() { format!("{first} {}", statistic(job)) } else { first.to_owned() }
}

fn subtitle(job: &Job) -> String {
    let (model, hardware, workload) = (&job.model.name, &job.hardware, &job.workload);
    format!(
        "{model} · {} · {} × {} · {} tokens in, {} out",
        job.backend,
        grouped(hardware.total_gpus.into(), 0),
        hardware.gpu.name,
        grouped(workload.isl.into(), 0),
        grouped(workload.osl.into(), 0),
    )
}

fn subtitle_of(job: &Job, candidate: &Candidate) -> String {
    let role = match candidate.role {
        Role::Prefill => "prefill",
        Role::Decode => "decode",
    };
    let gpus = candidate.gpus();
    let unit = if gpus == 1 { "GPU" } else { "GPUs" };
    format!(
        "{} · {} · {role} {} on {gpus} {unit} ({})",
        job.model.name, job.backend, candidate.mapping, job.hardware.gpu.name
    )
}

#[cfg(test)]
mod tests;
