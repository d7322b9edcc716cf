//! Workers of a DGD, by reading what their engines would read.

use serde::Deserialize;
use serde_json::Value;

use super::{
    Worker,
    component::{MOCKER_MODULE, STANDS_FOR},
    render,
};
use crate::{
    backends::{self, flags},
    domain::{Backend, Mapping, Role},
};

/// The deployment cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{component}: {reason}")]
pub struct ReadError {
    /// Which component, or `spec`.
    pub component: String,
    /// What is wrong.
    pub reason: String,
}

/// The workers of a DGD of either API version, by reading the flags that their engines would read.
///
/// # Errors
/// If there is no component at all, or a worker's flags say something that no engine understands, that needs other GPUs
/// than its pods have, or that does not disaggregate.
pub fn workers(dgd: &Value) -> Result<Vec<Worker>, ReadError> {
    let components = render::components(dgd);
    if components.is_empty() {
        let reason = "neither spec.components nor spec.services lists a component".to_owned();
        return Err(ReadError { component: "spec".to_owned(), reason });
    }
    let workers = components.iter().filter(|(_, component)| is_worker(component));
    workers.map(|(name, component)| worker(name, component)).collect()
}

/// Arguments after the module's name, of the first component whose type is wanted; none if its command cannot be read.
pub fn component_args(dgd: &Value, wanted: impl Fn(&str) -> bool) -> Option<Vec<String>> {
    let components = render::components(dgd);
    let (_, component) = components.iter().find(|(_, component)| wanted(kind(component)))?;
    let words = command_line(component).ok()?;
    module_and_args(&words).map(|(_, args)| args.to_vec())
}

/// The value of a variable in the environment of a component, by name; the deployment's own holds for all that do not
/// set it themselves.
pub fn component_env(dgd: &Value, component: &str, variable: &str) -> Option<String> {
    let components = render::components(dgd);
    let own = components.iter().find(|(name, _)| name == component).map(|(_, component)| *component);
    // v1beta1, then v1alpha1, each from the most particular.
    let places = [
        own.and_then(|own| own.pointer("/podTemplate/spec/containers/0/env")),
        own.and_then(|own| own.pointer("/extraPodSpec/mainContainer/env")),
        own.and_then(|own| own.get("envs")),
        dgd.pointer("/spec/env"),
        dgd.pointer("/spec/envs"),
    ];
    let is_it = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some(variable);
    places
        .into_iter()
        .flatten()
        .filter_map(Value::as_array)
        .find_map(|list| list.iter().find(is_it)?.get("value")?.as_str().map(str::to_owned))
}

fn kind(component: &Value) -> &str {
    let text = |key| component.get(key).and_then(Value::as_str);
    text("type").or_else(|| text("componentType")).unwrap_or_default()
}

fn is_worker(component: &Value) -> bool {
    // v1alpha1 also takes the role for a type.
    matches!(kind(component), "worker" | "prefill" | "decode")
}

/// What the API server says of the role.
fn declared_role(component: &Value) -> Option<Role> {
    let sub = component.get("subComponentType").and_then(Value::as_str);
    match sub.unwrap_or_else(|| kind(component)) {
        "prefill" => Some(Role::Prefill),
        "decode" => Some(Role::Decode),
        _ => None,
    }
}

fn worker(name: &str, component: &Value) -> Result<Worker, ReadError> {
    let fail = |reason: String| ReadError { component: name.to_owned(), reason };
    let words = command_line(component).map_err(fail)?;
    let (module, args) = module_and_args(&words)
        .ok_or_else(|| fail(format!("'{}' runs no module of Dynamo (python3 -m dynamo.…)", words.join(" "))))?;
    let said = flags::Flags::new(args).role().map_err(|e| fail(e.to_string()))?;
    let declared = declared_role(component);
    if let (Some(said), Some(declared)) = (said, declared)
        && said != declared
    {
        return Err(fail(format!("it is a {declared} worker, but its flags make it a {said} worker")));
    }
    let role = said.or(declared).ok_or_else(|| {
        fail("neither its type nor --disaggregation-mode says whether it is for prefill or decode".to_owned())
    })?;
    let replicas = match component.get("replicas") {
        None | Some(Value::Null) => 1,
        Some(n) => n
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(|| fail(format!("replicas must be a number from 0 on, not {n}")))?,
    };
    let (backend, mapping) = if module == MOCKER_MODULE {
        stands_for(component).map_err(fail)?
    } else {
        let backend = backends::backend_of_module(module)
            .ok_or_else(|| fail(format!("'{module}' is none of the engines vllm, sglang, trtllm")))?;
        let mapping = backends::parse(backend, args).map_err(|e| fail(e.to_string()))?.mapping;
        check_gpus(component, mapping).map_err(fail)?;
        (backend, mapping)
    };
    Ok(Worker { component: name.to_owned(), role, backend, mapping, replicas })
}

