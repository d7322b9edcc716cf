//! Leases (`coordination.k8s.io/v1`): that a process lives, for others to see. A run holds one of its own from before its
//! first deployment until everything of it is gone; of a controller's replicas the one that holds it works.
//!
//! ```text
//! Claim --attempt--> Lease      kept by a task: renewed, until it is ended, given back or lost
//!    '--held by another one--> Life     holder.rs: lives, is about to end, is gone, or not known yet
//! ```
//!
//! Everything is written with the resourceVersion that was read: of two who want it one gets it.

mod holder;
pub mod run;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams, Preconditions};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

pub use holder::{Holder, Life, PodName, Seen, Work, at_once, holder_text};

use super::call::Patience;
use super::connect::Kube;
use super::error::{Action, ClusterError};

/// Leases, as RBAC calls them.
pub const LEASES: &str = "leases.coordination.k8s.io";

/// Between two looks at somebody else's lease.
pub const LOOK: Duration = Duration::from_secs(2);

/// Between two tries while the API server does not take a renewal.
const PAUSE: Duration = Duration::from_secs(2);

/// One renewal, its retries included.
const ONE_RENEWAL: Duration = Duration::from_secs(10);

/// How often something is written again that somebody changed meanwhile.
const TRIES: usize = 5;

/// How long a lease lasts, and how it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// A holder that has not renewed for so long, by the clock of whoever looks, is gone.
    pub duration: Duration,
    /// Between two renewals.
    pub renew_every: Duration,
    /// A holder that cannot renew for so long has lost it; absent: only when it sees that somebody else has it. While the
    /// API server is away nobody else can take it.
    pub give_up_after: Option<Duration>,
}

/// Why a lease is not ours any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// Somebody else has it.
    Taken {
        /// Who, for a person.
        by: String,
        /// Whether that one is a run.
        by_run: bool,
    },
    /// Somebody deleted it.
    Deleted,
    /// It could not be renewed.
    NotRenewed(ClusterError),
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Taken { by, .. } => write!(f, "it was taken over by {by}"),
            Self::Deleted => write!(f, "it was deleted"),
            Self::NotRenewed(error) => write!(f, "it could not be renewed: {error}"),
        }
    }
}

/// Somebody who wants a lease.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The cluster, and the namespace of the lease.
    pub kube: Kube,
    /// Name, labels and owner references of the lease.
    pub metadata: ObjectMeta,
    /// Who wants it.
    pub holder: Holder,
    /// How long it lasts.
    pub terms: Terms,
}

/// What came of a try.
#[derive(Debug)]
pub enum Attempt {
    /// It is ours. Who had it before and by what it was seen that they are gone, if somebody had it.
    Taken(Lease, Option<String>),
    /// It is not.
    Held {
        /// Who has it, for a person.
        by: String,
        /// For what, if that is known.
        work: Option<Work>,
        /// Whether they live.
        life: Life,
    },
}

impl Claim {
    /// Takes the lease if it is free, or its holder gone. `seen`: what earlier tries saw.
    ///
    /// # Errors
    /// If leases may not be read or written, or the API server does not answer.
    pub async fn attempt(&self, seen: &mut Seen) -> Result<Attempt, ClusterError> {
        let Some(found) = self.read().await? else {
            return Ok(match self.take(None).await? {
                Some(lease) => Attempt::Taken(lease, None),
                None => just_taken(),
            });
        };
        let mut before = None;
        if !self.is_ours(&found) {
            let by = holder_text(&found);
            let work = Holder::of(&found).and_then(Result::ok).map(|holder| holder.work);
            match seen.judge(&self.kube, &found).await? {
                Life::Gone(why) if Holder::of(&found).is_some() => before = Some(format!("{by}: {why}")),
                Life::Gone(_) => {}
                life => return Ok(Attempt::Held { by, work, life }),
            }
        }
        Ok(match self.take(Some(found)).await? {
            Some(lease) => Attempt::Taken(lease, before),
            None => just_taken(),
        })
    }

