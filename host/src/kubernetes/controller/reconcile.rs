//! Does what [`super::state`] decides: the only part of the controller that asks and writes.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt as _;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::runtime::controller::Action as Next;
use serde_json::{Map, Value, json};

use super::state::{Rollout, Run, Seen, Step, rollout};
use super::{LOOK_AGAIN, Options, job};
use crate::kubernetes::call::Patience;
use crate::kubernetes::deployments::deployment_info;
use crate::kubernetes::error::{Action, ClusterError};
use crate::kubernetes::events::Events;
use crate::kubernetes::owner::{Owner, OwnerObject};
use crate::kubernetes::resources::{self, DGDR_KIND, DGDRS};
use crate::kubernetes::status::{Conditions, Stage};
use crate::kubernetes::{DGDR_NAME_LABEL, FIELD_MANAGER, Kube, output};
use crate::output::exit_code;
use crate::spec::DgdApi;

/// Pause after a failure that may pass.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Most of a container's last words in a status.
const LONGEST_MESSAGE: usize = 1000;
const JOBS: &str = "jobs.batch";
const API: DgdApi = DgdApi::V1beta1;

/// What all reconciliations share.
pub(super) struct Context {
    kube: Kube,
    options: Options,
    /// Rejected changes that have been told: uid and generation.
    told: Mutex<HashSet<(String, i64)>>,
}

impl Context {
    pub(super) fn new(kube: Kube, options: Options) -> Self {
        Self { kube, options, told: Mutex::default() }
    }
}

/// After an error.
pub(super) fn retry(object: Arc<DynamicObject>, error: &ClusterError, _: Arc<Context>) -> Next {
    // Somebody wrote in between; that is daily life.
    if !matches!(error, ClusterError::Conflict { .. }) {
        tracing::warn!("{}/{}: {error}", object.namespace().unwrap_or_default(), object.name_any());
    }
    Next::requeue(if matches!(error, ClusterError::Conflict { .. }) {
        Duration::from_millis(200)
    } else {
        AFTER_FAILURE
    })
}

/// Looks at one request and takes the next step.
pub(super) async fn reconcile(object: Arc<DynamicObject>, context: Arc<Context>) -> Result<Next, ClusterError> {
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let kube = Kube { namespace, ..context.kube.clone() };
    // Fresh: the watch may be behind what was written a moment ago.
    let action = Action::on("get", DGDRS, &kube.namespace, &name);
    let api = kube.dgdrs(API);
    let Some(object) = kube.call_within(&action, Patience::SHORT, || api.get_opt(&name)).await? else {
        return Ok(Next::await_change());
    };
    if object.metadata.deletion_timestamp.is_some() {
        // Its Job and what the Job made go with it; a deployment that serves stays, as with Dynamo's operator.
        return Ok(Next::await_change());
    }
    let request = Request::new(kube, object);
    let job = request.job().await?;
    let seen = request.seen(job.as_ref()).await?;
    if seen.rejects_change() && context.first_time(&request) {
        let note = "a request may not change once it is profiled, but for autoApply; delete it and create it anew";
        request.events().warning("SpecChangeRejected", note).await;
    }
    match seen.step() {
        // The Job's process was faster than we were.
        Step::Wait if seen.run == Run::Active && request.text("/status/profilingJobName").is_empty() => {
            request.write(json!({ "profilingJobName": job::name(&name) })).await?;
        }
        Step::Wait => {}
        Step::Begin => request.begin(&context.options).await?,
        Step::Begun => request.begun().await?,
        Step::Deploy => request.deploy().await?,
        Step::Deployed => request.deployed().await?,
        Step::Degraded(why) => request.degraded(&why).await?,
        Step::Fail { reason, message } => request.fail(&seen, &reason, &message).await?,
    }
    Ok(Next::requeue(LOOK_AGAIN))
}

