//! Stands before the API server: writes down what is asked of it, and answers some requests itself.

use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, client, header, server};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::background::Background;
use super::control_plane::ControlPlane;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Body = BoxBody<Bytes, Error>;

/// What a client gets instead of the API server's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 429, to be tried again after a second.
    TooManyRequests,
    /// 503.
    Unavailable,
    /// 409: somebody else wrote it meanwhile.
    Conflict,
    /// The connection ends without an answer.
    Eof,
    /// A watch begins and says at once that its resourceVersion is too old.
    Expired,
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// GET, PATCH, …
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// What was answered; absent while that is open, or where the connection ended.
    pub status: Option<StatusCode>,
}

impl Asked {
    /// Whether it opened a watch.
    pub fn is_watch(&self) -> bool {
        self.path.contains("watch=true")
    }
}

struct Rule {
    method: Method,
    part_of_path: String,
    fault: Fault,
    times: u32,
}

struct State {
    asked: Mutex<Vec<Asked>>,
    rules: Mutex<Vec<Rule>>,
    upstream_port: u16,
    connector: TlsConnector,
    cuts: watch::Sender<u32>,
}

/// A running proxy.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
    _serving: Background,
}

impl Proxy {
    /// Starts one on a free port, with a certificate that the control plane's kubeconfigs trust.
    pub fn start(cluster: &ControlPlane) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        let acceptor = acceptor(cluster);
        let state = Arc::new(State {
            asked: Mutex::default(),
            rules: Mutex::default(),
            upstream_port: cluster.port(),
            connector: connector(cluster),
            cuts: watch::Sender::new(0),
        });
        let serving = {
            let state = Arc::clone(&state);
            Background::start("proxy", move || serve(listener, acceptor, state))
        };
        Self { port, state, _serving: serving }
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next `times` requests with this method and this part in their path and query get the fault.
    pub fn inject(&self, method: Method, part_of_path: &str, fault: Fault, times: u32) {
        let rule = Rule { method, part_of_path: part_of_path.to_owned(), fault, times };
        self.state.rules.lock().expect("no panic under the lock").push(rule);
    }

    /// Whether all faults have been handed out.
    pub fn is_spent(&self) -> bool {
        self.state.rules.lock().expect("no panic under the lock").iter().all(|rule| rule.times == 0)
    }

    /// Breaks all connections, watches included; new ones are accepted.
    pub fn cut(&self) {
        self.state.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// What has been asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().expect("no panic under the lock").clone()
    }

    /// Forgets what has been asked.
    pub fn forget(&self) {
        self.state.asked.lock().expect("no panic under the lock").clear();
    }
}

async fn serve(listener: std::net::TcpListener, acceptor: TlsAcceptor, state: Arc<State>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
        let mut cuts = state.cuts.subscribe();
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request| answer(Arc::clone(&state), request));
            let connection =
                server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
            tokio::select! {
                // A client that went away, or a fault that we injected.
                _ = connection => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, Error> {
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let asked = Asked { method: request.method().clone(), path, status: None };
    let fault = state.fault_for(&asked);
    let number = {
        let mut all = state.asked.lock().expect("no panic under the lock");
        all.push(asked);
        all.len() - 1
    };
    let answer = answered(&state, fault, request).await;
    if let Ok(answer) = &answer
        // Nothing, where all was forgotten meanwhile.
        && let Some(asked) = state.asked.lock().expect("no panic under the lock").get_mut(number)
    {
        asked.status = Some(answer.status());
    }
    answer
}

async fn answered(state: &State, fault: Option<Fault>, request: Request<Incoming>) -> Result<Response<Body>, Error> {
    match fault {
        None => forward(state, request).await,
        Some(Fault::Eof) => Err("a connection that ends".into()),
        Some(Fault::TooManyRequests) => Ok(status(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests")),
        Some(Fault::Unavailable) => Ok(status(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")),
        Some(Fault::Conflict) => Ok(status(StatusCode::CONFLICT, "Conflict")),
        Some(Fault::Expired) => {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "too old resource version", "reason": "Expired", "code": 410,
            });
            let event = json!({ "type": "ERROR", "object": status });
            Ok(json_response(StatusCode::OK, &format!("{event}\n")))
        }
    }
}

impl State {
    fn fault_for(&self, asked: &Asked) -> Option<Fault> {
        let mut rules = self.rules.lock().expect("no panic under the lock");
        let matches =
            |rule: &&mut Rule| rule.times > 0 && rule.method == asked.method && asked.path.contains(&rule.part_of_path);
        let rule = rules.iter_mut().find(matches)?;
        rule.times -= 1;
        Some(rule.fault)
    }
}

fn status(code: StatusCode, reason: &str) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "the proxy of a test says so", "reason": reason, "code": code.as_u16(),
        "details": { "retryAfterSeconds": 1 },
    });
    let mut response = json_response(code, &status.to_string());
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    response
}

fn json_response(code: StatusCode, body: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(body.to_owned())).map_err(|never| match never {}).boxed();
    let builder = Response::builder().status(code).header(header::CONTENT_TYPE, "application/json");
    builder.body(body).expect("a response")
}

/// To the API server, on a connection of its own; an upgrade (port-forward) becomes a tunnel.
async fn forward(state: &State, mut request: Request<Incoming>) -> Result<Response<Body>, Error> {
    let stream = TcpStream::connect(("127.0.0.1", state.upstream_port)).await?;
    let stream = state.connector.connect(ServerName::try_from("127.0.0.1")?, stream).await?;
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    let downstream = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let mut response = sender.send_request(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upstream = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let Some(downstream) = downstream else { return };
            let (Ok(down), Ok(up)) = tokio::join!(downstream, upstream) else { return };
            // Ends with either side.
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(down), &mut TokioIo::new(up)).await;
        });
    }
    Ok(response.map(|body| body.map_err(Error::from).boxed()))
}

fn acceptor(cluster: &ControlPlane) -> TlsAcceptor {
    let (certificate, key) = cluster.identity().server_pem();
    let certificates = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(|der| der.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .expect("a certificate with its key");
    TlsAcceptor::from(Arc::new(config))
}

fn connector(cluster: &ControlPlane) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(cluster.identity().ca_pem().as_bytes()) {
        roots.add(der.expect("PEM")).expect("an authority");
    }
    let config = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}
