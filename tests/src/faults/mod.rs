//! Scripts of what Kubernetes says of a deployment that fails, or that is healthy and slow, and whether the program tells
//! them apart. The program's own watches and its own waiting run against a server that plays the script, on a paused
//! clock.

pub mod scripts;
pub mod server;

use std::time::Duration;

use sla_profiler::domain::FailureCause;
use sla_profiler::engine::kubernetes::{Deadlines, until_ready};
use sla_profiler::spec::DgdApi;
use tokio::time::Instant;

use self::scripts::Script;

/// What came of a script.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What the program took it for; none: it waited until it was ready.
    pub cause: Option<FailureCause>,
    /// Its words.
    pub reason: String,
    /// From when the fault could be seen until the program knew it.
    pub known: Duration,
    /// From when the fault could be seen until the launch was given up, or from the launch until it was ready.
    pub over: Duration,
}

/// Plays a script to its end.
pub fn play(script: &Script) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let kube = server::play(script.timeline.clone());
        let launched = Instant::now();
        let ended = until_ready(&kube, DgdApi::V1beta1, scripts::NAME, &Deadlines::default()).await;
        let since = |at: Instant| (at - launched).saturating_sub(script.visible);
        match ended {
            Ok(()) => Outcome { cause: None, reason: String::new(), known: Duration::ZERO, over: launched.elapsed() },
            Err(not_ready) => Outcome {
                cause: not_ready.cause,
                known: since(not_ready.known),
                over: since(Instant::now()),
                reason: not_ready.reason,
            },
        }
    })
}
