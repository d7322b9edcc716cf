//! One request, one connection: for whatever is asked rarely.

use std::future::Future;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, WWW_AUTHENTICATE};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::connect::late;
use super::{Client, HttpError, Origin};

/// A whole answer is larger than this only by mistake: metrics of a large engine take about 1 MB.
const MAX_BODY_BYTES: usize = 64 << 20;

/// An answer that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// A request that is neither a plain GET nor a POST of JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask<'a> {
    /// GET, HEAD, POST, PUT
    pub method: Method,
    /// Begins with a slash.
    pub path: &'a str,
    /// The whole header: `Bearer …`, `Basic …`.
    pub authorization: Option<&'a str>,
    /// Media types that the answer may have.
    pub accept: &'a str,
    /// Media type and content of the body.
    pub content: Option<(&'a str, Vec<u8>)>,
}

impl Client {
    /// GET of a path that begins with a slash.
    ///
    /// # Errors
    /// [`HttpError`]. An answer with an error status is an answer, not an error.
    pub async fn get(
        &self,
        origin: &Origin,
        path: &str,
        bearer: Option<&str>,
        deadline: Duration,
    ) -> Result<Response, HttpError> {
        self.open(origin, path, bearer, None, deadline).await?.whole().await
    }

    /// POST of a JSON document.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post_json(
        &self,
        origin: &Origin,
        path: &str,
        bearer: Option<&str>,
        json: Vec<u8>,
        deadline: Duration,
    ) -> Result<Response, HttpError> {
        self.open(origin, path, bearer, Some(json), deadline).await?.whole().await
    }

    /// GET, or POST where there is a JSON document; returns when the head of the answer is there. The deadline holds
    /// until the body's end.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn open(
        &self,
        origin: &Origin,
        path: &str,
        bearer: Option<&str>,
        json: Option<Vec<u8>>,
        deadline: Duration,
    ) -> Result<Body, HttpError> {
        let authorization = bearer.map(|key| format!("Bearer {key}"));
        let ask = Ask {
            method: if json.is_some() { Method::POST } else { Method::GET },
            path,
            authorization: authorization.as_deref(),
            accept: "*/*",
            content: json.map(|json| ("application/json", json)),
        };
        self.send(origin, ask, deadline).await
    }

    /// Any request; returns when the head of the answer is there. The deadline holds until the body's end.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn send(&self, origin: &Origin, ask: Ask<'_>, deadline: Duration) -> Result<Body, HttpError> {
        let ends = Ends { origin: origin.clone(), at: Instant::now() + deadline, after: deadline };
        let broken = |e: &dyn std::error::Error| HttpError::Broken { origin: origin.to_string(), reason: chain(e) };
        let mut request = Request::builder()
            .method(ask.method)
            .uri(origin.target(ask.path))
            .header(HOST, origin.authority())
            .header(ACCEPT, ask.accept);
        if let Some((media_type, _)) = ask.content {
            request = request.header(CONTENT_TYPE, media_type);
        }
        if let Some(authorization) = ask.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let content = ask.content.map(|(_, content)| content).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(content))).map_err(|e| broken(&e))?;
        let stream = ends.bound("connecting", self.connect(origin)).await??;
        let (mut sender, connection) =
            ends.bound("the answer", http1::handshake(TokioIo::new(stream))).await?.map_err(|e| broken(&e))?;
        // Reads and writes; ends with the body, whose drop aborts it.
        let driver = Driver(tokio::spawn(async move {
            // What went wrong shows at the sender or in the body.
            let _ = connection.await;
        }));
        let answer = ends.bound("the answer", sender.send_request(request)).await?.map_err(|e| broken(&e))?;
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (location, challenge) = (header(LOCATION), header(WWW_AUTHENTICATE));
        let status = answer.status().as_u16();
        Ok(Body { status, location, challenge, incoming: answer.into_body(), ends, _driver: driver })
    }
}

/// Message and causes: hyper's own text is "connection error" at best.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[derive(Debug)]
struct Ends {
    origin: Origin,
    at: Instant,
    after: Duration,
}

impl Ends {
    async fn bound<T>(&self, what: &'static str, future: impl Future<Output = T>) -> Result<T, HttpError> {
        timeout_at(self.at, future).await.map_err(|_| late(what, &self.origin, self.after))
    }
}

#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer whose body has yet to come. Dropping it closes the connection.
#[derive(Debug)]
pub struct Body {
    /// HTTP status.
    pub status: u16,
    /// Where a redirection leads. Nothing follows it by itself: whoever asked knows whom it trusts.
    pub location: Option<String>,
    /// How to authenticate, where the server says so.
    pub challenge: Option<String>,
    incoming: Incoming,
    ends: Ends,
    _driver: Driver,
}

impl Body {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The connection broke or the deadline passed.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, HttpError> {
        loop {
            let Some(frame) = self.ends.bound("the answer", self.incoming.frame()).await? else { return Ok(None) };
            let frame =
                frame.map_err(|e| HttpError::Broken { origin: self.ends.origin.to_string(), reason: chain(&e) })?;
            // Anything else are trailers.
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data.into()));
            }
        }
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// As [`Self::next`], or [`HttpError::TooLarge`].
    pub async fn whole(mut self) -> Result<Response, HttpError> {
        let mut body = Vec::new();
        while let Some(piece) = self.next().await? {
            if body.len() + piece.len() > MAX_BODY_BYTES {
                return Err(HttpError::TooLarge { origin: self.ends.origin.to_string(), limit_bytes: MAX_BODY_BYTES });
            }
            body.extend_from_slice(&piece);
        }
        Ok(Response { status: self.status, body })
    }
}
