//! Points of an earlier run, to be taken over where everything is the same. What has to be the same is a table of names
//! and values that each run writes down; the first name whose values differ is the reason for refusing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Event, Record, RunStarted};
use crate::domain::{Aim, Candidate, EngineFacts, Measurement, Probe, Role, Sla};

/// What makes a measurement what it is: engine, image, flags, GPU and method, each in words.
pub type Identity = BTreeMap<String, String>;

/// An earlier run cannot be reused.
#[derive(Debug, thiserror::Error)]
pub enum ReuseError {
    /// Something is not the same.
    #[error("the results in {run} are of something else and cannot be reused: {}", list(.differences))]
    Differs {
        /// The earlier run.
        run: PathBuf,
        /// What, then and now.
        differences: Vec<String>,
    },
    /// It does not say what it measured.
    #[error("the run in {run} does not say what it measured")]
    Silent {
        /// The earlier run.
        run: PathBuf,
    },
}

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

/// A point of an earlier run.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// With this run's candidate.
    pub measurement: Measurement,
    /// What that run's engine said of itself.
    pub facts: EngineFacts,
    /// That run's directory.
    pub run: String,
}

/// Points of earlier runs.
#[derive(Debug, Clone, Default)]
pub struct Earlier {
    points: Vec<(Role, Known)>,
    sla: Option<Sla>,
}

impl Earlier {
    /// For a run with these targets.
    pub fn new(sla: Sla) -> Self {
        Self { points: Vec::new(), sla: Some(sla) }
    }

    /// Adds the points of one run. Where several have a point, the first one's counts.
    ///
    /// # Errors
    /// If it measured something else. All differences are named.
    pub fn add(
        &mut self,
        run: &std::path::Path,
        started: &RunStarted,
        records: &[Record],
        identity: &Identity,
        candidates: &[Candidate],
    ) -> Result<usize, ReuseError> {
        if started.identity.is_empty() {
            return Err(ReuseError::Silent { run: run.to_owned() });
        }
        let differences = differences(&started.identity, identity);
        if !differences.is_empty() {
            return Err(ReuseError::Differs { run: run.to_owned(), differences });
        }
        let mut facts: BTreeMap<u32, EngineFacts> = BTreeMap::new();
        let before = self.points.len();
        for record in records {
            let (measurement, own_facts) = match &record.event {
                Event::Launched { facts: of } | Event::Joined { facts: of } => {
                    facts.entry(of.candidate).or_insert_with(|| of.clone());
                    continue;
                }
                Event::Measured { measurement, .. } => (measurement, facts.get(&measurement.candidate)),
                Event::Reused { measurement, facts, .. } => (measurement, Some(facts)),
                _ => continue,
            };
            let then = started.candidates.get(measurement.candidate as usize);
            let same = |now: &Candidate| then.is_some_and(|then| (then.role, then.mapping) == (now.role, now.mapping));
            let now = candidates.iter().zip(0..).find(|(candidate, _)| same(candidate));
            if let (Some((candidate, id)), Some(facts)) = (now, own_facts) {
                let known = Known {
                    measurement: Measurement { candidate: id, ..measurement.clone() },
                    facts: EngineFacts { candidate: id, ..facts.clone() },
                    run: run.display().to_string(),
                };
                self.points.push((candidate.role, known));
            }
        }
        Ok(self.points.len() - before)
    }

    /// The point, if it is known as well as it is asked for.
    pub fn find(&self, probe: &Probe, aim: Aim) -> Option<&Known> {
        let of_point = self.points.iter().filter(|(_, known)| known.measurement.point() == probe.point());
        of_point
            .filter(|(role, known)| self.is_good_enough(*role, &known.measurement, probe, aim))
            .map(|(_, k)| k)
            .next()
    }

