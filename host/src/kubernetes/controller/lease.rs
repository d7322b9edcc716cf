//! Leader election: one replica works, the others wait. A Lease, as the Kubernetes controllers have it.
//!
//! Clocks of replicas may differ, so nobody reads another one's times: a holder is gone when its record has not changed
//! for the lease's duration by our own clock.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::time::{Instant, sleep};

use super::{Kube, Options};
use crate::kubernetes::call::Patience;
use crate::kubernetes::error::{Action, ClusterError};

/// A holder that has not renewed for so long is gone. client-go's default.
const DURATION: Duration = Duration::from_secs(15);
/// A holder that cannot renew stops working after so long, before another one begins.
const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// Pause between two looks or renewals.
const PAUSE: Duration = Duration::from_secs(2);

const RESOURCE: &str = "leases.coordination.k8s.io";

/// The lease is ours.
pub(super) struct Lease {
    leases: Leases,
}

#[derive(Clone)]
struct Leases {
    kube: Kube,
    name: String,
    identity: String,
}

/// Waits until this replica may work.
///
/// # Errors
/// If leases may not be read or written.
pub(super) async fn acquire(kube: &Kube, options: &Options) -> Result<Lease, ClusterError> {
    let leases = Leases {
        kube: kube.clone(),
        name: format!("{}-controller", options.class),
        identity: options.identity.clone(),
    };
    let mut seen: Option<(String, Instant)> = None;
    loop {
        if leases.attempt(&mut seen).await? {
            return Ok(Lease { leases });
        }
        sleep(PAUSE).await;
    }
}

impl Lease {
    /// Renews it until that is not possible any more; returns why.
    pub(super) fn keep(&self) -> impl Future<Output = ClusterError> + use<> {
        let leases = self.leases.clone();
        async move {
            let mut renewed = Instant::now();
            loop {
                sleep(PAUSE).await;
                let mut seen = None;
                match tokio::time::timeout(RENEW_WITHIN, leases.attempt(&mut seen)).await {
                    Ok(Ok(true)) => renewed = Instant::now(),
                    Ok(Ok(false)) => {
                        return ClusterError::Unusable(format!("another replica took over the lease {}", leases.name));
                    }
                    // It may pass; until it is too late.
                    Ok(Err(error)) if !error.is_transient() => return error,
                    Ok(Err(_)) | Err(_) => {}
                }
                if renewed.elapsed() > RENEW_WITHIN {
                    let seconds = RENEW_WITHIN.as_secs();
                    let what = format!("the lease {} could not be renewed for {seconds} s", leases.name);
                    return ClusterError::Unusable(what);
                }
            }
        }
    }

    /// Gives it back.
    pub(super) async fn release(&self) {
        let Leases { name, identity, .. } = &self.leases;
        let Ok(Some(mut lease)) = self.leases.read().await else { return };
        let Some(spec) = &mut lease.spec else { return };
        if spec.holder_identity.as_ref() != Some(identity) {
            return;
        }
        spec.holder_identity = None;
        if let Err(error) = self.leases.replace(&lease).await {
            tracing::warn!("the lease {name} was not given back and runs out by itself: {error}");
        }
    }
}

impl Leases {
    fn api(&self) -> Api<Object> {
        Api::namespaced(self.kube.client.clone(), &self.kube.namespace)
    }

    async fn read(&self) -> Result<Option<Object>, ClusterError> {
        let api = self.api();
        let action = Action::on("get", RESOURCE, &self.kube.namespace, &self.name);
        self.kube.call_within(&action, Patience::SHORT, || api.get_opt(&self.name)).await
    }

    /// Writes it if nobody did since it was read.
    async fn replace(&self, lease: &Object) -> Result<(), ClusterError> {
        let api = self.api();
        let action = Action::on("update", RESOURCE, &self.kube.namespace, &self.name);
        let params = PostParams::default();
        self.kube.call_within(&action, Patience::SHORT, || api.replace(&self.name, &params, lease)).await.map(drop)
    }

    /// Takes or renews it, if that is possible now. `seen`: the holder's newest record and when we saw it first.
    async fn attempt(&self, seen: &mut Option<(String, Instant)>) -> Result<bool, ClusterError> {
        let now = MicroTime(k8s_openapi::jiff::Timestamp::now());
        let Some(mut lease) = self.read().await? else {
            let api = self.api();
            let lease = Object {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.record(now, 0)),
            };
            let action = Action::on("create", RESOURCE, &self.kube.namespace, &self.name);
            let params = PostParams::default();
            return match self.kube.call_within(&action, Patience::SHORT, || api.create(&params, &lease)).await {
                Ok(_) => Ok(true),
                Err(ClusterError::Conflict { .. }) => Ok(false),
                Err(error) => Err(error),
            };
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty());
        let ours = holder.as_ref() == Some(&self.identity);
        if holder.is_some() && !ours {
            let record = format!("{:?}", (&holder, &spec.renew_time, &lease.metadata.resource_version));
            match seen {
                Some((known, since)) if *known == record => {
                    if since.elapsed() < DURATION {
                        return Ok(false);
                    }
                }
                _ => {
                    *seen = Some((record, Instant::now()));
                    return Ok(false);
                }
            }
        }
        let transitions = spec.lease_transitions.unwrap_or(0) + i32::from(!ours);
        let mut next = self.record(now, transitions);
        if ours {
            next.acquire_time = spec.acquire_time;
        }
        lease.spec = Some(next);
        match self.replace(&lease).await {
            Ok(()) => Ok(true),
            Err(ClusterError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn record(&self, now: MicroTime, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}