impl Context {
    fn first_time(&self, request: &Request) -> bool {
        let key = (request.object.uid().unwrap_or_default(), request.generation());
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(key)
    }
}

/// A request as it is now, and the way to it.
struct Request {
    kube: Kube,
    name: String,
    object: DynamicObject,
}

impl Request {
    fn new(kube: Kube, object: DynamicObject) -> Self {
        Self { kube, name: object.name_any(), object }
    }

    fn at(&self, pointer: &str) -> Option<&Value> {
        self.object.data.pointer(pointer)
    }

    fn text(&self, pointer: &str) -> &str {
        self.at(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    fn generation(&self) -> i64 {
        self.object.metadata.generation.unwrap_or_default()
    }

    fn owner(&self) -> OwnerObject {
        OwnerObject {
            api_version: resources::dgdr(API).api_version,
            kind: DGDR_KIND.to_owned(),
            name: self.name.clone(),
            namespace: self.kube.namespace.clone(),
            uid: self.object.uid().unwrap_or_default(),
        }
    }

    fn events(&self) -> Events {
        Events::new(self.kube.clone(), &self.owner())
    }

    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.kube.client.clone(), &self.kube.namespace)
    }

    /// Its Job, if there is one.
    async fn job(&self) -> Result<Option<Job>, ClusterError> {
        let name = job::name(&self.name);
        let action = Action::on("get", JOBS, &self.kube.namespace, &name);
        let api = self.jobs();
        let Some(found) = self.kube.call_within(&action, Patience::SHORT, || api.get_opt(&name)).await? else {
            return Ok(None);
        };
        if found.owner_references().iter().any(|owner| Some(&owner.uid) == self.object.metadata.uid.as_ref()) {
            return Ok(Some(found));
        }
        // Of a request of the same name that was deleted: the garbage collector is about to remove it.
        Err(ClusterError::Foreign {
            resource: JOBS.to_owned(),
            name,
            namespace: self.kube.namespace.clone(),
            why: "its owner is not this request".to_owned(),
        })
    }

    async fn seen(&self, job: Option<&Job>) -> Result<Seen, ClusterError> {
        let stage = match self.text("/status/phase") {
            "Pending" => Some(Stage::Pending),
            "Profiling" => Some(Stage::Profiling),
            "Ready" => Some(Stage::Ready),
            "Deploying" => Some(Stage::Deploying),
            "Deployed" => Some(Stage::Deployed),
            "Failed" => Some(Stage::Failed),
            _ => None,
        };
        let rollout = match stage {
            Some(Stage::Deploying | Stage::Deployed) => rollout(self.deployment().await?.as_ref()),
            _ => Rollout::Missing,
        };
        let digest = job::spec_digest(self.at("/spec").unwrap_or(&Value::Null));
        let profiled = job.and_then(|job| job.annotations().get(job::SPEC_ANNOTATION));
        // Without its Job nobody knows what was profiled; then every change is one that matters.
        let newer =
            self.at("/status/observedGeneration").and_then(Value::as_i64).is_some_and(|g| g < self.generation());
        let changed = profiled.map_or(newer, |profiled| *profiled != digest);
        Ok(Seen {
            stage,
            profiling_phase: self.text("/status/profilingPhase").to_owned(),
            auto_apply: self.at("/spec/autoApply").and_then(Value::as_bool).unwrap_or(true),
            changed,
            flipped: newer && !changed,
            generated: self.at("/status/profilingResults/selectedConfig").is_some(),
            run: self.run(job).await?,
            rollout,
        })
    }

