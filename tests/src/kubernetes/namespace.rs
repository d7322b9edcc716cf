//! A namespace of one test, and the users in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace as Resource, ServiceAccount};
use kube::Client;
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::ApiResource;
use serde_json::{Value, json};
use sla_profiler::kubernetes::resources;
use sla_profiler::spec::DgdApi;

use super::control_plane::{ControlPlane, client};
use super::eventually;

/// A fresh namespace. It stays when the test ends: it goes with the control plane, and can be looked at until then.
pub struct Namespace {
    cluster: &'static ControlPlane,
    name: String,
    client: Client,
}

impl Drop for Namespace {
    /// A cluster that goes on is left as it was found.
    fn drop(&mut self) {
        if self.cluster.is_existing() {
            let mut kubectl = super::control_plane::kubectl(&self.cluster.kubeconfig());
            let _ = kubectl.args(["delete", "namespace", "--wait=false", &self.name]).output();
        }
    }
}

impl Namespace {
    /// Creates one whose name starts with `prefix`; returns when pods can be created in it.
    pub async fn create(cluster: &'static ControlPlane, prefix: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let client = cluster.admin().await;
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        let namespace: Resource = serde_json::from_value(namespace).expect("a namespace");
        Api::<Resource>::all(client.clone()).create(&PostParams::default(), &namespace).await.expect("a namespace");
        // Without it no pod is admitted.
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &name);
        eventually("the default service account", async || accounts.get_opt("default").await.ok().flatten()).await;
        Self { cluster, name, client }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The administrator's client.
    pub fn admin(&self) -> Client {
        self.client.clone()
    }

    /// Objects of a built-in kind in it.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// DynamoGraphDeployments in it.
    pub fn dgds(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.name, &graph_deployment(self.cluster.dynamo()))
    }

    /// DynamoGraphDeploymentRequests in it.
    pub fn dgdrs(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.name, &resources::dgdr(self.cluster.dynamo()))
    }

    /// Creates an object of any kind; strict validation.
    ///
    /// # Errors
    /// As the API server says.
    pub async fn create_strict(&self, object: &Value) -> Result<Value, kube::Error> {
        create_strict(&self.client, &self.name, object, false).await
    }

    /// Asks whether an object of any kind would be created, with strict validation, and creates nothing.
    ///
    /// # Errors
    /// As the API server says.
    pub async fn dry_run(&self, object: &Value) -> Result<Value, kube::Error> {
        create_strict(&self.client, &self.name, object, true).await
    }

    /// Makes a ServiceAccount with the given rules in this namespace, and a kubeconfig with its token.
    pub async fn account(&self, name: &str, rules: &Value) -> PathBuf {
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } });
        self.create_strict(&account).await.expect("an account");
        self.allow(name, name, rules).await;
        self.kubeconfig(name).await
    }

    /// Gives an account a Role with these rules.
    pub async fn allow(&self, account: &str, role: &str, rules: &Value) {
        let metadata = json!({ "name": role });
        let group = "rbac.authorization.k8s.io";
        let objects = [
            json!({ "apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": metadata, "rules": rules }),
            json!({
                "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": metadata,
                "roleRef": { "apiGroup": group, "kind": "Role", "name": role },
                "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": self.name }],
            }),
        ];
        for object in &objects {
            self.create_strict(object).await.unwrap_or_else(|error| panic!("{object}: {error}"));
        }
    }

    /// Creates all that `kubectl apply -k` of a folder would, in this namespace and with strict validation. Workloads are
    /// validated only: their image is not to be had.
    pub async fn apply_folder(&self, folder: &Path) {
        for mut object in kustomized(folder) {
            for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(subject) = subject.as_object_mut() {
                    subject.insert("namespace".to_owned(), json!(self.name));
                }
            }
            let workload = matches!(object.get("kind").and_then(Value::as_str), Some("Job" | "Deployment"));
            let answer = create_strict(&self.client, &self.name, &object, workload).await;
            answer.unwrap_or_else(|error| panic!("{}: {object}: {error}", folder.display()));
        }
    }

    /// A kubeconfig with a fresh token of an account that exists.
    pub async fn kubeconfig(&self, account: &str) -> PathBuf {
        self.kubeconfig_through(account, self.cluster.port()).await
    }

    /// The same, through another port: that of a [`super::Proxy`].
    pub async fn kubeconfig_through(&self, account: &str, port: u16) -> PathBuf {
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let api = self.api::<ServiceAccount>();
        let token = api.create_token_request(account, &PostParams::default(), &request).await.expect("a token");
        let token = token.status.expect("a status").token;
        let user = format!("{}-{account}", self.name);
        self.cluster.identity().kubeconfig(&user, port, &token, &self.name)
    }

    /// A kubeconfig of the administrator for which this namespace is the current one, through `port`: the API server's
    /// own, or that of a [`super::Proxy`].
    pub fn admin_kubeconfig(&self, port: u16) -> PathBuf {
        self.cluster.identity().admin_in(&self.name, port)
    }

    /// A client of an account.
    pub async fn client_of(&self, account: &str) -> Client {
        client(&self.kubeconfig(account).await).await
    }
}

/// The kind that engines are launched as.
pub fn graph_deployment(version: DgdApi) -> ApiResource {
    resources::dgd(version)
}

async fn create_strict(client: &Client, namespace: &str, object: &Value, dry_run: bool) -> Result<Value, kube::Error> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).expect("apiVersion and kind");
    let (version, kind) = (text("apiVersion"), text("kind"));
    let prefix = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let plural = format!("{}s", kind.to_lowercase());
    let dry_run = if dry_run { "&dryRun=All" } else { "" };
    let url = format!("{prefix}/namespaces/{namespace}/{plural}?fieldValidation=Strict{dry_run}");
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("namespace".to_owned(), json!(namespace));
    }
    let body = serde_json::to_vec(&object).expect("JSON");
    let request = hyper::Request::post(url).header("content-type", "application/json").body(body).expect("a request");
    client.request(request).await
}

/// The objects of a folder with a `kustomization.yaml`, as the real kustomize in kubectl builds them.
pub fn kustomized(folder: &Path) -> Vec<Value> {
    let mut kubectl = Command::new(super::assets::program("kubectl"));
    let output = kubectl.arg("kustomize").arg(folder).output().expect("kubectl starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_yaml::from_multiple(&String::from_utf8_lossy(&output.stdout)).expect("kustomize writes YAML")
}
