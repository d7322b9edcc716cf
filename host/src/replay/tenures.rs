//! Which engine held which GPUs when, and what it did with them.

use serde::Serialize;

use super::Recording;
use crate::domain::{CandidateId, Role};
use crate::run::{Event, Phase, Retry};

/// An engine's time on its GPUs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tenure {
    /// For whom it was launched; absent for the deployment of phase 7.
    pub candidate: Option<CandidateId>,
    /// Who else was measured on it: the same mapping in the other role.
    pub also: Vec<CandidateId>,
    /// GPUs, as runs of neighbours: first and count. Which of them it was is not recorded: the lowest that are free.
    pub lanes: Vec<[u32; 2]>,
    /// When it was ordered, in seconds of the cluster's clock.
    pub from_s: f64,
    /// When it answered; absent where it never did.
    pub launched_s: Option<f64>,
    /// When measurements ran: from, to.
    pub measuring: Vec<[f64; 2]>,
    /// When its GPUs were free again.
    pub to_s: f64,
    /// Whether it failed.
    pub failed: bool,
}

impl Tenure {
    fn gpus(&self) -> f64 {
        self.lanes.iter().map(|[_, count]| f64::from(*count)).sum()
    }

    fn launching_s(&self) -> f64 {
        self.launched_s.unwrap_or(self.to_s) - self.from_s
    }

    fn measuring_s(&self) -> f64 {
        self.measuring.iter().map(|[from, to]| to - from).sum()
    }
}

/// A phase's time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PhaseSpan {
    /// Which.
    pub phase: Phase,
    /// From, in seconds of the cluster's clock.
    pub from_s: f64,
    /// To.
    pub to_s: f64,
}

/// GPUs times seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Totals {
    /// From the order to the first answer, failed launches included.
    pub launching: f64,
    /// While a measurement ran.
    pub measuring: f64,
    /// Held, but neither: waiting for the next point, being deleted.
    pub idle: f64,
    /// Held by nobody.
    pub free: f64,
}

/// The GPUs of a run over time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tenancy {
    /// GPUs of the job.
    pub gpus: u32,
    /// When the last record was written.
    pub end_s: f64,
    /// In the order of launching.
    pub tenures: Vec<Tenure>,
    /// In order; a phase that a resumed run begins again stands twice.
    pub phases: Vec<PhaseSpan>,
    /// Sums.
    pub totals: Totals,
}

/// Reads it from the journal.
pub fn tenancy(recording: &Recording) -> Tenancy {
    let mut desk = Desk::default();
    let mut phases: Vec<PhaseSpan> = Vec::new();
    // Sweeps may run side by side.
    let mut open_phases: Vec<(Phase, f64)> = Vec::new();
    let over = |open: &mut Vec<(Phase, f64)>, wanted: Option<Phase>, to_s: f64| -> Vec<PhaseSpan> {
        let is_over = |phase: Phase| wanted.is_none_or(|wanted| wanted == phase);
        let gone = open.extract_if(.., |(phase, _)| is_over(*phase));
        gone.map(|(phase, from_s)| PhaseSpan { phase, from_s, to_s }).collect()
    };
    let mut last_s = 0.0;
    let gpus_of = |id: CandidateId| recording.candidate(id).map_or(0, crate::domain::Candidate::gpus);
    for record in recording.records() {
        let now_s = record.at_s;
        match &record.event {
            Event::Launching { candidate } => desk.begin(Some(*candidate), gpus_of(*candidate), now_s),
            Event::Launched { facts } => desk.of(Some(facts.candidate), |t| t.launched_s = Some(now_s)),
            Event::Measuring { probe } => {
                let home = home(recording, &desk, probe.candidate);
                desk.of(home, |t| {
                    t.measuring.push([now_s, f64::NAN]);
                    if t.candidate != Some(probe.candidate) && !t.also.contains(&probe.candidate) {
                        t.also.push(probe.candidate);
                    }
                });
            }
            Event::Measured { measurement, .. } => {
                let home = home(recording, &desk, measurement.candidate);
                desk.of(home, |t| close(t, now_s));
            }
            Event::Failed { failure, .. } | Event::Retrying { retry: Retry { failure, .. }, .. } => {
                let launching = desk.is_launching(failure.candidate);
                let home = home(recording, &desk, failure.candidate);
                desk.of(home, |t| {
                    close(t, now_s);
                    t.failed |= failure.probe.is_none();
                });
                if failure.probe.is_none() && launching {
                    desk.end(Some(failure.candidate), now_s);
                }
            }
            Event::Released { candidate } => desk.end(Some(*candidate), now_s),
            // Whatever ran when the program ended is gone.
            Event::Resumed { .. } => {
                desk.end_all(last_s);
                phases.extend(over(&mut open_phases, None, last_s));
            }
            Event::PhaseStarted { phase } => {
                open_phases.push((*phase, now_s));
                if *phase == Phase::AutoApply {
                    desk.begin(None, deployed_gpus(recording), now_s);
                }
            }
            Event::PhaseFinished { phase, .. } => {
                if *phase == Phase::AutoApply {
                    desk.end(None, now_s);
                }
                phases.extend(over(&mut open_phases, Some(*phase), now_s));
            }
            Event::Checked { report } => desk.of(None, |t| {
                let ready_s = (t.from_s + report.ready_s).min(now_s);
                t.launched_s = Some(ready_s);
                t.measuring.push([ready_s, now_s]);
            }),
            _ => {}
        }
        last_s = now_s;
    }
    desk.end_all(last_s);
    phases.extend(over(&mut open_phases, None, last_s));
    phases.sort_by(|a, b| a.from_s.total_cmp(&b.from_s).then(a.phase.cmp(&b.phase)));
    let gpus = recording.started().job.hardware.total_gpus;
    let mut tenures = desk.closed;
    tenures.sort_by(|a, b| a.from_s.total_cmp(&b.from_s).then_with(|| a.lanes.cmp(&b.lanes)));
    let mut totals = Totals::default();
    for tenure in &tenures {
        let (launching_s, measuring_s) = (tenure.launching_s(), tenure.measuring_s());
        totals.launching += tenure.gpus() * launching_s;
        totals.measuring += tenure.gpus() * measuring_s;
        totals.idle += tenure.gpus() * (tenure.to_s - tenure.from_s - launching_s - measuring_s).max(0.0);
    }
    totals.free = (f64::from(gpus) * last_s - totals.launching - totals.measuring - totals.idle).max(0.0);
    Tenancy { gpus, end_s: last_s, tenures, phases, totals }
}

