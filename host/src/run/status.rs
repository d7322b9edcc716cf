//! `profiler_status.yaml`: the file that Dynamo's sidecar polls (keys and values of its 1.x profiler), with percent
//! and ETA beside them.

use serde::Serialize;

use super::forecast::{Forecast, Standing, Tracker};
use super::{Event, Observer, Record, RunDir};
use crate::domain::{Candidate, History};

/// The status file's name.
pub const STATUS: &str = "profiler_status.yaml";

/// How a run stands, in the sidecar's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Running,
    Success,
    Failed,
}

#[derive(Debug, Serialize)]
struct StatusFile<'a> {
    status: State,
    timestamp: String,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    phase: &'a str,
    percent: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outputs: Option<Outputs>,
}

#[derive(Debug, Serialize)]
struct Outputs {
    final_config: &'static str,
}

/// Keeps the status file up to date, at each candidate and each phase.
pub struct StatusWriter {
    dir: RunDir,
    tracker: Tracker,
    candidates: Vec<Candidate>,
}

impl StatusWriter {
    /// Says that the run has begun.
    pub fn new(dir: RunDir, forecast: Forecast) -> Self {
        let writer = Self { dir, tracker: Tracker::new(forecast), candidates: Vec::new() };
        writer.write(State::Running, "starting", None, "Initializing", Standing { fraction: 0.0, eta_s: None });
        writer
    }

    fn write(&self, status: State, message: &str, error: Option<&str>, phase: &str, standing: Standing) {
        let file = StatusFile {
            status,
            timestamp: timestamp(),
            message,
            error,
            phase,
            percent: (standing.fraction * 100.0) as u32,
            eta_seconds: standing.eta_s.filter(|_| status == State::Running).map(|s| s.ceil() as u64),
            outputs: (status == State::Success)
                .then_some(Outputs { final_config: crate::phases::generation::FINAL_CONFIG }),
        };
        write(&self.dir, &file);
    }
}

fn timestamp() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn write(dir: &RunDir, file: &StatusFile<'_>) {
    // A status that cannot be written must not end the run; the journal will notice a full disk.
    match serde_yaml::to_string(file) {
        Ok(yaml) => {
            if let Err(error) = dir.write(STATUS, yaml.as_bytes()) {
                tracing::warn!("{error}");
            }
        }
        Err(error) => tracing::warn!("{STATUS}: {error}"),
    }
}

/// Says that the run has failed; the last thing that a failing run does.
pub fn write_failure(dir: &RunDir, error: &str) {
    let file = StatusFile {
        status: State::Failed,
        timestamp: timestamp(),
        message: "profiling failed",
        error: Some(error),
        phase: "Failed",
        percent: 0,
        eta_seconds: None,
        outputs: None,
    };
    write(dir, &file);
}

/// What a person would want to read of a run that is at this event, if anything.
pub fn message(event: &Event, candidates: &[Candidate]) -> Option<String> {
    let name = |id: u32| candidates.get(id as usize).map_or_else(|| id.to_string(), Candidate::name);
    match event {
        Event::PhaseStarted { phase } => Some(format!("phase {} of 7: {}", phase.number(), phase.title())),
        Event::Launching { candidate } => Some(format!("launching {}", name(*candidate))),
        Event::Retrying { retry, .. } => Some(format!(
            "{} {}, tried again in {:.0} s",
            name(retry.failure.candidate),
            retry.failure.cause.map_or_else(|| retry.failure.class.to_string(), |cause| cause.to_string()),
            retry.pause_s
        )),
        Event::Launched { facts } | Event::Joined { facts } => Some(format!("measuring {}", name(facts.candidate))),
        _ => None,
    }
}

/// `42 %, about 3 min to go`; empty before there is something to go by.
pub fn progress(standing: Standing) -> String {
    let Some(eta_s) = standing.eta_s else { return String::new() };
    let left = match eta_s.ceil() as u64 {
        s if s < 100 => format!("{s} s"),
        s if s < 100 * 60 => format!("{} min", s.div_ceil(60)),
        s => format!("{:.1} h", s as f64 / 3600.0),
    };
    format!("{:.0} %, about {left} to go", (standing.fraction * 100.0).floor())
}

impl Observer for StatusWriter {
    fn on(&mut self, record: &Record, _history: &History) {
        let standing = self.tracker.on(record);
        let phase = self.tracker.phase().map_or("Initializing", super::Phase::dynamo_name);
        let message = match &record.event {
            Event::RunStarted(started) => {
                self.candidates.clone_from(&started.candidates);
                return;
            }
            Event::RunFinished { feasible } => {
                let message = if *feasible { "done" } else { "done; no configuration meets the SLA" };
                self.write(State::Success, message, None, "Done", Standing { fraction: 1.0, eta_s: None });
                return;
            }
            event => match message(event, &self.candidates) {
                Some(message) => message,
                None => return,
            },
        };
        self.write(State::Running, &message, None, phase, standing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_to_go_is_rounded_as_a_person_would() {
        let at = |fraction, eta_s| progress(Standing { fraction, eta_s });
        assert_eq!(at(0.999, Some(0.4)), "99 %, about 1 s to go");
        assert_eq!(at(0.5, Some(600.0)), "50 %, about 10 min to go");
        assert_eq!(at(0.0, Some(9000.0)), "0 %, about 2.5 h to go");
        assert_eq!(at(0.0, None), "");
    }
}
