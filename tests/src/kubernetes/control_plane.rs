//! The servers of one control plane, in the order in which they need one another.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::thread;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use sla_profiler::spec::DgdApi;

use super::child::Child;
use super::identity::Identity;
use super::{assets, block_on, crds, eventually, nodes};

/// Who the harness says it is when it applies something.
pub const MANAGER: &str = "test-harness";

/// As in the tests of Go operators: `true` takes the cluster of `$KUBECONFIG` instead of starting one.
const EXISTING_VARIABLE: &str = "USE_EXISTING_CLUSTER";

/// A running Kubernetes.
pub struct ControlPlane {
    own: Option<Servers>,
    /// Of a cluster that was there.
    existing: Option<PathBuf>,
    dynamo: DgdApi,
}

/// What was started for the tests.
struct Servers {
    folder: PathBuf,
    identity: Identity,
    port: u16,
    etcd_port: u16,
    kubelet_port: u16,
    /// Taken out while it restarts.
    api_server: Mutex<Option<Child>>,
    /// Dropped after the API server; the first etcd's supervisor removes the folder.
    _others: Vec<Child>,
    next_etcd: Mutex<Option<Child>>,
    etcd: Child,
    peer_port: u16,
}

impl ControlPlane {
    /// The one of this process; the first call starts it, with Dynamo's CRDs and no node.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<ControlPlane> = OnceLock::new();
        SHARED.get_or_init(|| {
            let wanted = std::env::var(EXISTING_VARIABLE).is_ok_and(|value| value == "true");
            if wanted { thread::spawn(Self::take).join().expect("a cluster") } else { Self::start(crds::dynamo) }
        })
    }

    /// The cluster of `$KUBECONFIG`. Dynamo's CRDs are installed only if it has none.
    fn take() -> Self {
        let path = std::env::var_os("KUBECONFIG").map(PathBuf::from);
        let path =
            path.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".kube/config"));
        let this = Self { own: None, existing: Some(path), dynamo: DgdApi::V1beta1 };
        block_on(async {
            let client = this.admin().await;
            let kinds: Api<CustomResourceDefinition> = Api::all(client.clone());
            let known = kinds.get_opt("dynamographdeployments.nvidia.com").await.expect("an answer");
            if known.is_none() {
                install(&client, &crds::dynamo(&crds::Schemas::fetch(&client).await)).await;
            }
        });
        this
    }

    /// Whether it was there before the tests, and will be after them.
    pub fn is_existing(&self) -> bool {
        self.existing.is_some()
    }

    fn own(&self) -> &Servers {
        let message = "this test needs servers of its own (nodes, faults, tokens): leave out USE_EXISTING_CLUSTER";
        self.own.as_ref().expect(message)
    }

    /// One of this process whose CRDs serve v1alpha1 only, as those of Dynamo's operator before 1.0; the stand-ins.
    pub fn of_v1alpha1() -> &'static Self {
        static OLD: OnceLock<ControlPlane> = OnceLock::new();
        OLD.get_or_init(|| Self { dynamo: DgdApi::V1alpha1, ..Self::start(crds::dynamo_v1alpha1) })
    }

    /// The version of Dynamo's kinds that it serves.
    pub fn dynamo(&self) -> DgdApi {
        self.dynamo
    }

    /// One of the caller's own, ended when it is dropped. `crds` gets the API server's own schemas.
    pub fn start(crds: fn(&crds::Schemas) -> Vec<Value>) -> Self {
        // A thread of its own: a test that calls this inside `block_on` may not start another runtime.
        thread::spawn(move || Self::start_here(crds)).join().expect("a control plane starts")
    }

    fn start_here(crds: fn(&crds::Schemas) -> Vec<Value>) -> Self {
        let folder = tempfile::Builder::new().prefix("sla-profiler-cluster-").tempdir().expect("a folder").keep();
        let identity = Identity::create(&folder);
        let (etcd_port, peer_port, port) = (free_port(), free_port(), free_port());
        let etcd = start_etcd(&folder, etcd_port, peer_port, true);
        let api_server = start_api_server(&folder, &identity, etcd_port, port);
        let servers = Servers {
            folder,
            identity,
            port,
            etcd_port,
            kubelet_port: free_port(),
            api_server: Mutex::new(Some(api_server)),
            _others: Vec::new(),
            next_etcd: Mutex::default(),
            etcd,
            peer_port,
        };
        let mut this = Self { own: Some(servers), existing: None, dynamo: DgdApi::V1beta1 };
        block_on(async {
            this.wait_until_ready().await;
            let client = this.admin().await;
            let schemas = crds::Schemas::fetch(&client).await;
            let mut definitions = crds(&schemas);
            definitions.extend(nodes::kwok_crds());
            // Before the controller manager: its garbage collector learns of later ones only after half a minute.
            install(&client, &definitions).await;
        });
        let others = this.start_controllers();
        if let Some(own) = &mut this.own {
            own._others = others;
        }
        this
    }

    /// The port of the API server, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.own().port
    }

    /// Where kwok answers for all kubelets, on 127.0.0.1.
    pub fn kubelet_port(&self) -> u16 {
        self.own().kubelet_port
    }

    /// Certificates, and kubeconfigs for tokens.
    pub(super) fn identity(&self) -> &Identity {
        &self.own().identity
    }

    /// A folder that goes with the control plane.
    pub fn folder(&self) -> &Path {
        &self.own().folder
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.existing.clone().unwrap_or_else(|| self.own().identity.admin(self.own().port))
    }

    /// A client of the administrator, on the caller's runtime.
    pub async fn admin(&self) -> Client {
        client(&self.kubeconfig()).await
    }

    /// Kills the API server and starts another on the same port; returns when it is ready.
    pub async fn restart_api_server(&self) {
        self.stop_api_server();
        self.start_api_server().await;
    }

    /// Kills the API server: connections break, and none is accepted.
    pub fn stop_api_server(&self) {
        drop(self.own().api_server.lock().expect("no panic under the lock").take());
    }

    /// Starts the API server again; returns when it is ready.
    pub async fn start_api_server(&self) {
        let child = start_api_server(&self.own().folder, &self.own().identity, self.own().etcd_port, self.own().port);
        *self.own().api_server.lock().expect("no panic under the lock") = Some(child);
        self.wait_until_ready().await;
    }

    /// Kills etcd; the API server answers nothing that needs it.
    pub fn stop_etcd(&self) {
        match self.own().next_etcd.lock().expect("no panic under the lock").take() {
            Some(child) => drop(child),
            None => self.own().etcd.kill(),
        }
    }

    /// Starts etcd again on what the last one left.
    pub fn start_etcd(&self) {
        let child = start_etcd(&self.own().folder, self.own().etcd_port, self.own().peer_port, false);
        *self.own().next_etcd.lock().expect("no panic under the lock") = Some(child);
    }

    async fn wait_until_ready(&self) {
        let client = self.admin().await;
        let ready = async || {
            let request = hyper::Request::get("/readyz").body(Vec::new()).ok()?;
            client.request_text(request).await.ok().filter(|text| text == "ok")
        };
        let waited = tokio::time::timeout(super::PATIENCE, eventually("the API server", ready)).await;
        if waited.is_err() {
            let server = self.own().api_server.lock().expect("no panic under the lock");
            panic!("the API server: {}", server.as_ref().map(Child::last_words).unwrap_or_default());
        }
    }

    fn start_controllers(&self) -> Vec<Child> {
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig().display());
        let common = [
            kubeconfig.as_str(),
            "--leader-elect=false",
            "--secure-port=0",
            "--bind-address=127.0.0.1",
            // A thousand pods are created in seconds.
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ];
        let key = format!("--service-account-private-key-file={}", self.own().identity.file("accounts.key"));
        let ca = format!("--root-ca-file={}", self.own().identity.file("ca.crt"));
        let kwok =
            nodes::kwok_arguments(&self.own().folder, &kubeconfig, &self.own().identity, self.own().kubelet_port);
        // On a busy machine kwok's heartbeats are late, and it never makes pods ready again that were taken for lost.
        let patience = "--node-monitor-grace-period=10m";
        let start = |name: &str, arguments: &[&str]| Child::start(name, arguments, &self.own().folder, false);
        vec![
            start("kube-controller-manager", &[&common[..], &[&key, &ca, patience]].concat()),
            start("kube-scheduler", &common),
            Child::start("kwok", kwok, &self.own().folder, false),
        ]
    }
}

