//! One deployment and its pods, watched as long as it lives.
//!
//! Two watches per deployment, of kube's `watcher`: after a 410, an end of the stream, a restarted API server or a 429
//! it lists anew and goes on, with growing pauses. What they see is kept as a [`View`], of which everybody who waits sees
//! the newest.

use std::collections::BTreeMap;
use std::pin::pin;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::DynamicObject;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::pods::PodView;
use super::warnings::{self, Warnings};
use crate::kubernetes::{DGD_POD_LABEL, Kube};
use crate::spec::DgdApi;

/// Pods that are listed at once: whole ones, of several kilobytes each, before what matters of them is kept.
const LIST_PAGE: u32 = 100;

/// The deployment's own word on how it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DgdView {
    /// Its uid.
    pub uid: String,
    /// When it was created, by the API server's clock.
    pub created: Option<Timestamp>,
    /// `status.state`; empty while the operator has not said anything.
    pub state: String,
    /// Whether the state is about the newest spec.
    pub current: bool,
    /// Type, status and message of each condition.
    pub conditions: Vec<(String, String, String)>,
    /// Whether it is about to go.
    pub terminating: bool,
}

impl DgdView {
    fn new(object: &DynamicObject) -> Self {
        let status = object.data.get("status").cloned().unwrap_or_default();
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let observed = status.get("observedGeneration").and_then(Value::as_i64);
        let generation = object.metadata.generation;
        let conditions = status.get("conditions").and_then(Value::as_array).into_iter().flatten();
        Self {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            created: object.metadata.creation_timestamp.as_ref().map(|time| time.0),
            state: text(&status, "state"),
            // Older operators do not say what they have observed.
            current: observed.zip(generation).is_none_or(|(observed, generation)| observed >= generation),
            conditions: conditions.map(|c| (text(c, "type"), text(c, "status"), text(c, "message"))).collect(),
            terminating: object.metadata.deletion_timestamp.is_some(),
        }
    }

    /// Ready by its own word: the state says so, it is about the newest spec, and no condition denies it.
    pub fn is_ready(&self) -> bool {
        let denied = self.conditions.iter().any(|(kind, status, _)| kind == "Ready" && status != "True");
        self.state == "successful" && self.current && !denied
    }

    /// What its conditions complain of.
    pub fn complaints(&self) -> String {
        let bad = self.conditions.iter().filter(|(_, status, message)| status != "True" && !message.is_empty());
        bad.map(|(kind, _, message)| format!("{kind}: {message}")).collect::<Vec<_>>().join("; ")
    }
}

/// All that is known now.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The deployment; absent before it was seen, and after it is gone.
    pub dgd: Option<DgdView>,
    /// Its pods by name.
    pub pods: BTreeMap<String, PodView>,
    /// What Events say that nothing else does.
    pub warnings: Warnings,
    /// Whether deployments were listed at least once.
    pub dgd_listed: bool,
    /// Whether pods were listed at least once.
    pub pods_listed: bool,
    /// What the last failed request of a watch said; gone when one works again.
    pub trouble: Option<String>,
    /// When anything of it changed last.
    pub changed: Option<Instant>,
    /// When the API server answered again after trouble; absent if there was none.
    pub recovered: Option<Instant>,
}

impl View {
    /// A watch works.
    fn calm(&mut self) {
        if self.trouble.take().is_some() {
            self.recovered = Some(Instant::now());
        }
    }
}

