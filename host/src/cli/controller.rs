//! `sla-profiler controller`: works off requests in a cluster.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Session;
use crate::kubernetes::controller::{self, DEFAULT_CLASS, Options, Template};
use crate::kubernetes::{Access, ClusterError, Kube};
use crate::output::error::AppError;
use crate::output::exit_code;

/// Run a Job for every DGDR of a class
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Image of the Jobs: this program, of the same version
    #[arg(long, value_name = "IMAGE", env = "SLA_PROFILER_IMAGE")]
    image: String,
    /// Service account of the Jobs, in the namespace of the DGDR
    #[arg(long, value_name = "NAME", default_value = "sla-profiler")]
    service_account: String,
    /// DGDRs whose label sla-profiler.dev/class is this
    #[arg(long, value_name = "CLASS", default_value = DEFAULT_CLASS)]
    class: String,
    /// Namespace of the DGDRs and of the lease; else that of the context or the pod
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// DGDRs of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Instead of $KUBECONFIG, ~/.kube/config and the pod's service account
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig, instead of the current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl Args {
    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// If the cluster does not answer or lacks the kinds, or another replica took over.
    pub fn run(self, _: &Session) -> Result<u8, AppError> {
        let unexpected = |source| AppError::Io { action: "start the runtime", source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unexpected)?;
        runtime.block_on(self.go())?;
        Ok(exit_code::OK)
    }

    async fn go(self) -> Result<(), ClusterError> {
        let access = Access { kubeconfig: self.kubeconfig, context: self.context, namespace: self.namespace };
        let (told, stop) = watch::channel(false);
        let signals = async move {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return std::future::pending::<()>().await;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            told.send_replace(true);
            std::future::pending::<()>().await;
        };
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned());
        let options = Options {
            class: self.class,
            all_namespaces: self.all_namespaces,
            template: Template { image: self.image, service_account: self.service_account },
            // Two on one machine differ by their process.
            identity: format!("{host}_{}", std::process::id()),
        };
        let work = async { controller::run(Kube::connect(&access).await?, options, stop).await };
        tokio::select! {
            done = work => done,
            () = signals => Ok(()),
        }
    }
}
