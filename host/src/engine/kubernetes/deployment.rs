//! Phase 7: the deployment itself, watched until it serves, checked under load, and its predecessor put back if it does not
//! hold what was promised.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::logs::Logs;
use super::reach::{self, Way};
use super::watching::Watching;
use super::{KubernetesCluster, waiting};
use crate::engine::served::{self, Liveness};
use crate::engine::{ApplyError, ApplyRequest, CheckLoad, CheckReport, Deployment};
use crate::http::Origin;
use crate::kubernetes::call::Patience;
use crate::kubernetes::{ClusterError, DGDR_NAME_LABEL};
use crate::load::Endpoint;

/// Folder of the logs.
const FOLDER: &str = "deployment";
/// A frontend that is ready has so long for its first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(300);
/// One request for that.
const ONE_TRY: Duration = Duration::from_secs(60);
/// Pause between two.
const PAUSE: Duration = Duration::from_secs(1);

/// What is put back when a deployment fails.
#[derive(Debug, Clone)]
pub(super) struct Rollout {
    name: String,
    uid: Option<String>,
    /// Deployment and ConfigMaps as they were; absent where there was no deployment.
    before: Option<(Value, Vec<Value>)>,
    /// ConfigMaps that are new.
    new_maps: Vec<String>,
}

/// A deployment that is ready.
pub(super) struct KubernetesDeployment {
    cluster: KubernetesCluster,
    /// Who checks it.
    bench: crate::engine::served::Bench,
    endpoint: Endpoint,
    ready: Duration,
    liveness: Liveness,
    _way: Way,
    _guard: super::Guard,
    _logs: Logs,
    _watching: Watching,
}

