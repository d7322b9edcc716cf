use serde_json::{Value, json};
use tokio::time::advance;

use super::super::scripted::{Answer, failure, kube};
use super::*;
use crate::process::who::Process;

const TERMS: Terms =
    Terms { duration: Duration::from_secs(60), renew_every: Duration::from_secs(10), give_up_after: None };

fn holder(identity: &str, work: Work) -> Holder {
    let process = Process { place: "elsewhere".to_owned(), pid: 1, started_ticks: 1 };
    Holder { identity: identity.to_owned(), work, host: identity.to_owned(), process, pod: None }
}

fn object(holder: &Holder, version: &str) -> Answer {
    let (key, value) = holder.annotation();
    Answer::Json(
        200,
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": "l", "uid": "u", "resourceVersion": version, "annotations": { key: value } },
            "spec": { "holderIdentity": holder.identity, "leaseDurationSeconds": 60, "leaseTransitions": 0 },
        }),
    )
}

fn gone() -> Answer {
    failure(404, "NotFound", "leases \"l\" not found")
}

fn conflict() -> Answer {
    failure(409, "Conflict", "the object has been modified")
}

fn claim(answers: Vec<Answer>, terms: Terms) -> (Claim, super::super::scripted::Asked) {
    let (kube, asked) = kube(answers);
    let metadata = ObjectMeta { name: Some("l".to_owned()), ..ObjectMeta::default() };
    (Claim { kube, metadata, holder: holder("me", Work::Profile), terms }, asked)
}

fn verbs(asked: &super::super::scripted::Asked) -> Vec<String> {
    asked.lock().unwrap().iter().map(|(method, ..)| method.clone()).collect()
}

async fn taken(claim: &Claim) -> Lease {
    match claim.attempt(&mut Seen::default()).await.unwrap() {
        Attempt::Taken(lease, _) => lease,
        held => panic!("{held:?}"),
    }
}

/// Lets the task that keeps it run.
async fn some_time(seconds: u64) {
    for _ in 0..seconds * 10 {
        advance(Duration::from_millis(100)).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_free_one_is_written_renewed_and_deleted_as_it_was_written_last() {
    let me = holder("me", Work::Profile);
    let (claim, asked) = claim(vec![gone(), object(&me, "1"), object(&me, "2")], TERMS);
    let lease = taken(&claim).await;
    some_time(25).await;
    assert_eq!(verbs(&asked), ["GET", "POST", "PUT", "PUT", "PUT"]);
    lease.confirm().await.unwrap();
    lease.delete().await.unwrap();
    some_time(30).await;
    let asked = asked.lock().unwrap();
    let (method, _, body) = asked.last().unwrap();
    assert_eq!((method.as_str(), asked.len()), ("DELETE", 6), "and it is not renewed any more");
    assert_eq!(body["preconditions"], json!({ "uid": "u", "resourceVersion": "2" }));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_renews_refuses_and_is_named_and_one_that_does_not_is_replaced() {
    let other = holder("other", Work::Profile);
    let (renewed, _) = claim(vec![object(&other, "1"), object(&other, "2")], TERMS);
    let error = renewed.take_or_refuse(|_| {}).await.unwrap_err();
    assert!(error.to_string().contains("process 1 on other"), "{error}");
    assert!(error.hint().unwrap().contains("kubectl get lease -n ns l"), "{error}");

    // 60 s in steps of 2 s, then the PUT.
    let me = holder("me", Work::Profile);
    let mut answers: Vec<Answer> = (0..31).map(|_| object(&other, "1")).collect();
    answers.push(object(&me, "2"));
    let (silent, asked) = claim(answers, TERMS);
    let told = Mutex::new(Vec::new());
    let started = Instant::now();
    let (_, before) = silent.take_or_refuse(|what| told.lock().unwrap().push(what.to_owned())).await.unwrap();
    assert_eq!(started.elapsed(), Duration::from_secs(60));
    assert!(before.unwrap().contains("other"));
    assert_eq!(told.lock().unwrap().len(), 1, "{told:?}");
    let body: Value = asked.lock().unwrap().iter().find(|(method, ..)| method == "PUT").unwrap().2.clone();
    assert_eq!(body["metadata"]["resourceVersion"], "1", "nobody may have written it meanwhile");
    assert_eq!(body["spec"]["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_somebody_took_is_lost_and_not_touched_any_more() {
    let me = holder("me", Work::Profile);
    for (work, expected) in [(Work::Profile, true), (Work::Gc, false)] {
        let other = holder("other", work);
        let (claim, asked) = claim(vec![gone(), object(&me, "1"), conflict(), object(&other, "2")], TERMS);
        let lease = taken(&claim).await;
        let Loss::Taken { by, by_run } = lease.lost().await else { panic!("{:?}", lease.loss()) };
        assert!(by.contains("other"), "{by}");
        assert_eq!(by_run, expected);
        assert!(lease.confirm().await.unwrap_err().to_string().contains("does not hold its lease"));
        let before = asked.lock().unwrap().len();
        lease.delete().await.unwrap();
        lease.give_back().await.unwrap();
        some_time(60).await;
        assert_eq!(asked.lock().unwrap().len(), before);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_was_deleted_is_lost_and_is_not_made_again() {
    let me = holder("me", Work::Profile);
    let (claim, asked) = claim(vec![gone(), object(&me, "1"), gone()], TERMS);
    let lease = taken(&claim).await;
    assert_eq!(lease.lost().await, Loss::Deleted);
    some_time(60).await;
    assert_eq!(verbs(&asked).iter().filter(|verb| *verb == "POST").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_label_that_a_person_adds_costs_nothing() {
    let me = holder("me", Work::Profile);
    let (claim, _) = claim(vec![gone(), object(&me, "1"), conflict(), object(&me, "7"), object(&me, "8")], TERMS);
    let lease = taken(&claim).await;
    some_time(5).await;
    assert_eq!(lease.loss(), None);
    assert_eq!(lease.0.object().metadata.resource_version.as_deref(), Some("8"));
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_away_a_run_goes_on_and_makes_nothing_and_a_leader_stops() {
    let me = holder("me", Work::Profile);
    let away = || vec![gone(), object(&me, "1"), object(&me, "1"), Answer::Broken];
    let (run, _) = claim(away(), TERMS);
    let lease = taken(&run).await;
    some_time(20).await;
    lease.confirm().await.unwrap();
    some_time(600).await;
    assert_eq!(lease.loss(), None, "nobody else can have taken it");
    let error = lease.confirm().await.unwrap_err();
    assert!(error.to_string().contains("not renewed"), "{error}");

    let (leader, _) = claim(away(), Terms { give_up_after: Some(Duration::from_secs(20)), ..TERMS });
    let lease = taken(&leader).await;
    some_time(50).await;
    assert!(matches!(lease.loss(), Some(Loss::NotRenewed(_))), "{:?}", lease.loss());
}
