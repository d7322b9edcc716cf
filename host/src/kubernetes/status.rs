//! The status of a request, as Dynamo's tools read it, kept up to date while the run goes on.
//!
//! ```text
//! Recorder --events--> StatusObserver --newest report--> task --server-side apply--> status subresource
//! ```
//!
//! The run never waits for it, and a status that cannot be written does not end the run.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::connect::Kube;
use super::dgdr::Dgdr;
use super::events::Events;
use super::output;
use crate::domain::{Candidate, History};
use crate::run::forecast::{Forecast, Tracker};
use crate::run::{Event, Observer, Phase, Record, status};
use crate::spec::DgdApi;

/// Shortest time between two writes.
const PAUSE: Duration = Duration::from_secs(1);

/// The last word is tried for so long.
const LAST_WORD: Duration = Duration::from_secs(20);

/// Dynamo's `phase` (v1beta1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// Seen, not begun.
    #[default]
    Pending,
    /// Phases 1 to 6.
    Profiling,
    /// The deployment is generated; nobody asked to apply it.
    Ready,
    /// Phase 7.
    Deploying,
    /// It runs.
    Deployed,
    /// It ended without that.
    Failed,
}

impl Stage {
    /// As v1beta1 calls it.
    pub const fn v1beta1(self) -> &'static str {
        match self {
            Stage::Pending => "Pending",
            Stage::Profiling => "Profiling",
            Stage::Ready => "Ready",
            Stage::Deploying => "Deploying",
            Stage::Deployed => "Deployed",
            Stage::Failed => "Failed",
        }
    }

    /// v1alpha1 has no word for "deployed"; a request whose deployment runs is ready.
    const fn v1alpha1(self) -> &'static str {
        match self {
            Stage::Deployed => "Ready",
            other => other.v1beta1(),
        }
    }
}

/// What there is to say of a run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// Dynamo's `phase`.
    pub stage: Stage,
    /// Dynamo's `profilingPhase`; empty before the first one.
    pub profiling_phase: &'static str,
    /// One word for programs: `Running`, `SweepingDecodeFailed`, …
    pub reason: String,
    /// For a person.
    pub message: String,
    /// The generated deployment.
    pub selected: Option<Value>,
    /// Whether there is a deployment that keeps its promises; absent while that is not known.
    pub succeeded: Option<bool>,
    /// Whether the deployment came up; absent while it is not applied.
    pub deployment_ready: Option<bool>,
    /// Replicas of the deployment, as the API has them; absent while none is applied.
    pub deployment_info: Option<Value>,
}

/// Conditions by type; the time of a condition changes with its status only.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conditions(Vec<Value>);

impl Conditions {
    /// From an object's status.
    pub fn read(list: &Value) -> Self {
        Self(list.as_array().cloned().unwrap_or_default())
    }

    fn text<'a>(condition: &'a Value, key: &str) -> &'a str {
        condition.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// For the API server.
    pub fn list(&self) -> &[Value] {
        &self.0
    }

    /// Sets one; `now` (RFC 3339) is kept as its time if its status changes.
    pub fn set(&mut self, kind: &str, holds: Option<bool>, reason: &str, message: &str, generation: i64, now: &str) {
        let status = match holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let old = self.0.iter().find(|condition| Self::text(condition, "type") == kind);
        let since = match old {
            Some(old) if Self::text(old, "status") == status => Self::text(old, "lastTransitionTime").to_owned(),
            _ => now.to_owned(),
        };
        let condition = json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "observedGeneration": generation, "lastTransitionTime": since,
        });
        match self.0.iter_mut().find(|condition| Self::text(condition, "type") == kind) {
            Some(old) => *old = condition,
            None => self.0.push(condition),
        }
    }

    /// What the report says, at that time (RFC 3339).
    pub fn update(&mut self, report: &Report, generation: i64, now: &str) {
        let Report { stage, reason, message, .. } = report;
        let reason = if reason.is_empty() { stage.v1beta1() } else { reason.as_str() };
        let profiled = report.selected.is_some();
        let failed = *stage == Stage::Failed;
        self.set("Validation", Some(true), "ValidationPassed", "the request makes a job", generation, now);
        if profiled {
            self.set("Profiling", Some(true), "ProfilingCompleted", "profiling is complete", generation, now);
            self.set("SpecGenerated", Some(true), "SpecGenerated", "the deployment is generated", generation, now);
        } else {
            self.set("Profiling", Some(false), reason, message, generation, now);
        }
        if let Some(ready) = report.deployment_ready {
            self.set("DeploymentReady", Some(ready), reason, message, generation, now);
        }
        let succeeded = if failed { Some(false) } else { report.succeeded };
        self.set("Succeeded", succeeded, reason, message, generation, now);
    }
}

