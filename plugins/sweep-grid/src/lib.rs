//! `sweep-grid`: the fixed grids of NVIDIA's profiler, as the baseline that other strategies are held against.
//!
//! `ai-dynamo` 0.7 to 0.9, `profile_sla.py` and `utils/profile_{prefill,decode}.py`, with the concurrency list as repaired
//! by ai-dynamo/dynamo#10125. Nothing depends on what was measured, except that the engine says how many tokens it holds.

use sla_profiler_plugin::{
    About, Candidate, Candidates, Curve, Error, Goal, History, Job, Probe, Role, Settings, Step, SweepStrategy,
    packing::together,
};

/// The strategy.
#[derive(Debug)]
pub struct SweepGrid;

sla_profiler_plugin::export_sweep!(SweepGrid);

/// Output tokens of a prefill probe.
const PREFILL_OSL: u32 = 5;
/// Output tokens of a decode curve's probe.
const CURVE_OSL: u32 = 500;
/// "Due to limits of profiling tools."
const MOST_REQUESTS: u32 = 2000;
/// So tight that the number of samples decides.
const TO_THE_LAST_SAMPLE: f64 = 1e-6;

impl SweepStrategy for SweepGrid {
    fn about() -> About {
        About::new("sweep-grid", env!("CARGO_PKG_VERSION"), "Fixed grids, as NVIDIA's profiler has them: the baseline.")
            .setting("prefill-granularity", "16", "steps of the prefill curve's input lengths, 2 to 256")
            .setting("decode-granularity", "6", "concurrencies per candidate, and lengths of the decode curve, 2 to 64")
            .setting("samples", "1", "requests per prefill point and bursts per decode point, 1 to 1000")
    }

    fn next(job: &Job, goal: &Goal, candidates: &Candidates, history: &History) -> Result<Step, Error> {
        let settings = Settings::new(Self::about(), job)?;
        let grid = Grid {
            job,
            history,
            prefill_granularity: settings.number("prefill-granularity", 2..=256)?,
            decode_granularity: settings.number("decode-granularity", 2..=64)?,
            samples: settings.number("samples", 1..=1000)?,
        };
        let of = |curve: &Curve| {
            let unknown = || Error::Other(format!("there is no candidate {} to draw a curve of", curve.candidate));
            candidates.get(curve.candidate).ok_or_else(unknown)
        };
        let mut probes = match goal {
            Goal::Prefill => candidates.of(Role::Prefill).map(|c| grid.prefill(&c, job.workload.isl)).collect(),
            Goal::Decode => grid.decode(candidates),
            Goal::PrefillCurve(curve) => grid.prefill_curve(&of(curve)?, curve),
            Goal::DecodeCurve(curve) => grid.decode_curve(&of(curve)?, curve),
        };
        probes.retain(|probe| !history.is_settled(probe));
        Ok(if probes.is_empty() {
            Step::Done("all points of the grid are measured".to_owned())
        } else {
            Step::Measure(probes)
        })
    }
}

struct Grid<'a> {
    job: &'a Job,
    history: &'a History,
    prefill_granularity: u32,
    decode_granularity: u32,
    samples: u32,
}

