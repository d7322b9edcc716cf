//! A stand-in for NVIDIA's operator, whose module Go's proxy refuses to serve.
//!
//! It does what the profiler sees of the real one, and no more: each component of a DGD becomes a Deployment whose pods
//! carry the operator's labels, a frontend gets its Service, and `status` follows the pods (`pending`, `successful`,
//! `failed`, with a condition `Ready`). The API server, the controllers, the scheduler and the kubelet's side (kwok) are
//! real. What it cannot show: the real admission and conversion webhooks, Grove, multi-node launch order, and the
//! defaults that the operator adds to a container.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};
use sla_profiler::spec::DgdApi;

use super::background::Background;
use super::control_plane::{ControlPlane, client};
use super::namespace::graph_deployment;

const MANAGER: &str = "stand-in-operator";

/// The label of every pod of a DGD, with the DGD's name.
pub const DGD_LABEL: &str = "nvidia.com/dynamo-graph-deployment-name";

/// What answers for a pod.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// All ports of the pod lead to this one, on 127.0.0.1.
    pub port: u16,
    /// What `kubectl logs` shows of each container: lines as a container runtime writes them, see [`log_line`].
    pub log_file: Option<PathBuf>,
}

/// A line in the form of the Container Runtime Interface, without the line break.
pub fn log_line(text: &str) -> String {
    format!("2026-01-01T00:00:00.000000000Z stdout F {text}")
}

/// Says what answers for a pod of a DGD, once it runs. `None`: nothing listens in it.
pub type Engines = dyn Fn(&DynamicObject, &Pod) -> Option<Endpoint> + Send + Sync;

/// A running stand-in, for one namespace.
pub struct Operator {
    _working: Background,
}

struct Context {
    client: Client,
    engines: Arc<Engines>,
    /// Pods of each worker, instead of as many as the DGD says.
    worker_pods: Option<i64>,
    version: DgdApi,
}

impl Context {
    fn dgds(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &graph_deployment(self.version))
    }
}

impl Operator {
    /// Starts it. A namespace without one has DGDs that nobody looks at.
    pub fn start(cluster: &'static ControlPlane, namespace: &str, engines: Arc<Engines>) -> Self {
        Self::begin(cluster, namespace, engines, None)
    }

    /// One that gives each worker so many pods, whatever the DGD says.
    pub fn with_pods(cluster: &'static ControlPlane, namespace: &str, engines: Arc<Engines>, pods: i64) -> Self {
        Self::begin(cluster, namespace, engines, Some(pods))
    }

    fn begin(cluster: &'static ControlPlane, namespace: &str, engines: Arc<Engines>, pods: Option<i64>) -> Self {
        let namespace = namespace.to_owned();
        Self { _working: Background::start("operator", move || work(cluster, namespace, engines, pods)) }
    }
}

async fn work(cluster: &ControlPlane, namespace: String, engines: Arc<Engines>, worker_pods: Option<i64>) {
    let client = client(&cluster.kubeconfig()).await;
    let context = Arc::new(Context { client: client.clone(), engines, worker_pods, version: cluster.dynamo() });
    let dgds = context.dgds(&namespace);
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let of_ours = watcher::Config::default().labels(DGD_LABEL);
    let graphs = Controller::new_with(dgds, watcher::Config::default(), graph_deployment(cluster.dynamo()))
        .owns(deployments, of_ours.clone())
        .run(deploy, retry, Arc::clone(&context))
        .for_each(|_| std::future::ready(()));
    let endpoints = Controller::new(pods, of_ours).run(connect, retry, context).for_each(|_| std::future::ready(()));
    tokio::join!(graphs, endpoints);
}

fn retry<K>(_: Arc<K>, _: &kube::Error, _: Arc<Context>) -> Action {
    Action::requeue(Duration::from_millis(500))
}

async fn apply<K>(api: &Api<K>, name: &str, object: Value) -> Result<K, kube::Error>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await
}

