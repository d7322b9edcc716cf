//! What to do about a request, from what is known about it. Nothing here asks anybody.

use serde_json::Value;

use crate::kubernetes::status::Stage;

/// The Job of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Run {
    /// There is none.
    Missing,
    /// It goes on.
    Active,
    /// It ended; what its container said last and its exit code, if they are known.
    Ended {
        /// Whether the Job counts as a success.
        succeeded: bool,
        /// The container's exit code.
        exit_code: Option<i32>,
        /// For a person.
        message: String,
    },
}

/// The deployment of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rollout {
    /// There is none.
    Missing,
    /// Not all of it serves; why, in the operator's words.
    NotReady(String),
    /// It serves.
    Ready,
}

/// All that decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// `status.phase`; absent for a new request.
    pub stage: Option<Stage>,
    /// `status.profilingPhase`.
    pub profiling_phase: String,
    /// `spec.autoApply`, with the API's default.
    pub auto_apply: bool,
    /// Whether the spec, but for `autoApply`, differs from the one that the Job was made for.
    pub changed: bool,
    /// Whether `autoApply` alone changed since the request was profiled.
    pub flipped: bool,
    /// Whether a deployment is generated.
    pub generated: bool,
    /// Its Job.
    pub run: Run,
    /// Its deployment.
    pub rollout: Rollout,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Create the Job.
    Begin,
    /// Say that it is being profiled: the Job exists.
    Begun,
    /// Nothing; others are at work, or it is over.
    Wait,
    /// Apply the generated deployment.
    Deploy,
    /// It serves.
    Deployed,
    /// It served, and does not now.
    Degraded(String),
    /// Say that it failed.
    Fail {
        /// One word.
        reason: String,
        /// For a person.
        message: String,
    },
}

impl Seen {
    /// The next step.
    pub(super) fn step(&self) -> Step {
        match self.stage {
            None | Some(Stage::Pending) => match self.run {
                Run::Missing => Step::Begin,
                _ => Step::Begun,
            },
            Some(Stage::Profiling) => self.while_profiling(),
            // Without a flip its process had the chance to apply it, and decided not to: the SLA cannot be met.
            Some(Stage::Ready) if self.auto_apply && self.flipped && self.generated => match self.run {
                Run::Active => Step::Wait,
                _ => Step::Deploy,
            },
            Some(Stage::Ready | Stage::Failed) => Step::Wait,
            Some(Stage::Deploying) => match (&self.run, &self.rollout) {
                (Run::Active, _) => Step::Wait,
                (_, Rollout::Ready) => Step::Deployed,
                (_, Rollout::NotReady(_)) => Step::Wait,
                (_, Rollout::Missing) => deleted(),
            },
            Some(Stage::Deployed) => match (&self.run, &self.rollout) {
                (Run::Active, _) | (_, Rollout::Ready) => Step::Wait,
                (_, Rollout::NotReady(why)) => Step::Degraded(why.clone()),
                (_, Rollout::Missing) => deleted(),
            },
        }
    }

    fn while_profiling(&self) -> Step {
        let phase = if self.profiling_phase.is_empty() { "Initializing" } else { self.profiling_phase.as_str() };
        let failed = |message: String| Step::Fail { reason: format!("{phase}Failed"), message };
        match &self.run {
            Run::Active => Step::Wait,
            Run::Missing => failed("the Job was deleted before it ended".to_owned()),
            Run::Ended { succeeded: true, .. } => failed("the Job ended and left no result in the status".to_owned()),
            Run::Ended { exit_code, message, .. } => {
                let code = exit_code.map_or_else(String::new, |code| format!(" with exit code {code}"));
                failed(format!("the Job failed{code}: {message}"))
            }
        }
    }

    /// Whether the user changed what may not change any more.
    pub(super) fn rejects_change(&self) -> bool {
        self.changed && !matches!(self.stage, None | Some(Stage::Pending | Stage::Failed))
    }
}

fn deleted() -> Step {
    Step::Fail { reason: "DeploymentDeleted".to_owned(), message: "the deployment was deleted".to_owned() }
}

