//! A server for scrapes, on a thread and a clock of its own: the run's clock may be virtual.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use super::{Metrics, TelemetryError};

/// A scraper that is slower is left alone: it comes back.
const SCRAPE_DEADLINE: Duration = Duration::from_secs(10);

/// What OpenMetrics 1.0 calls itself.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves `GET /metrics` until the process ends; says where, since the port may be 0.
///
/// # Errors
/// If the address cannot be listened at.
pub fn serve(address: SocketAddr, metrics: Metrics) -> Result<SocketAddr, TelemetryError> {
    let failed = |source| TelemetryError::Listen { address, source };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let listener = {
        let _context = runtime.enter();
        tokio::net::TcpListener::from_std(listener).map_err(failed)?
    };
    let serving = async move {
        loop {
            // Out of sockets, for example: the next scrape may do better, and a loop without a pause would burn a core.
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let metrics = metrics.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = answer(&request, &metrics);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                // What goes wrong is the scraper's to notice.
                let _ = tokio::time::timeout(SCRAPE_DEADLINE, connection).await;
            });
        }
    };
    std::thread::Builder::new()
        .name("metrics".to_owned())
        .spawn(move || {
            runtime.block_on(serving);
        })
        .map_err(failed)?;
    Ok(bound)
}

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (request.method(), request.uri().path(), metrics.text()) {
        (&Method::GET | &Method::HEAD, "/metrics", Ok(text)) => (StatusCode::OK, OPEN_METRICS, text),
        (_, "/metrics", Ok(_)) => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n".to_owned()),
        (_, "/metrics", Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
        _ => (StatusCode::NOT_FOUND, "text/plain", "see /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    if let Ok(kind) = kind.try_into() {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}
