//! `select-throughput`: the highest throughput per GPU among the operating points that meet the SLA.
//!
//! NVIDIA's rule (`run_profile` of `ai-dynamo` 0.7 to 0.9), with three repairs: the SLA's statistic counts and not one
//! sample's mean, an end-to-end target is met by pairs, and of candidates that cannot be told apart the cheaper one is
//! taken. Where no
//! point of a role meets its target, the one with the lowest latency is the least bad and says that it misses.

use sla_profiler_plugin::text::figure;
use sla_profiler_plugin::{
    About, Candidates, Choice, Demand, Error, History, Job, Role, Selection, SelectionPolicy, Settings, best_standing,
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
        let [prefill, decode] = points(job, candidates, history);
        let kv_tokens = kv_tokens(candidates, history);
        let (prefill_ranking, decode_ranking) = match job.sla.e2e_ms {
            Some(limit_ms) => by_pair(job, limit_ms, &prefill, &decode, &kv_tokens),
            None => {
                let by_role = |role, points: &[Point<'_>]| by_role(job, role, points, &kv_tokens);
                (by_role(Role::Prefill, &prefill), by_role(Role::Decode, &decode))
            }
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
    attention_dp: u32,
    candidate: u32,
    concurrency: u32,
    samples: u32,
    /// In the SLA's statistic.
    latency_ms: f64,
    /// Half of the mean's confidence interval, as a fraction; 0 where it is not known.
    relative_error: f64,
    tokens_per_second_per_gpu: f64,
    requests_per_second_per_gpu: f64,
}

/// All points at the job's lengths, of prefill and of decode candidates: smaller engines first, a candidate's points
/// together and by load. Of a point that was looked at twice, the look with more samples counts.
fn points<'a>(job: &Job, candidates: &'a Candidates, history: &History) -> [Vec<Point<'a>>; 2] {
    // Places of rows are sorted, not points: those are many times larger.
    let mut rows: [Vec<(u32, u32, u32, usize)>; 2] = [Vec::new(), Vec::new()];
    let table = &history.measurements;
    for (row, measured) in table.rows().enumerate() {
        let Some(candidate) = candidates.get(measured.candidate) else { continue };
        let role = candidate.role;
        let is_of_the_job =
            measured.isl == job.workload.isl && (role == Role::Prefill || measured.osl == job.workload.osl);
        if is_of_the_job {
            let [prefill, decode] = &mut rows;
            let rows = if role == Role::Prefill { prefill } else { decode };
            rows.push((candidate.gpus, candidate.id, measured.concurrency, row));
        }
    }
    rows.map(|mut rows| {
        rows.sort_unstable();
        let mut points: Vec<Point<'_>> = Vec::with_capacity(rows.len());
        for (gpus, id, concurrency, row) in rows {
            let (Some(measured), Some(candidate)) = (table.get(row), candidates.get(id)) else { continue };
            let role = candidate.role;
            let Some(latency) = measured.latency_ms(role) else { continue };
            let tokens_per_second_per_gpu = measured.tokens_per_second_per_gpu(role);
            let tokens_per_request = if role == Role::Prefill { measured.isl } else { measured.osl };
            let point = Point {
                label: candidate.label,
                gpus,
                attention_dp: candidate.attention_dp,
                candidate: id,
                concurrency,
                samples: measured.samples,
                latency_ms: latency.target,
                relative_error: latency.relative_error().unwrap_or(0.0),
                tokens_per_second_per_gpu,
                requests_per_second_per_gpu: tokens_per_second_per_gpu / f64::from(tokens_per_request.max(1)),
            };
            match points.last_mut() {
                Some(last) if (last.candidate, last.concurrency) == (id, concurrency) => {
                    if last.samples <= point.samples {
                        *last = point;
                    }
                }
                _ => points.push(point),
            }
        }
        points
    })
}

/// KV capacity of each candidate's engine in tokens, by id. Put together once: to look through all facts for each place
/// of a ranking would be most of the work.
fn kv_tokens(candidates: &Candidates, history: &History) -> Vec<Option<u32>> {
    let mut all = vec![None; candidates.role.len()];
    for facts in history.facts.rows() {
        if let Some(known) = all.get_mut(facts.candidate as usize) {
            known.get_or_insert(facts.kv_tokens);
        }
    }
    all
}

/// What keeps the candidate from more load than this: `kv-cache` where one more request per rank would not fit.
fn ceiling(job: &Job, role: Role, at: &Point<'_>, kv_tokens: &[Option<u32>]) -> &'static str {
    let per_request = f64::from(job.workload.isl) + f64::from(job.workload.osl);
    let more = f64::from(at.concurrency) + f64::from(at.attention_dp);
    let capacity = kv_tokens.get(at.candidate as usize).copied().flatten();
    let full = || capacity.is_some_and(|kv_tokens| more * per_request > f64::from(kv_tokens));
    if role == Role::Decode && full() { "kv-cache" } else { "" }
}

/// Each role by its own target.
fn by_role(job: &Job, role: Role, points: &[Point<'_>], kv_tokens: &[Option<u32>]) -> Vec<Choice> {
    let (latency, target) = names(role);
    let limit_ms = job.sla.limit_ms(role);
    let meets = |p: &Point<'_>| limit_ms.is_none_or(|limit| p.latency_ms <= limit);
    let score = |p: &Point<'_>| if meets(p) { p.tokens_per_second_per_gpu } else { -p.latency_ms };
    let mut ranking = best_standing(points.iter().enumerate(), |(_, p)| (p.candidate, meets(p), score(p)));
    let fastest = ranking.first().map(|(_, first)| *first).filter(|first| meets(first));
    // Whoever is as fast as far as anybody can tell, and takes fewer GPUs, is better.
    let as_good =
        |p: &Point<'_>| fastest.is_some_and(|fastest| meets(p) && p.gpus < fastest.gpus && !are_told_apart(fastest, p));
    let cheaper = (0..ranking.len()).filter(|i| ranking.get(*i).is_some_and(|(_, p)| as_good(p)));
    if let Some(place) = cheaper.min_by_key(|i| ranking.get(*i).map_or(u32::MAX, |(_, p)| p.gpus)) {
        let cheaper = ranking.remove(place);
        ranking.insert(0, cheaper);
    }
    let winner = ranking.first().map(|(_, first)| *first).filter(|first| meets(first));
    let limit_text = limit_ms.map(figure);
    let choice = |(place, p): (usize, &Point<'_>)| {
        let meets_sla = meets(p);
        let more_load = points.iter().skip(place + 1).take_while(|o| o.candidate == p.candidate);
        let binding = match meets_sla {
            false => target,
            true if more_load.into_iter().any(|more| !meets(more)) => target,
            true => ceiling(job, role, p, kv_tokens),
        };
        let reason = match (winner, &limit_text) {
            (_, Some(limit)) if !meets_sla => {
                format!("{latency} {} ms, over the SLA of {limit} ms", figure(p.latency_ms))
            }
            (Some(winner), _)
                if winner.candidate == p.candidate && fastest.is_some_and(|f| f.candidate != p.candidate) =>
            {
                let fastest = fastest.map_or("", |fastest| fastest.label);
                format!("not distinguishable from {fastest} in throughput per GPU, the cheaper one taken")
            }
            (Some(winner), _)
                if winner.candidate != p.candidate
                    && p.tokens_per_second_per_gpu > winner.tokens_per_second_per_gpu =>
            {
                format!("not distinguishable from {} in throughput per GPU, and needs more GPUs", winner.label)
            }
            (Some(winner), _) if winner.candidate != p.candidate => {
                let less = 1.0 - p.tokens_per_second_per_gpu / winner.tokens_per_second_per_gpu;
                // A whole number: formatting a float would be the costliest part of the whole decision.
                format!("{} % less throughput per GPU than {}", (less * 100.0).round() as i64, winner.label)
            }
            (_, Some(limit)) => format!("highest throughput per GPU with {latency} within {limit} ms"),
            (_, None) => "highest throughput per GPU".to_owned(),
        };
        Choice {
            candidate: p.candidate,
            concurrency: p.concurrency,
            meets_sla,
            // The score of whoever is as good as the fastest is the fastest's.
            score: match (fastest, winner) {
                (Some(fastest), Some(winner)) if winner.candidate == p.candidate => score(fastest),
                _ => score(p),
            },
            reason,
            binding: binding.to_owned(),
        }
    };
    ranking.into_iter().map(choice).collect()
}

/// Both roles by the whole answer's target: TTFT + ITL · (OSL − 1). A role's candidate is as good as the best pair that
/// it is part of, in requests per second and GPU of the pair: 1 / (1/p + 1/d), as many GPUs of each role as it takes for
/// both to keep up.
fn by_pair(
    job: &Job,
    limit_ms: f64,
    prefill: &[Point<'_>],
    decode: &[Point<'_>],
    kv_tokens: &[Option<u32>],
) -> (Vec<Choice>, Vec<Choice>) {
    let tokens = f64::from(job.workload.osl.saturating_sub(1));
    let rank = |mine: &[Point<'_>], others: &[Point<'_>], role: Role| {
        let other_role = if role == Role::Prefill { "decode" } else { "prefill" };
        let e2e_ms = |a: &Point<'_>, b: &Point<'_>| match role {
            Role::Prefill => a.latency_ms + b.latency_ms * tokens,
            Role::Decode => b.latency_ms + a.latency_ms * tokens,
        };
        let rate = |a: &Point<'_>, b: &Point<'_>| {
            1.0 / (1.0 / a.requests_per_second_per_gpu + 1.0 / b.requests_per_second_per_gpu)
        };
        let standing = |a: &Point<'_>, b: &Point<'_>| {
            let e2e_ms = e2e_ms(a, b);
            let meets_sla = e2e_ms <= limit_ms;
            (a.candidate, meets_sla, if meets_sla { rate(a, b) } else { -e2e_ms })
        };
        // Each with its best partner first, since there are far more pairs than points: the one with the highest rate among
        // those that are quick enough, which come first by latency; where none is, the quickest.
        let mut by_latency: Vec<&Point<'_>> = others.iter().collect();
        by_latency.sort_by(|a, b| a.latency_ms.total_cmp(&b.latency_ms));
        let best_so_far: Vec<&Point<'_>> = by_latency
            .iter()
            .scan(None::<&Point<'_>>, |best, b| {
                let faster = |best: &&Point<'_>| best.requests_per_second_per_gpu >= b.requests_per_second_per_gpu;
                *best = best.filter(faster).or(Some(b));
                *best
            })
            .collect();
        let with_partner = mine.iter().filter_map(|a| {
            let quick_enough = by_latency.partition_point(|b| standing(a, b).1);
            Some((a, *best_so_far.get(quick_enough.saturating_sub(1))?))
        });
        let ranking = best_standing(with_partner, |(a, b)| standing(a, b));
        let choice = |(a, b): (&Point<'_>, &Point<'_>)| {
            let (candidate, meets_sla, score) = standing(a, b);
            let verdict = if meets_sla { "SLA" } else { "over the SLA of" };
            let (rate_text, e2e_text, limit_text) = (figure(rate(a, b)), figure(e2e_ms(a, b)), figure(limit_ms));
            let partner = format!("{other_role} {} at {}", b.label, b.concurrency);
            Choice {
                candidate,
                concurrency: a.concurrency,
                meets_sla,
                score,
                reason: format!(
                    "{rate_text} requests/s/GPU and E2E {e2e_text} ms with {partner} ({verdict} {limit_text} ms)"
                ),
                binding: if meets_sla { ceiling(job, role, a, kv_tokens) } else { "e2e" }.to_owned(),
            }
        };
        ranking.into_iter().map(choice).collect()
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
        points.iter().find(|p| (p.candidate, p.concurrency) == (choice.candidate, choice.concurrency))
    };
    let second = rest.first().filter(|second| second.meets_sla)?;
    let (a, b) = (of(first)?, of(second)?);
    let smaller = if a.gpus < b.gpus { format!("; {} is cheaper and was taken", a.label) } else { String::new() };
    (job.sla.e2e_ms.is_none() && !are_told_apart(a, b)).then(|| {
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

/// Whether two throughputs differ by more than the 95 % interval of their difference: its half is the root of the sum of
/// the squares of theirs, since the points were measured independently.
fn are_told_apart(a: &Point<'_>, b: &Point<'_>) -> bool {
    let noise = |p: &Point<'_>| p.tokens_per_second_per_gpu * p.relative_error;
    (a.tokens_per_second_per_gpu - b.tokens_per_second_per_gpu).abs() > noise(a).hypot(noise(b))
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