/// A client from a kubeconfig file.
pub async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a configuration");
    // A test says itself what it tries again.
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}

/// Applies CRDs and waits until each can be listed: `Established` comes a moment too early.
async fn install(client: &Client, definitions: &[Value]) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in definitions {
        let name = definition.pointer("/metadata/name").and_then(Value::as_str).expect("a name");
        let applied = api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(definition)).await;
        applied.unwrap_or_else(|error| panic!("CRD {name}: {error}"));
    }
    for definition in definitions {
        let text = |pointer: &str| definition.pointer(pointer).and_then(Value::as_str).expect("a CRD");
        let path =
            format!("/apis/{}/{}/{}", text("/spec/group"), text("/spec/versions/0/name"), text("/spec/names/plural"));
        eventually(&path, async || {
            let request = hyper::Request::get(&path).body(Vec::new()).ok()?;
            client.request::<Value>(request).await.ok()
        })
        .await;
    }
}

fn start_etcd(folder: &Path, port: u16, peer_port: u16, owns_folder: bool) -> Child {
    let url = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let arguments = [
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=error".to_owned(),
    ];
    Child::start("etcd", arguments, folder, owns_folder)
}

fn start_api_server(folder: &Path, identity: &Identity, etcd_port: u16, port: u16) -> Child {
    let arguments = [
        format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        // A machine without any network has no other address.
        "--external-hostname=127.0.0.1".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--tls-cert-file={}", identity.file("server.crt")),
        format!("--tls-private-key-file={}", identity.file("server.key")),
        format!("--token-auth-file={}", identity.file("tokens.csv")),
        "--authorization-mode=RBAC".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", identity.file("accounts.pub")),
        format!("--service-account-signing-key-file={}", identity.file("accounts.key")),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--profiling=false".to_owned(),
    ];
    Child::start("kube-apiserver", arguments, folder, false)
}

/// A port that nobody listens on. Somebody may take it before we do; then the server says so and the test fails.
pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Calls the real kubectl with the administrator's rights, or another's.
pub fn kubectl(kubeconfig: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(assets::program("kubectl"));
    command.env("KUBECONFIG", kubeconfig);
    command
}