/// Whose engine the candidate is measured on: its own, or that of the same mapping in the other role.
fn home(recording: &Recording, desk: &Desk, id: CandidateId) -> Option<CandidateId> {
    let there = |id: CandidateId| desk.open.iter().any(|t| t.candidate == Some(id));
    if there(id) {
        return Some(id);
    }
    let mapping = |id: CandidateId| recording.candidate(id).map(|candidate| candidate.mapping);
    let of_others = desk.open.iter().filter_map(|t| t.candidate);
    of_others.into_iter().find(|other| mapping(*other) == mapping(id)).or(Some(id))
}

fn close(tenure: &mut Tenure, now_s: f64) {
    if let Some([_, to]) = tenure.measuring.last_mut().filter(|[_, to]| to.is_nan()) {
        *to = now_s;
    }
}

/// GPUs of the deployment that phase 7 checks.
fn deployed_gpus(recording: &Recording) -> u32 {
    let (Some((_, selection)), Some((_, plan))) = (recording.selection(), recording.plan()) else { return 0 };
    let of = |role: Role, replicas: u32| {
        let choice = selection.ranking(role).first();
        let gpus = choice.and_then(|c| recording.candidate(c.candidate)).map_or(0, crate::domain::Candidate::gpus);
        gpus.saturating_mul(replicas)
    };
    of(Role::Prefill, plan.prefill_replicas).saturating_add(of(Role::Decode, plan.decode_replicas))
}

/// Hands out GPUs as the scheduler does, for the picture.
#[derive(Default)]
struct Desk {
    open: Vec<Tenure>,
    closed: Vec<Tenure>,
}

impl Desk {
    fn begin(&mut self, candidate: Option<CandidateId>, gpus: u32, from_s: f64) {
        let held: std::collections::BTreeSet<u32> =
            self.open.iter().flat_map(|t| &t.lanes).flat_map(|[first, count]| *first..first + count).collect();
        let free = (0..).filter(|gpu| !held.contains(gpu)).take(gpus as usize);
        let mut lanes: Vec<[u32; 2]> = Vec::new();
        for gpu in free {
            match lanes.last_mut() {
                Some([first, count]) if *first + *count == gpu => *count += 1,
                _ => lanes.push([gpu, 1]),
            }
        }
        let tenure = Tenure {
            candidate,
            also: vec![],
            lanes,
            from_s,
            launched_s: None,
            measuring: vec![],
            to_s: from_s,
            failed: false,
        };
        self.open.push(tenure);
    }

    /// The newest of that candidate that is still there.
    fn of(&mut self, candidate: Option<CandidateId>, change: impl FnOnce(&mut Tenure)) {
        if let Some(tenure) = self.open.iter_mut().rev().find(|t| t.candidate == candidate) {
            change(tenure);
        }
    }

    fn is_launching(&self, candidate: CandidateId) -> bool {
        self.open.iter().rev().find(|t| t.candidate == Some(candidate)).is_some_and(|t| t.launched_s.is_none())
    }

    fn end(&mut self, candidate: Option<CandidateId>, now_s: f64) {
        if let Some(at) = self.open.iter().rposition(|t| t.candidate == candidate) {
            let mut tenure = self.open.remove(at);
            close(&mut tenure, now_s);
            tenure.to_s = now_s;
            self.closed.push(tenure);
        }
    }

    fn end_all(&mut self, now_s: f64) {
        while let Some(candidate) = self.open.last().map(|t| t.candidate) {
            self.end(candidate, now_s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_gets_the_lowest_free_gpus_even_if_they_are_not_neighbours() {
        let mut desk = Desk::default();
        desk.begin(Some(0), 1, 0.0);
        desk.begin(Some(1), 2, 0.0);
        desk.begin(Some(2), 1, 0.0);
        desk.end(Some(1), 5.0);
        desk.begin(Some(3), 4, 6.0);
        assert_eq!(desk.open.last().map(|t| t.lanes.clone()), Some(vec![[1, 2], [4, 2]]));
        assert_eq!(desk.closed[0].to_s, 5.0);
    }

    #[test]
    fn a_measurement_under_way_ends_with_its_engine() {
        let mut desk = Desk::default();
        desk.begin(Some(0), 2, 1.0);
        desk.of(Some(0), |t| t.launched_s = Some(2.0));
        desk.of(Some(0), |t| t.measuring.push([3.0, f64::NAN]));
        desk.end_all(4.0);
        let tenure = &desk.closed[0];
        assert_eq!((tenure.launching_s(), tenure.measuring_s(), tenure.gpus()), (1.0, 1.0, 2.0));
    }
}
