//! The end of deployments: deleted, and awaited until their pods are gone, since a pod that is still going holds its GPUs.

use std::time::Duration;

use tokio::time::timeout;

use super::watching::{View, Watching};
use super::{KubernetesCluster, Options};
use crate::kubernetes::ClusterError;
use crate::kubernetes::call::Patience;
use crate::kubernetes::gc::Thing;

/// Cleaning up at the end of a process may take so long: Kubernetes kills a pod 30 s after it was asked to end.
pub(super) const LAST_CHANCE: Duration = Duration::from_secs(20);

impl KubernetesCluster {
    /// Deletes a deployment of this process and waits until it and its pods are gone.
    ///
    /// # Errors
    /// If it cannot be deleted, or is not gone in time.
    pub(super) async fn remove(&self, name: &str, watching: Option<Watching>) -> Result<(), ClusterError> {
        let Some(uid) = self.0.live().get(name).cloned() else { return Ok(()) };
        let (kube, api) = (&self.0.options.kube, self.0.spec.deployment.api);
        let uid = match uid {
            Some(uid) => Some(uid),
            None => self.uid_of_what_was_cut_off(name).await?,
        };
        if let Some(uid) = uid {
            kube.delete_dgd(name, api, &uid, Patience::LONG).await?;
            let watching = watching.unwrap_or_else(|| Watching::start(kube, api, name));
            until_gone(&watching, name, &uid, self.0.options.deadlines.removal).await?;
        }
        self.0.live().remove(name);
        Ok(())
    }

    /// Deletes whatever of this process is still there, all at once; does not wait for pods. For the end of the process,
    /// also for one that has been told to end.
    pub(super) async fn remove_all(&self) {
        let names: Vec<String> = self.0.live().keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let deleting = futures::future::join_all(names.iter().map(|name| self.remove_quickly(name)));
        match timeout(LAST_CHANCE, deleting).await {
            Ok(results) => results.into_iter().filter_map(Result::err).for_each(|error| tracing::error!("{error}")),
            Err(_) => tracing::error!("not everything is deleted; kubectl delete dgd {}", names.join(" ")),
        }
    }

    async fn remove_quickly(&self, name: &str) -> Result<(), ClusterError> {
        let uid = self.0.live().get(name).cloned().flatten();
        let (kube, api) = (&self.0.options.kube, self.0.spec.deployment.api);
        let uid = match uid {
            Some(uid) => Some(uid),
            None => self.uid_of_what_was_cut_off(name).await?,
        };
        if let Some(uid) = uid {
            kube.delete_dgd(name, api, &uid, Patience::SHORT).await?;
        }
        self.0.live().remove(name);
        Ok(())
    }

    /// Of a deployment whose creation was cut off, if it worked. Once the run is another process's, so may be what has that
    /// name.
    async fn uid_of_what_was_cut_off(&self, name: &str) -> Result<Option<String>, ClusterError> {
        let Options { kube, owner, lease, .. } = &self.0.options;
        if let Some(lease) = lease
            && lease.loss().is_some()
        {
            return Ok(None);
        }
        kube.own_uid(name, self.0.spec.deployment.api, &owner.run).await
    }

    /// Removes what an earlier process of the same run left behind, one that was killed, and waits until it is gone. What
    /// other runs left that are gone is mentioned: it may hold the GPUs that this run waits for.
    ///
    /// # Errors
    /// If the API server does not allow it, or something is not gone in time.
    pub async fn remove_leftovers(&self) -> Result<usize, ClusterError> {
        let (options, api) = (&self.0.options, self.0.spec.deployment.api);
        if let Some(crowd) = &self.0.crowd {
            crowd.remove_leftovers().await?;
        }
        let candidates = options.kube.candidates(api, false, None).await?;
        let (left, of_others): (Vec<_>, Vec<_>) =
            candidates.into_iter().partition(|thing| thing.run == options.owner.run);
        for thing in &left {
            tracing::warn!("an earlier process of this run left {thing} behind; it is deleted");
            options.kube.delete_dgd(&thing.name, api, &thing.uid, Patience::LONG).await?;
        }
        self.mention(of_others).await;
        let gone = left.iter().map(|thing| async move {
            let watching = Watching::start(&options.kube, api, &thing.name);
            until_gone(&watching, &thing.name, &thing.uid, options.deadlines.removal).await
        });
        futures::future::try_join_all(gone).await?;
        Ok(left.len())
    }

    /// Warns of deployments of runs that are gone.
    async fn mention(&self, of_others: Vec<Thing>) {
        let kube = &self.0.options.kube;
        match kube.abandoned(of_others).await {
            Ok(abandoned) => {
                for (run, (why, left)) in abandoned {
                    tracing::warn!(
                        "the run {run} is gone ({why}) and has left what holds GPUs: {}; `sla-profiler gc --namespace {}` \
                         removes it",
                        left.iter().map(Thing::to_string).collect::<Vec<_>>().join(", "),
                        kube.namespace
                    );
                }
            }
            // It was worth a word only.
            Err(error) => tracing::debug!("{error}"),
        }
    }
}

/// Waits until a deployment and its pods are gone.
async fn until_gone(watching: &Watching, name: &str, uid: &str, within: Duration) -> Result<(), ClusterError> {
    let mut view = watching.subscribe();
    let gone = |view: &View| {
        let dgd = view.dgd.as_ref().is_some_and(|dgd| dgd.uid == uid);
        view.dgd_listed && view.pods_listed && !dgd && view.pods.is_empty()
    };
    let waited = timeout(within, view.wait_for(gone)).await.map(|result| result.map(|_| ()));
    match waited {
        Ok(Ok(())) => Ok(()),
        _ => {
            let view = watching.view();
            let pods: Vec<&str> = view.pods.keys().map(String::as_str).collect();
            let trouble = view.trouble.map_or_else(String::new, |trouble| format!("; the API server: {trouble}"));
            Err(ClusterError::Unusable(format!(
                "{name} is not gone {} s after it was deleted; what is left: {}{trouble}",
                within.as_secs(),
                if pods.is_empty() { "the deployment itself".to_owned() } else { format!("pods {}", pods.join(", ")) }
            )))
        }
    }
}
