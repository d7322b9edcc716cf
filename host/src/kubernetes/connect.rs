//! The way to a cluster.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::call::{Patience, call};
use super::error::{Action, ClusterError};

/// Which cluster, as whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Instead of `$KUBECONFIG`, `~/.kube/config` and the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// Instead of the current one.
    pub context: Option<String>,
    /// Instead of the context's.
    pub namespace: Option<String>,
}

/// A cluster that answers. Cheap to clone.
#[derive(Clone)]
pub struct Kube {
    /// For requests; go through [`Kube::call`].
    pub client: Client,
    /// Where everything happens.
    pub namespace: String,
    /// For messages.
    pub server: String,
    /// Whether this process runs in a pod of the cluster, so that Services and pods can be reached by their addresses.
    pub inside: bool,
}

impl std::fmt::Debug for Kube {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kube").field("server", &self.server).field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Kube {
    /// Finds the way and asks the API server for its version, so that a wrong address is told at once.
    ///
    /// # Errors
    /// If there is no configuration, or nobody answers.
    pub async fn connect(access: &Access) -> Result<Self, ClusterError> {
        let (mut config, inside) = config(access).await?;
        config.connect_timeout = Some(Duration::from_secs(10));
        // No read timeout: watches and followed logs are silent for long. Single requests have deadlines in `call`.
        config.write_timeout = Some(Duration::from_secs(30));
        let namespace = access.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = Client::try_from(config).map_err(|error| ClusterError::NotConfigured(error.to_string()))?;
        let kube = Self { client, namespace, server, inside };
        let action = Action::cluster("get", "version");
        let version = kube.call_within(&action, Patience::SHORT, || kube.client.apiserver_version()).await?;
        tracing::info!("Kubernetes {} at {}, namespace {}", version.git_version, kube.server, kube.namespace);
        Ok(kube)
    }

    /// One request, with [`Patience::LONG`].
    ///
    /// # Errors
    /// See [`call`].
    pub async fn call<T, F>(&self, action: &Action, attempt: impl FnMut() -> F) -> Result<T, ClusterError>
    where
        F: Future<Output = kube::Result<T>>,
    {
        self.call_within(action, Patience::LONG, attempt).await
    }

    /// One request.
    ///
    /// # Errors
    /// See [`call`].
    pub async fn call_within<T, F>(
        &self,
        action: &Action,
        patience: Patience,
        attempt: impl FnMut() -> F,
    ) -> Result<T, ClusterError>
    where
        F: Future<Output = kube::Result<T>>,
    {
        call(action, &self.server, patience, attempt).await
    }
}

/// The configuration, and whether it is a pod's own.
async fn config(access: &Access) -> Result<(Config, bool), ClusterError> {
    let wrong = |error: &dyn std::error::Error| {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        ClusterError::NotConfigured(format!("{error}{cause}"))
    };
    let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    if let Some(path) = &access.kubeconfig {
        let file = Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
        let config = Config::from_custom_kubeconfig(file, &options).await.map_err(|error| wrong(&error))?;
        return Ok((config, false));
    }
    let error = match Config::from_kubeconfig(&options).await {
        Ok(config) => return Ok((config, false)),
        Err(error) => error,
    };
    if access.context.is_some() {
        return Err(wrong(&error));
    }
    match Config::incluster() {
        Ok(config) => Ok((config, true)),
        Err(in_cluster) => Err(ClusterError::NotConfigured(format!("{error}; and this is no pod: {in_cluster}"))),
    }
}