    /// It was measured for other targets: a point that was left as soon as its side of them was clear may be too vague for
    /// these.
    fn is_good_enough(&self, role: Role, measurement: &Measurement, probe: &Probe, aim: Aim) -> bool {
        let (stat, target) = match role {
            Role::Prefill => (measurement.ttft_ms, self.sla.and_then(|sla| sla.ttft_ms)),
            Role::Decode => (measurement.itl_ms, self.sla.and_then(|sla| sla.itl_ms)),
        };
        let Some(stat) = stat else { return false };
        let relative = (stat.ci_high - stat.ci_low) / 2.0 / stat.mean;
        let is_precise =
            relative <= probe.relative_precision * (1.0 + 1e-9) || measurement.samples >= probe.max_samples;
        // The interval is the mean's. With another statistic the distance is not known that well.
        let is_clear = |target: f64| {
            self.sla.is_some_and(|sla| sla.quantile.is_none()) && !(stat.ci_low..=stat.ci_high).contains(&target)
        };
        is_precise || (aim == Aim::Compare && target.is_some_and(is_clear))
    }
}

/// What differs, in the order of the names.
fn differences(then: &Identity, now: &Identity) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = then.keys().chain(now.keys()).collect();
    let short = |value: Option<&String>| match value {
        Some(value) if value.chars().count() > 120 => format!("{}…", value.chars().take(120).collect::<String>()),
        Some(value) => value.clone(),
        None => "nothing".to_owned(),
    };
    let differs = |name: &&String| {
        // An engine that only one of the runs could have had is no contradiction.
        let engine_of_one = name.starts_with(ENGINE) && !(then.contains_key(*name) && now.contains_key(*name));
        !engine_of_one && then.get(*name) != now.get(*name)
    };
    let line = |name: &String| format!("{name}: then {}, now {}", short(then.get(name)), short(now.get(name)));
    names.into_iter().filter(differs).map(line).collect()
}

/// How the names of single engines begin.
pub const ENGINE: &str = "engine ";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Stat;

    fn measured(low: f64, high: f64, samples: u32) -> Measurement {
        let mean = (low + high) / 2.0;
        let stat = Stat { mean, p50: mean, p90: mean, p99: mean, ci_low: low, ci_high: high, target: mean };
        Measurement {
            candidate: 0,
            isl: 100,
            osl: 10,
            concurrency: 4,
            concurrency_seen: 4.0,
            ttft_ms: None,
            itl_ms: Some(stat),
            samples,
            failed_requests: 0,
            input_tokens_per_second_per_gpu: 0.0,
            output_tokens_per_second_per_gpu: 1.0,
            kv_usage: 0.1,
            kv_usage_nominal: 0.1,
            duration_s: 1.0,
        }
    }

    #[test]
    fn a_vague_point_is_taken_over_only_where_its_side_of_the_new_target_is_clear() {
        let probe =
            Probe { candidate: 0, isl: 100, osl: 10, concurrency: 4, relative_precision: 0.02, max_samples: 1000 };
        let is_good = |itl_ms, m: &Measurement, aim| {
            let sla = Sla { ttft_ms: Some(100.0), itl_ms: Some(itl_ms), e2e_ms: None, quantile: None };
            Earlier::new(sla).is_good_enough(Role::Decode, m, &probe, aim)
        };
        let vague = measured(9.0, 11.0, 50);
        assert!(is_good(20.0, &vague, Aim::Compare));
        assert!(!is_good(10.5, &vague, Aim::Compare));
        assert!(!is_good(20.0, &vague, Aim::Value), "curves are for their values");
        assert!(is_good(10.5, &measured(9.9, 10.1, 50), Aim::Value));
        assert!(is_good(10.5, &measured(9.0, 11.0, 1000), Aim::Value), "more samples would not have been taken");
    }

    #[test]
    fn every_difference_is_named_and_an_engine_that_only_one_run_has_is_none() {
        let table = |pairs: &[(&str, &str)]| -> Identity {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let then = table(&[("gpu", "h100"), ("image", "a:1"), ("engine decode tp1", "x"), ("engine decode tp2", "y")]);
        let now = table(&[("gpu", "h200"), ("image", "a:2"), ("engine decode tp1", "z"), ("engine decode tp4", "w")]);
        let found = differences(&then, &now);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("engine decode tp1") && found[1].contains("then h100, now h200"), "{found:?}");
        assert!(differences(&then, &then).is_empty());
    }
}