impl Report {
    /// The status object in the words of a version.
    pub fn status(&self, api: DgdApi, generation: i64, request: &str, conditions: &Conditions) -> Value {
        let mut status = Map::new();
        status.insert("observedGeneration".to_owned(), generation.into());
        status.insert("conditions".to_owned(), Value::Array(conditions.0.clone()));
        let dgd_name = self.selected.as_ref().and_then(|dgd| dgd.pointer("/metadata/name")).cloned();
        match api {
            DgdApi::V1beta1 => {
                status.insert("phase".to_owned(), self.stage.v1beta1().into());
                if !self.profiling_phase.is_empty() {
                    status.insert("profilingPhase".to_owned(), self.profiling_phase.into());
                }
                if let Some(dgd) = &self.selected {
                    status.insert("profilingResults".to_owned(), json!({ "selectedConfig": dgd }));
                }
                if let Some(name) = dgd_name {
                    status.insert("dgdName".to_owned(), name);
                }
                if let Some(info) = &self.deployment_info {
                    status.insert("deploymentInfo".to_owned(), info.clone());
                }
            }
            DgdApi::V1alpha1 => {
                status.insert("state".to_owned(), self.stage.v1alpha1().into());
                if let Some(dgd) = &self.selected {
                    let place = format!("configmap/{}", output::name(request));
                    status.insert("profilingResults".to_owned(), place.into());
                    status.insert("generatedDeployment".to_owned(), dgd.clone());
                }
            }
        }
        Value::Object(status)
    }
}

/// Turns what happens in a run into reports and events.
pub struct StatusObserver {
    newest: watch::Sender<Report>,
    candidates: Vec<Candidate>,
    tracker: Tracker,
    events: tokio::sync::mpsc::UnboundedSender<Note>,
}

/// An event to write.
struct Note {
    warning: bool,
    reason: String,
    text: String,
}

impl StatusObserver {
    fn note(&self, warning: bool, reason: &str, text: String) {
        // Nobody listens any more once the run is over.
        let _ = self.events.send(Note { warning, reason: reason.to_owned(), text });
    }

    fn name(&self, id: u32) -> String {
        self.candidates.get(id as usize).map_or_else(|| id.to_string(), Candidate::name)
    }
}

