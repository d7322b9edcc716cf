//! `sla-profiler report`: a recorded run as one HTML file.

use std::path::{Path, PathBuf};

use super::Session;
use super::profile::{json, write_out};
use super::replay::{choice, other_than_recorded};
use crate::output::error::AppError;
use crate::output::exit_code;
use crate::plugin::api::Kind;
use crate::plugin::{HostOptions, PluginHost};
use crate::render::report::{self, Report};
use crate::replay::{Explanation, Picks, Recording, explain, picks, tenancy};
use crate::run::dir::write_atomically;

/// Where the report goes, in the run directory.
pub const REPORT: &str = "report.html";

/// Version of the JSON; raised when a reader of the old form would misread the new one.
const SCHEMA_VERSION: u32 = 1;

/// Write the report of a recorded run.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file needs no server and loads nothing. A run that goes on, or was cut off, has a report too.\n\n\
    Examples:\n  sla-profiler report out\n  sla-profiler report out --to /tmp/for-a-colleague.html"
)]
pub struct Args {
    /// Directory of a run, as `profile --out` wrote it
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Where to write it, instead of RUN/report.html; `-` is standard output
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(serde::Serialize)]
struct Output {
    schema_version: u32,
    report: String,
    bytes: usize,
    /// Combinations of targets that the picker knows.
    answers: usize,
}

impl Args {
    /// Runs it and says with which code to exit.
    ///
    /// # Errors
    /// See [`AppError`].
    pub fn run(self, session: &Session) -> Result<u8, AppError> {
        let recording = Recording::open(&self.run)?;
        let (html, answers) = of(&recording)?;
        if self.to.as_deref() == Some(Path::new("-")) {
            return session.printer.answer(html.as_bytes()).map(|()| exit_code::OK);
        }
        let to = self.to.unwrap_or_else(|| self.run.join(REPORT));
        write_atomically(&to, html.as_bytes())?;
        let text = if session.printer.is_json() {
            let report = to.display().to_string();
            json(&Output { schema_version: SCHEMA_VERSION, report, bytes: html.len(), answers })?
        } else {
            format!("{}: {} kB; open it in a browser", to.display(), html.len().div_ceil(1000))
        };
        write_out(session, &text)?;
        Ok(exit_code::OK)
    }
}

/// The report, and how many answers its picker knows. What cannot be told (a plugin that is gone, a role that was not
/// measured) is said in the page, since what else there is may be worth a look.
pub(super) fn of(recording: &Recording) -> Result<(String, usize), AppError> {
    let host = PluginHost::new(HostOptions::default())?;
    let mut notes = Vec::new();
    let judged = judged(recording, &host, &mut notes).map_err(|error| error.to_string());
    let tenancy = tenancy(recording);
    let report = Report {
        recording,
        explanation: judged.as_ref().map(|(explanation, _)| explanation).map_err(String::as_str),
        picks: judged.as_ref().map(|(_, picks)| picks).map_err(String::as_str),
        tenancy: &tenancy,
        notes: &notes,
    };
    let html = report::html(&report)
        .map_err(|error| AppError::Io { action: "put the data of the report into JSON", source: error.into() })?;
    Ok((html, judged.map_or(0, |(_, picks)| picks.answers.len())))
}

fn judged(recording: &Recording, host: &PluginHost, notes: &mut Vec<String>) -> Result<(Explanation, Picks), AppError> {
    let policy = host.selection(&choice(recording, Kind::SelectionPolicy, None, &[])?)?;
    let planner = host.planner(&choice(recording, Kind::PlannerModel, None, &[])?)?;
    notes.extend(other_than_recorded(recording, policy.identity(), false));
    notes.extend(other_than_recorded(recording, planner.identity(), false));
    let explanation = explain(recording, policy.as_ref())?;
    let picks = picks(recording, policy.as_ref(), planner.as_ref())?;
    Ok((explanation, picks))
}