async fn deploy(dgd: Arc<DynamicObject>, context: Arc<Context>) -> Result<Action, kube::Error> {
    if dgd.meta().deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let namespace = dgd.namespace().unwrap_or_default();
    let deployments: Api<Deployment> = Api::namespaced(context.client.clone(), &namespace);
    let services: Api<Service> = Api::namespaced(context.client.clone(), &namespace);
    let components = components(&dgd);
    let mut ready = true;
    let mut replicas = serde_json::Map::new();
    for component in &components {
        let part = Part::new(&dgd, component, &context);
        let deployment = match apply(&deployments, &part.name, part.deployment()).await {
            Ok(deployment) => deployment,
            Err(kube::Error::Api(refused)) if refused.code == 422 => {
                set_status(&dgd, &context, "failed", "some_resources_are_not_ready", &refused.message, &replicas)
                    .await?;
                return Ok(Action::await_change());
            }
            Err(error) => return Err(error),
        };
        if part.kind == "frontend" {
            apply(&services, &part.name, part.service()).await?;
        }
        let status = deployment.status.unwrap_or_default();
        let (wanted, available) = (part.pods(), status.available_replicas.unwrap_or(0));
        let current = status.observed_generation == deployment.metadata.generation;
        // Old pods that still serve while new ones do not come up do not count.
        let (all, updated) = (status.replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0));
        ready &= current && [all, updated, available].iter().all(|count| i64::from(*count) == wanted);
        replicas.insert(
            part.component.to_owned(),
            json!({ "componentKind": "Deployment", "replicas": wanted, "readyReplicas": available }),
        );
    }
    let (state, reason, message) = if ready {
        ("successful", "all_resources_are_ready", "All resources are ready")
    } else {
        ("pending", "pods_not_ready", "Pods are not ready")
    };
    set_status(&dgd, &context, state, reason, message, &replicas).await?;
    Ok(Action::await_change())
}

/// Components as v1beta1 has them; v1alpha1 calls them services.
fn components(dgd: &DynamicObject) -> Vec<Value> {
    if let Some(components) = dgd.data.pointer("/spec/components").and_then(Value::as_array) {
        return components.clone();
    }
    let services = dgd.data.pointer("/spec/services").and_then(Value::as_object).into_iter().flatten();
    let component = |(name, service): (&String, &Value)| {
        let mut pod = service.get("extraPodSpec").cloned().unwrap_or_else(|| json!({}));
        let mut main = pod.as_object_mut().and_then(|pod| pod.remove("mainContainer")).unwrap_or_else(|| json!({}));
        main["name"] = json!("main");
        if let Some(gpus) = service.pointer("/resources/limits/gpu") {
            main["resources"] = json!({ "limits": { "nvidia.com/gpu": gpus } });
        }
        pod["containers"] = json!([main]);
        json!({
            "name": name, "type": service["componentType"], "replicas": service.get("replicas").unwrap_or(&json!(1)),
            "multinode": service.get("multinode").unwrap_or(&json!({})), "podTemplate": { "spec": pod },
        })
    };
    services.map(component).collect()
}