fn main_container(component: &Value) -> Option<&Value> {
    let beta = component.pointer("/podTemplate/spec/containers").and_then(Value::as_array);
    beta.and_then(|list| list.iter().find(|c| c.get("name").is_some_and(|n| n == render::MAIN)))
        .or_else(|| component.pointer("/extraPodSpec/mainContainer"))
}

/// Command and arguments, split into words where a shell runs them.
fn command_line(component: &Value) -> Result<Vec<String>, String> {
    let main = main_container(component).ok_or_else(|| format!("it has no container '{}'", render::MAIN))?;
    let mut words = Vec::new();
    for key in ["command", "args"] {
        match main.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) => {
                for word in list {
                    let word = word.as_str().ok_or_else(|| format!("{key}: {word} is not a string"))?;
                    words.push(word.to_owned());
                }
            }
            Some(other) => return Err(format!("{key} must be a list of strings, not {other}")),
        }
    }
    if let [shell, option, line, ..] = words.as_slice()
        && ["sh", "bash"].iter().any(|s| shell == s || shell.ends_with(&format!("/{s}")))
        && option.starts_with('-')
        && option.ends_with('c')
    {
        return flags::split_words(line).map_err(|e| e.to_string());
    }
    Ok(words)
}

/// `dynamo.vllm` and what follows, from `python3 -m dynamo.vllm …`.
fn module_and_args(words: &[String]) -> Option<(&str, &[String])> {
    let at = words.windows(2).position(|w| matches!(w, [m, name] if m == "-m" && name.starts_with("dynamo.")))?;
    let (module, args) = words.get(at + 1..)?.split_first()?;
    Some((module, args))
}

/// What a mocker's annotation says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StandsFor {
    backend: Backend,
    mapping: Mapping,
}

fn stands_for(component: &Value) -> Result<(Backend, Mapping), String> {
    let annotations = component
        .pointer("/podTemplate/metadata/annotations")
        .or_else(|| component.pointer("/extraPodMetadata/annotations"));
    let text = annotations.and_then(|a| a.get(STANDS_FOR)).and_then(Value::as_str).ok_or_else(|| {
        format!("it is a mocker, whose flags say nothing of GPUs, and its pods lack the annotation {STANDS_FOR}")
    })?;
    let it: StandsFor = serde_json::from_str(text).map_err(|e| format!("annotation {STANDS_FOR}: {e}"))?;
    backends::check(it.backend, it.mapping).map_err(|e| format!("annotation {STANDS_FOR}: {e}"))?;
    Ok((it.backend, it.mapping))
}

/// Whether the pods of one replica have the GPUs that the flags spread over.
fn check_gpus(component: &Value, mapping: Mapping) -> Result<(), String> {
    let limit = main_container(component)
        .and_then(|main| main.pointer("/resources/limits/nvidia.com~1gpu"))
        .or_else(|| component.pointer("/resources/limits/gpu"));
    let Some(limit) = limit else { return Ok(()) };
    let number = limit.as_u64().or_else(|| limit.as_str().and_then(|s| s.parse().ok()));
    let per_pod = number.ok_or_else(|| format!("its GPU limit {limit} is not a number"))?;
    let nodes = component.pointer("/multinode/nodeCount").map_or(Some(1), Value::as_u64);
    let nodes = nodes.ok_or_else(|| "multinode.nodeCount is not a number".to_owned())?;
    let needed = u64::from(mapping.tp) * u64::from(mapping.attention_dp) * u64::from(mapping.pp);
    if per_pod.checked_mul(nodes) == Some(needed) {
        return Ok(());
    }
    Err(format!("its flags spread over {needed} GPUs, but it has {nodes} pod(s) of {per_pod}"))
}