    /// Takes it, whoever has it: as it was `found`, or where there was none. Nothing if it is not like that any more.
    ///
    /// # Errors
    /// If leases may not be written, or the API server does not answer.
    pub async fn take(&self, found: Option<Object>) -> Result<Option<Lease>, ClusterError> {
        let sent = Instant::now();
        let written = match found {
            None => {
                let object = self.record(Object::default(), true);
                let (api, params, action) = (self.api(), PostParams::default(), self.action("create"));
                match self.kube.call_within(&action, Patience::SHORT, || api.create(&params, &object)).await {
                    // A request that was cut off may have worked.
                    Err(ClusterError::Conflict { .. }) => self.read().await?.filter(|lease| self.is_ours(lease)),
                    other => Some(other?),
                }
            }
            Some(found) => {
                let ours = self.is_ours(&found);
                match self.replace(&self.record(found, !ours)).await {
                    Ok(lease) => Some(lease),
                    Err(ClusterError::Conflict { .. } | ClusterError::NotFound { .. }) => None,
                    Err(error) => return Err(error),
                }
            }
        };
        Ok(written.map(|object| Lease::keep(self.clone(), object, sent)))
    }

    /// Waits until it is ours, for however long that takes.
    ///
    /// # Errors
    /// If leases may not be read or written.
    pub async fn wait(&self) -> Result<Lease, ClusterError> {
        let mut seen = Seen::default();
        loop {
            match self.attempt(&mut seen).await? {
                Attempt::Taken(lease, _) => return Ok(lease),
                // What lives now may be gone later.
                Attempt::Held { life: Life::Lives(_), .. } => seen = Seen::default(),
                Attempt::Held { .. } => {}
            }
            sleep(LOOK).await;
        }
    }

    /// Takes it, or says who has it. Waits for a holder that is about to end, and for one of whom only time can tell
    /// whether it is gone; `waits` is told once for whom and why.
    ///
    /// # Errors
    /// [`ClusterError::Held`] if somebody else has it; otherwise if leases may not be read or written.
    pub async fn take_or_refuse(&self, waits: impl Fn(&str)) -> Result<(Lease, Option<String>), ClusterError> {
        let (mut seen, mut told, since) = (Seen::default(), false, Instant::now());
        loop {
            let (by, why, until) = match self.attempt(&mut seen).await? {
                Attempt::Taken(lease, before) => return Ok((lease, before)),
                Attempt::Held { by, life: Life::Ending(why), .. } => (by, why, self.terms.duration),
                Attempt::Held { by, life: Life::Unknown(left), .. } => {
                    let why = format!("whether it still lives is known within {} s", left.as_secs().max(1));
                    (by, why, Duration::MAX)
                }
                // What is left of an earlier process is about to go.
                Attempt::Held { by, work: Some(Work::Gc), life: Life::Lives(_) } => {
                    seen = Seen::default();
                    (by, "it removes what an earlier process of this run left".to_owned(), self.terms.duration)
                }
                Attempt::Held { by, life: Life::Lives(why) | Life::Gone(why), .. } => (by, why, Duration::ZERO),
            };
            if since.elapsed() >= until {
                let (lease, namespace) = (self.name().to_owned(), self.kube.namespace.clone());
                return Err(ClusterError::Held { lease, namespace, by, why });
            }
            if !std::mem::replace(&mut told, true) {
                waits(&format!("waiting for {by}, which holds the lease {}: {why}", self.name()));
            }
            sleep(LOOK).await;
        }
    }

    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    fn api(&self) -> Api<Object> {
        Api::namespaced(self.kube.client.clone(), &self.kube.namespace)
    }

    fn action(&self, verb: &'static str) -> Action {
        Action::on(verb, LEASES, &self.kube.namespace, self.name())
    }

    async fn read(&self) -> Result<Option<Object>, ClusterError> {
        let api = self.api();
        self.kube.call_within(&self.action("get"), Patience::SHORT, || api.get_opt(self.name())).await
    }

    /// Writes it if nobody did since it was read.
    async fn replace(&self, lease: &Object) -> Result<Object, ClusterError> {
        let (api, params) = (self.api(), PostParams::default());
        self.kube
            .call_within(&self.action("update"), Patience::SHORT, || api.replace(self.name(), &params, lease))
            .await
    }

