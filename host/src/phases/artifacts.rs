//! What each phase leaves behind in the run directory. Names and forms are those of the seed document and of Dynamo
//! 1.x, so that its planner, mocker and sidecar find what they look for; the README lists them.

use std::fmt::Display;

use super::{Context, RunError};
use crate::dgd::{self, DecodeTable, Files, PrefillTable};
use crate::domain::Chosen;
use crate::domain::{Candidate, CandidateId, EngineFacts, Failure, History, Measurement, Role};
use crate::render::csv_table::{self, Row};
use crate::render::npz;
use crate::render::plots::{self, Figure, Sample};
use crate::render::result::{self, ResultFile};
use crate::run::{Event, RunDir};

/// The answer for programs.
pub const RESULT: &str = "result.json";
/// Every point with interval and sample count.
pub const MEASUREMENTS: &str = "measurements.csv";
/// Folder of the prefill curve.
pub const PREFILL_CURVE: &str = "selected_prefill_interpolation";
/// Folder of the decode curves.
pub const DECODE_CURVE: &str = "selected_decode_interpolation";

/// Writes a run's files and records that it did.
pub struct Artifacts {
    dir: RunDir,
}

fn unrendered(name: &str) -> impl Fn(&dyn Display) -> RunError {
    let name = name.to_owned();
    move |error| RunError::Render { name: name.clone(), reason: error.to_string() }
}

impl Artifacts {
    /// Into this directory.
    pub const fn new(dir: RunDir) -> Self {
        Self { dir }
    }

    fn write(&self, context: &Context<'_>, name: &str, bytes: &[u8]) -> Result<(), RunError> {
        self.dir.write(name, bytes)?;
        context.recorder.record(Event::Wrote { path: name.to_owned() })?;
        Ok(())
    }

    /// A picture that cannot be drawn must not cost a run its result.
    fn draw(&self, context: &Context<'_>, name: &str, figure: &Figure) -> Result<(), RunError> {
        match figure.png() {
            Ok(png) => self.write(context, name, &png),
            Err(error) => {
                tracing::warn!("{name} is left out: {error}");
                Ok(())
            }
        }
    }

    /// Phases 1 and 2: each candidate's folder, the role's picture, all points so far.
    pub(super) fn sweep(&self, context: &Context<'_>, role: Role) -> Result<(), RunError> {
        let history = context.recorder.history();
        for (candidate, id) in context.space.candidates.iter().zip(0..).filter(|(c, _)| c.role == role) {
            if history.measurements_of(id).next().is_none() && history.failures.iter().all(|f| f.candidate != id) {
                continue;
            }
            let folder = candidate.dir_name();
            self.candidate_config(context, &folder, candidate)?;
            let name = format!("{folder}/measurements.json");
            let known = CandidateFile {
                candidate,
                facts: history.facts_of(id),
                measurements: history.measurements_of(id).collect(),
                failures: history.failures.iter().filter(|f| f.candidate == id).collect(),
            };
            let json = serde_json::to_vec_pretty(&known).map_err(|error| unrendered(&name)(&error))?;
            self.write(context, &name, &json)?;
        }
        self.performance(context, &history, role, None)?;
        self.measurements(context)
    }

    fn candidate_config(&self, context: &Context<'_>, folder: &str, candidate: &Candidate) -> Result<(), RunError> {
        let config = dgd::to_yaml(&dgd::generate_candidate(context.spec, candidate)?)?;
        self.write(context, &format!("{folder}/config.yaml"), config.as_bytes())
    }

    fn performance(
        &self,
        context: &Context<'_>,
        history: &History,
        role: Role,
        chosen: Option<&Chosen>,
    ) -> Result<(), RunError> {
        let samples = samples(context, history, role);
        let choice = chosen.map(|chosen| chosen.of(role));
        let job = &context.spec.job;
        match role {
            Role::Prefill => {
                let figure = plots::prefill_performance(job, &samples, choice);
                self.draw(context, "prefill_performance.png", &figure)
            }
            Role::Decode => {
                let figure = plots::decode_performance(job, &samples, choice);
                self.draw(context, "decode_performance.png", &figure)
            }
        }
    }

