//! `sla-profiler doctor`: what this machine and its cluster have, what they lack, and how to get it.

mod cluster;
mod here;

use std::fmt::Write as _;
use std::path::PathBuf;

use owo_colors::OwoColorize as _;
use serde::Serialize;

use super::Session;
use super::profile::{json, real_runtime, write_out};
use crate::output::error::AppError;
use crate::output::exit_code;

/// Version of the JSON; raised when a reader of the old form would misread the new one.
const SCHEMA_VERSION: u32 = 1;

/// Look at this machine and its cluster.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Creates nothing but a file in each folder that it looks at, and removes it again.\n\nExamples:\n  \
    sla-profiler doctor\n  sla-profiler doctor --cluster kubernetes -n inference --out /results"
)]
pub struct Args {
    /// What must work: `simulated`, `local` or `kubernetes`; whatever else is missing is only told
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    cluster: Need,
    /// Directory that results are to go to
    #[arg(long, value_name = "DIR", default_value = "profiling_results")]
    out: PathBuf,
    /// Kubeconfig to use
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Namespace that engines are to run in
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
}

/// What must work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Need {
    /// The program itself
    #[default]
    Simulated,
    /// Engines on this machine
    Local,
    /// Engines in a cluster
    Kubernetes,
}

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Missing, and not needed for what must work.
    Absent,
    /// Works, but not as well as it could.
    Warning,
    /// Will not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// `program`, `plugins`, `files`, `tools` or `cluster`.
    pub area: &'static str,
    /// What was looked at.
    pub what: String,
    /// How it stands.
    pub level: Level,
    /// What was found.
    pub detail: String,
    /// What to do; absent where nothing is.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(area: &'static str, what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { area, what: what.into(), level: Level::Ok, detail: detail.into(), remedy: None }
    }

    fn bad(
        area: &'static str,
        level: Level,
        what: impl Into<String>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { area, what: what.into(), level, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

#[derive(Serialize)]
struct Output<'a> {
    schema_version: u32,
    version: &'static str,
    findings: &'a [Finding],
}

impl Args {
    /// Runs it and says with which code to exit.
    ///
    /// # Errors
    /// If the findings cannot be written; a problem that is found is an exit code, not an error.
    pub fn run(self, session: &Session) -> Result<u8, AppError> {
        let mut findings = here::look(&self.out, self.cluster);
        findings.extend(real_runtime()?.block_on(cluster::look(&self)));
        let text = if session.printer.is_json() {
            json(&Output { schema_version: SCHEMA_VERSION, version: env!("CARGO_PKG_VERSION"), findings: &findings })?
        } else {
            text(&findings)
        };
        write_out(session, &text)?;
        let problem = findings.iter().any(|finding| finding.level == Level::Problem);
        Ok(if problem { exit_code::UNWELL } else { exit_code::OK })
    }
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut area = "";
    for finding in findings {
        if finding.area != area {
            area = finding.area;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}{}", if text.is_empty() { "" } else { "\n" }, area.bold());
        }
        let mark = match finding.level {
            Level::Ok => "✓".green().to_string(),
            Level::Absent => "–".dimmed().to_string(),
            Level::Warning => "!".yellow().to_string(),
            Level::Problem => "✗".red().to_string(),
        };
        let _ = writeln!(text, "  {mark} {:<26} {}", finding.what, finding.detail);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "    {:<26} → {remedy}", "");
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let _ = match (count(Level::Problem), count(Level::Warning)) {
        (0, 0) => writeln!(text, "\nNothing stands in the way."),
        (0, warnings) => writeln!(text, "\nNothing stands in the way; {warnings} to look at."),
        (problems, _) => writeln!(text, "\n{problems} must be mended first."),
    };
    text
}
