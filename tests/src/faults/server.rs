//! An API server that plays a script: what is in it becomes visible at its time, on tokio's clock, to lists, watches and
//! logs. Nothing is written to it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use sla_profiler::kubernetes::Kube;
use tokio::time::{Instant, sleep_until};

/// A watch ends after so long, as kube asks for; the next one goes on behind it.
const WATCH: Duration = Duration::from_secs(290);

/// Kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The deployment.
    Dgd,
    /// One of its pods.
    Pod,
    /// An Event.
    Event,
}

/// An object as it is from some time on.
#[derive(Debug, Clone)]
pub struct Change {
    /// After the launch.
    pub at: Duration,
    /// Of what.
    pub kind: Kind,
    /// Whether it is gone.
    pub gone: bool,
    /// Without its resource version.
    pub object: Value,
}

/// What one life of a container writes.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// Of which pod.
    pub pod: String,
    /// Begin of that life.
    pub begins: Duration,
    /// When each line is written.
    pub lines: Vec<(Duration, String)>,
    /// End of that life; none: it lives on.
    pub ends: Option<Duration>,
}

/// What happens to a deployment.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    /// In any order.
    pub changes: Vec<Change>,
    /// Of all containers.
    pub logs: Vec<Log>,
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

struct Server {
    started: Instant,
    /// Sorted; a change's version is its place, from 1.
    changes: Vec<Change>,
    logs: Vec<Log>,
}

/// A client of a server that plays the timeline from now on.
pub fn play(mut timeline: Timeline) -> Kube {
    timeline.changes.sort_by_key(|change| change.at);
    let server = Arc::new(Server { started: Instant::now(), changes: timeline.changes, logs: timeline.logs });
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(server.answer(request.uri().path(), request.uri().query().unwrap_or_default())) }
    });
    let client = kube::Client::new(service, "ns");
    Kube { client, namespace: "ns".to_owned(), server: "http://scripted".to_owned(), inside: false }
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

impl Server {
    fn answer(self: Arc<Self>, path: &str, query: &str) -> Answer {
        if path.ends_with("/log") {
            let pod = path.trim_end_matches("/log").rsplit('/').next().unwrap_or_default();
            return self.log(pod, query);
        }
        let kind = match path.rsplit('/').next() {
            Some("pods") => Kind::Pod,
            Some("events") => Kind::Event,
            _ => Kind::Dgd,
        };
        if parameter(query, "watch") == Some("true") {
            let since = parameter(query, "resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
            return self.watch(kind, since);
        }
        whole(&self.list(kind))
    }

    fn list(&self, kind: Kind) -> Value {
        let now = self.started.elapsed();
        let due = self.changes.iter().take_while(|change| change.at <= now).count();
        let mut items: Vec<Value> = Vec::new();
        for (index, change) in self.changes.iter().take(due).enumerate().filter(|(_, change)| change.kind == kind) {
            items.retain(|known| known["metadata"]["name"] != change.object["metadata"]["name"]);
            if !change.gone {
                items.push(versioned(change, index));
            }
        }
        json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": due.to_string() }, "items": items })
    }

    fn watch(self: Arc<Self>, kind: Kind, since: usize) -> Answer {
        let end = Instant::now() + WATCH;
        streamed(stream::unfold((self, since), move |(server, mut index)| async move {
            while server.changes.get(index).is_some_and(|change| change.kind != kind) {
                index += 1;
            }
            let due = server.changes.get(index).map(|change| server.started + change.at);
            sleep_until(due.unwrap_or(end).min(end)).await;
            let change = server.changes.get(index).filter(|_| due.is_some_and(|due| due < end))?;
            let what = if change.gone { "DELETED" } else { "MODIFIED" };
            let line = format!("{}\n", json!({ "type": what, "object": versioned(change, index) }));
            Some((line, (server, index + 1)))
        }))
    }

    fn log(self: Arc<Self>, pod: &str, query: &str) -> Answer {
        let now = self.started.elapsed();
        let previous = parameter(query, "previous") == Some("true");
        let mut lives = self.logs.iter().filter(|log| log.pod == pod && log.begins <= now).rev();
        let of_last = if previous { lives.nth(1) } else { lives.next() };
        let Some(log) = of_last.cloned() else {
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 400,
                "reason": "BadRequest", "message": "the container is waiting to start" });
            let mut response = whole(&status);
            *response.status_mut() = hyper::StatusCode::BAD_REQUEST;
            return response;
        };
        let follow = parameter(query, "follow") == Some("true");
        streamed(stream::unfold((self, log, 0), move |(server, log, index)| async move {
            let Some((at, line)) = log.lines.get(index) else {
                match log.ends.filter(|_| follow) {
                    Some(end) => sleep_until(server.started + end).await,
                    None if follow => std::future::pending().await,
                    None => {}
                }
                return None;
            };
            if !follow && *at > server.started.elapsed() {
                return None;
            }
            sleep_until(server.started + *at).await;
            let text = if follow { format!("{} {line}\n", stamp(*at)) } else { format!("{line}\n") };
            Some((text, (server, log, index + 1)))
        }))
    }
}

fn versioned(change: &Change, index: usize) -> Value {
    let mut object = change.object.clone();
    object["metadata"]["resourceVersion"] = (index + 1).to_string().into();
    object
}

fn whole(json: &Value) -> Answer {
    Response::new(Full::from(json.to_string()).boxed_unsync())
}

fn streamed(lines: impl futures::Stream<Item = String> + Send + 'static) -> Answer {
    use futures::StreamExt as _;
    let frames = lines.map(|line| Ok::<_, Infallible>(Frame::data(Bytes::from(line))));
    Response::new(StreamBody::new(frames).boxed_unsync())
}

/// The time of day of a script, which begins at noon.
pub fn stamp(at: Duration) -> String {
    let (s, ms) = (at.as_secs(), at.subsec_millis());
    format!("2026-01-02T{:02}:{:02}:{:02}.{ms:03}Z", 12 + s / 3600, s / 60 % 60, s % 60)
}
