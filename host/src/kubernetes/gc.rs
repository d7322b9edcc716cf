//! What runs that are gone have left in a cluster, found by labels and lease, and removed.
//!
//! ```text
//! leases of runs --looked at until each is known to live or to be gone--> gone --taken over--> deployments and Jobs
//!                                                                           deleted by uid, awaited --> lease deleted
//! ```
//!
//! Whoever removes holds the run's lease meanwhile: a process of the run that begins, or was silent for long, sees that it
//! is not alone. Only what was made under a lease is touched, and never the deployment of the last phase.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease as Object;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams, ObjectMeta};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::call::Patience;
use super::connect::Kube;
use super::deployments::CANDIDATE;
use super::error::{Action, ClusterError};
use super::lease::run::{self, LEASE_LABEL};
use super::lease::{Claim, Holder, LEASES, LOOK, Lease, Life, Seen, Work, at_once, holder_text};
use super::resources::{DGDS, dgd};
use super::{CANDIDATE_ANNOTATION, DGD_POD_LABEL, JOB_POD_LABEL, LOAD_LABEL, MANAGED_BY, REQUEST_LABEL, RUN_LABEL};
use crate::spec::DgdApi;

/// Jobs, as RBAC calls them.
const JOBS: &str = "jobs.batch";

/// At a run's end, deployments that were deleted may take so long to go before the rest is left to `gc`.
const A_MOMENT: Duration = Duration::from_secs(5);
/// Between two looks whether they are gone.
const A_MOMENT_PAUSE: Duration = Duration::from_millis(500);

/// What a run has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Thing {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The candidate that it measures; absent for a Job, which sends requests.
    pub candidate: Option<String>,
    #[serde(skip)]
    namespace: String,
    /// Identity of the run.
    #[serde(skip)]
    pub run: String,
    #[serde(skip)]
    request: Option<String>,
    /// Whether it was made under the lease of its run.
    #[serde(skip)]
    leased: bool,
}

/// Kinds of things that runs make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A DynamoGraphDeployment that measures a candidate.
    Deployment,
    /// A Job of the load's clients.
    Job,
}

impl Thing {
    /// Nothing if its labels are not those of a run.
    fn of(kind: Kind, metadata: ObjectMeta) -> Option<Self> {
        let labels = metadata.labels.unwrap_or_default();
        let run = labels.get(RUN_LABEL).filter(|run| run::is_run(run))?.clone();
        Some(Self {
            kind,
            name: metadata.name?,
            uid: metadata.uid?,
            candidate: metadata.annotations.and_then(|mut all| all.remove(CANDIDATE_ANNOTATION)),
            namespace: metadata.namespace?,
            leased: labels.get(LEASE_LABEL) == Some(&run::name(&run)),
            request: labels.get(REQUEST_LABEL).cloned(),
            run,
        })
    }

    fn key(&self) -> Key {
        (self.namespace.clone(), self.run.clone())
    }
}

impl std::fmt::Display for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.kind, &self.candidate) {
            (Kind::Deployment, Some(candidate)) => write!(f, "{} ({candidate})", self.name),
            (Kind::Deployment, None) => write!(f, "{}", self.name),
            (Kind::Job, _) => write!(f, "Job {}", self.name),
        }
    }
}

/// Namespace and identity of a run.
type Key = (String, String);

/// A lease, and whether its holder lives.
type Judged = (Object, Life);

/// What became of what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The run lives; nothing was touched.
    Lives,
    /// Whether the run lives cannot be told; nothing was touched.
    LeftAlone,
    /// The run is gone. Nothing was touched, since that was the wish.
    WouldBeRemoved,
    /// The run is gone, and so is what it left.
    Removed,
    /// The run is gone, and something is still there.
    Failed,
}

/// A run, and what there is of it.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// Its namespace.
    pub namespace: String,
    /// Its identity, in the label `sla-profiler.dev/run`.
    pub run: String,
    /// Name of its request.
    pub request: Option<String>,
    /// Name of its lease, if there is one.
    pub lease: Option<String>,
    /// Who holds or held it, for a person.
    pub holder: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// By what one sees that it lives or is gone, or what stood in the way.
    pub why: String,
    /// What there is of it.
    pub things: Vec<Thing>,
    #[serde(skip)]
    object: Option<Object>,
}

