//! `profile_sla.log`: the run as a person would tell it, with the time on the cluster's clock: `[12:34] …`.

use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Decision, Event, Observer, Record};
use crate::domain::{Candidate, CandidateId, History, KvSource, Role, Step};

/// The log's file name, as in the seed document.
pub const LOG: &str = "profile_sla.log";

/// Writes the timeline. The program's own log lines may go to the same file.
pub struct Timeline {
    file: Arc<Mutex<File>>,
    candidates: Vec<Candidate>,
}

impl Timeline {
    /// Appends to the file.
    pub const fn new(file: Arc<Mutex<File>>) -> Self {
        Self { file, candidates: Vec::new() }
    }

    fn name(&self, id: CandidateId) -> String {
        self.candidates.get(id as usize).map_or_else(|| format!("candidate {id}"), Candidate::name)
    }

    /// None for events that are not worth a line.
    fn text(&self, event: &Event) -> Option<String> {
        Some(match event {
            Event::RunStarted(started) => format!(
                "sla-profiler {} on the {} cluster: {} on {} x {}, {} candidates, {} mappings rejected",
                started.version,
                started.cluster,
                started.job.model.name,
                started.job.hardware.total_gpus,
                started.job.hardware.gpu.name,
                started.candidates.len(),
                started.rejected.len(),
            ),
            Event::Resumed { measurements } => format!("resumed with {measurements} measurements"),
            Event::PhaseStarted { phase } => format!("Phase {}: {}", phase.number(), phase.title()),
            Event::Decided { plugin, decision, .. } => match decision {
                Decision::Sweep { step: Step::Measure(probes), .. } => {
                    format!("  {}: measure {} points", plugin.name, probes.len())
                }
                Decision::Sweep { step: Step::Done(why), .. } => format!("  {}: done, {why}", plugin.name),
                Decision::Selection(selection) => {
                    let best = |role: Role| {
                        selection.ranking(role).first().map_or_else(
                            || format!("no {role}"),
                            |choice| format!("{} ({})", self.name(choice.candidate), choice.reason),
                        )
                    };
                    format!("  {}: {}; {}", plugin.name, best(Role::Prefill), best(Role::Decode))
                }
                Decision::Plan(plan) => format!(
                    "  {}: {} prefill + {} decode engines, {:.2} requests/s",
                    plugin.name, plan.prefill_replicas, plan.decode_replicas, plan.capacity_requests_per_second
                ),
            },
            Event::PluginFailed { plugin, error, fallback, .. } => {
                let then = fallback
                    .as_ref()
                    .map_or_else(|| "the run stops".to_owned(), |f| format!("{} decides from here on", f.name));
                format!("  plugin {} failed: {error}; {then}", plugin.name)
            }
            Event::Launching { candidate } => format!("  launching {}", self.name(*candidate)),
            Event::Launched { facts } => {
                let known = |s: &&KvSource| s.kv_tokens.is_some();
                let source = facts.kv_sources.iter().find(known).map(|s| format!(" ({})", s.source));
                format!(
                    "  {} answers after {:.0} s: KV cache {} tokens{}, at most {} running",
                    self.name(facts.candidate),
                    facts.launch_s,
                    facts.kv_tokens,
                    source.unwrap_or_default(),
                    facts.max_running
                )
            }
            Event::Joined { facts } => {
                format!("  {} is measured on an engine that is up already", self.name(facts.candidate))
            }
            Event::Measuring { .. } => return None,
            Event::Measured { measurement: m, .. } => {
                let latency = match (m.ttft_ms, m.itl_ms) {
                    (Some(ttft), _) => format!("TTFT {:.1} ms [{:.1}, {:.1}]", ttft.target, ttft.ci_low, ttft.ci_high),
                    (_, Some(itl)) => format!("ITL {:.2} ms [{:.2}, {:.2}]", itl.target, itl.ci_low, itl.ci_high),
                    (None, None) => "no latency".to_owned(),
                };
                format!(
                    "  {} isl {} osl {} concurrency {} (seen {:.1}): {latency}, KV {:.1} %, n={}",
                    self.name(m.candidate),
                    m.isl,
                    m.osl,
                    m.concurrency,
                    m.concurrency_seen,
                    m.kv_usage * 100.0,
                    m.samples
                )
            }
            Event::Reused { measurement: m, run, .. } => format!(
                "  {} isl {} osl {} concurrency {}: taken over from {run}",
                self.name(m.candidate),
                m.isl,
                m.osl,
                m.concurrency
            ),
            Event::Failed { failure, .. } => {
                format!("  {} {}: {}", self.name(failure.candidate), failure.class, failure.reason)
            }
            Event::Retrying { retry, .. } => format!(
                "  {} {}: {}; try {} begins in {:.0} s",
                self.name(retry.failure.candidate),
                retry.failure.class,
                retry.failure.reason,
                retry.tried + 1,
                retry.pause_s
            ),
            Event::Released { candidate } => format!("  released {}", self.name(*candidate)),
            Event::Infeasible { reason } => format!("  WARNING: {reason}"),
            Event::Wrote { path } => format!("  wrote {path}"),
            Event::Checked { report } => format!(
                "  check run: TTFT {:.1} ms, ITL {:.2} ms, {:.2} requests/s, {:.1} % of requests within the SLA",
                report.ttft_ms.target,
                report.itl_ms.target,
                report.requests_per_second,
                report.slo_attainment * 100.0
            ),
            Event::PhaseFinished { phase, summary } => format!("Phase {} done: {summary}", phase.number()),
            Event::RolledBack { what } => format!("rolled back: {what}"),
            Event::PhaseSkipped { phase, reason } => format!("Phase {} skipped: {reason}", phase.number()),
            Event::RunFinished { feasible: true } => "done".to_owned(),
            Event::RunFinished { feasible: false } => "done; no configuration meets the SLA".to_owned(),
        })
    }
}

/// `12:34`, or `1:02:03` from one hour on.
pub fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes:02}:{seconds:02}") }
}

impl Observer for Timeline {
    fn on(&mut self, record: &Record, _history: &History) {
        if let Event::RunStarted(started) = &record.event {
            self.candidates.clone_from(&started.candidates);
        }
        if let Some(text) = self.text(&record.event) {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            // The log is a convenience; the journal is what must not be lost, and it reports a full disk.
            let _ = writeln!(file, "[{}] {text}", clock(record.at_s));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_shows_hours_only_where_there_are_some() {
        assert_eq!(clock(0.0), "00:00");
        assert_eq!(clock(754.9), "12:34");
        assert_eq!(clock(3723.0), "1:02:03");
        assert_eq!(clock(-1.0), "00:00");
    }
}