/// The watches of one deployment. They end when this is dropped.
pub struct Watching {
    view: watch::Receiver<View>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Watching {
    /// Begins to watch the deployment of that name, whether it exists yet or not.
    pub fn start(kube: &Kube, api: DgdApi, name: &str) -> Self {
        let (sender, view) = watch::channel(View::default());
        let tasks = vec![
            watch_dgd(kube, api, name, sender.clone()),
            watch_pods(kube, name, sender.clone()),
            warnings::watch(kube, name, sender),
        ];
        Self { view, tasks }
    }

    /// Without pods.
    #[cfg(test)]
    pub fn start_dgd(kube: &Kube, api: DgdApi, name: &str) -> Self {
        let (sender, view) = watch::channel(View::default());
        Self { view, tasks: vec![watch_dgd(kube, api, name, sender)] }
    }

    /// For waiting for changes.
    pub fn subscribe(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// The newest view.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }
}

fn watch_dgd(kube: &Kube, api: DgdApi, name: &str, sender: watch::Sender<View>) -> JoinHandle<()> {
    let dgds = watcher::watcher(kube.dgds(api), watcher::Config::default().fields(&format!("metadata.name={name}")));
    tokio::spawn(async move {
        let mut stream = pin!(dgds.default_backoff());
        while let Some(event) = stream.next().await {
            sender.send_if_modified(|view| on_dgd(view, event));
        }
    })
}

fn watch_pods(kube: &Kube, name: &str, sender: watch::Sender<View>) -> JoinHandle<()> {
    let config = watcher::Config::default().labels(&format!("{DGD_POD_LABEL}={name}")).page_size(LIST_PAGE);
    let pods = watcher::watcher(kube.pods(), config);
    tokio::spawn(async move {
        let mut stream = pin!(pods.default_backoff());
        // Pods that a new list no longer has are gone.
        let mut listing: BTreeMap<String, PodView> = BTreeMap::new();
        while let Some(event) = stream.next().await {
            sender.send_if_modified(|view| on_pod(view, &mut listing, event));
        }
    })
}

fn trouble(view: &mut View, error: &watcher::Error) -> bool {
    tracing::debug!("watch: {error}");
    view.trouble = Some(error.to_string());
    true
}

fn on_dgd(view: &mut View, event: Result<Event<DynamicObject>, watcher::Error>) -> bool {
    let seen = match event {
        Err(error) => return trouble(view, &error),
        Ok(Event::Init) => {
            view.dgd_listed = false;
            return false;
        }
        // The deployment was not in the list; a list that has it sets the mark itself.
        Ok(Event::InitDone) if !view.dgd_listed => {
            view.dgd_listed = true;
            None
        }
        Ok(Event::InitDone) => return false,
        Ok(Event::Delete(_)) => None,
        Ok(Event::Apply(object) | Event::InitApply(object)) => {
            view.dgd_listed = true;
            Some(DgdView::new(&object))
        }
    };
    view.calm();
    if view.dgd != seen {
        view.dgd = seen;
        view.changed = Some(Instant::now());
    }
    true
}

fn on_pod(view: &mut View, listing: &mut BTreeMap<String, PodView>, event: Result<Event<Pod>, watcher::Error>) -> bool {
    // In place: an engine may have a thousand pods.
    let changed = match event {
        Err(error) => return trouble(view, &error),
        Ok(Event::Init) => {
            listing.clear();
            return false;
        }
        Ok(Event::InitApply(pod)) => {
            let pod = PodView::new(&pod);
            let pod = pod.clone().after(view.pods.get(&pod.name));
            listing.insert(pod.name.clone(), pod);
            return false;
        }
        Ok(Event::InitDone) => {
            view.pods_listed = true;
            let listed = std::mem::take(listing);
            let changed = view.pods != listed;
            for pod in listed.values() {
                warnings::settle(&mut view.warnings, pod, !view.pods.contains_key(&pod.name));
            }
            view.pods = listed;
            changed
        }
        Ok(Event::Apply(pod)) => {
            let pod = PodView::new(&pod);
            let pod = pod.clone().after(view.pods.get(&pod.name));
            let changed = view.pods.get(&pod.name) != Some(&pod);
            warnings::settle(&mut view.warnings, &pod, !view.pods.contains_key(&pod.name));
            view.pods.insert(pod.name.clone(), pod);
            changed
        }
        Ok(Event::Delete(pod)) => view.pods.remove(pod.metadata.name.as_deref().unwrap_or_default()).is_some(),
    };
    view.calm();
    if changed {
        view.changed = Some(Instant::now());
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kubernetes::scripted::{self, Answer, failure};

    fn dgd(state: &str, generation: i64, observed: Option<i64>, ready: Option<&str>) -> DgdView {
        let conditions: Vec<Value> = ready
            .map(|status| json!({ "type": "Ready", "status": status, "message": "pods wait" }))
            .into_iter()
            .collect();
        let object = json!({
            "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment",
            "metadata": { "name": "d", "uid": "u", "generation": generation },
            "status": { "state": state, "observedGeneration": observed, "conditions": conditions },
        });
        DgdView::new(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn ready_is_what_the_state_says_of_the_newest_spec_and_no_condition_denies() {
        assert!(dgd("successful", 2, Some(2), Some("True")).is_ready());
        assert!(dgd("successful", 2, None, None).is_ready(), "an older operator");
        assert!(!dgd("successful", 2, Some(1), None).is_ready(), "an older spec");
        assert!(!dgd("successful", 2, Some(2), Some("False")).is_ready());
        assert!(!dgd("pending", 1, Some(1), None).is_ready());
        assert_eq!(dgd("failed", 1, None, Some("False")).complaints(), "Ready: pods wait");
    }

    #[test]
    fn after_a_new_list_what_it_lacks_is_gone() {
        let pod = |name: &str| serde_json::from_value::<Pod>(json!({ "metadata": { "name": name } })).unwrap();
        let (mut view, mut listing) = (View::default(), BTreeMap::new());
        for event in [
            Event::Init,
            Event::InitApply(pod("a")),
            Event::InitApply(pod("b")),
            Event::InitDone,
            Event::Delete(pod("b")),
        ] {
            on_pod(&mut view, &mut listing, Ok(event));
        }
        assert_eq!(view.pods.keys().collect::<Vec<_>>(), ["a"]);
        for event in [Event::Init, Event::InitApply(pod("c")), Event::InitDone] {
            on_pod(&mut view, &mut listing, Ok(event));
        }
        assert_eq!(view.pods.keys().collect::<Vec<_>>(), ["c"]);
        let gone = serde_json::from_value(json!({ "metadata": { "name": "d", "uid": "u" } })).unwrap();
        on_dgd(&mut view, Ok(Event::InitApply(gone)));
        assert!(view.dgd.is_some());
        on_dgd(&mut view, Ok(Event::Init));
        on_dgd(&mut view, Ok(Event::InitDone));
        assert!(view.dgd.is_none() && view.dgd_listed);
    }

    /// A list of one object, and of none.
    fn listed(items: Value, version: &str) -> Answer {
        Answer::Json(
            200,
            json!({
                "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": version }, "items": items,
            }),
        )
    }

    fn event(kind: &str, state: &str, version: &str) -> Value {
        let mut object = json!({
            "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment",
            "metadata": { "name": "d", "namespace": "ns", "uid": "u" }, "spec": {},
        });
        object["metadata"]["resourceVersion"] = version.into();
        object["status"] = json!({ "state": state });
        json!({ "type": kind, "object": object })
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_survives_410_the_end_of_its_stream_a_refused_connection_and_429() {
        let gone = json!({ "type": "ERROR", "object": {
            "kind": "Status", "apiVersion": "v1", "code": 410, "reason": "Expired", "status": "Failure", "message": "too old",
        } });
        let (kube, asked) = scripted::kube(vec![
            listed(json!([]), "1"),
            Answer::Watch(vec![event("ADDED", "pending", "2")]),
            // The stream has ended; the next one is too old.
            Answer::Watch(vec![gone]),
            Answer::Broken,
            failure(429, "TooManyRequests", "later"),
            listed(json!([event("", "pending", "9")["object"]]), "9"),
            Answer::Watch(vec![event("MODIFIED", "successful", "10")]),
            Answer::Silence,
        ]);
        let watching = Watching::start_dgd(&kube, DgdApi::V1beta1, "d");
        let mut view = watching.subscribe();
        let ready = |view: &View| view.dgd.as_ref().is_some_and(DgdView::is_ready);
        view.wait_for(ready).await.unwrap();
        let paths: Vec<String> = asked.lock().unwrap().iter().map(|(_, path, _)| path.clone()).collect();
        assert!(paths.iter().all(|path| path.contains("metadata.name%3Dd")), "{paths:?}");
        assert!(paths[1].contains("watch=true") && paths[1].contains("resourceVersion=1"), "{paths:?}");
    }
}