impl Grid<'_> {
    fn prefill(&self, candidate: &Candidate<'_>, isl: u32) -> Probe {
        // One request; a burst of four per rank where there are several.
        let requests = if candidate.attention_dp > 1 { candidate.attention_dp.saturating_mul(4) } else { 1 };
        Probe {
            candidate: candidate.id,
            isl,
            osl: PREFILL_OSL,
            concurrency: candidate.attention_dp,
            relative_precision: TO_THE_LAST_SAMPLE,
            max_samples: requests.saturating_mul(self.samples),
        }
    }

    fn burst(&self, candidate: &Candidate<'_>, isl: u32, osl: u32, concurrency: u32) -> Probe {
        Probe {
            candidate: candidate.id,
            isl,
            osl,
            concurrency,
            relative_precision: TO_THE_LAST_SAMPLE,
            // A burst decodes one whole answer.
            max_samples: osl.saturating_mul(self.samples),
        }
    }

    fn decode(&self, candidates: &Candidates) -> Vec<Probe> {
        let open = |c: &Candidate<'_>| self.loads(c, self.job.workload.isl, self.job.workload.osl);
        let unfinished =
            candidates.of(Role::Decode).filter(|c| open(c).iter().any(|probe| !self.history.is_settled(probe)));
        // As the original, small ones first; and whatever their numbers.
        let mut unfinished: Vec<_> = unfinished.collect();
        unfinished.sort_by_key(|c| (c.gpus, c.label));
        together(unfinished, self.history, self.job.hardware.total_gpus).iter().flat_map(open).collect()
    }

    /// The lowest load, and, once the engine said what it holds, the rest of the list.
    fn loads(&self, candidate: &Candidate<'_>, isl: u32, osl: u32) -> Vec<Probe> {
        let dp = candidate.attention_dp;
        let loads = match self.history.facts_of(candidate.id) {
            Some(facts) => concurrencies(dp, facts.kv_tokens / isl.saturating_add(osl).max(1), self.decode_granularity),
            None => vec![dp],
        };
        loads.into_iter().map(|n| self.burst(candidate, isl, osl, n)).collect()
    }

    fn prefill_curve(&self, candidate: &Candidate<'_>, curve: &Curve) -> Vec<Probe> {
        let end = curve.max_isl.min(self.job.model.max_context.saturating_sub(PREFILL_OSL));
        let step = end.saturating_sub(curve.min_isl) / self.prefill_granularity;
        range(curve.min_isl, end, step).map(|isl| self.prefill(candidate, isl)).collect()
    }

    fn decode_curve(&self, candidate: &Candidate<'_>, curve: &Curve) -> Vec<Probe> {
        let osl = CURVE_OSL.min(self.job.model.max_context / 2).max(1);
        let end = curve.max_isl.min(self.job.model.max_context.saturating_sub(osl));
        range(curve.min_isl, end, end / self.decode_granularity)
            .flat_map(|isl| self.loads(candidate, isl, osl))
            .collect()
    }
}

/// Python's `range(start, end, step)`, from 1 and by 1 at least.
fn range(start: u32, end: u32, step: u32) -> impl Iterator<Item = u32> {
    (start.max(1)..end).step_by(step.max(1) as usize)
}