    fn measurements(&self, context: &Context<'_>) -> Result<(), RunError> {
        let history = context.recorder.history();
        let phases = context.recorder.phases();
        let taken_over = context.recorder.taken_over();
        let rows = history.measurements.iter().zip(&phases).enumerate().filter_map(|(index, (measurement, phase))| {
            let candidate = context.space.candidates.get(measurement.candidate as usize)?;
            let from = taken_over.iter().find(|(of, _)| *of == index).map(|(_, run)| run.as_str());
            Some((phase, Row { phase: phase.title(), candidate, measurement, reused_from: from }))
        });
        // By what they are, not by when they came: the same run gives the same file, however it was packed or resumed.
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|(phase, row)| (**phase, row.measurement.point()));
        let csv = csv_table::measurements(rows.into_iter().map(|(_, row)| row))
            .map_err(|error| unrendered(MEASUREMENTS)(&error))?;
        self.write(context, MEASUREMENTS, csv.as_bytes())
    }

    /// Phase 3: the pictures again, with the winners marked, and what they cost.
    pub(super) fn selection(&self, context: &Context<'_>, chosen: &Chosen) -> Result<(), RunError> {
        let history = context.recorder.history();
        for role in Role::ALL {
            self.performance(context, &history, role, Some(chosen))?;
        }
        let figure = plots::cost_sla(
            &context.spec.job,
            &samples(context, &history, Role::Prefill),
            &samples(context, &history, Role::Decode),
            Some((&chosen.prefill, &chosen.decode)),
        );
        self.draw(context, "cost_sla.png", &figure)
    }

    /// Phase 4: the prefill curve in Dynamo's form, and its pictures.
    pub(super) fn prefill_curve(&self, context: &Context<'_>, chosen: &Chosen) -> Result<(), RunError> {
        let history = context.recorder.history();
        let Some(candidate) = candidate(context, chosen.prefill.candidate) else { return Ok(()) };
        let table = PrefillTable::new(history.measurements_of(chosen.prefill.candidate));
        let job = &context.spec.job;
        self.candidate_config(context, PREFILL_CURVE, candidate)?;
        let name = format!("{PREFILL_CURVE}/raw_data.npz");
        let bytes = npz::prefill(&table).map_err(|error| unrendered(&name)(&error))?;
        self.write(context, &name, &bytes)?;
        let ttft = plots::prefill_ttft_interpolation(job, candidate, &table);
        self.draw(context, &format!("{PREFILL_CURVE}/prefill_ttft_interpolation.png"), &ttft)?;
        let throughput = plots::prefill_throughput_interpolation(job, candidate, &table);
        self.draw(context, &format!("{PREFILL_CURVE}/prefill_throughput_interpolation.png"), &throughput)?;
        self.measurements(context)
    }

    /// Phase 5: the decode curves in Dynamo's form, and their pictures.
    pub(super) fn decode_curve(&self, context: &Context<'_>, chosen: &Chosen) -> Result<(), RunError> {
        let history = context.recorder.history();
        let id = chosen.decode.candidate;
        let (Some(candidate), Some(facts)) = (candidate(context, id), history.facts_of(id)) else { return Ok(()) };
        let table = DecodeTable::new(history.measurements_of(id), facts.kv_tokens);
        let job = &context.spec.job;
        let operating = result::operating_point(job, &history, id, Some(&chosen.decode));
        self.candidate_config(context, DECODE_CURVE, candidate)?;
        let name = format!("{DECODE_CURVE}/raw_data.npz");
        let bytes = npz::decode(&table).map_err(|error| unrendered(&name)(&error))?;
        self.write(context, &name, &bytes)?;
        let itl = plots::decode_itl_interpolation(job, candidate, &table, operating.as_ref());
        self.draw(context, &format!("{DECODE_CURVE}/decode_itl_interpolation.png"), &itl)?;
        let throughput = plots::decode_throughput_interpolation(job, candidate, &table, operating.as_ref());
        self.draw(context, &format!("{DECODE_CURVE}/decode_throughput_interpolation.png"), &throughput)?;
        self.measurements(context)
    }

    /// Phase 6: the deployments, each with a comment that says what it promises.
    pub(super) fn deployment(
        &self,
        context: &Context<'_>,
        files: &Files,
        feasible: bool,
        summary: &str,
    ) -> Result<(), RunError> {
        let write = |name: &str, generated: &dgd::Generated| {
            self.write(context, name, generated.to_file(summary, feasible)?.as_bytes())
        };
        write("config_with_planner.yaml", &files.config_with_planner)?;
        if let Some(mocker) = &files.mocker_config_with_planner {
            write("mocker_config_with_planner.yaml", mocker)?;
        }
        write(super::generation::FINAL_CONFIG, &files.final_config)
    }

    /// The end: everything in one file for programs.
    pub(super) fn result(&self, context: &Context<'_>, result: &ResultFile) -> Result<(), RunError> {
        let mut json = serde_json::to_vec_pretty(result).map_err(|error| unrendered(RESULT)(&error))?;
        json.push(b'\n');
        self.write(context, RESULT, &json)
    }
}

/// `measurements.json` of a candidate's folder.
#[derive(serde::Serialize)]
struct CandidateFile<'a> {
    candidate: &'a Candidate,
    facts: Option<&'a EngineFacts>,
    measurements: Vec<&'a Measurement>,
    failures: Vec<&'a Failure>,
}

fn candidate<'a>(context: &Context<'a>, id: CandidateId) -> Option<&'a Candidate> {
    context.space.candidates.get(id as usize)
}

fn samples<'a>(context: &Context<'a>, history: &'a History, role: Role) -> Vec<Sample<'a>> {
    let sample = |measurement: &'a Measurement| {
        Some(Sample { candidate: candidate(context, measurement.candidate)?, measurement })
    };
    history.measurements.iter().filter_map(sample).filter(|sample| sample.candidate.role == role).collect()
}
