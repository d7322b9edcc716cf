//! `select-throughput`: the highest throughput per GPU among the operating points that meet the SLA.
//!
//! NVIDIA's rule (`run_profile` of `ai-dynamo` 0.7 to 0.9), with three repairs: the SLA's statistic counts and not one
//! sample's mean, an end-to-end target is met by pairs, and whatever cannot be told apart is said to be so. Where no
//! point of a role meets its target, the one with the lowest latency is the least bad and says that it misses.

use sla_profiler_plugin::text::figure;
use sla_profiler_plugin::{
    About, Candidates, Choice, Demand, Error, History, Job, Measurement, Role, Selection, SelectionPolicy, Settings,
    best_per_candidate,
};

/// The policy.
#[derive(Debug)]
pub struct SelectThroughput;

sla_profiler_plugin::export_selection!(SelectThroughput);

impl SelectionPolicy for SelectThroughput {
    fn about() -> About {
        let summary = "Highest throughput per GPU within the SLA; lowest latency where nothing meets it.";
        About::new("select-throughput", env!("CARGO_PKG_VERSION"), summary)
    }

    fn select(job: &Job, _: &Demand, candidates: &Candidates, history: &History) -> Result<Selection, Error> {
        Settings::new(Self::about(), job)?;
        let prefill = points(job, Role::Prefill, candidates, history);
        let decode = points(job, Role::Decode, candidates, history);
        let (prefill_ranking, decode_ranking) = match job.sla.e2e_ms {
            Some(limit_ms) => by_pair(job, limit_ms, &prefill, &decode),
            None => (by_role(job, Role::Prefill, &prefill), by_role(job, Role::Decode, &decode)),
        };
        let mut notes = Vec::new();
        notes.extend(note(job, Role::Prefill, &prefill_ranking, &prefill));
        notes.extend(note(job, Role::Decode, &decode_ranking, &decode));
        let gpus = |ranking: &[Choice]| candidates.get(ranking.first()?.candidate).map(|c| c.gpus);
        if let (Some(p), Some(d)) = (gpus(&prefill_ranking), gpus(&decode_ranking))
            && p.saturating_add(d) > job.hardware.total_gpus
        {
            let (needed, total) = (p.saturating_add(d), job.hardware.total_gpus);
            notes.push(format!(
                "the two winners need {needed} GPUs for one engine each, but {total} may be used; select-cost looks for pairs \
                 that fit"
            ));
        }
        Ok(Selection { prefill: prefill_ranking, decode: decode_ranking, notes })
    }
}

/// One operating point of one candidate.
struct Point<'a> {
    label: &'a str,
    gpus: u32,
    measured: Measurement,
    /// In the SLA's statistic.
    latency_ms: f64,
    /// Half of the mean's confidence interval, as a fraction; 0 where it is not known.
    relative_error: f64,
    tokens_per_second_per_gpu: f64,
    requests_per_second_per_gpu: f64,
    /// What keeps the candidate from more load than this.
    ceiling: &'static str,
}

/// All points of a role at the job's lengths, smaller engines first. Of a point that was looked at twice, the look with
/// more samples counts.
fn points<'a>(job: &Job, role: Role, candidates: &'a Candidates, history: &History) -> Vec<Point<'a>> {
    let mut points: Vec<Point<'a>> = Vec::new();
    for measured in history.measurements.rows() {
        let Some(candidate) = candidates.get(measured.candidate).filter(|c| c.role == role) else { continue };
        let Some(latency) = measured.latency_ms(role) else { continue };
        if measured.isl != job.workload.isl || (role == Role::Decode && measured.osl != job.workload.osl) {
            continue;
        }
        let tokens_per_second_per_gpu = measured.tokens_per_second_per_gpu(role);
        let tokens_per_request = match role {
            Role::Prefill => measured.isl,
            Role::Decode => measured.osl,
        };
        let point = Point {
            label: candidate.label,
            gpus: candidate.gpus,
            measured,
            latency_ms: latency.target,
            relative_error: latency.relative_error().unwrap_or(0.0),
            tokens_per_second_per_gpu,
            requests_per_second_per_gpu: tokens_per_second_per_gpu / f64::from(tokens_per_request.max(1)),
            ceiling: ceiling(role, &measured, candidate.attention_dp, history),
        };
        let same = |p: &&mut Point<'_>| {
            (p.measured.candidate, p.measured.concurrency) == (measured.candidate, measured.concurrency)
        };
        match points.iter_mut().find(same) {
            Some(earlier) if earlier.measured.samples <= measured.samples => *earlier = point,
            Some(_) => {}
            None => points.push(point),
        }
    }
    points.sort_by_key(|p| (p.gpus, p.measured.candidate, p.measured.concurrency));
    points
}

