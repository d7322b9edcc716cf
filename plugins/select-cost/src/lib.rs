//! `select-cost`: the pair of engines that serves the demand with the fewest GPUs.
//!
//! Each prefill candidate is paired with each decode candidate, and each pair is sized for the demand by the model that
//! `planner-sla` plans with (`sla_profiler_plugin::sizing`), so that the plan will need the GPUs that the choice was made
//! by. Without a demand, the pair that serves the greatest rate within the GPU budget wins, which is the same question.

use sla_profiler_plugin::sizing::{DecodeEngine, Deployment, Known, MAX_UTILIZATION, PrefillEngine, Sizing};
use sla_profiler_plugin::text::figure;
use sla_profiler_plugin::{
    About, Candidate, Candidates, Choice, Demand, Error, History, Job, Measurement, Role, Selection, SelectionPolicy,
    Settings, best_standing,
};

/// The policy.
#[derive(Debug)]
pub struct SelectCost;

sla_profiler_plugin::export_selection!(SelectCost);

impl SelectionPolicy for SelectCost {
    fn about() -> About {
        About::new(
            "select-cost",
            env!("CARGO_PKG_VERSION"),
            "Fewest GPUs for the demand within the SLA; greatest rate within the GPU budget where no demand is given.",
        )
        .setting("gpu-hour-price", "", "price of one GPU for one hour in any currency, for the reasons; may be empty")
        .setting(
            "max-utilization",
            &MAX_UTILIZATION.to_string(),
            "highest load of an engine, as a fraction of what it could do at most, 0.05 to 0.99; as for planner-sla",
        )
    }

    fn select(job: &Job, demand: &Demand, candidates: &Candidates, history: &History) -> Result<Selection, Error> {
        let settings = Settings::new(Self::about(), job)?;
        let price = settings.optional_number("gpu-hour-price", 0.0..=1e6)?;
        let max_utilization = settings.number("max-utilization", 0.05..=0.99)?;
        let prefill: Vec<_> = candidates.of(Role::Prefill).filter_map(|c| prefill_option(job, c, history)).collect();
        let decode: Vec<_> = candidates.of(Role::Decode).filter_map(|c| decode_option(job, c, history)).collect();

        let mut pairs = pairs(job, demand, &prefill, &decode, max_utilization);
        // Equal scores keep this order: what could do more comes first.
        pairs.sort_by(|a, b| b.saturation().total_cmp(&a.saturation()));
        let rank = |role| -> Vec<Choice> {
            let best = best_standing(&pairs, |pair| pair.standing(job, demand, role));
            best.into_iter().map(|pair| pair.choice(job, demand, role, price)).collect()
        };
        let (prefill_ranking, decode_ranking) = (rank(Role::Prefill), rank(Role::Decode));
        let mut notes = Vec::new();
        if pairs.is_empty() {
            notes.push("no prefill and decode candidate were both measured at the job's lengths".to_owned());
        }
        for (role, ranking) in [("prefill", &prefill_ranking), ("decode", &decode_ranking)] {
            if let Some(first) = ranking.first().filter(|c| !c.meets_sla) {
                notes.push(format!("no {role} candidate meets the SLA; the least bad was taken: {}", first.reason));
            }
        }
        notes.extend(verdict(job, demand, &pairs, &decode_ranking, Role::Decode));
        notes.extend(verdict(job, demand, &pairs, &prefill_ranking, Role::Prefill));
        if !pairs.is_empty() && pairs.iter().all(|pair| !pair.deployment.meets_demand) {
            let total = job.hardware.total_gpus;
            notes.push(format!("no pair serves the demand with {total} GPUs; they are ranked by what they do serve"));
        }
        Ok(Selection { prefill: prefill_ranking, decode: decode_ranking, notes })
    }
}

