//! Events on the request: what a person who runs `kubectl describe` would want to know.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use super::call::Patience;
use super::connect::Kube;
use super::error::Action;
use super::owner::OwnerObject;

/// Longest note that the API server takes.
const LONGEST_NOTE: usize = 1024;

/// Writes events on one object. That an event cannot be written is logged once and changes nothing else.
#[derive(Clone)]
pub struct Events {
    kube: Kube,
    recorder: Recorder,
    about: ObjectReference,
}

impl Events {
    /// Events on that object.
    pub fn new(kube: Kube, about: &OwnerObject) -> Self {
        let reporter = Reporter { controller: "sla-profiler".to_owned(), instance: std::env::var("HOSTNAME").ok() };
        let recorder = Recorder::new(kube.client.clone(), reporter);
        let about = ObjectReference {
            api_version: Some(about.api_version.clone()),
            kind: Some(about.kind.clone()),
            name: Some(about.name.clone()),
            namespace: Some(about.namespace.clone()),
            uid: Some(about.uid.clone()),
            ..ObjectReference::default()
        };
        Self { kube, recorder, about }
    }

    /// Something went as it should.
    pub async fn normal(&self, reason: &str, note: &str) {
        self.publish(EventType::Normal, reason, note).await;
    }

    /// Something is not as it should be.
    pub async fn warning(&self, reason: &str, note: &str) {
        self.publish(EventType::Warning, reason, note).await;
    }

    async fn publish(&self, type_: EventType, reason: &str, note: &str) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(shortened(note)),
            action: "Profiling".to_owned(),
            secondary: None,
        };
        let namespace = self.about.namespace.as_deref().unwrap_or_default();
        let action = Action::all("create", "events.events.k8s.io", namespace);
        let publish = || self.recorder.publish(&event, &self.about);
        if let Err(error) = self.kube.call_within(&action, Patience::SHORT, publish).await {
            tracing::warn!("event {reason}: {error}");
        }
    }
}

fn shortened(note: &str) -> String {
    if note.len() <= LONGEST_NOTE {
        return note.to_owned();
    }
    let mut end = LONGEST_NOTE - '…'.len_utf8();
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", note.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let note = "ü".repeat(600);
        let cut = shortened(&note);
        assert!(cut.len() <= LONGEST_NOTE && cut.ends_with('…'), "{}", cut.len());
        assert_eq!(shortened("short"), "short");
    }
}
