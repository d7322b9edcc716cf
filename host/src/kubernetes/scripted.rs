//! An API server that answers from a script, and what is asked of the client when answers are bad.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use hyper::http::{Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};
use tower::BoxError;

use super::Kube;

/// One answer.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Status and body.
    Json(u16, Value),
    /// Lines of a watch, then the end of the stream.
    Watch(Vec<Value>),
    /// The connection is refused, or breaks off.
    Broken,
    /// Nothing, for ever.
    Silence,
}

/// What was asked: method, path with query, body.
pub(crate) type Asked = Arc<Mutex<Vec<(String, String, Value)>>>;

/// A client whose requests are answered in this order; the last answer is repeated.
pub(crate) fn kube(answers: Vec<Answer>) -> (Kube, Asked) {
    let asked = Asked::default();
    let script = Arc::new(Mutex::new(VecDeque::from(answers)));
    let log = Arc::clone(&asked);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (script, log) = (Arc::clone(&script), Arc::clone(&log));
        async move {
            let (head, body) = request.into_parts();
            let bytes = body.collect_bytes().await.map_err(BoxError::from)?;
            let body = serde_json::from_slice(&bytes).unwrap_or_default();
            log.lock().unwrap().push((head.method.to_string(), head.uri.to_string(), body));
            let answer = {
                let mut script = script.lock().unwrap();
                if script.len() > 1 { script.pop_front() } else { script.front().cloned() }
            };
            let (status, text) = match answer.expect("the script holds an answer") {
                Answer::Json(status, value) => (status, value.to_string()),
                Answer::Watch(events) => (200, events.iter().map(|event| format!("{event}\n")).collect()),
                Answer::Broken => {
                    return Err(BoxError::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)));
                }
                Answer::Silence => std::future::pending().await,
            };
            let mut response = Response::new(Body::from(text.into_bytes()));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            Ok::<_, BoxError>(response)
        }
    });
    let client = kube::Client::new(service, "ns");
    (Kube { client, namespace: "ns".to_owned(), server: "http://api".to_owned(), inside: false }, asked)
}

/// What an API server says when it does not do something.
pub(crate) fn failure(code: u16, reason: &str, message: &str) -> Answer {
    Answer::Json(
        code,
        json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message,
        }),
    )
}

mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::kubernetes::deployments::mark_candidate;
    use crate::kubernetes::{ClusterError, Owner};
    use crate::spec::DgdApi;

    const API: DgdApi = DgdApi::V1beta1;

    fn dgd(run: &str) -> Value {
        json!({
            "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment",
            "metadata": { "name": "d", "namespace": "ns", "uid": "u", "labels": { "sla-profiler.dev/run": run } },
            "spec": { "components": [] },
        })
    }

    fn ours(owner: &Owner) -> Value {
        let mut object = json!({
            "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment", "metadata": { "name": "d" }, "spec": {},
        });
        owner.mark(&mut object, "ns");
        mark_candidate(&mut object);
        object
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_tried_again_and_what_does_not_is_not() {
        let busy = || failure(503, "ServiceUnavailable", "starting");
        let throttled = || failure(429, "TooManyRequests", "later");
        let (kube, asked) = super::kube(vec![Answer::Broken, busy(), throttled(), Answer::Json(200, dgd("r"))]);
        assert!(kube.dgd("d", API).await.unwrap().is_some());
        assert_eq!(asked.lock().unwrap().len(), 4);
        let (kube, asked) = super::kube(vec![failure(403, "Forbidden", "no")]);
        let error = kube.dgd("d", API).await.unwrap_err();
        assert!(matches!(error, ClusterError::Forbidden { .. }), "{error}");
        assert_eq!(asked.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_never_answers_is_given_up_in_time() {
        for answer in [Answer::Silence, Answer::Broken] {
            let (kube, _) = super::kube(vec![answer.clone()]);
            let started = Instant::now();
            let error = kube.dgd("d", API).await.unwrap_err();
            assert!(error.is_transient(), "{error}");
            assert!(started.elapsed() <= Duration::from_secs(180), "{answer:?}: {:?}", started.elapsed());
            assert!(started.elapsed() >= Duration::from_secs(100), "{answer:?}: {:?}", started.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deployment_of_ours_is_applied_without_force_and_foreign_ones_are_left_alone() {
        let owner = Owner::new("req", None, "seed");
        let (kube, asked) = super::kube(vec![Answer::Json(201, dgd(&owner.run))]);
        assert_eq!(kube.apply_own_dgd(&ours(&owner), API, &owner).await.unwrap(), "u");
        let (method, path, body) = asked.lock().unwrap()[0].clone();
        assert_eq!(method, "PATCH");
        assert!(path.starts_with("/apis/nvidia.com/v1beta1/namespaces/ns/dynamographdeployments/d?"), "{path}");
        assert!(path.contains("fieldManager=sla-profiler") && path.contains("fieldValidation=Strict"), "{path}");
        assert!(!path.contains("force=true"), "{path}");
        assert_eq!(body["metadata"]["labels"]["sla-profiler.dev/run"], owner.run);

        let (kube, _) =
            super::kube(vec![failure(409, "Conflict", "Apply failed with 1 conflict: conflict with \"kubectl\"")]);
        let error = kube.apply_own_dgd(&ours(&owner), API, &owner).await.unwrap_err();
        assert!(matches!(error, ClusterError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains("kubectl"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_object_with_our_uid_is_deleted() {
        let (kube, asked) = super::kube(vec![failure(409, "Conflict", "Precondition failed: UID in precondition: u")]);
        kube.delete_dgd("d", API, "u", crate::kubernetes::call::Patience::SHORT).await.unwrap();
        let (method, _, body) = asked.lock().unwrap()[0].clone();
        assert_eq!((method.as_str(), &body["preconditions"]["uid"]), ("DELETE", &json!("u")));
        let (kube, _) = super::kube(vec![failure(404, "NotFound", "\"d\" not found")]);
        kube.delete_dgd("d", API, "u", crate::kubernetes::call::Patience::SHORT).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_older_version_is_used_where_only_it_is_served_and_none_is_an_error() {
        let list = |version: &str| {
            Answer::Json(
                200,
                json!({ "kind": "APIResourceList", "groupVersion": format!("nvidia.com/{version}"), "resources": [
                { "name": "dynamographdeployments", "singularName": "", "namespaced": true, "kind": "DynamoGraphDeployment", "verbs": [] },
            ] }),
            )
        };
        let missing = || failure(404, "NotFound", "the server could not find the requested resource");
        let (kube, _) = super::kube(vec![list("v1beta1")]);
        assert_eq!(kube.served_version().await.unwrap(), DgdApi::V1beta1);
        let (kube, _) = super::kube(vec![missing(), list("v1alpha1")]);
        assert_eq!(kube.served_version().await.unwrap(), DgdApi::V1alpha1);
        let (kube, _) = super::kube(vec![missing()]);
        let error = kube.served_version().await.unwrap_err();
        assert!(error.hint().unwrap().contains("install NVIDIA Dynamo"), "{error}");
        let version = |version: &str| json!({ "groupVersion": format!("nvidia.com/{version}"), "version": version });
        let groups = json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [
            { "name": "nvidia.com", "versions": [version("v1alpha1"), version("v2")], "preferredVersion": version("v2") },
        ] });
        let (kube, _) = super::kube(vec![missing(), missing(), Answer::Json(200, groups), list("v2")]);
        let error = kube.served_version().await.unwrap_err();
        assert!(error.to_string().contains("as v2, and this program knows v1beta1, v1alpha1"), "{error}");
    }
}
