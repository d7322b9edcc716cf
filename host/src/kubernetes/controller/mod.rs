//! Controller mode: works off every request that names our class, one Job each.
//!
//! ```text
//!               create the Job          the Job's process writes these                   DGD not ready
//!   Pending ------------------> Profiling ----------------> Deploying ---> Deployed  <------------------> Deploying
//!                                   |  '------> Ready            ^  DGD ready  |
//!                                   |             '--------------'             | DGD deleted
//!                                   '--> Failed    autoApply: true later       '--> Failed
//! ```
//!
//! The process in the Job knows best how its run goes and writes `status` itself (server-side apply). The controller
//! writes what nobody else can: that a Job was created, that it ended without a last word, that a user changed
//! `autoApply` afterwards, that a deployment degraded or is gone. It patches with the resourceVersion that it has seen,
//! so it never overwrites what it does not know.
//!
//! Why a label names the class: NVIDIA's operator reconciles every request and knows no class. A request with the label
//! [`CLASS_LABEL`] is ours; the operator must not reconcile requests in the same namespace (it runs without its
//! controller of requests, or restricted to other namespaces).

mod job;
mod reconcile;
mod state;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Api, DynamicObject, ObjectMeta};
use kube::runtime::controller::Controller;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use tokio::sync::watch;

use super::error::{Action, ClusterError};
use super::lease::{Claim, Holder, Terms, Work};
use super::{DGDR_NAME_LABEL, Kube, resources};
use crate::spec::DgdApi;

pub use job::Template;

/// Label of a request: which controller works it off.
pub const CLASS_LABEL: &str = "sla-profiler.dev/class";

/// The class where nobody says otherwise.
pub const DEFAULT_CLASS: &str = "sla-profiler";

/// Requests worked on at once.
const CONCURRENCY: u16 = 8;

/// Asked to stop, what is under way may take so long: less than the 30 s that Kubernetes gives a pod. A kube-runtime
/// Controller that is asked before its first list is there may not end by itself.
const LAST_WORDS: Duration = Duration::from_secs(15);

/// Leader election: one replica works, the others wait. A holder that has not renewed for so long is gone. client-go's
/// default.
const LEADER_FOR: Duration = Duration::from_secs(15);
/// A leader that cannot renew stops working after so long, before another one begins.
const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// How often the leader renews.
const RENEW_EVERY: Duration = Duration::from_secs(2);

/// What the controller needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// Requests whose label [`CLASS_LABEL`] has this value.
    pub class: String,
    /// Requests of all namespaces, instead of the one of the connection.
    pub all_namespaces: bool,
    /// What a Job is made of.
    pub template: Template,
    /// Name of this replica, for the lease; no other one may have it.
    pub identity: String,
}

/// Works off requests until `stop` says so; returns an error when another replica took over.
///
/// # Errors
/// If the cluster lacks the kinds, does not answer, or the lease is lost.
pub async fn run(kube: Kube, options: Options, stop: watch::Receiver<bool>) -> Result<(), ClusterError> {
    if kube.served_version().await? != DgdApi::V1beta1 {
        return Err(ClusterError::KindMissing {
            action: Action::all("watch", "dynamographdeploymentrequests.nvidia.com/v1beta1", &kube.namespace),
        });
    }
    let stopped = || {
        let mut stop = stop.clone();
        // An error: nobody is left who could ask us to stop otherwise.
        async move { drop(stop.wait_for(|stop| *stop).await) }
    };
    let electing = async {
        let holder = Holder { identity: options.identity.clone(), ..Holder::this(&kube, Work::Controller).await? };
        let name = Some(format!("{}-controller", options.class));
        let metadata = ObjectMeta { name, ..ObjectMeta::default() };
        let terms = Terms { duration: LEADER_FOR, renew_every: RENEW_EVERY, give_up_after: Some(RENEW_WITHIN) };
        Claim { kube: kube.clone(), metadata, holder, terms }.wait().await
    };
    let lease = tokio::select! {
        () = stopped() => return Ok(()),
        lease = electing => lease?,
    };
    tracing::info!("{} works off the requests of class {}", options.identity, options.class);
    let lost = lease.lost();
    tokio::pin!(lost);
    let work = work(kube, options, stopped());
    tokio::pin!(work);
    let outcome = tokio::select! {
        () = &mut work => Ok(()),
        loss = &mut lost => Err(ClusterError::Unusable(format!("the lease {} is lost: {loss}", lease.name()))),
        () = async { stopped().await; tokio::time::sleep(LAST_WORDS).await } => {
            tracing::warn!("what was under way is not done after {} s, and is left to the next one", LAST_WORDS.as_secs());
            Ok(())
        }
    };
    if outcome.is_ok() {
        // Another replica need not wait until it runs out.
        if let Err(error) = lease.give_back().await {
            tracing::warn!("the lease {} was not given back and runs out by itself: {error}", lease.name());
        }
    }
    outcome
}

async fn work(kube: Kube, options: Options, stopped: impl Future<Output = ()> + Send + Sync + 'static) {
    let request = resources::dgdr(DgdApi::V1beta1);
    let deployment = resources::dgd(DgdApi::V1beta1);
    let api = |resource| match options.all_namespaces {
        true => Api::<DynamicObject>::all_with(kube.client.clone(), resource),
        false => Api::<DynamicObject>::namespaced_with(kube.client.clone(), &kube.namespace, resource),
    };
    let jobs: Api<Job> = match options.all_namespaces {
        true => Api::all(kube.client.clone()),
        false => Api::namespaced(kube.client.clone(), &kube.namespace),
    };
    let ours = watcher::Config::default().labels(&format!("{CLASS_LABEL}={}", options.class));
    let jobs_of_ours = watcher::Config::default().labels(DGDR_NAME_LABEL);
    let deployments_of_ours = watcher::Config::default().labels(DGDR_NAME_LABEL);
    let of_deployment = {
        let request = request.clone();
        move |dgd: DynamicObject| {
            let name = dgd.metadata.labels.as_ref().and_then(|labels| labels.get(DGDR_NAME_LABEL)).cloned();
            let namespace = dgd.metadata.namespace.unwrap_or_default();
            name.map(|name| ObjectRef::new_with(&name, request.clone()).within(&namespace))
        }
    };
    let (requests, deployments) = (api(&request), api(&deployment));
    let context = Arc::new(reconcile::Context::new(kube.clone(), options));
    Controller::new_with(requests, ours, request)
        .with_config(kube::runtime::controller::Config::default().concurrency(CONCURRENCY))
        .owns(jobs, jobs_of_ours)
        .watches_with(deployments, deployment, deployments_of_ours, of_deployment)
        .graceful_shutdown_on(stopped)
        .run(reconcile::reconcile, reconcile::retry, context)
        .for_each(|outcome| {
            match outcome {
                Ok((object, _)) => tracing::debug!("looked at {object}"),
                // Those of our own are logged where they happen; what remains are watches, which are tried again.
                Err(error) => tracing::debug!("{error}"),
            }
            std::future::ready(())
        })
        .await;
}

/// Requests that nothing happens to are looked at again after this time: a watch may have lost an event.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