/// The deployment's state, from the object.
pub(super) fn rollout(dgd: Option<&Value>) -> Rollout {
    let Some(dgd) = dgd else { return Rollout::Missing };
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let status = dgd.get("status").unwrap_or(&Value::Null);
    let state = text(status, "state");
    let conditions = status.get("conditions").and_then(Value::as_array).into_iter().flatten();
    let ready = conditions.into_iter().find(|condition| text(condition, "type") == "Ready");
    // A status of an earlier generation says nothing about this one.
    let current = match (status.get("observedGeneration").and_then(Value::as_i64), dgd.pointer("/metadata/generation"))
    {
        (Some(observed), Some(generation)) => generation.as_i64() == Some(observed),
        _ => true,
    };
    let is_ready = ready.is_none_or(|ready| text(ready, "status") == "True");
    if state == "successful" && is_ready && current {
        return Rollout::Ready;
    }
    let why = ready.map(|ready| text(ready, "message")).filter(|why| !why.is_empty());
    Rollout::NotReady(
        why.unwrap_or_else(|| format!("its state is {}", if state.is_empty() { "unknown" } else { &state })),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(stage: Option<Stage>, run: Run, rollout: Rollout) -> Seen {
        Seen {
            stage,
            profiling_phase: "SweepingDecode".into(),
            auto_apply: false,
            changed: false,
            flipped: false,
            generated: true,
            run,
            rollout,
        }
    }

    fn ended(succeeded: bool) -> Run {
        Run::Ended { succeeded, exit_code: Some(6), message: "no way to a cluster".into() }
    }

    #[test]
    fn a_new_request_gets_one_job_also_when_its_status_was_lost() {
        assert_eq!(seen(None, Run::Missing, Rollout::Missing).step(), Step::Begin);
        assert_eq!(seen(Some(Stage::Pending), Run::Missing, Rollout::Missing).step(), Step::Begin);
        assert_eq!(seen(None, Run::Active, Rollout::Missing).step(), Step::Begun);
    }

    #[test]
    fn a_job_without_a_last_word_is_a_failure_of_the_phase_it_was_in() {
        assert_eq!(seen(Some(Stage::Profiling), Run::Active, Rollout::Missing).step(), Step::Wait);
        for (run, part) in
            [(Run::Missing, "deleted"), (ended(true), "no result"), (ended(false), "exit code 6: no way")]
        {
            let Step::Fail { reason, message } = seen(Some(Stage::Profiling), run, Rollout::Missing).step() else {
                panic!()
            };
            assert_eq!(reason, "SweepingDecodeFailed");
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn the_later_flip_of_auto_apply_deploys_and_nothing_else_does() {
        let ready = seen(Some(Stage::Ready), ended(true), Rollout::Missing);
        assert_eq!(ready.step(), Step::Wait);
        let flipped = Seen { auto_apply: true, flipped: true, ..ready.clone() };
        assert_eq!(flipped.step(), Step::Deploy);
        assert_eq!(Seen { generated: false, ..flipped.clone() }.step(), Step::Wait);
        assert_eq!(Seen { run: Run::Active, ..flipped }.step(), Step::Wait);
        // Its process saw `true`, and left it: what it found does not meet the SLA.
        assert_eq!(Seen { auto_apply: true, ..ready }.step(), Step::Wait);
    }

    #[test]
    fn a_deployment_is_followed_until_it_is_gone() {
        let of = |stage, rollout| seen(Some(stage), ended(true), rollout).step();
        assert_eq!(of(Stage::Deploying, Rollout::Ready), Step::Deployed);
        assert_eq!(of(Stage::Deployed, Rollout::Ready), Step::Wait);
        assert_eq!(of(Stage::Deployed, Rollout::NotReady("pods".into())), Step::Degraded("pods".into()));
        assert!(
            matches!(of(Stage::Deployed, Rollout::Missing), Step::Fail { reason, .. } if reason == "DeploymentDeleted")
        );
        assert_eq!(of(Stage::Failed, Rollout::Missing), Step::Wait);
    }

    #[test]
    fn while_its_process_deploys_the_controller_keeps_out() {
        for stage in [Stage::Deploying, Stage::Deployed] {
            assert_eq!(seen(Some(stage), Run::Active, Rollout::Missing).step(), Step::Wait);
        }
    }

    #[test]
    fn a_change_is_rejected_from_profiling_on() {
        let of = |stage| Seen { changed: true, ..seen(stage, Run::Active, Rollout::Missing) }.rejects_change();
        assert!(!of(None) && !of(Some(Stage::Pending)) && !of(Some(Stage::Failed)));
        for stage in [Stage::Profiling, Stage::Ready, Stage::Deploying, Stage::Deployed] {
            assert!(of(Some(stage)), "{stage:?}");
        }
    }

    #[test]
    fn a_deployment_is_ready_by_state_condition_and_generation() {
        let of = |state: &str, ready: &str, observed: i64| {
            rollout(Some(&json!({
                "metadata": { "generation": 2 },
                "status": {
                    "state": state, "observedGeneration": observed,
                    "conditions": [{ "type": "Ready", "status": ready, "message": "m" }],
                },
            })))
        };
        assert_eq!(of("successful", "True", 2), Rollout::Ready);
        assert_eq!(of("successful", "True", 1), Rollout::NotReady("m".into()));
        assert_eq!(of("successful", "False", 2), Rollout::NotReady("m".into()));
        assert_eq!(of("failed", "True", 2), Rollout::NotReady("m".into()));
        assert_eq!(rollout(Some(&json!({}))), Rollout::NotReady("its state is unknown".into()));
    }
}
