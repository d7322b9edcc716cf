//! Who will probably win, so that their engines stay up for the curves. A guess that costs nothing but time where it is
//! wrong; the selection policy decides.

use std::cmp::Ordering;

use crate::domain::{Candidate, CandidateId, History, Job, Role, Stat};

/// The role's candidates with the highest throughput per GPU within the SLA's target, or, where none meets it, with the
/// lowest latency; so many of them at most.
pub fn likely_winners(
    job: &Job,
    candidates: &[Candidate],
    history: &History,
    role: Role,
    count: usize,
) -> Vec<CandidateId> {
    let limit_ms = match role {
        Role::Prefill => job.sla.ttft_ms.or(job.sla.e2e_ms),
        Role::Decode => job.sla.itl_ms,
    };
    let mut best: Vec<(CandidateId, Standing)> = Vec::new();
    for m in history.measurements.iter().filter(|m| m.isl == job.workload.isl) {
        let latency: Option<Stat> = if role == Role::Prefill { m.ttft_ms } else { m.itl_ms };
        let (Some(latency), Some(candidate)) = (latency, candidates.get(m.candidate as usize)) else { continue };
        if candidate.role != role || history.engine_failure(m.candidate).is_some() {
            continue;
        }
        let rate = match role {
            Role::Prefill => m.input_tokens_per_second_per_gpu,
            Role::Decode => m.output_tokens_per_second_per_gpu,
        };
        let meets = limit_ms.is_none_or(|limit| latency.target <= limit);
        let standing = Standing { meets, score: if meets { rate } else { -latency.target } };
        match best.iter_mut().find(|(id, _)| *id == m.candidate) {
            Some((_, known)) if known.cmp(&standing) == Ordering::Less => *known = standing,
            Some(_) => {}
            None => best.push((m.candidate, standing)),
        }
    }
    best.sort_by(|a, b| b.1.cmp(&a.1));
    best.into_iter().take(count).map(|(id, _)| id).collect()
}

#[derive(Clone, Copy)]
struct Standing {
    meets: bool,
    score: f64,
}

impl Standing {
    fn cmp(&self, other: &Self) -> Ordering {
        self.meets.cmp(&other.meets).then(self.score.total_cmp(&other.score))
    }
}