impl Observer for StatusObserver {
    fn on(&mut self, record: &Record, _: &History) {
        let progress = status::progress(self.tracker.on(record));
        let with_progress = |text: String| if progress.is_empty() { text } else { format!("{text} ({progress})") };
        match &record.event {
            Event::RunStarted(started) => {
                self.candidates.clone_from(&started.candidates);
                let text =
                    format!("{} candidates on {} GPUs", started.candidates.len(), started.job.hardware.total_gpus);
                self.note(false, "ProfilingStarted", text);
            }
            Event::PhaseStarted { phase } => {
                let title = format!("phase {} of 7: {}", phase.number(), phase.title());
                self.note(false, phase.dynamo_name(), title);
            }
            Event::Launching { candidate } => {
                let text = with_progress(format!("launching {}", self.name(*candidate)));
                self.note(false, "CandidateLaunching", text);
            }
            Event::Launched { facts } => {
                let took =
                    format!("measuring {}, which answered after {:.0} s", self.name(facts.candidate), facts.launch_s);
                self.note(false, "CandidateMeasuring", with_progress(took));
            }
            Event::Failed { failure, .. } if failure.probe.is_none() => {
                let text = format!("{}: {}: {}", self.name(failure.candidate), failure.class, failure.reason);
                self.note(true, "CandidateFailed", text);
            }
            Event::Retrying { retry, .. } => {
                let (failure, pause_s) = (&retry.failure, retry.pause_s);
                let text =
                    format!("{}: {}; tried again in {pause_s:.0} s", self.name(failure.candidate), failure.reason);
                self.note(true, "CandidateRetrying", text);
            }
            Event::PluginFailed { plugin, error, .. } => {
                self.note(true, "PluginFailed", format!("{}: {error}", plugin.name));
            }
            Event::Infeasible { reason } => self.note(true, "Infeasible", reason.clone()),
            Event::PhaseFinished { phase: Phase::Generation, summary } => {
                self.note(false, "SpecGenerated", summary.clone());
            }
            Event::PhaseSkipped { phase: Phase::AutoApply, reason } => {
                self.note(true, "NotApplied", reason.clone());
            }
            Event::RolledBack { what } => self.note(true, "RolledBack", what.clone()),
            Event::Checked { report } => {
                let (warning, reason) =
                    if report.meets_sla { (false, "DeploymentVerified") } else { (true, "SLANotMet") };
                let text = format!(
                    "{:.2} requests/s: TTFT {:.0} ms, ITL {:.1} ms",
                    report.requests_per_second, report.ttft_ms.target, report.itl_ms.target
                );
                self.note(warning, reason, text);
            }
            _ => {}
        }
        let Some(message) = status::message(&record.event, &self.candidates) else { return };
        self.newest.send_modify(|report| {
            report.message = with_progress(message);
            "Running".clone_into(&mut report.reason);
            report.stage = Stage::Profiling;
            if let Event::PhaseStarted { phase } = &record.event {
                report.profiling_phase = phase.dynamo_name();
                if *phase == Phase::AutoApply {
                    report.stage = Stage::Deploying;
                    report.deployment_ready = Some(false);
                }
            } else if report.profiling_phase == Phase::AutoApply.dynamo_name() {
                report.stage = Stage::Deploying;
            }
        });
    }
}

/// Writes what [`StatusObserver`] says.
pub struct StatusTask {
    newest: watch::Sender<Report>,
    task: JoinHandle<Conditions>,
    notes: JoinHandle<()>,
    kube: Kube,
    dgdr: Dgdr,
}

/// Starts writing the status of a request.
pub fn follow(kube: Kube, dgdr: Dgdr, forecast: Forecast) -> (StatusObserver, StatusTask) {
    let first = Report { stage: Stage::Profiling, profiling_phase: "Initializing", ..Report::default() };
    let (newest, mut changes) = watch::channel(first);
    let (events, mut notes) = tokio::sync::mpsc::unbounded_channel::<Note>();
    let observer =
        StatusObserver { newest: newest.clone(), candidates: Vec::new(), tracker: Tracker::new(forecast), events };
    let publisher = Events::new(kube.clone(), &dgdr.owner());
    let notes = tokio::spawn(async move {
        while let Some(note) = notes.recv().await {
            if note.warning {
                publisher.warning(&note.reason, &note.text).await;
            } else {
                publisher.normal(&note.reason, &note.text).await;
            }
        }
    });
    let task = {
        let (kube, dgdr) = (kube.clone(), dgdr.clone());
        tokio::spawn(async move {
            let mut conditions = dgdr.conditions.clone();
            loop {
                let report = changes.borrow_and_update().clone();
                if report.stage_is_final() {
                    return conditions;
                }
                write(&kube, &dgdr, &report, &mut conditions).await;
                tokio::time::sleep(PAUSE).await;
                if changes.changed().await.is_err() {
                    return conditions;
                }
            }
        })
    };
    (observer, StatusTask { newest, task, notes, kube, dgdr })
}

impl Report {
    const fn stage_is_final(&self) -> bool {
        matches!(self.stage, Stage::Ready | Stage::Deployed | Stage::Failed)
    }
}

async fn write(kube: &Kube, dgdr: &Dgdr, report: &Report, conditions: &mut Conditions) {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    conditions.update(report, dgdr.generation, &now);
    if let Err(error) = kube.write_status(dgdr, report, conditions).await {
        tracing::warn!("the status of the request is out of date: {error}");
    }
}

impl StatusTask {
    /// Writes nothing more: the request is another process's business now.
    pub fn abandon(self) {
        self.task.abort();
        self.notes.abort();
    }