    async fn run(&self, job: Option<&Job>) -> Result<Run, ClusterError> {
        let Some(job) = job else { return Ok(Run::Missing) };
        let conditions = job.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
        let ended = conditions.filter(|condition| condition.status == "True");
        let Some(end) = ended.into_iter().find(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed"))
        else {
            return Ok(Run::Active);
        };
        let (exit_code, words) = self.last_words(&job.name_any()).await?;
        let message = words.unwrap_or_else(|| end.message.clone().unwrap_or_else(|| "it does not say why".to_owned()));
        Ok(Run::Ended { succeeded: end.type_ == "Complete", exit_code, message })
    }

    /// Exit code and end of the log of the container that profiles.
    async fn last_words(&self, job: &str) -> Result<(Option<i32>, Option<String>), ClusterError> {
        let action = Action::all("list", "pods", &self.kube.namespace);
        let (pods, params) = (self.kube.pods(), ListParams::default().labels(&format!("job-name={job}")));
        let pods = self.kube.call_within(&action, Patience::SHORT, || pods.list(&params)).await?;
        let statuses = pods.items.into_iter().filter_map(|pod| pod.status?.container_statuses).flatten();
        let ended = statuses.filter(|status| status.name == job::CONTAINER).find_map(|status| status.state?.terminated);
        let Some(ended) = ended else { return Ok((None, None)) };
        let words = ended.message.or(ended.reason).map(|words| tail(words.trim()).to_owned());
        Ok((Some(ended.exit_code), words.filter(|words| !words.is_empty())))
    }

    async fn deployment(&self) -> Result<Option<Value>, ClusterError> {
        match self.text("/status/dgdName") {
            "" => Ok(None),
            name => self.kube.dgd(name, API).await,
        }
    }

    async fn begin(&self, options: &Options) -> Result<(), ClusterError> {
        let mut request = serde_json::to_value(&self.object).unwrap_or_default();
        let resource = resources::dgdr(API);
        if let Some(request) = request.as_object_mut() {
            request.insert("apiVersion".to_owned(), resource.api_version.into());
            request.insert("kind".to_owned(), DGDR_KIND.into());
        }
        let job = job::job(&options.template, &request);
        let name = job::name(&self.name);
        let action = Action::on("patch", JOBS, &self.kube.namespace, &name);
        let (api, patch) = (self.jobs(), Patch::Apply(&job));
        let params = PatchParams::apply(FIELD_MANAGER).validation_strict();
        match self.kube.call_within(&action, Patience::SHORT, || api.patch(&name, &params, &patch)).await {
            Ok(_) => {}
            // A wrong override of the user's stays wrong.
            Err(error @ ClusterError::Invalid { .. }) => {
                return self.failed("JobCreationFailed", "JobCreationFailed", &error.to_string(), None).await;
            }
            Err(error) => {
                self.events().warning("JobCreationFailed", &error.to_string()).await;
                return Err(error);
            }
        }
        self.begun().await?;
        self.events().normal("ProfilingJobCreated", &format!("Job {name}")).await;
        Ok(())
    }

    async fn begun(&self) -> Result<(), ClusterError> {
        let mut conditions = self.conditions();
        let message = "the Job is created";
        self.set(&mut conditions, "Profiling", Some(false), "Initializing", message);
        self.set(&mut conditions, "Succeeded", None, "Initializing", message);
        self.write(json!({
            "phase": Stage::Profiling.v1beta1(),
            "profilingPhase": "Initializing",
            "profilingJobName": job::name(&self.name),
            "observedGeneration": self.generation(),
            "conditions": conditions.list(),
        }))
        .await
    }

    /// Applies what was generated and not applied; everything is ours or new, or nothing is touched.
    async fn deploy(&self) -> Result<(), ClusterError> {
        match self.apply_generated().await {
            Ok(name) => {
                let mut conditions = self.conditions();
                let message = "the deployment is applied, since autoApply was set";
                self.set(&mut conditions, "DeploymentReady", Some(false), "DeploymentCreated", message);
                self.set(&mut conditions, "Succeeded", None, "DeploymentCreated", message);
                self.write(json!({
                    "phase": Stage::Deploying.v1beta1(),
                    "dgdName": name,
                    "observedGeneration": self.generation(),
                    "conditions": conditions.list(),
                }))
                .await?;
                self.events().normal("DeploymentCreated", &format!("DynamoGraphDeployment {name}")).await;
                Ok(())
            }
            Err(error @ (ClusterError::Foreign { .. } | ClusterError::Invalid { .. } | ClusterError::Unusable(_))) => {
                self.failed("DeploymentFailed", "DeploymentFailed", &error.to_string(), None).await
            }
            Err(error) => Err(error),
        }
    }

    async fn apply_generated(&self) -> Result<String, ClusterError> {
        let owner = Owner::new(&self.name, Some(self.owner()), "");
        let mut dgd = self.at("/status/profilingResults/selectedConfig").cloned().unwrap_or_default();
        let name = dgd.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(ClusterError::Unusable("the generated deployment in the status has no name".to_owned()));
        }
        owner.label(&mut dgd, &self.kube.namespace);
        if let Some(labels) = dgd.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.insert(DGDR_NAME_LABEL.to_owned(), self.name.clone().into());
            labels.insert("dgdr.nvidia.com/namespace".to_owned(), self.kube.namespace.clone().into());
        }
        // Asked before anything is written.
        self.kube.predecessor(&name, API, &self.name).await?;
        for mut map in self.generated_maps().await? {
            owner.label(&mut map, &self.kube.namespace);
            self.kube.apply_own_config_map(&map).await?;
        }
        self.kube.replace_dgd(&dgd, API).await?;
        Ok(name)
    }

    /// The ConfigMaps beside the deployment in `final_config.yaml`, which the Job's process left in its output.
    async fn generated_maps(&self) -> Result<Vec<Value>, ClusterError> {
        const FILE: &str = "final_config.yaml";
        let first = output::name(&self.name);
        let Some(map) = self.kube.config_map(&first).await? else {
            return Err(ClusterError::Unusable(format!("the results are gone: there is no ConfigMap {first}")));
        };
        let data = |map: &Value| map.get("data").and_then(Value::as_object).cloned().unwrap_or_default();
        let mut all = data(&map);
        let parts = all.get("parts").and_then(Value::as_str).unwrap_or_default().to_owned();
        for part in parts.lines() {
            if let Some(map) = self.kube.config_map(part).await? {
                all.extend(data(&map));
            }
        }
        let text = whole(&all, FILE).ok_or_else(|| ClusterError::Unusable(format!("{first} holds no {FILE}")))?;
        let documents: Vec<Value> = serde_yaml::from_multiple(&text)
            .map_err(|error| ClusterError::Unusable(format!("{FILE} in {first} is no YAML: {error}")))?;
        Ok(documents.into_iter().filter(|document| document.get("kind") == Some(&json!("ConfigMap"))).collect())
    }

    async fn deployed(&self) -> Result<(), ClusterError> {
        let mut conditions = self.conditions();
        let message = "the deployment is ready";
        self.set(&mut conditions, "DeploymentReady", Some(true), "DeploymentReady", message);
        self.set(&mut conditions, "Succeeded", Some(true), "DeploymentReady", message);
        self.write(json!({
            "phase": Stage::Deployed.v1beta1(),
            "observedGeneration": self.generation(),
            "deploymentInfo": deployment_info(self.deployment().await?.as_ref()),
            "conditions": conditions.list(),
        }))
        .await?;
        self.events().normal("DeploymentReady", message).await;
        Ok(())
    }

    async fn degraded(&self, why: &str) -> Result<(), ClusterError> {
        let mut conditions = self.conditions();
        self.set(&mut conditions, "DeploymentReady", Some(false), "DeploymentDegraded", why);
        self.set(&mut conditions, "Succeeded", None, "DeploymentDegraded", why);
        self.write(json!({
            "phase": Stage::Deploying.v1beta1(),
            "deploymentInfo": deployment_info(self.deployment().await?.as_ref()),
            "conditions": conditions.list(),
        }))
        .await?;
        self.events().warning("DeploymentDegraded", why).await;
        Ok(())
    }

    async fn fail(&self, seen: &Seen, reason: &str, message: &str) -> Result<(), ClusterError> {
        let exit_code = match seen.run {
            Run::Ended { exit_code, .. } => exit_code,
            Run::Missing | Run::Active => None,
        };
        let event = if seen.stage == Some(Stage::Profiling) { "ProfilingJobFailed" } else { reason };
        self.failed(reason, event, message, exit_code).await
    }

    async fn failed(&self, reason: &str, event: &str, message: &str, exit: Option<i32>) -> Result<(), ClusterError> {
        let mut conditions = self.conditions();
        if exit == Some(i32::from(exit_code::INPUT)) {
            self.set(&mut conditions, "Validation", Some(false), "ValidationFailed", message);
        }
        let generated = self.at("/status/profilingResults/selectedConfig").is_some();
        let kind = if generated { "DeploymentReady" } else { "Profiling" };
        self.set(&mut conditions, kind, Some(false), reason, message);
        self.set(&mut conditions, "Succeeded", Some(false), reason, message);
        self.write(json!({
            "phase": Stage::Failed.v1beta1(),
            // Null removes it: nothing is being profiled any more.
            "profilingPhase": null,
            "conditions": conditions.list(),
        }))
        .await?;
        self.events().warning(event, message).await;
        Ok(())
    }

    fn conditions(&self) -> Conditions {
        Conditions::read(self.at("/status/conditions").unwrap_or(&Value::Null))
    }

    fn set(&self, conditions: &mut Conditions, kind: &str, holds: Option<bool>, reason: &str, message: &str) {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        conditions.set(kind, holds, reason, message, self.generation(), &now);
    }

    /// Writes these fields of the status, if nobody wrote it since it was read.
    async fn write(&self, status: Value) -> Result<(), ClusterError> {
        let action = Action::on("patch", &format!("{DGDRS}/status"), &self.kube.namespace, &self.name);
        let body = json!({
            "metadata": { "uid": self.object.metadata.uid, "resourceVersion": self.object.metadata.resource_version },
            "status": status,
        });
        let (api, patch) = (self.kube.dgdrs(API), Patch::Merge(body));
        let params =
            PatchParams { field_manager: Some(format!("{FIELD_MANAGER}-controller")), ..PatchParams::default() };
        let write = || api.patch_status(&self.name, &params, &patch);
        self.kube.call_within(&action, Patience::SHORT, write).await.map(drop)
    }
}

