//! `my-plugin`: most tokens per second and GPU within the SLA.

use sla_profiler_plugin::text::figure;
use sla_profiler_plugin::{
    About, Candidates, Choice, Demand, Error, History, Job, Measurement, Role, Selection, SelectionPolicy,
    best_per_candidate,
};

/// The policy.
#[derive(Debug)]
pub struct MyPlugin;

sla_profiler_plugin::export_selection!(MyPlugin);

impl SelectionPolicy for MyPlugin {
    fn about() -> About {
        About::new("my-plugin", env!("CARGO_PKG_VERSION"), "Most tokens per second and GPU within the SLA.")
    }

    /// Ranks what was measured, best first.
    fn select(job: &Job, _: &Demand, candidates: &Candidates, history: &History) -> Result<Selection, Error> {
        if job.sla.e2e_ms.is_some() {
            return Err(Error::Unsupported("my-plugin knows no end-to-end target".to_owned()));
        }
        let rank = |role: Role| {
            let at_the_jobs_lengths = |m: &Measurement| {
                candidates.role_of(m.candidate) == Some(role)
                    && m.isl == job.workload.isl
                    && (role == Role::Prefill || m.osl == job.workload.osl)
            };
            let mut points: Vec<_> = history.measurements.rows().filter(at_the_jobs_lengths).collect();
            // Of equally good points the first wins, whatever the order of the input.
            points.sort_by_key(|m| m.concurrency);
            best_per_candidate(points.into_iter().filter_map(|m| {
                let latency_ms = m.latency_ms(role)?.target;
                let rate = m.tokens_per_second_per_gpu(role);
                let meets_sla = job.sla.limit_ms(role).is_none_or(|limit| latency_ms <= limit);
                let binding = match (meets_sla, role) {
                    (true, _) => "",
                    (false, Role::Prefill) => "ttft",
                    (false, Role::Decode) => "itl",
                };
                Some(Choice {
                    candidate: m.candidate,
                    concurrency: m.concurrency,
                    meets_sla,
                    score: if meets_sla { rate } else { -latency_ms },
                    reason: format!("{} ms, {} tokens/s/GPU", figure(latency_ms), figure(rate)),
                    binding: binding.to_owned(),
                })
            }))
        };
        Ok(Selection { prefill: rank(Role::Prefill), decode: rank(Role::Decode), notes: Vec::new() })
    }
}