    /// What the last phase was called, in Dynamo's words.
    pub fn profiling_phase(&self) -> &'static str {
        self.newest.borrow().profiling_phase
    }

    /// Writes the last word and returns when it is written. Drop the observer before, so that its events end.
    pub async fn finish(self, last: Report) {
        let Self { newest, task, notes, kube, dgdr } = self;
        newest.send_replace(last.clone());
        let writing = async {
            let mut conditions = task.await.unwrap_or_else(|_| dgdr.conditions.clone());
            write(&kube, &dgdr, &last, &mut conditions).await;
        };
        if tokio::time::timeout(LAST_WORD, writing).await.is_err() {
            tracing::warn!("the status of the request is out of date: the API server does not answer");
        }
        // Events are of no use to a reader who has to wait for them.
        if tokio::time::timeout(Duration::from_secs(5), notes).await.is_err() {
            tracing::warn!("not all events were written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(stage: Stage) -> Report {
        Report { stage, profiling_phase: "SweepingDecode", message: "m".to_owned(), ..Report::default() }
    }

    fn condition<'a>(conditions: &'a Conditions, kind: &str) -> &'a Value {
        conditions.0.iter().find(|c| c["type"] == kind).unwrap()
    }

    #[test]
    fn a_conditions_time_changes_with_its_status_only() {
        let mut conditions = Conditions::default();
        conditions.update(&report(Stage::Profiling), 1, "t1");
        conditions.update(&Report { message: "further".to_owned(), ..report(Stage::Profiling) }, 1, "t2");
        assert_eq!(condition(&conditions, "Profiling")["lastTransitionTime"], "t1");
        assert_eq!(condition(&conditions, "Profiling")["message"], "further");
        let done = Report {
            selected: Some(json!({ "metadata": { "name": "d" } })),
            succeeded: Some(true),
            ..report(Stage::Ready)
        };
        conditions.update(&done, 1, "t3");
        assert_eq!(condition(&conditions, "Profiling")["status"], "True");
        assert_eq!(condition(&conditions, "Profiling")["lastTransitionTime"], "t3");
        assert_eq!(condition(&conditions, "Succeeded")["status"], "True");
    }

    #[test]
    fn percent_and_time_to_go_are_told_at_each_candidate() {
        let (newest, changes) = watch::channel(Report::default());
        let (events, mut notes) = tokio::sync::mpsc::unbounded_channel();
        let mut forecast = Forecast::default();
        forecast.add(Phase::PrefillSweep, 100.0);
        let tracker = Tracker::new(forecast);
        let mut observer = StatusObserver { newest, candidates: Vec::new(), tracker, events };
        let mut on = |at_s, event| observer.on(&Record { seq: 0, at_s, event }, &History::default());
        on(0.0, Event::PhaseStarted { phase: Phase::PrefillSweep });
        on(25.0, Event::Launching { candidate: 3 });
        let told = "launching 3 (25 %, about 75 s to go)";
        assert_eq!(changes.borrow().message, told);
        assert_eq!(notes.try_recv().unwrap().reason, "SweepingPrefill");
        let note = notes.try_recv().unwrap();
        assert_eq!((note.reason.as_str(), note.text.as_str()), ("CandidateLaunching", told));
    }

    #[test]
    fn conditions_of_others_stay() {
        let mut conditions = Conditions::read(&json!([{ "type": "Theirs", "status": "True" }]));
        conditions.update(&report(Stage::Failed), 1, "t");
        assert_eq!(condition(&conditions, "Theirs")["status"], "True");
        assert_eq!(condition(&conditions, "Succeeded")["status"], "False");
    }

    #[test]
    fn each_version_is_told_in_its_own_words() {
        let done = Report { selected: Some(json!({ "metadata": { "name": "d" } })), ..report(Stage::Deployed) };
        let beta = done.status(DgdApi::V1beta1, 4, "req", &Conditions::default());
        assert_eq!(beta["phase"], "Deployed");
        assert_eq!(beta["profilingPhase"], "SweepingDecode");
        assert_eq!(beta["dgdName"], "d");
        assert_eq!(beta["profilingResults"]["selectedConfig"]["metadata"]["name"], "d");
        let alpha = done.status(DgdApi::V1alpha1, 4, "req", &Conditions::default());
        assert_eq!(alpha["state"], "Ready");
        assert_eq!(alpha["profilingResults"], "configmap/dgdr-output-req");
        assert_eq!(alpha["generatedDeployment"]["metadata"]["name"], "d");
    }
}
