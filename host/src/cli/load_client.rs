//! The hidden command of a pod that sends requests: its work comes from the environment, its findings go to standard
//! output, and it ends when it is told to.

use std::io::Write as _;

use tokio::signal::unix::{SignalKind, signal};

use crate::engine::kubernetes::load::{INDEX_VARIABLE, WORK_VARIABLE};
use crate::load::builtin::crowd::{self, Work};
use crate::output::exit_code;

/// Runs until it is told to end.
pub fn main() -> u8 {
    match run() {
        Ok(()) => exit_code::OK,
        Err(reason) => {
            // Nobody is left to tell if standard error is closed.
            let _ = writeln!(std::io::stderr(), "{reason}");
            exit_code::CLUSTER
        }
    }
}

fn run() -> Result<(), String> {
    let variable = |name: &str| std::env::var(name).map_err(|error| format!("{name}: {error}"));
    let work: Work =
        serde_json::from_str(&variable(WORK_VARIABLE)?).map_err(|error| format!("{WORK_VARIABLE}: {error}"))?;
    let client: u32 = variable(INDEX_VARIABLE)?.parse().map_err(|error| format!("{INDEX_VARIABLE}: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let outcome = runtime.block_on(async {
        // The first process of a container gets no signal for which it has no handler.
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
        let say = |line: String| {
            let mut out = std::io::stdout().lock();
            // Where nobody reads any more, the signal to end is on its way.
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        };
        tokio::select! {
            ended = crowd::run(&work, client, say) => ended.map_err(|error| error.to_string()),
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    });
    runtime.shutdown_background();
    outcome
}