/// What is known of the first two of a role: whether what they cost can be told apart. Their figures move with the speed
/// that was measured, which is known to within the interval of the mean.
fn verdict(job: &Job, demand: &Demand, pairs: &[Pair<'_>], ranking: &[Choice], role: Role) -> Option<String> {
    let [first, second, ..] = ranking else { return None };
    let best = |choice: &Choice| {
        let of = pairs.iter().filter(|pair| pair.standing(job, demand, role).0 == choice.candidate);
        best_standing(of, |pair| pair.standing(job, demand, role)).into_iter().next()
    };
    let (a, b) = (best(first)?, best(second)?);
    if !first.meets_sla || !second.meets_sla || first.score <= 0.0 {
        return None;
    }
    // Beyond waiting, which depends on the load, cost goes as one over speed.
    let difference = 1.0 - second.score / first.score;
    let doubt = a.relative_error(role).hypot(b.relative_error(role));
    (difference <= doubt).then(|| {
        let label = |pair: &Pair<'_>| match role {
            Role::Prefill => format!("prefill {}", pair.prefill.candidate.label),
            Role::Decode => format!("decode {}", pair.decode.candidate.label),
        };
        let (first, second) = (label(a), label(b));
        format!(
            "{first} and {second} are not distinguishable: {} and {} GPUs for {} and {} requests/s, known to within {:.1} %; the \
             cheaper one was taken",
            a.deployment.gpus,
            b.deployment.gpus,
            figure(a.deployment.requests_per_second),
            figure(b.deployment.requests_per_second),
            doubt * 100.0,
        )
    })
}

/// How many partners of a candidate are sized, at most and at least. The rest are worse by an estimate that is wrong by
/// parts of an engine.
const PARTNERS: (usize, usize) = (8, 2);

/// How many pairs are sized, unless that were fewer than the least number of partners: bounds the work.
const PAIRS: usize = 400;

/// Each candidate with its most promising partners, sized.
///
/// Sizing every pair would take the product of both roles' candidates, at a million instructions and more for each.
fn pairs<'a>(
    job: &Job,
    demand: &Demand,
    prefill: &'a [PrefillOption<'a>],
    decode: &'a [DecodeOption<'a>],
    max_utilization: f64,
) -> Vec<Pair<'a>> {
    let total_gpus = job.hardware.total_gpus;
    let sizing = |p: &PrefillOption<'_>, d: &DecodeOption<'_>| {
        let (prefill, decode) = (p.engine.clone(), d.engine.clone());
        Sizing::new(prefill, decode, &job.sla, max_utilization, d.candidate.attention_dp).sharing(&p.known, &d.known)
    };
    let mut estimates = Vec::new();
    for (i, p) in prefill.iter().enumerate() {
        for (j, d) in decode.iter().enumerate() {
            estimates.push((estimate(job, demand, p, d, &sizing(p, d)), i, j));
        }
    }
    estimates.sort_by(|a, b| a.0.total_cmp(&b.0));
    let most_partners = (PAIRS / (prefill.len() + decode.len()).max(1)).clamp(PARTNERS.1, PARTNERS.0);
    let mut partners = (vec![0; prefill.len()], vec![0; decode.len()]);
    let mut pairs = Vec::new();
    for (_, i, j) in estimates {
        let (Some(p), Some(d)) = (prefill.get(i), decode.get(j)) else { continue };
        let (Some(of_p), Some(of_d)) = (partners.0.get_mut(i), partners.1.get_mut(j)) else { continue };
        if *of_p >= most_partners && *of_d >= most_partners {
            continue;
        }
        (*of_p, *of_d) = (*of_p + 1, *of_d + 1);
        let sizing = sizing(p, d);
        let Some(deployment) = sizing.deployment(demand, total_gpus) else { continue };
        pairs.push(Pair { prefill: p, decode: d, sizing, deployment });
    }
    pairs
}

/// The smaller, the sooner a pair is looked at: GPUs for the demand; where it is not a rate, or the budget does not reach,
/// GPUs for each request per second if engines were divisible. Pairs that miss a target come last.
fn estimate(job: &Job, demand: &Demand, p: &PrefillOption<'_>, d: &DecodeOption<'_>, sizing: &Sizing) -> f64 {
    let total = job.hardware.total_gpus;
    let late = if sizing.out_of_reach().is_empty() { 0.0 } else { 1e12 };
    if job.sla.e2e_ms.is_some() {
        // What engines could do at most: with a target for both roles, what they do depends on the partner.
        let gpus = |gpus: u32, saturation: f64| f64::from(gpus) / saturation;
        return late + gpus(p.engine.gpus, p.engine.saturation(1)) + gpus(d.engine.gpus, d.engine.saturation(1));
    }
    let per_request = sizing.gpus_per_request(Role::Prefill, total) + sizing.gpus_per_request(Role::Decode, total);
    match demand {
        Demand::RequestsPerSecond(rate) => match sizing.replicas(*rate).map(|replicas| sizing.gpus(replicas)) {
            Some(gpus) if gpus <= total => late + f64::from(gpus) + per_request / (1.0 + per_request),
            _ => late + f64::from(total) + 1.0 + per_request,
        },
        Demand::Concurrency(_) | Demand::Budget => late + per_request,
    }
}