/// A look at the runs of a namespace or of a whole cluster.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// The cluster, and the namespace.
    pub kube: Kube,
    /// Version of Dynamo's kinds; absent where the cluster has none, and so no deployment.
    pub api: Option<DgdApi>,
    /// All namespaces.
    pub everywhere: bool,
    /// How long pods may take to go away.
    pub removal: Duration,
}

impl Sweep {
    /// Looks, and removes what runs that are gone have left; with `dry_run` only looks. `say`: what a person should know
    /// who waits. Of a run that cannot be told to be gone at once, that takes as long as its lease lasts.
    ///
    /// # Errors
    /// If the API server does not answer, or does not let us look. What could not be removed is in what was found.
    pub async fn go(&self, dry_run: bool, say: &dyn Fn(&str)) -> Result<Vec<Found>, ClusterError> {
        let leases = self.judged(say).await?;
        let mut things = match self.api {
            Some(api) => self.kube.candidates(api, self.everywhere, None).await?,
            None => Vec::new(),
        };
        let jobs_forbidden = match self.kube.load_jobs(self.everywhere, None).await {
            Ok(jobs) => {
                things.extend(jobs);
                false
            }
            // Then its runs had no right to make any.
            Err(error @ ClusterError::Forbidden { .. }) => {
                say(&format!("Jobs of the load were not looked at: {error}"));
                true
            }
            Err(error) => return Err(error),
        };
        let mut found = grouped(leases, things);
        if dry_run {
            return Ok(found);
        }
        let gone = found.iter_mut().filter(|found| found.outcome == Outcome::WouldBeRemoved);
        join_all(gone.map(|found| async move {
            match self.remove(found, !jobs_forbidden).await {
                Ok(true) => found.outcome = Outcome::Removed,
                Ok(false) => {
                    found.outcome = Outcome::Lives;
                    "a process of it has just begun".clone_into(&mut found.why);
                }
                Err(error) => {
                    found.outcome = Outcome::Failed;
                    found.why = error.to_string();
                }
            }
        }))
        .await;
        Ok(found)
    }

    /// The leases of runs, and whether their holders live.
    async fn judged(&self, say: &dyn Fn(&str)) -> Result<BTreeMap<Key, Judged>, ClusterError> {
        let mut seen: BTreeMap<Key, Seen> = BTreeMap::new();
        let mut known: BTreeMap<Key, Judged> = BTreeMap::new();
        let mut first = true;
        loop {
            let leases = self.leases().await?;
            // What has ended by itself is nobody's business any more.
            known.retain(|key, _| leases.contains_key(key));
            let mut longest = Duration::ZERO;
            let mut unknown = Vec::new();
            for (key, lease) in leases {
                if known.contains_key(&key) {
                    continue;
                }
                let life = match seen.get_mut(&key) {
                    None if !first => Life::Lives("it has just begun".to_owned()),
                    seen_before => {
                        let judging = match seen_before {
                            Some(seen) => seen,
                            None => seen.entry(key.clone()).or_default(),
                        };
                        judging.judge(&self.kube, &lease).await?
                    }
                };
                match life {
                    Life::Unknown(left) => {
                        longest = longest.max(left);
                        unknown.push(holder_text(&lease));
                    }
                    life => drop(known.insert(key, (lease, life))),
                }
            }
            if unknown.is_empty() {
                return Ok(known);
            }
            if first {
                say(&format!(
                    "looking for up to {} s whether these still live: {}",
                    longest.as_secs(),
                    unknown.join("; ")
                ));
            }
            first = false;
            sleep(LOOK).await;
        }
    }

    async fn leases(&self) -> Result<BTreeMap<Key, Object>, ClusterError> {
        let api: Api<Object> = self.kube.of(self.everywhere);
        let action = self.kube.listing(LEASES, self.everywhere);
        let params = ListParams::default().labels(&format!("{}={},{RUN_LABEL}", MANAGED_BY.0, MANAGED_BY.1));
        let list = self.kube.call(&action, || api.list(&params)).await?;
        let keyed = list.items.into_iter().filter_map(|lease| {
            let run = lease.metadata.labels.as_ref()?.get(RUN_LABEL)?.clone();
            let is_runs = run::is_run(&run) && lease.metadata.name.as_ref() == Some(&run::name(&run));
            is_runs.then_some(((lease.metadata.namespace.clone()?, run), lease))
        });
        Ok(keyed.collect())
    }