/// `kv-cache` where one more request per rank would not fit.
fn ceiling(role: Role, at: &Measurement, attention_dp: u32, history: &History) -> &'static str {
    let per_request = f64::from(at.isl) + f64::from(at.osl);
    let more = f64::from(at.concurrency) + f64::from(attention_dp);
    let full = history.facts_of(at.candidate).is_some_and(|f| more * per_request > f64::from(f.kv_tokens));
    if role == Role::Decode && full { "kv-cache" } else { "" }
}

/// Each role by its own target.
fn by_role(job: &Job, role: Role, points: &[Point<'_>]) -> Vec<Choice> {
    let (latency, target) = names(role);
    let limit_ms = job.sla.limit_ms(role);
    let meets = |p: &Point<'_>| limit_ms.is_none_or(|limit| p.latency_ms <= limit);
    let choice = |p: &Point<'_>| {
        let meets_sla = meets(p);
        let next_misses = |other: &Point<'_>| {
            let (a, b) = (&p.measured, &other.measured);
            a.candidate == b.candidate && b.concurrency > a.concurrency && !meets(other)
        };
        let binding = match meets_sla {
            false => target,
            true if points.iter().any(next_misses) => target,
            true => p.ceiling,
        };
        Choice {
            candidate: p.measured.candidate,
            concurrency: p.measured.concurrency,
            meets_sla,
            score: if meets_sla { p.tokens_per_second_per_gpu } else { -p.latency_ms },
            reason: String::new(),
            binding: binding.to_owned(),
        }
    };
    let mut ranking = best_per_candidate(points.iter().map(choice));
    let of = |choice: &Choice| {
        points.iter().find(|p| (p.measured.candidate, p.measured.concurrency) == (choice.candidate, choice.concurrency))
    };
    let winner = ranking.first().filter(|first| first.meets_sla).and_then(of);
    for choice in &mut ranking {
        let (Some(point), limit) = (of(choice), limit_ms.map(figure)) else { continue };
        choice.reason = match (winner, limit) {
            (_, Some(limit)) if !choice.meets_sla => {
                format!("{latency} {} ms, over the SLA of {limit} ms", figure(point.latency_ms))
            }
            (Some(winner), _) if winner.measured.candidate != choice.candidate => {
                let less = 1.0 - point.tokens_per_second_per_gpu / winner.tokens_per_second_per_gpu;
                format!("{:.0} % less throughput per GPU than {}", less * 100.0, winner.label)
            }
            (_, Some(limit)) => format!("highest throughput per GPU with {latency} within {limit} ms"),
            (_, None) => "highest throughput per GPU".to_owned(),
        };
    }
    ranking
}

