//! `--reuse RUN`: what has to be the same, and the points of runs where it is.

use std::path::PathBuf;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::cluster::{ClusterArgs, ClusterKind};
use crate::dgd;
use crate::domain::search_space::SearchSpace;
use crate::output::error::AppError;
use crate::replay::Recording;
use crate::run::reuse::{ENGINE, Earlier, Identity};
use crate::spec::RunSpec;

fn text(value: &impl Serialize) -> Result<String, AppError> {
    serde_json::to_string(value)
        .map_err(|error| AppError::Io { action: "put the engine's identity into JSON", source: error.into() })
}

fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// What makes this run's measurements what they are.
pub(super) fn identity(spec: &RunSpec, cluster: &ClusterArgs, space: &SearchSpace) -> Result<Identity, AppError> {
    let job = &spec.job;
    let (deployment, engines) = (&spec.deployment, &spec.engines);
    let mut identity = Identity::new();
    let mut put = |name: &str, value: String| {
        identity.insert(name.to_owned(), value);
    };
    put("program", env!("CARGO_PKG_VERSION").to_owned());
    put("cluster", text(&cluster.cluster)?);
    put("model", text(&job.model)?);
    put("gpu", text(&job.hardware.gpu)?);
    put("GPUs of a node", job.hardware.gpus_per_node.to_string());
    put("backend", job.backend.to_string());
    put("image", text(&(&deployment.image, &deployment.workers_image, &deployment.runtime_version_override))?);
    put("longest context", job.max_context_tokens.to_string());
    put("statistic of the SLA", job.sla.statistic());
    put("weights", text(&deployment.model_cache)?);
    match cluster.cluster {
        ClusterKind::Simulated => {
            put("simulation", text(&spec.simulation)?);
            put("seed", job.seed.to_string());
        }
        ClusterKind::Local => put("template", text(&(&engines.local, &engines.served_name))?),
        ClusterKind::Endpoint => {
            put("endpoint", text(&(&cluster.url, cluster.tp, cluster.pp, cluster.dp, cluster.ep))?);
        }
        ClusterKind::Kubernetes => {}
    }
    if cluster.is_real() {
        put("load generator", text(&(engines.load.unwrap_or_default(), &engines.max_client_share))?);
        put("tokenizer", text(&engines.tokenizer)?);
        put("KV capacity given", text(&(engines.kv_tokens, engines.max_running))?);
    }
    for candidate in &space.candidates {
        // Flags, environment, volumes, overrides: all that the engine's deployment says.
        let engine = dgd::generate_candidate(spec, candidate).map_err(crate::phases::RunError::from)?;
        let said = engine.get("spec").map_or(Ok(String::new()), text)?;
        put(&format!("{ENGINE}{}", candidate.name()), format!("deployment {}", digest(&said)));
    }
    Ok(identity)
}

/// The points of the runs that the user points to.
pub(super) fn earlier(
    runs: &[PathBuf],
    spec: &RunSpec,
    identity: &Identity,
    space: &SearchSpace,
) -> Result<(Earlier, Vec<String>), AppError> {
    let mut earlier = Earlier::new(spec.job.sla);
    let mut notes = Vec::new();
    for run in runs {
        let recording = Recording::open(run)?;
        let points = earlier.add(run, recording.started(), recording.records(), identity, &space.candidates)?;
        notes.push(format!("{points} points of {} can be reused", run.display()));
    }
    Ok((earlier, notes))
}