/// A prefill candidate that was measured.
struct PrefillOption<'a> {
    candidate: Candidate<'a>,
    engine: PrefillEngine,
    known: Known,
    concurrency: u32,
    relative_error: f64,
}

/// A decode candidate that was measured.
struct DecodeOption<'a> {
    candidate: Candidate<'a>,
    engine: DecodeEngine,
    known: Known,
    measured: Vec<Measurement>,
    full: bool,
}

fn prefill_option<'a>(job: &Job, candidate: Candidate<'a>, history: &History) -> Option<PrefillOption<'a>> {
    let rows = || history.measurements.of(candidate.id);
    let engine = PrefillEngine::from_measurements(rows(), job.workload.isl, candidate.attention_dp, candidate.gpus)?;
    let concurrency = rows().filter(|m| m.ttft_ms.is_some()).map(|m| m.concurrency).min()?;
    let at_job = rows().filter(|m| m.isl == job.workload.isl);
    let relative_error = at_job.filter_map(|m| m.ttft_ms?.relative_error()).fold(0.0, f64::max);
    Some(PrefillOption { candidate, engine, known: Known::default(), concurrency, relative_error })
}

fn decode_option<'a>(job: &Job, candidate: Candidate<'a>, history: &History) -> Option<DecodeOption<'a>> {
    let measured: Vec<_> = history.measurements.of(candidate.id).filter(|m| m.itl_ms.is_some()).collect();
    let most_measured = measured.iter().map(|m| m.concurrency).max()?;
    let facts = history.facts_of(candidate.id);
    // An engine that did not say what it can hold, can hold what it was seen to.
    let (kv_tokens, max_running) = facts.map_or((u32::MAX, most_measured), |f| (f.kv_tokens, f.max_running));
    let engine = DecodeEngine::from_measurements(
        measured.iter().copied(),
        job.workload,
        candidate.gpus,
        kv_tokens,
        max_running,
    )?;
    let context = f64::from(job.workload.isl) + f64::from(job.workload.osl) / 2.0;
    let full = (f64::from(engine.limit()) + 1.0) * context > f64::from(kv_tokens);
    Some(DecodeOption { candidate, engine, known: Known::default(), measured, full })
}

/// A prefill and a decode candidate, sized for the demand.
struct Pair<'a> {
    prefill: &'a PrefillOption<'a>,
    decode: &'a DecodeOption<'a>,
    sizing: Sizing,
    deployment: Deployment,
}