/// `get_num_request_range`: evenly spaced multiples of the attention-DP size, up to what the KV cache holds.
fn concurrencies(attention_dp: u32, most: u32, granularity: u32) -> Vec<u32> {
    let dp = attention_dp.max(1);
    let per_rank = most.min(MOST_REQUESTS) / dp;
    if per_rank < granularity {
        return (1..=per_rank).map(|n| n * dp).collect();
    }
    let step = f64::from(per_rank - 1) / f64::from(granularity - 1);
    (0..granularity).map(|i| dp + (f64::from(i) * step) as u32 * dp).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sla_profiler_plugin::testing::{Random, SyntheticEngine, World, candidate, job};

    use super::*;

    fn engine() -> SyntheticEngine {
        SyntheticEngine {
            launch_fails: false,
            fails_above: u32::MAX,
            kv_tokens: 643_891,
            max_running: u32::MAX,
            ttft: [10.0, 0.03, 1e-6],
            itl: [5.0, 0.02, 1e-6, 0.01],
        }
    }

    fn world(engines: Vec<(Candidate<'_>, SyntheticEngine)>) -> World {
        let mut candidates = Candidates::empty();
        engines.iter().for_each(|(c, _)| candidates.push(*c));
        World {
            job: job(),
            candidates,
            engines: engines.into_iter().map(|(_, e)| e).collect(),
            history: History::empty(),
            noise: 0.01,
            random: Random::new(1),
            probes: vec![],
        }
    }

    #[test]
    fn concurrencies_are_those_of_the_original() {
        // The cases of its own tests.
        assert_eq!(concurrencies(1, 1200, 6), [1, 240, 480, 720, 960, 1200]);
        assert_eq!(concurrencies(4, 1209, 6), [4, 244, 484, 724, 964, 1208]);
        assert_eq!(concurrencies(4, 12, 6), [4, 8, 12]);
        assert_eq!(concurrencies(1, 1073, 6), [1, 215, 429, 644, 858, 1073]);
        assert_eq!(concurrencies(1, 9999, 6).last(), Some(&2000));
        assert_eq!(concurrencies(4, 3, 6), [0u32; 0]);
    }

    #[test]
    fn prefill_is_one_request_and_a_burst_where_there_are_ranks() {
        let dep4 = Candidate { tp: 1, attention_dp: 4, ..candidate(Role::Prefill, "dep4", 4) };
        let mut world = world(vec![(candidate(Role::Prefill, "tp1", 1), engine()), (dep4, engine())]);
        world.run::<SweepGrid>(&Goal::Prefill);
        let points: Vec<_> = world.probes.iter().map(|p| (p.isl, p.osl, p.concurrency, p.max_samples)).collect();
        assert_eq!(points, [(3000, 5, 1, 1), (3000, 5, 4, 16)]);
    }

    #[test]
    fn decode_starts_with_the_lowest_load_and_goes_on_with_the_list() {
        let mut world = world(vec![(candidate(Role::Decode, "tp1", 1), engine())]);
        world.run::<SweepGrid>(&Goal::Decode);
        let loads: Vec<_> = world.probes.iter().map(|p| p.concurrency).collect();
        assert_eq!(loads, [1, 41, 82, 122, 163, 204], "643891 / 3150 = 204");
    }

    #[test]
    fn curves_are_those_of_the_original() {
        let mut world =
            world(vec![(candidate(Role::Prefill, "tp1", 1), engine()), (candidate(Role::Decode, "tp1", 1), engine())]);
        world.job.model.max_context = 40_960;
        let curve = |candidate| Curve { candidate, min_isl: 100, max_isl: 40_960 - 512, concurrency: 1 };
        world.run::<SweepGrid>(&Goal::PrefillCurve(curve(0)));
        let isls: Vec<_> = world.probes.iter().map(|p| p.isl).collect();
        assert_eq!((isls.len(), isls[0], isls[1]), (17, 100, 2621));
        world.probes.clear();
        let curve = Curve { max_isl: 40_960 - 500, ..curve(1) };
        world.run::<SweepGrid>(&Goal::DecodeCurve(curve));
        // The captured run's lengths and its first list; the lists after it are shorter where memory is.
        let mut isls: Vec<_> = world.probes.iter().map(|p| p.isl).collect();
        isls.sort_unstable();
        isls.dedup();
        assert_eq!(isls, [100, 6843, 13586, 20329, 27072, 33815]);
        let mut loads: Vec<_> = world.probes.iter().filter(|p| p.isl == 100).map(|p| p.concurrency).collect();
        loads.sort_unstable();
        assert_eq!(loads, [1, 215, 429, 644, 858, 1073]);
        assert!(world.probes.iter().all(|p| p.osl == 500));
        assert_eq!(world.probes.len(), 36);
    }

    #[test]
    fn settings_are_read_and_nonsense_is_refused() {
        let mut world = world(vec![(candidate(Role::Decode, "tp1", 1), engine())]);
        world.job.settings = vec![("decode-granularity".into(), "3".into()), ("samples".into(), "2".into())];
        world.run::<SweepGrid>(&Goal::Decode);
        assert_eq!(
            world.probes.iter().map(|p| (p.concurrency, p.max_samples)).collect::<Vec<_>>(),
            [(1, 300), (102, 300), (204, 300)]
        );
        world.job.settings = vec![("decode-granularity".into(), "1".into())];
        let answer = SweepGrid::next(&world.job, &Goal::Decode, &world.candidates, &world.history);
        assert!(matches!(answer, Err(Error::BadSetting(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_ends_whatever_happens(
            kv_tokens in 100u32..5_000_000, dp in 1u32..9, fails_above in prop_oneof![Just(u32::MAX), 0u32..500],
            launch_fails in any::<bool>(), min_isl in 1u32..5000, max_isl in 1u32..40_000,
        ) {
            let c = |role| Candidate { attention_dp: dp, ..candidate(role, "x", dp) };
            let engine = SyntheticEngine { kv_tokens, fails_above, launch_fails, ..engine() };
            let mut world = world(vec![(c(Role::Prefill), engine.clone()), (c(Role::Decode), engine)]);
            let curve = |candidate| Curve { candidate, min_isl, max_isl, concurrency: dp };
            for goal in [Goal::Prefill, Goal::Decode, Goal::PrefillCurve(curve(0)), Goal::DecodeCurve(curve(1))] {
                world.run::<SweepGrid>(&goal);
            }
            prop_assert!(world.probes.len() <= 1 + 6 + 18 + 7 * 6, "{}", world.probes.len());
        }
    }
}