async fn set_status(
    dgd: &DynamicObject,
    context: &Context,
    state: &str,
    reason: &str,
    message: &str,
    components: &serde_json::Map<String, Value>,
) -> Result<(), kube::Error> {
    let old = |pointer: &str| dgd.data.pointer(pointer).cloned().unwrap_or_default();
    let ready = if state == "successful" { "True" } else { "False" };
    let same = old("/status/state") == state
        && old("/status/conditions/0/status") == ready
        && old("/status/observedGeneration") == json!(dgd.metadata.generation)
        && old("/status/components") == Value::Object(components.clone());
    if same {
        return Ok(());
    }
    let status = json!({ "status": {
        "state": state,
        "observedGeneration": dgd.metadata.generation,
        "components": components,
        "conditions": [{
            "type": "Ready", "status": ready, "reason": reason, "message": message,
            "lastTransitionTime": k8s_openapi::jiff::Timestamp::now().to_string(),
        }],
    }});
    let api = context.dgds(&dgd.namespace().unwrap_or_default());
    match api.patch_status(&dgd.name_any(), &PatchParams::default(), &Patch::Merge(status)).await {
        // Deleted meanwhile.
        Err(kube::Error::Api(refused)) if refused.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

/// One component of a DGD, and what it becomes.
struct Part<'a> {
    dgd: &'a DynamicObject,
    value: &'a Value,
    component: &'a str,
    kind: &'a str,
    /// Of the Deployment and the Service.
    name: String,
    context: &'a Context,
}

impl<'a> Part<'a> {
    fn new(dgd: &'a DynamicObject, value: &'a Value, context: &'a Context) -> Self {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
        let component = text("name");
        let name = format!("{}-{}", dgd.name_any(), component.to_lowercase());
        Self { dgd, value, component, kind: text("type"), name, context }
    }

    /// Each replica has one pod on each of its nodes.
    fn pods(&self) -> i64 {
        if let Some(pods) = self.context.worker_pods.filter(|_| self.kind != "frontend") {
            return pods;
        }
        let replicas = self.value.get("replicas").and_then(Value::as_i64).unwrap_or(1);
        replicas * self.value.pointer("/multinode/nodeCount").and_then(Value::as_i64).unwrap_or(1)
    }

    fn labels(&self) -> BTreeMap<&str, String> {
        let namespace = self.dgd.namespace().unwrap_or_default();
        BTreeMap::from([
            ("nvidia.com/selector", self.name.clone()),
            (DGD_LABEL, self.dgd.name_any()),
            ("nvidia.com/dynamo-component", self.component.to_owned()),
            ("nvidia.com/dynamo-component-type", self.kind.to_owned()),
            ("nvidia.com/dynamo-namespace", format!("{namespace}-{}", self.dgd.name_any())),
        ])
    }

    fn metadata(&self) -> Value {
        json!({
            "name": self.name,
            "labels": self.labels(),
            "ownerReferences": [self.dgd.controller_owner_ref(&graph_deployment(self.context.version))],
        })
    }

    fn deployment(&self) -> Value {
        let mut template =
            self.value.get("podTemplate").cloned().unwrap_or_else(|| json!({ "spec": { "containers": [] } }));
        if let Some(template) = template.as_object_mut() {
            let metadata = template.entry("metadata").or_insert_with(|| json!({}));
            let labels = metadata.as_object_mut().map(|metadata| metadata.entry("labels").or_insert_with(|| json!({})));
            if let Some(Value::Object(labels)) = labels {
                labels.extend(self.labels().into_iter().map(|(key, value)| (key.to_owned(), json!(value))));
            }
        }
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": self.metadata(),
            "spec": {
                "replicas": self.pods(),
                "selector": { "matchLabels": { "nvidia.com/selector": self.name } },
                "template": template,
            },
        })
    }

    fn service(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self.metadata(),
            "spec": {
                "selector": { "nvidia.com/selector": self.name },
                "ports": [{ "name": "http", "port": 8000, "targetPort": 8000, "protocol": "TCP" }],
            },
        })
    }
}

/// Tells kwok what answers on the ports of a pod, and what its log is.
async fn connect(pod: Arc<Pod>, context: Arc<Context>) -> Result<Action, kube::Error> {
    let running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    if !running || pod.meta().deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let kwok = |kind: &str, plural: &str| {
        let kind = GroupVersionKind::gvk("kwok.x-k8s.io", "v1alpha1", kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        Api::<DynamicObject>::namespaced_with(context.client.clone(), &namespace, &resource)
    };
    let forwards = kwok("PortForward", "portforwards");
    if forwards.get_opt(&name).await?.is_some() {
        return Ok(Action::await_change());
    }
    let dgds = context.dgds(&namespace);
    let dgd = pod.labels().get(DGD_LABEL).cloned().unwrap_or_default();
    let Some(dgd) = dgds.get_opt(&dgd).await? else { return Ok(Action::await_change()) };
    let Some(endpoint) = (context.engines)(&dgd, &pod) else { return Ok(Action::await_change()) };

    let metadata = json!({ "name": name, "ownerReferences": [pod.owner_ref(&())] });
    if let Some(log_file) = endpoint.log_file {
        let log = json!({ "logsFile": log_file, "follow": true });
        let logs = json!({
            "apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Logs", "metadata": metadata, "spec": { "logs": [log] },
        });
        apply(&kwok("Logs", "logs"), &name, logs).await?;
    }
    let forward = json!({ "target": { "address": "127.0.0.1", "port": endpoint.port } });
    let forward = json!({
        "apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "PortForward", "metadata": metadata,
        "spec": { "forwards": [forward] },
    });
    apply(&forwards, &name, forward).await?;
    Ok(Action::await_change())
}
