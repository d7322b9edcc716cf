//! How requests get to a deployment: through its Service from within the cluster, through port-forward from outside, or
//! through a URL that somebody else has set up.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::pods::PodView;
use super::watching::View;
use crate::backends::flags::Flags;
use crate::kubernetes::Kube;

/// Port at which Dynamo's frontend answers, unless its flags say otherwise.
pub const FRONTEND_PORT: u16 = 8000;
/// Port at which Dynamo's workers show metrics, where nobody sets [`SYSTEM_PORT_VARIABLE`]: the operator sets this one.
pub const SYSTEM_PORT: u16 = 9090;
/// What tells a worker of Dynamo's where to show metrics.
const SYSTEM_PORT_VARIABLE: &str = "DYN_SYSTEM_PORT";
/// Workers whose metrics are looked at: every one of them is asked each second.
const MOST_WORKERS: usize = 32;
/// Opening a forwarded connection may take so long.
const CONNECT: Duration = Duration::from_secs(20);

/// The user's choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// By the Service's name.
    Service,
    /// Through the API server.
    PortForward,
    /// A URL; `{namespace}` and `{service}` stand for the deployment's.
    Url(String),
}

impl std::str::FromStr for Reach {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "service" => Ok(Self::Service),
            "port-forward" => Ok(Self::PortForward),
            url if url.starts_with("http://") || url.starts_with("https://") => {
                let mut rest = url;
                while let Some((_, after)) = rest.split_once('{') {
                    let (name, tail) = after.split_once('}').ok_or("a `{` is never closed")?;
                    if !["namespace", "service"].contains(&name) {
                        return Err(format!("{{{name}}} stands for nothing; {{namespace}} and {{service}} do"));
                    }
                    rest = tail;
                }
                Ok(Self::Url(url.trim_end_matches('/').to_owned()))
            }
            _ => Err("want service, port-forward, or a URL (http://… or https://…)".to_owned()),
        }
    }
}

/// A way to one deployment. What it needs to stay open ends when it is dropped.
pub struct Way {
    /// Of the frontend; without a slash at the end.
    pub url: String,
    /// Of the servers with a `/metrics` page.
    pub metrics_urls: Vec<String>,
    _forwards: Vec<Forward>,
}

/// The Service of a deployment's frontend: the operator calls it after both, in lower case.
pub fn frontend_service(dgd: &str) -> String {
    format!("{dgd}-frontend")
}

/// The port that the frontend's flags name, or the usual one.
pub fn frontend_port(dgd: &Value) -> u16 {
    let args = crate::dgd::component_args(dgd, |kind| kind == "frontend").unwrap_or_default();
    let named = Flags::new(&args).value(&["--http-port"]).ok().flatten().and_then(|port| port.parse().ok());
    named.unwrap_or(FRONTEND_PORT)
}

/// Where a worker shows metrics.
fn system_port(dgd: &Value, worker: &PodView) -> u16 {
    let named = crate::dgd::component_env(dgd, &worker.component, SYSTEM_PORT_VARIABLE);
    named.and_then(|port| port.parse().ok()).filter(|port| *port != 0).unwrap_or(SYSTEM_PORT)
}

/// Where pods of the cluster reach the frontend.
pub fn from_inside(kube: &Kube, reach: &Reach, dgd: &str, port: u16) -> String {
    let service = frontend_service(dgd);
    match reach {
        Reach::Service | Reach::PortForward => format!("http://{service}.{}.svc:{port}", kube.namespace),
        Reach::Url(url) => url.replace("{namespace}", &kube.namespace).replace("{service}", &service),
    }
}

/// Opens the way to a deployment.
///
/// # Errors
/// If no local port can be had.
pub async fn open(
    kube: &Kube,
    reach: &Reach,
    deployment: &Value,
    view: &watch::Receiver<View>,
) -> Result<Way, std::io::Error> {
    let dgd = deployment.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let port = frontend_port(deployment);
    let workers: Vec<PodView> = {
        let view = view.borrow();
        view.pods.values().filter(|pod| !pod.is_frontend()).take(MOST_WORKERS).cloned().collect()
    };
    let mut forwards = Vec::new();
    let url = match reach {
        Reach::Service | Reach::Url(_) => from_inside(kube, reach, dgd, port),
        Reach::PortForward => {
            let forward = Forward::open(kube, Target::Frontend(view.clone()), port).await?;
            let url = forward.url();
            forwards.push(forward);
            url
        }
    };
    // The frontend's page is part of the engine's, where the frontend is reached as it is.
    let mut metrics_urls = vec![url.clone()];
    for worker in workers {
        let system_port = system_port(deployment, &worker);
        match reach {
            // A pod's address leads to it from within the cluster only.
            Reach::Service | Reach::Url(_) if kube.inside => {
                metrics_urls.extend(worker.ip.map(|ip| format!("http://{}:{system_port}", bracketed(&ip))));
            }
            Reach::Service | Reach::Url(_) => {}
            Reach::PortForward => {
                let forward = Forward::open(kube, Target::Pod(worker.name), system_port).await?;
                metrics_urls.push(forward.url());
                forwards.push(forward);
            }
        }
    }
    Ok(Way { url, metrics_urls, _forwards: forwards })
}