    fn is_ours(&self, lease: &Object) -> bool {
        lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref()) == Some(&self.holder.identity)
    }

    /// The lease as it is when we hold it, from now on.
    fn record(&self, mut lease: Object, newly: bool) -> Object {
        let now = MicroTime(k8s_openapi::jiff::Timestamp::now());
        let before = lease.spec.take().unwrap_or_default();
        let transitions = match (before.holder_identity.is_some() || before.lease_transitions.is_some(), newly) {
            (true, true) => before.lease_transitions.unwrap_or(0).saturating_add(1),
            _ => before.lease_transitions.unwrap_or(0),
        };
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.holder.identity.clone()),
            lease_duration_seconds: i32::try_from(self.terms.duration.as_secs()).ok(),
            acquire_time: if newly { Some(now.clone()) } else { before.acquire_time },
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        });
        lease.metadata.name.get_or_insert_with(|| self.name().to_owned());
        let (key, value) = self.holder.annotation();
        lease.metadata.annotations.get_or_insert_default().insert(key, value);
        lease.metadata.labels.get_or_insert_default().extend(self.metadata.labels.clone().unwrap_or_default());
        if let Some(references) = &self.metadata.owner_references {
            lease.metadata.owner_references = Some(references.clone());
        }
        lease
    }
}

fn just_taken() -> Attempt {
    let (by, life) = ("another process".to_owned(), Life::Unknown(LOOK));
    Attempt::Held { by, work: None, life }
}

/// How a lease of ours stands.
#[derive(Debug, Clone)]
enum Standing {
    /// When the request was sent that renewed it last.
    Held(Instant),
    Lost(Loss),
    /// Given back or deleted by ourselves.
    Over,
}

/// A lease that is ours, or was. Clones are the same lease.
#[derive(Clone)]
pub struct Lease(Arc<Inner>);

struct Inner {
    claim: Claim,
    /// As it was written last.
    object: Mutex<Object>,
    standing: watch::Sender<Standing>,
    keeping: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lease").field(&self.name()).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(task) = self.keeping.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

impl Lease {
    fn keep(claim: Claim, object: Object, sent: Instant) -> Self {
        let standing = watch::Sender::new(Standing::Held(sent));
        let inner = Arc::new(Inner { claim, object: Mutex::new(object), standing, keeping: Mutex::default() });
        let weak = Arc::downgrade(&inner);
        let task = tokio::spawn(async move {
            let mut said = false;
            // The first renewal comes at once: it shows that there is the right to it. A lease that its last user drops
            // runs out by itself.
            while let Some(inner) = weak.upgrade() {
                let Some(pause) = inner.renew(&mut said).await else { return };
                drop(inner);
                sleep(pause).await;
            }
        });
        *inner.keeping.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Self(inner)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0.claim.name()
    }