/// A file from the ConfigMaps' data, also where it was cut into parts.
fn whole(data: &Map<String, Value>, file: &str) -> Option<String> {
    if let Some(text) = data.get(file).and_then(Value::as_str) {
        return Some(text.to_owned());
    }
    let part = |n: usize| data.get(&format!("{file}.{n:03}")).and_then(Value::as_str);
    let parts: Vec<&str> = (0..).map_while(part).collect();
    (!parts.is_empty()).then(|| parts.concat())
}

/// The end of a text, at most [`LONGEST_MESSAGE`] bytes.
fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(LONGEST_MESSAGE);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.get(start..).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_put_together_from_its_parts_in_order() {
        let data = json!({ "f.001": "b", "f.000": "a", "g": "c" });
        let data = data.as_object().unwrap();
        assert_eq!(whole(data, "f").as_deref(), Some("ab"));
        assert_eq!(whole(data, "g").as_deref(), Some("c"));
        assert_eq!(whole(data, "h"), None);
    }

    #[test]
    fn the_end_of_a_long_message_is_kept() {
        let long = format!("{}end", "ü".repeat(2000));
        assert!(tail(&long).len() <= LONGEST_MESSAGE && tail(&long).ends_with("end"));
        assert_eq!(tail("short"), "short");
    }
}