    /// Takes the run's lease and removes what is its. Whether the run was still gone then.
    async fn remove(&self, found: &mut Found, jobs: bool) -> Result<bool, ClusterError> {
        let kube = Kube { namespace: found.namespace.clone(), ..self.kube.clone() };
        let labels = [(MANAGED_BY.0, MANAGED_BY.1), (RUN_LABEL, found.run.as_str())];
        let request = found.request.as_deref().map(|request| (REQUEST_LABEL, request));
        let labels = labels.into_iter().chain(request).map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let metadata = ObjectMeta { name: Some(run::name(&found.run)), labels: Some(labels), ..ObjectMeta::default() };
        let holder = Holder::this(&kube, Work::Gc).await?;
        let claim = Claim { kube: kube.clone(), metadata, holder, terms: run::TERMS };
        let Some(lease) = claim.take(found.object.clone()).await? else { return Ok(false) };
        match self.remove_all(&kube, found, &lease, jobs).await {
            Ok(()) => lease.delete().await.map(|()| true),
            Err(error) => {
                if let Err(error) = lease.give_back().await {
                    tracing::warn!("{error}");
                }
                Err(error)
            }
        }
    }

    async fn remove_all(&self, kube: &Kube, found: &mut Found, lease: &Lease, jobs: bool) -> Result<(), ClusterError> {
        // Anew: from now on nobody adds to it.
        let now = async || {
            let mut things = match self.api {
                Some(api) => kube.candidates(api, false, Some(&found.run)).await?,
                None => Vec::new(),
            };
            if jobs {
                things.extend(kube.load_jobs(false, Some(&found.run)).await?);
            }
            things.retain(|thing| thing.leased);
            Ok::<_, ClusterError>(things)
        };
        let things = now().await?;
        for thing in &things {
            lease.confirm().await?;
            match (thing.kind, self.api) {
                (Kind::Deployment, Some(api)) => kube.delete_dgd(&thing.name, api, &thing.uid, Patience::LONG).await?,
                (Kind::Deployment, None) => {}
                (Kind::Job, _) => kube.delete_job(&thing.name, Some(&thing.uid), Patience::LONG).await?,
            }
        }
        let uids: BTreeSet<&str> = things.iter().map(|thing| thing.uid.as_str()).collect();
        let end = Instant::now() + self.removal;
        loop {
            let mut left: Vec<String> =
                now().await?.iter().filter(|thing| uids.contains(thing.uid.as_str())).map(Thing::to_string).collect();
            left.extend(kube.pods_of(&things).await?.into_iter().map(|pod| format!("pod {pod}")));
            if left.is_empty() {
                break;
            }
            if Instant::now() >= end {
                return Err(ClusterError::Unusable(format!(
                    "not gone {} s after it was deleted: {}",
                    self.removal.as_secs(),
                    left.join(", ")
                )));
            }
            sleep(LOOK).await;
        }
        found.things = things;
        Ok(())
    }
}