impl Pair<'_> {
    /// Requests per second that the engines could complete at most.
    fn saturation(&self) -> f64 {
        let replicas = self.deployment.replicas;
        self.prefill.engine.saturation(replicas.prefill).min(self.decode.engine.saturation(replicas.decode))
    }

    /// Half of the widest interval of the role's measurements at the job's lengths, as a fraction.
    fn relative_error(&self, role: Role) -> f64 {
        match role {
            Role::Prefill => self.prefill.relative_error,
            Role::Decode => {
                let errors = self.decode.measured.iter().filter_map(|m| m.itl_ms?.relative_error());
                errors.fold(0.0, f64::max)
            }
        }
    }

    /// The role's candidate, whether it meets the SLA in this pair, and how well it does.
    fn standing(&self, job: &Job, demand: &Demand, role: Role) -> (u32, bool, f64) {
        let Deployment { gpus, share, requests_per_second, meets_demand, .. } = self.deployment;
        let total = f64::from(job.hardware.total_gpus.max(1));
        let missed = self.missed(role).is_some();
        let score = match demand {
            _ if missed => -self.latency_alone_ms(job, role),
            // Not even one engine of each role fits: below all that do.
            _ if gpus > job.hardware.total_gpus => -f64::from(gpus),
            Demand::Budget => requests_per_second / total,
            // Whoever meets the demand stays above whoever uses all GPUs and serves a share of it.
            _ => share / if meets_demand { f64::from(gpus) } else { total },
        };
        let candidate = match role {
            Role::Prefill => self.prefill.candidate.id,
            Role::Decode => self.decode.candidate.id,
        };
        (candidate, !missed, score)
    }

    fn choice(&self, job: &Job, demand: &Demand, role: Role, price: Option<f64>) -> Choice {
        let (candidate, meets_sla, score) = self.standing(job, demand, role);
        let replicas = self.deployment.replicas;
        let (engines, concurrency) = match role {
            Role::Prefill => (replicas.prefill, self.prefill.concurrency),
            Role::Decode => (replicas.decode, self.operating_concurrency(job)),
        };
        let binding = match (self.missed(role), role) {
            (Some(target), _) => target,
            (None, _) if job.sla.e2e_ms.is_some() => "e2e",
            (None, Role::Prefill) if self.sizing.is_bound_by_target(role, engines) => "ttft",
            (None, Role::Decode) if self.sizing.is_bound_by_target(role, engines) => "itl",
            (None, Role::Decode) if self.decode.full => "kv-cache",
            (None, _) => "",
        };
        let (reason, binding) = (self.reason(role, price), binding.to_owned());
        Choice { candidate, concurrency, meets_sla, score, reason, binding }
    }

    /// The target that the role misses even without load. What the other role misses is its own fault, except where the
    /// target is for both.
    fn missed(&self, role: Role) -> Option<&'static str> {
        let own = if role == Role::Prefill { "ttft" } else { "itl" };
        self.sizing.out_of_reach().iter().copied().find(|target| *target == own || *target == "e2e")
    }

    fn latency_alone_ms(&self, job: &Job, role: Role) -> f64 {
        let (ttft, itl) = (self.prefill.engine.service.target_ms, self.decode.engine.alone().target_ms);
        match (job.sla.e2e_ms, role) {
            (Some(_), _) => ttft + itl * f64::from(job.workload.osl.saturating_sub(1)),
            (None, Role::Prefill) => ttft,
            (None, Role::Decode) => itl,
        }
    }

    /// The measured load that is nearest to the planned one; within the target if one is.
    fn operating_concurrency(&self, job: &Job) -> u32 {
        let replicas = self.deployment.replicas;
        let planned = self.sizing.expected(replicas, self.sizing.capacity(replicas)).decode_requests.max(1.0);
        let meets =
            |m: &&Measurement| job.sla.itl_ms.is_none_or(|limit| m.itl_ms.is_some_and(|itl| itl.target <= limit));
        let distance = |m: &&Measurement| (f64::from(m.concurrency.max(1)) / planned).ln().abs();
        let nearest = |points: &mut dyn Iterator<Item = &Measurement>| {
            points.min_by(|a, b| distance(a).total_cmp(&distance(b))).map(|m| m.concurrency)
        };
        let at_job = || self.decode.measured.iter().filter(|m| (m.isl, m.osl) == (job.workload.isl, job.workload.osl));
        nearest(&mut at_job().filter(meets))
            .or_else(|| at_job().map(|m| m.concurrency).min())
            .or_else(|| self.decode.measured.iter().map(|m| m.concurrency).min())
            .unwrap_or(1)
    }

    fn reason(&self, role: Role, price: Option<f64>) -> String {
        let Deployment { replicas, gpus, share, requests_per_second, meets_demand } = self.deployment;
        let expected = self.sizing.expected(replicas, requests_per_second);
        let (own, other) = {
            let prefill = format!("{} × {}", replicas.prefill, self.prefill.candidate.label);
            let decode = format!("{} × {}", replicas.decode, self.decode.candidate.label);
            match role {
                Role::Prefill => (prefill, format!("decode {decode}")),
                Role::Decode => (decode, format!("prefill {prefill}")),
            }
        };
        let part = if meets_demand { String::new() } else { format!(" ({:.0} % of the demand)", share * 100.0) };
        let cost = price.map_or_else(String::new, |p| format!(", {:.2} per hour", p * f64::from(gpus)));
        let missed = match self.sizing.out_of_reach() {
            [] => String::new(),
            targets => format!("; misses the SLA: {}", targets.join(", ")),
        };
        format!(
            "{own} and {other}: {gpus} GPUs for {} requests/s{part}{cost}, TTFT {} ms, ITL {} ms{missed}",
            figure(requests_per_second),
            figure(expected.ttft.target_ms),
            figure(expected.itl.target_ms),
        )
    }
}

#[cfg(test)]
mod tests;