fn name_of(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

fn refused(error: &ClusterError) -> ApplyError {
    let hint = error.hint().map_or_else(String::new, |hint| format!("; {hint}"));
    ApplyError::Invalid(format!("{error}{hint}"))
}

impl KubernetesCluster {
    /// Applies it and waits until it answers. On failure everything is as it was before.
    pub(super) async fn deploy(&self, request: &ApplyRequest) -> Result<KubernetesDeployment, ApplyError> {
        let result = self.try_deploy(request).await;
        match result {
            Ok(deployment) => Ok(deployment),
            Err(error) => match self.roll_back_rollout().await {
                Ok(Some(what)) => Err(and(error, &what)),
                Ok(None) => Err(error),
                Err(again) => Err(and(error, &format!("and what was there before could not be put back: {again}"))),
            },
        }
    }

    async fn try_deploy(&self, request: &ApplyRequest) -> Result<KubernetesDeployment, ApplyError> {
        let super::Inner { spec, bench, options, .. } = &*self.0;
        let super::Options { kube, owner, reach, deadlines, dir, .. } = options;
        let api = spec.deployment.api;
        let launched = Instant::now();
        let mut dgd = request.dgd.clone();
        owner.label(&mut dgd, &kube.namespace);
        // So that Dynamo's tools find it from the request.
        if let Some(labels) = dgd.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.insert(DGDR_NAME_LABEL.to_owned(), owner.request.clone().into());
            labels.insert("dgdr.nvidia.com/namespace".to_owned(), kube.namespace.clone().into());
        }
        let name = name_of(&dgd).to_owned();
        let before = kube.predecessor(&name, api, &owner.request).await.map_err(|error| refused(&error))?;
        let mut maps_before = Vec::new();
        let mut new_maps = Vec::new();
        for map in &request.config_maps {
            match kube.config_map(name_of(map)).await.map_err(|error| refused(&error))? {
                Some(old) => maps_before.push(old),
                None => new_maps.push(name_of(map).to_owned()),
            }
        }
        let rollout = Rollout { name: name.clone(), uid: None, before: before.map(|dgd| (dgd, maps_before)), new_maps };
        *self.0.rollout() = Some(rollout);
        for map in &request.config_maps {
            let mut map = map.clone();
            owner.label(&mut map, &kube.namespace);
            kube.apply_own_config_map(&map).await.map_err(|error| refused(&error))?;
        }
        let uid = kube.replace_dgd(&dgd, api).await.map_err(|error| refused(&error))?;
        if let Some(rollout) = &mut *self.0.rollout() {
            rollout.uid = Some(uid);
        }

        let watching = Watching::start(kube, api, &name);
        let logs = Logs::follow(kube.clone(), watching.subscribe(), dir.clone().map(|dir| (dir, FOLDER.to_owned())));
        tokio::select! {
            biased;
            () = bench.stop.requested() => return Err(ApplyError::NotReady("the run was asked to stop".to_owned())),
            ready = waiting::until_ready(kube, watching.subscribe(), &logs, deadlines, launched) => {
                ready.map_err(|not_ready| ApplyError::NotReady(not_ready.reason))?;
            }
        }
        let way = reach::open(kube, reach, &dgd, &watching.subscribe())
            .await
            .map_err(|error| ApplyError::NotReady(format!("no local port for port-forward: {error}")))?;
        let (keeper, liveness) = Liveness::new();
        let guard = super::Guard::start(watching.subscribe(), keeper);
        let endpoint = Endpoint { url: way.url.clone(), ..options.endpoint.clone() };
        let answering = tokio::select! {
            biased;
            ended = liveness.ended() => Err(ended.reason),
            () = bench.stop.requested() => Err("the run was asked to stop".to_owned()),
            answered = self.first_answer(&endpoint) => answered,
        };
        answering.map_err(ApplyError::NotReady)?;
        Ok(KubernetesDeployment {
            cluster: self.clone(),
            bench: self.bench(&name, reach::frontend_port(&dgd)),
            endpoint,
            ready: launched.elapsed(),
            liveness,
            _way: way,
            _guard: guard,
            _logs: logs,
            _watching: watching,
        })
    }

    /// Waits for one real completion: prefill, transfer and decode all have to work for it.
    async fn first_answer(&self, endpoint: &Endpoint) -> Result<(), String> {
        let origin: Origin = endpoint.url.parse().map_err(|error: crate::http::HttpError| error.to_string())?;
        let body = json!({
            "model": endpoint.model, "max_tokens": 2, "stream": false,
            "messages": [{ "role": "user", "content": "Hello" }],
        });
        let key = endpoint.api_key.as_ref().map(crate::load::ApiKey::expose);
        let mut said = "nothing yet".to_owned();
        let trying = async {
            loop {
                let body = body.to_string().into_bytes();
                match self.0.bench.http.post_json(&origin, "/v1/chat/completions", key, body, ONE_TRY).await {
                    Ok(answer) if answer.is_success() => return,
                    Ok(answer) => said = format!("status {}: {}", answer.status, answer.text().trim()),
                    Err(error) => said = error.to_string(),
                }
                sleep(PAUSE).await;
            }
        };
        timeout(FIRST_ANSWER, trying).await.map_err(|_| {
            format!(
                "no completion from {} within {} s; the last try said: {said}",
                endpoint.url,
                FIRST_ANSWER.as_secs()
            )
        })
    }

    /// Puts back what was there before the rollout that is going on, and says what it did; nothing if there is none.
    pub(super) async fn roll_back_rollout(&self) -> Result<Option<String>, ClusterError> {
        let Some(rollout) = self.0.rollout().take() else { return Ok(None) };
        let (kube, api) = (&self.0.options.kube, self.0.spec.deployment.api);
        let Rollout { name, uid, before, new_maps } = rollout;
        let Some((dgd, maps)) = before else {
            let uid = match uid {
                Some(uid) => Some(uid),
                None => kube.own_uid(&name, api, &self.0.options.owner.run).await?,
            };
            if let Some(uid) = uid {
                kube.delete_dgd(&name, api, &uid, Patience::LONG).await?;
            }
            for map in new_maps {
                kube.delete_config_map(&map).await?;
            }
            return Ok(Some(format!("{name} was deleted again")));
        };
        for map in &maps {
            kube.apply_config_map(map).await?;
        }
        kube.replace_dgd(&dgd, api).await?;
        Ok(Some(format!("the {name} of before was put back")))
    }
}

fn and(error: ApplyError, what: &str) -> ApplyError {
    match error {
        ApplyError::Invalid(reason) => ApplyError::Invalid(format!("{reason}; {what}")),
        ApplyError::NotReady(reason) => ApplyError::NotReady(format!("{reason}; {what}")),
        ApplyError::Check(reason) => ApplyError::Check(format!("{reason}; {what}")),
    }
}

#[async_trait]
impl Deployment for KubernetesDeployment {
    async fn check(&mut self, load: &CheckLoad) -> Result<CheckReport, ApplyError> {
        let bench = &self.bench;
        let checked = tokio::select! {
            biased;
            ended = self.liveness.ended() => Err(ApplyError::Check(ended.reason)),
            report = served::check(bench, &self.endpoint, load, self.ready) => report,
        };
        match checked {
            Ok(report) => {
                if report.meets_sla {
                    *self.cluster.0.rollout() = None;
                }
                Ok(report)
            }
            Err(error) => match self.cluster.roll_back_rollout().await {
                Ok(Some(what)) => Err(and(error, &what)),
                Ok(None) => Err(error),
                Err(again) => Err(and(error, &format!("and what was there before could not be put back: {again}"))),
            },
        }
    }

    async fn roll_back(&mut self) -> Result<Option<String>, ApplyError> {
        self.cluster.roll_back_rollout().await.map_err(|error| refused(&error))
    }
}