/// Runs with what there is of them; what is gone is to be removed.
fn grouped(leases: BTreeMap<Key, Judged>, things: Vec<Thing>) -> Vec<Found> {
    let mut by_run: BTreeMap<Key, (Option<Judged>, Vec<Thing>)> =
        leases.into_iter().map(|(key, lease)| (key, (Some(lease), Vec::new()))).collect();
    for thing in things {
        by_run.entry(thing.key()).or_default().1.push(thing);
    }
    let mut all = Vec::new();
    for ((namespace, run), (lease, things)) in by_run {
        let of_lease =
            lease.as_ref().and_then(|(lease, _)| lease.metadata.labels.as_ref()?.get(REQUEST_LABEL)).cloned();
        let request = of_lease.or_else(|| things.iter().find_map(|thing| thing.request.clone()));
        let found = |outcome, why: String, things, object: Option<Object>| Found {
            namespace: namespace.clone(),
            run: run.clone(),
            request: request.clone(),
            lease: object.as_ref().and_then(|lease| lease.metadata.name.clone()),
            holder: object.as_ref().map(holder_text),
            outcome,
            why,
            things,
            object,
        };
        let (leased, unleased): (Vec<_>, Vec<_>) = things.into_iter().partition(|thing| thing.leased);
        match lease {
            Some((lease, Life::Lives(why) | Life::Ending(why))) => {
                all.push(found(Outcome::Lives, why, [leased, unleased].concat(), Some(lease)));
                continue;
            }
            // Nobody is asked to judge what is not known; such a lease is not to be touched.
            Some((lease, Life::Unknown(_))) => {
                let why = "whether it lives was not seen".to_owned();
                all.push(found(Outcome::LeftAlone, why, [leased, unleased].concat(), Some(lease)));
                continue;
            }
            Some((lease, Life::Gone(why))) => all.push(found(Outcome::WouldBeRemoved, why, leased, Some(lease))),
            None if leased.is_empty() => {}
            None => {
                let why = "its lease is not there any more".to_owned();
                all.push(found(Outcome::WouldBeRemoved, why, leased, None));
            }
        }
        if !unleased.is_empty() {
            let why = "made without a lease, so that nobody can tell whether the run lives".to_owned();
            all.push(found(Outcome::LeftAlone, why, unleased, None));
        }
    }
    all
}

impl Kube {
    /// The API of a namespaced kind, here or everywhere.
    fn of<K>(&self, everywhere: bool) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        if everywhere { Api::all(self.client.clone()) } else { Api::namespaced(self.client.clone(), &self.namespace) }
    }

    fn listing(&self, resource: &str, everywhere: bool) -> Action {
        if everywhere { Action::cluster("list", resource) } else { Action::all("list", resource, &self.namespace) }
    }

    /// Deployments that measure candidates, of all runs or of one.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn candidates(
        &self,
        api: DgdApi,
        everywhere: bool,
        of_run: Option<&str>,
    ) -> Result<Vec<Thing>, ClusterError> {
        let deployments: Api<DynamicObject> = match everywhere {
            true => Api::all_with(self.client.clone(), &dgd(api)),
            false => self.dgds(api),
        };
        let params = ListParams::default().labels(&selector(of_run, CANDIDATE));
        let list = self.call(&self.listing(DGDS, everywhere), || deployments.list_metadata(&params)).await?;
        Ok(list.items.into_iter().filter_map(|item| Thing::of(Kind::Deployment, item.metadata)).collect())
    }

    /// Jobs that send load, of all runs or of one.
    async fn load_jobs(&self, everywhere: bool, of_run: Option<&str>) -> Result<Vec<Thing>, ClusterError> {
        let jobs: Api<Job> = self.of(everywhere);
        let params = ListParams::default().labels(&selector(of_run, LOAD_LABEL));
        let list = self.call(&self.listing(JOBS, everywhere), || jobs.list_metadata(&params)).await?;
        Ok(list.items.into_iter().filter_map(|item| Thing::of(Kind::Job, item.metadata)).collect())
    }

    /// Names of the pods of these things that are still there.
    async fn pods_of(&self, things: &[Thing]) -> Result<Vec<String>, ClusterError> {
        let mut pods = Vec::new();
        for (kind, label) in [(Kind::Deployment, DGD_POD_LABEL), (Kind::Job, JOB_POD_LABEL)] {
            let names: Vec<&str> = things.iter().filter(|t| t.kind == kind).map(|t| t.name.as_str()).collect();
            if names.is_empty() {
                continue;
            }
            let api: Api<Pod> = self.pods();
            let params = ListParams::default().labels(&format!("{label} in ({})", names.join(",")));
            let list = self.call(&self.listing("pods", false), || api.list_metadata(&params)).await?;
            pods.extend(list.items.into_iter().filter_map(|pod| pod.metadata.name));
        }
        Ok(pods)
    }

    /// Of these deployments those of runs that can be told to be gone at once, by run, with by what; for a word at the start
    /// of another run. Whether the others live only time tells.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn abandoned(&self, things: Vec<Thing>) -> Result<BTreeMap<String, (String, Vec<Thing>)>, ClusterError> {
        let mut by_run: BTreeMap<String, Vec<Thing>> = BTreeMap::new();
        for thing in things.into_iter().filter(|thing| thing.leased) {
            by_run.entry(thing.run.clone()).or_default().push(thing);
        }
        let leases: Api<Object> = self.of(false);
        let mut abandoned = BTreeMap::new();
        for (run, things) in by_run {
            let name = run::name(&run);
            let action = Action::on("get", LEASES, &self.namespace, &name);
            let life = match self.call_within(&action, Patience::SHORT, || leases.get_opt(&name)).await? {
                None => Some(Life::Gone("its lease is not there any more".to_owned())),
                Some(lease) => at_once(self, &lease).await?,
            };
            if let Some(Life::Gone(why)) = life {
                abandoned.insert(run, (why, things));
            }
        }
        Ok(abandoned)
    }

    /// Whether no deployment of a run's candidates is left. What was just deleted may take a moment to go.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn is_all_gone(&self, api: DgdApi, run: &str) -> Result<bool, ClusterError> {
        let end = Instant::now() + A_MOMENT;
        while !self.candidates(api, false, Some(run)).await?.is_empty() {
            if Instant::now() >= end {
                return Ok(false);
            }
            sleep(A_MOMENT_PAUSE).await;
        }
        Ok(true)
    }
}

