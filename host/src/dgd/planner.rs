//! Dynamo's planner component, its settings and the profile data, as ConfigMaps that the deployment mounts.
//!
//! The ConfigMaps are called after a hash of what they hold: a changed setting is a new ConfigMap, so that a running
//! deployment never sees its own change under its feet, and the same decision gives the same names.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{
    DgdError, ProfileData, Request, Shape,
    component::{self, Component, Kind, MOCKER_MODULE, Mount, Source},
};
use crate::{domain::Role, spec::Wanted};

/// Where planner and mockers find the profile data.
const PROFILE_DATA_PATH: &str = "/workspace/profiling_results";

/// Where the planner finds its settings.
const SETTINGS_PATH: &str = "/workspace/planner_config";

/// File with the settings.
const SETTINGS_FILE: &str = "planner_config.json";

/// Settings of the planner, with the user's merged over: every key of theirs wins, null takes a key away.
///
/// Two defaults differ from Dynamo's: `optimization_target` is `sla` (Dynamo's `throughput` ignores the targets and the
/// profile data), and `pre_deployment_sweeping_mode` is `thorough`, which says that the data were measured.
pub(super) fn settings(request: &Request<'_>, shape: Shape) -> Map<String, Value> {
    let job = &request.spec.job;
    let mut settings = Map::new();
    let mut set = |key: &str, value: Value| settings.insert(key.to_owned(), value);
    set("environment", "kubernetes".into());
    set("mode", "disagg".into());
    set("backend", if shape.mocker { "mocker" } else { job.backend.as_str() }.into());
    set("model_name", job.model.name.as_str().into());
    set("optimization_target", "sla".into());
    set("enable_throughput_scaling", true.into());
    set("pre_deployment_sweeping_mode", "thorough".into());
    let (ttft_ms, itl_ms) = targets(request);
    for (key, target) in [("ttft_ms", ttft_ms), ("itl_ms", itl_ms)] {
        if target.is_finite() && target > 0.0 {
            set(key, target.into());
        }
    }
    set("prefill_engine_num_gpu", request.prefill.gpus().into());
    set("decode_engine_num_gpu", request.decode.gpus().into());
    set("max_gpu_budget", job.hardware.total_gpus.into());
    set("profile_results_dir", PROFILE_DATA_PATH.into());
    for (key, value) in &request.spec.deployment.planner_config {
        if value.is_null() {
            settings.shift_remove(key);
        } else {
            settings.insert(key.clone(), value.clone());
        }
    }
    settings
}

/// TTFT and ITL for the planner, which knows no end-to-end target and has a default for each that nobody asked for.
/// A missing one is what the plan promises; an end-to-end target leaves the ITL what the promised TTFT does not take.
fn targets(request: &Request<'_>) -> (f64, f64) {
    let (sla, plan) = (request.spec.job.sla, request.plan);
    let ttft_ms = sla.ttft_ms.unwrap_or(plan.expected_ttft_ms);
    let after_first = f64::from(request.spec.job.workload.osl.saturating_sub(1).max(1));
    let itl_ms = match (sla.itl_ms, sla.e2e_ms) {
        (Some(itl_ms), _) => itl_ms,
        (None, Some(e2e_ms)) if e2e_ms > ttft_ms => (e2e_ms - ttft_ms) / after_first,
        (None, _) => plan.expected_itl_ms,
    };
    (ttft_ms, itl_ms)
}

/// Whether the planner sets the replicas of a role: not if it only advises, nor outside the mode that the user gave.
pub(super) fn scales(user: &Map<String, Value>, role: Role) -> bool {
    let advisory = user.get("advisory").and_then(Value::as_bool).unwrap_or(false);
    let mode = user.get("mode").and_then(Value::as_str).unwrap_or("disagg");
    !advisory && (mode == "disagg" || mode == role.as_str())
}

/// Adds the planner; gives the ConfigMap with its settings.
pub(super) fn add(
    spec: Wanted<'_>,
    settings: &Map<String, Value>,
    components: &mut Vec<Component>,
) -> Result<Value, DgdError> {
    let text = serde_json::to_string_pretty(settings).map_err(|e| DgdError::Yaml(e.to_string()))? + "\n";
    let (name, map) = config_map(spec, "planner-config", json!({ SETTINGS_FILE: text }));
    let mut planner = Component::planner(component::planner_image(spec)?);
    planner.pair("--config", format!("{SETTINGS_PATH}/{SETTINGS_FILE}"));
    planner.mounts.push(Mount { name, source: Source::ConfigMap, path: SETTINGS_PATH.to_owned() });
    components.push(planner);
    Ok(map)
}

/// Mounts the profile data into planner and mockers; gives the ConfigMap.
pub(super) fn add_profile(spec: Wanted<'_>, profile: &ProfileData, components: &mut [Component]) -> Value {
    let data = json!({
        "prefill_raw_data.json": line_per_key(&profile.prefill.to_json()),
        "decode_raw_data.json": line_per_key(&profile.decode.to_json()),
    });
    let (name, map) = config_map(spec, "planner-profile-data", data);
    for component in components {
        let mocker = component.module == MOCKER_MODULE;
        if mocker {
            component.pair("--planner-profile-data", PROFILE_DATA_PATH);
        }
        if mocker || component.kind == Kind::Planner {
            let mount = Mount { name: name.clone(), source: Source::ConfigMap, path: PROFILE_DATA_PATH.to_owned() };
            component.mounts.push(mount);
        }
    }
    map
}

/// JSON with each key of a map on a line of its own: readable in the ConfigMap, without a line for each number.
fn line_per_key(value: &Value) -> String {
    let entries = value.as_object().into_iter().flatten();
    let lines: Vec<_> = entries.map(|(key, value)| format!("  {}: {value}", Value::from(key.as_str()))).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

fn config_map(spec: Wanted<'_>, prefix: &str, data: Value) -> (String, Value) {
    let digest = Sha256::digest(data.to_string());
    let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let name = format!("{prefix}-{hash}");
    let mut metadata = json!({ "name": name });
    if let (Some(namespace), Some(metadata)) = (&spec.deployment.namespace, metadata.as_object_mut()) {
        metadata.insert("namespace".to_owned(), namespace.as_str().into());
    }
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data });
    (name, map)
}