/// IPv6 addresses stand in brackets in a URL.
fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
}

/// Where forwarded connections go.
enum Target {
    /// To a frontend that serves at that moment.
    Frontend(watch::Receiver<View>),
    /// To that pod.
    Pod(String),
}

impl Target {
    fn pod(&self) -> Option<String> {
        match self {
            Target::Pod(name) => Some(name.clone()),
            Target::Frontend(view) => {
                let view = view.borrow();
                let frontends = || view.pods.values().filter(|pod| pod.is_frontend() && !pod.terminating);
                frontends().find(|pod| pod.ready).or_else(|| frontends().next()).map(|pod| pod.name.clone())
            }
        }
    }
}

/// A port of this machine, of the loopback interface only, that leads into a pod. Every connection is a stream of its own
/// through the API server.
struct Forward {
    port: u16,
    task: JoinHandle<()>,
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Forward {
    async fn open(kube: &Kube, target: Target, port: u16) -> Result<Self, std::io::Error> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let local = listener.local_addr()?.port();
        let kube = kube.clone();
        let task = tokio::spawn(async move {
            // Ends with this task.
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => {
                            let pod = target.pod();
                            let kube = kube.clone();
                            connections.spawn(async move {
                                if let Err(error) = carry(&kube, pod, port, stream).await {
                                    tracing::debug!("port-forward: {error}");
                                }
                            });
                        }
                        // Out of file descriptors, for a moment.
                        Err(error) => {
                            tracing::debug!("port-forward: {error}");
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                    },
                    Some(_) = connections.join_next(), if !connections.is_empty() => {}
                }
            }
        });
        Ok(Self { port: local, task })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// Carries one connection; it is closed when either side is done, or when it cannot be opened.
async fn carry(kube: &Kube, pod: Option<String>, port: u16, mut local: TcpStream) -> Result<(), String> {
    let pod = pod.ok_or("no frontend pod runs")?;
    // Tokens are small and must not wait for each other.
    local.set_nodelay(true).map_err(|error| error.to_string())?;
    let pods = kube.pods();
    let ports = [port];
    let opening = tokio::time::timeout(CONNECT, pods.portforward(&pod, &ports));
    let mut forwarder = opening.await.map_err(|_| format!("pod {pod} does not answer"))?.map_err(|e| e.to_string())?;
    let Some(mut remote) = forwarder.take_stream(port) else { return Err("it has no stream".to_owned()) };
    let refused = forwarder.take_error(port);
    let copying = tokio::io::copy_bidirectional(&mut local, &mut remote);
    let result = tokio::select! {
        copied = copying => copied.map(|_| ()).map_err(|error| error.to_string()),
        Some(message) = async { match refused { Some(refused) => refused.await, None => None } } => Err(message),
    };
    // A client that waits for an answer is told that none will come.
    let _ = local.shutdown().await;
    forwarder.abort();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_hold_places_for_namespace_and_service_and_no_others() {
        assert_eq!("service".parse(), Ok(Reach::Service));
        assert_eq!("port-forward".parse(), Ok(Reach::PortForward));
        let url = "https://gate/{namespace}/{service}/";
        assert_eq!(url.parse(), Ok(Reach::Url("https://gate/{namespace}/{service}".to_owned())));
        for bad in ["gate", "http://x/{pod}", "http://x/{service"] {
            assert!(bad.parse::<Reach>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_worker_shows_metrics_where_its_environment_says() {
        let worker = |component: &str| {
            let labels = serde_json::json!({ crate::kubernetes::COMPONENT_LABEL: component });
            let pod = serde_json::json!({ "metadata": { "name": "p", "labels": labels } });
            PodView::new(&serde_json::from_value(pod).unwrap())
        };
        let env = |port: &str| serde_json::json!([{ "name": "DYN_SYSTEM_PORT", "value": port }]);
        let beta = serde_json::json!({ "spec": { "env": env("7001"), "components": [
            { "name": "decode", "podTemplate": { "spec": { "containers": [{ "name": "main", "env": env("7002") }] } } },
            { "name": "prefill" }, { "name": "odd", "podTemplate": { "spec": { "containers": [{ "env": env("no") }] } } },
        ] } });
        let ports = ["decode", "prefill", "odd"].map(|name| system_port(&beta, &worker(name)));
        assert_eq!(ports, [7002, 7001, SYSTEM_PORT]);
        let alpha = serde_json::json!({ "spec": { "services": {
            "decode": { "extraPodSpec": { "mainContainer": { "env": env("7003") } } },
            "prefill": { "envs": env("7004") }, "plain": {},
        } } });
        let ports = ["decode", "prefill", "plain"].map(|name| system_port(&alpha, &worker(name)));
        assert_eq!(ports, [7003, 7004, SYSTEM_PORT]);
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        assert_eq!(bracketed("10.0.0.7"), "10.0.0.7");
        assert_eq!(bracketed("fd00::7"), "[fd00::7]");
    }
}
