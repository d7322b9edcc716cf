//! A real Kubernetes for tests: etcd, the API server, the controller manager, the scheduler, and kwok for the nodes.
//!
//! ```text
//! test process                               children, killed with it
//!   ControlPlane --- starts --------------->  etcd <- kube-apiserver <- controller-manager, scheduler, kwok
//!     |-- Namespace   random, one per test          ^
//!     |-- Proxy       counts requests, injects -----'   429, EOF, 410 (`proxy.rs`)
//!     |-- Operator    turns DGDs into Deployments, Services and a status (`operator.rs`; a stand-in)
//!     '-- Programs    plays pods of Jobs by processes of our own (`programs.rs`)
//! ```
//!
//! One control plane serves all tests of a process. Each test takes a [`Namespace`] of its own and never waits for
//! another's. Where the programs come from: [`assets`].

pub mod assets;
mod background;
mod child;
pub mod control_plane;
pub mod crds;
mod identity;
pub mod namespace;
pub mod nodes;
pub mod operator;
pub mod programs;
pub mod proxy;
pub mod rbac;

pub use control_plane::ControlPlane;
pub use namespace::Namespace;
pub use operator::{Endpoint, Operator};
pub use programs::Programs;
pub use proxy::Proxy;

use std::future::Future;
use std::time::Duration;

/// The longest that a test waits for anything that a cluster should do.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test's future to the end.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts").block_on(future)
}

/// Asks again and again until there is an answer.
///
/// # Panics
/// After [`PATIENCE`], with `what` was waited for.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl FnMut() -> F) -> T {
    eventually_within(PATIENCE, what, ask).await
}

/// The same with a patience of one's own.
pub async fn eventually_within<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let wait = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(patience, wait).await.unwrap_or_else(|_| panic!("waited {patience:?} for {what}"))
}