    /// Waits until it is lost; for ever if that does not happen.
    pub async fn lost(&self) -> Loss {
        let mut standing = self.0.standing.subscribe();
        loop {
            if let Standing::Lost(loss) = &*standing.borrow_and_update() {
                return loss.clone();
            }
            if standing.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Why it is not ours any more, if it was lost.
    pub fn loss(&self) -> Option<Loss> {
        match &*self.0.standing.borrow() {
            Standing::Lost(loss) => Some(loss.clone()),
            Standing::Held(_) | Standing::Over => None,
        }
    }

    /// Whether nobody else can have it now. Waits for the next renewal where the last one was so long ago that somebody
    /// could take it soon.
    ///
    /// # Errors
    /// If it is lost, or is not renewed in time.
    pub async fn confirm(&self) -> Result<(), ClusterError> {
        let not_ours = |why: &dyn std::fmt::Display| {
            ClusterError::Unusable(format!("this run does not hold its lease {} any more: {why}", self.name()))
        };
        let mut standing = self.0.standing.subscribe();
        let waiting = async {
            loop {
                match &*standing.borrow_and_update() {
                    Standing::Held(renewed) if renewed.elapsed() < self.0.claim.terms.duration / 2 => return Ok(()),
                    Standing::Held(_) => {}
                    Standing::Lost(loss) => return Err(not_ours(loss)),
                    Standing::Over => return Err(not_ours(&"it was given back")),
                }
                if standing.changed().await.is_err() {
                    return Err(not_ours(&"nobody renews it"));
                }
            }
        };
        timeout(Patience::LONG.0, waiting).await.unwrap_or_else(|_| {
            Err(not_ours(&format!("it was not renewed for {} s", self.0.claim.terms.duration.as_secs() / 2)))
        })
    }

    /// Gives it back: the next one need not wait until it runs out. What was lost is not touched.
    ///
    /// # Errors
    /// If the API server does not do it; then it runs out by itself.
    pub async fn give_back(&self) -> Result<(), ClusterError> {
        let give_back = async |lease: Object| {
            let spec = lease.spec.map(|spec| LeaseSpec { holder_identity: None, ..spec });
            self.0.claim.replace(&Object { spec, ..lease }).await.map(drop)
        };
        self.at_last(give_back).await
    }

    /// Deletes it. What was lost is not touched.
    ///
    /// # Errors
    /// If the API server does not do it; then it runs out by itself.
    pub async fn delete(&self) -> Result<(), ClusterError> {
        let delete = async |lease: Object| {
            let ObjectMeta { uid, resource_version, .. } = lease.metadata;
            let preconditions = Some(Preconditions { uid, resource_version });
            let params = DeleteParams { preconditions, ..DeleteParams::default() };
            let claim = &self.0.claim;
            let (api, action) = (claim.api(), claim.action("delete"));
            let deleting = || api.delete(claim.name(), &params);
            claim.kube.call_within(&action, Patience::SHORT, deleting).await.map(drop)
        };
        self.at_last(delete).await
    }

    /// The last thing that is done with it; again if somebody changed the object meanwhile.
    async fn at_last(&self, act: impl AsyncFn(Object) -> Result<(), ClusterError>) -> Result<(), ClusterError> {
        let task = self.0.keeping.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            // A renewal that is under way is not to come after the end.
            let _ = task.await;
        }
        if matches!(&*self.0.standing.borrow(), Standing::Lost(_) | Standing::Over) {
            return Ok(());
        }
        let mut object = self.0.object();
        for _ in 0..TRIES {
            match act(object).await {
                Err(ClusterError::Conflict { .. }) => {}
                Ok(()) | Err(ClusterError::NotFound { .. }) => break,
                Err(error) => return Err(error),
            }
            match self.0.claim.read().await? {
                Some(found) if self.0.claim.is_ours(&found) => object = found,
                _ => break,
            }
        }
        self.0.standing.send_replace(Standing::Over);
        Ok(())
    }
}

impl Inner {
    fn object(&self) -> Object {
        self.object.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Renews it and says how long to wait for the next time; nothing if it is lost. `said`: whether it was told that it
    /// cannot be renewed.
    async fn renew(&self, said: &mut bool) -> Option<Duration> {
        let Claim { kube, terms, .. } = &self.claim;
        let trying = async {
            let sent = Instant::now();
            let mut object = self.object();
            for _ in 0..TRIES {
                match self.claim.replace(&self.claim.record(object, false)).await {
                    Ok(written) => return Ok(Ok((sent, written))),
                    Err(ClusterError::Conflict { .. } | ClusterError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
                match self.claim.read().await? {
                    None => return Ok(Err(Loss::Deleted)),
                    Some(found) if self.claim.is_ours(&found) => object = found,
                    Some(found) => {
                        let by_run = !matches!(Holder::of(&found), Some(Ok(holder)) if holder.work == Work::Gc);
                        return Ok(Err(Loss::Taken { by: holder_text(&found), by_run }));
                    }
                }
            }
            let message = "somebody else changes it all the time".to_owned();
            Err(ClusterError::Conflict { action: self.claim.action("update"), message })
        };
        let outcome = timeout(ONE_RENEWAL, trying).await.unwrap_or_else(|_| {
            Err(ClusterError::Timeout { action: self.claim.action("update"), within: ONE_RENEWAL })
        });
        let error = match outcome {
            Ok(Ok((sent, written))) => {
                *self.object.lock().unwrap_or_else(PoisonError::into_inner) = written;
                self.standing.send_replace(Standing::Held(sent));
                *said = false;
                return Some(terms.renew_every);
            }
            Ok(Err(loss)) => {
                self.standing.send_replace(Standing::Lost(loss));
                return None;
            }
            Err(error) => error,
        };
        let since = match &*self.standing.borrow() {
            Standing::Held(renewed) => renewed.elapsed(),
            Standing::Lost(_) | Standing::Over => return None,
        };
        match terms.give_up_after {
            // It may pass; until it is too late.
            Some(within) if !error.is_transient() || since > within => {
                self.standing.send_replace(Standing::Lost(Loss::NotRenewed(error)));
                return None;
            }
            Some(_) => {}
            None if !*said && (!error.is_transient() || since > terms.duration / 2) => {
                *said = true;
                let (name, namespace) = (self.claim.name(), &kube.namespace);
                tracing::warn!(
                    "the lease {name} in namespace {namespace} cannot be renewed, and others will take this process for \
                     gone: {error}"
                );
            }
            None => {}
        }
        Some(PAUSE)
    }
}

#[cfg(test)]
mod tests;
