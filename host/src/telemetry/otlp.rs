//! How OpenTelemetry's exporter reaches a collector: through the HTTP client that the tree has already.

use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{Bytes, HttpClient, HttpError};

use crate::http::{Client, Origin};

/// For one batch of spans, from connecting to the collector's answer.
pub(super) const BATCH_DEADLINE: Duration = Duration::from_secs(10);

/// A collector says "accepted", or why not.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Sends what the exporter hands it. One connection per batch: there is one every few seconds.
#[derive(Debug)]
pub(super) struct Collector {
    pub(super) origin: Origin,
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The exporter calls from a thread of its own that knows no tokio; the run's runtime has another clock.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            tokio::time::timeout(BATCH_DEADLINE, self.send(request))
                .await
                .map_err(|_| format!("{} did not take the spans within {} s", self.origin, BATCH_DEADLINE.as_secs()))?
        })
    }
}

impl Collector {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let stream = Client::new(crate::http::Options::default()).connect(&self.origin).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driving = tokio::spawn(connection);
        let (mut parts, body) = request.into_parts();
        parts.headers.insert(HOST, self.origin.authority().try_into()?);
        parts.uri = parts.uri.path().parse()?;
        let answer = sender.send_request(Request::from_parts(parts, Full::new(body))).await?;
        let (parts, body) = answer.into_parts();
        let bytes = Limited::new(body, MAX_ANSWER_BYTES).collect().await?.to_bytes();
        driving.abort();
        Ok(Response::from_parts(parts, bytes))
    }
}