/// Both roles by the whole answer's target: TTFT + ITL · (OSL − 1). A role's candidate is as good as the best pair that
/// it is part of, in requests per second and GPU of the pair: 1 / (1/p + 1/d), as many GPUs of each role as it takes for
/// both to keep up.
fn by_pair(job: &Job, limit_ms: f64, prefill: &[Point<'_>], decode: &[Point<'_>]) -> (Vec<Choice>, Vec<Choice>) {
    let tokens = f64::from(job.workload.osl.saturating_sub(1));
    let rank = |mine: &[Point<'_>], others: &[Point<'_>], role: Role| {
        let other_role = if role == Role::Prefill { "decode" } else { "prefill" };
        let e2e_ms = |a: &Point<'_>, b: &Point<'_>| match role {
            Role::Prefill => a.latency_ms + b.latency_ms * tokens,
            Role::Decode => b.latency_ms + a.latency_ms * tokens,
        };
        let pairs = mine.iter().flat_map(|a| others.iter().map(move |b| (a, b)));
        best_per_candidate(pairs.map(|(a, b)| {
            let e2e_ms = e2e_ms(a, b);
            let meets_sla = e2e_ms <= limit_ms;
            let rate = 1.0 / (1.0 / a.requests_per_second_per_gpu + 1.0 / b.requests_per_second_per_gpu);
            let verdict = if meets_sla { "SLA" } else { "over the SLA of" };
            let (rate_text, e2e_text, limit_text) = (figure(rate), figure(e2e_ms), figure(limit_ms));
            let partner = format!("{other_role} {} at {}", b.label, b.measured.concurrency);
            Choice {
                candidate: a.measured.candidate,
                concurrency: a.measured.concurrency,
                meets_sla,
                score: if meets_sla { rate } else { -e2e_ms },
                reason: format!(
                    "{rate_text} requests/s/GPU and E2E {e2e_text} ms with {partner} ({verdict} {limit_text} ms)"
                ),
                binding: if meets_sla { a.ceiling } else { "e2e" }.to_owned(),
            }
        }))
    };
    (rank(prefill, decode, Role::Prefill), rank(decode, prefill, Role::Decode))
}

/// What a reader should know about the winner: that it misses the SLA, or that the runner-up may be as good.
fn note(job: &Job, role: Role, ranking: &[Choice], points: &[Point<'_>]) -> Option<String> {
    let (latency, _) = names(role);
    let role_name = if role == Role::Prefill { "prefill" } else { "decode" };
    let [first, rest @ ..] = ranking else {
        return Some(format!("no {role_name} candidate was measured at the job's lengths"));
    };
    if !first.meets_sla {
        let statistic = job.sla.statistic();
        return Some(format!(
            "no {role_name} candidate meets the SLA ({statistic}); the lowest latency was taken: {}. Relax the target, or \
             use a smaller model, more GPUs per engine or faster ones",
            first.reason
        ));
    }
    let of = |choice: &Choice| {
        points.iter().find(|p| (p.measured.candidate, p.measured.concurrency) == (choice.candidate, choice.concurrency))
    };
    let second = rest.first().filter(|second| second.meets_sla)?;
    let (a, b) = (of(first)?, of(second)?);
    let gap = (a.tokens_per_second_per_gpu - b.tokens_per_second_per_gpu).abs();
    let noise = a.tokens_per_second_per_gpu * a.relative_error + b.tokens_per_second_per_gpu * b.relative_error;
    let smaller = if b.gpus < a.gpus { format!(", and {} needs fewer GPUs", b.label) } else { String::new() };
    (job.sla.e2e_ms.is_none() && gap < noise).then(|| {
        format!(
            "{role_name} {} and {} cannot be told apart: {} and {} tokens/s/GPU, and {latency} is known to within {:.1} % \
             and {:.1} %{smaller}",
            a.label,
            b.label,
            figure(a.tokens_per_second_per_gpu),
            figure(b.tokens_per_second_per_gpu),
            a.relative_error * 100.0,
            b.relative_error * 100.0,
        )
    })
}

/// Latency as a person writes it, and its target as the contract does.
const fn names(role: Role) -> (&'static str, &'static str) {
    match role {
        Role::Prefill => ("TTFT", "ttft"),
        Role::Decode => ("ITL", "itl"),
    }
}

#[cfg(test)]
mod tests;