/// Selects what is a run's, or all runs', and of one sort.
fn selector(run: Option<&str>, label: &str) -> String {
    let of_run = run.map_or_else(|| RUN_LABEL.to_owned(), |run| format!("{RUN_LABEL}={run}"));
    format!("{}={},{of_run},{label}", MANAGED_BY.0, MANAGED_BY.1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RUN: &str = "a1b2c3";

    fn thing(name: &str, labels: &[(&str, &str)]) -> Option<Thing> {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("ns".to_owned()),
            uid: Some(format!("uid-{name}")),
            labels: Some(labels),
            ..ObjectMeta::default()
        };
        Thing::of(Kind::Deployment, metadata)
    }

    fn leased(name: &str) -> Thing {
        thing(name, &[(RUN_LABEL, RUN), (LEASE_LABEL, &run::name(RUN))]).unwrap()
    }

    fn lease(life: Life) -> BTreeMap<Key, Judged> {
        let object = json!({ "metadata": { "name": run::name(RUN) }, "spec": { "holderIdentity": "somebody" } });
        BTreeMap::from([(("ns".to_owned(), RUN.to_owned()), (serde_json::from_value(object).unwrap(), life))])
    }

    fn outcomes(found: &[Found]) -> Vec<(Outcome, usize)> {
        found.iter().map(|found| (found.outcome, found.things.len())).collect()
    }

    #[test]
    fn only_what_was_made_under_the_lease_of_a_run_that_is_gone_is_to_be_removed() {
        let unleased = || thing("x", &[(RUN_LABEL, RUN)]).unwrap();
        let of_another = thing("y", &[(RUN_LABEL, RUN), (LEASE_LABEL, "sla-profiler-run-ffffff")]).unwrap();
        assert!(!of_another.leased);
        assert_eq!(thing("z", &[(RUN_LABEL, "of somebody")]), None, "no run of ours is called so");
        let why = || "because".to_owned();

        let found = grouped(lease(Life::Gone(why())), vec![leased("a"), unleased()]);
        assert_eq!(outcomes(&found), [(Outcome::WouldBeRemoved, 1), (Outcome::LeftAlone, 1)]);
        let found = grouped(BTreeMap::new(), vec![leased("a"), unleased()]);
        assert_eq!(outcomes(&found), [(Outcome::WouldBeRemoved, 1), (Outcome::LeftAlone, 1)]);
        let found = grouped(lease(Life::Gone(why())), vec![]);
        assert_eq!(outcomes(&found), [(Outcome::WouldBeRemoved, 0)], "its lease");
        for life in [Life::Lives(why()), Life::Ending(why())] {
            let found = grouped(lease(life), vec![leased("a"), unleased()]);
            assert_eq!(outcomes(&found), [(Outcome::Lives, 2)]);
        }
        let found = grouped(lease(Life::Unknown(Duration::ZERO)), vec![leased("a")]);
        assert_eq!(outcomes(&found), [(Outcome::LeftAlone, 1)]);
        assert!(grouped(BTreeMap::new(), vec![]).is_empty());
    }
}
