//! `sla-profiler gc`: what programs that are gone have left, found by what they own, and removed.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use super::Session;
use super::profile::{json, write_out};
use crate::output::error::AppError;
use crate::output::exit_code;
use crate::plugin::compile::user_dir;
use crate::process::leftovers::{self, Left};

/// Remove what killed runs have left.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Looks at this machine. What a run owns it has put down before it made it, and its record or lease \
    is held for as long as it lives: nothing is found by its name, nothing of a run that lives is touched, and nothing \
    that somebody else made.\n\nExit code: 0 if nothing is left."
)]
pub struct Args {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    /// Runs of this machine that are gone, and what they have left.
    local: Vec<Left>,
}

/// Where records of owners are: `$XDG_STATE_HOME/sla-profiler/owners`, else in `~/.local/state`; without a home, in a
/// folder for temporary files that is the user's own.
pub(super) fn records() -> PathBuf {
    user_dir("XDG_STATE_HOME", ".local/state").map_or_else(
        || std::env::temp_dir().join(format!("sla-profiler-owners-{}", rustix::process::getuid().as_raw())),
        |state| state.join("sla-profiler/owners"),
    )
}

/// Says what was found at the start of a run.
pub(super) fn warn_of(left: &[Left]) {
    for left in left.iter().filter(|left| !left.processes.is_empty()) {
        let what = if left.gone { "ended" } else { "could not be ended and may hold GPUs" };
        tracing::warn!("{}", line(left, what));
    }
}

fn line(left: &Left, what: &str) -> String {
    let processes: Vec<String> = left.processes.iter().map(|(pid, command)| format!("{pid} ({command})")).collect();
    format!(
        "the run in {} (process {}, since {}) is gone and has left {}: {what}",
        left.run.display(),
        left.pid,
        left.since,
        processes.join(", ")
    )
}

impl Args {
    /// Looks, removes, and says so.
    ///
    /// # Errors
    /// If something is left all the same.
    pub fn run(self, session: &Session) -> Result<u8, AppError> {
        let local = leftovers::clean_up(&records(), self.dry_run);
        let report = Report { dry_run: self.dry_run, local };
        let stuck: Vec<&Left> = report.local.iter().filter(|left| !left.gone).collect();
        let text = if session.printer.is_json() { json(&report)? } else { text(&report) };
        write_out(session, &text)?;
        if self.dry_run || stuck.is_empty() {
            return Ok(exit_code::OK);
        }
        let pids: Vec<String> = stuck.iter().flat_map(|left| left.processes.iter().map(|p| p.0.to_string())).collect();
        Err(AppError::Cluster {
            message: format!("processes {} do not end, not even by SIGKILL", pids.join(", ")),
            hint: "they wait for a device; `nvidia-smi` shows which GPUs they hold".to_owned(),
        })
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let with_processes = report.local.iter().filter(|left| !left.processes.is_empty());
    for left in with_processes {
        let what = match (report.dry_run, left.gone) {
            (true, _) => "would be ended",
            (false, true) => "ended",
            (false, false) => "still there",
        };
        let _ = writeln!(text, "{}", line(left, what));
    }
    if text.is_empty() {
        text.push_str("nothing is left of any run\n");
    }
    text
}
