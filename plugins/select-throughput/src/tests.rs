use proptest::prelude::*;
use sla_profiler_plugin::testing::{candidate, decode_point, job, prefill_point};
use sla_profiler_plugin::{Facts, Measurement, Measurements, Stat};

use super::*;

/// Prefill tp1 (0), tp2 (1); decode tp1 (2), tp2 (3).
fn candidates() -> Candidates {
    let mut all = Candidates::empty();
    for (role, label, gpus) in
        [(Role::Prefill, "tp1", 1), (Role::Prefill, "tp2", 2), (Role::Decode, "tp1", 1), (Role::Decode, "tp2", 2)]
    {
        all.push(candidate(role, label, gpus));
    }
    all
}

fn per_gpu(mut m: Measurement, gpus: f64) -> Measurement {
    m.input_tokens_per_second_per_gpu /= gpus;
    m.output_tokens_per_second_per_gpu /= gpus;
    m
}

fn history(rows: &[Measurement]) -> History {
    History { measurements: rows.iter().copied().collect::<Measurements>(), ..History::empty() }
}

fn select(job: &Job, rows: &[Measurement]) -> Selection {
    SelectThroughput::select(job, &Demand::Budget, &candidates(), &history(rows)).unwrap()
}

fn seed_points() -> Vec<Measurement> {
    vec![
        prefill_point(0, 3000, 1, 180.0),
        per_gpu(prefill_point(1, 3000, 1, 110.0), 2.0),
        decode_point(2, 3000, 150, 1, 8.0),
        decode_point(2, 3000, 150, 32, 17.9),
        decode_point(2, 3000, 150, 64, 24.0),
        per_gpu(decode_point(3, 3000, 150, 1, 5.0), 2.0),
        per_gpu(decode_point(3, 3000, 150, 64, 19.0), 2.0),
    ]
}

#[test]
fn highest_throughput_per_gpu_within_the_sla_wins() {
    let selection = select(&job(), &seed_points());
    let order: Vec<_> = selection.prefill.iter().map(|c| (c.candidate, c.concurrency, c.meets_sla)).collect();
    assert_eq!(order, [(0, 1, true), (1, 1, true)]);
    let order: Vec<_> = selection.decode.iter().map(|c| (c.candidate, c.concurrency, c.meets_sla)).collect();
    assert_eq!(order, [(2, 32, true), (3, 64, true)], "each candidate once, at its best point");
    assert_eq!(selection.decode[0].reason, "highest throughput per GPU with ITL within 20.0 ms");
    assert!(
        selection.decode[1].reason.ends_with("% less throughput per GPU than tp1"),
        "{}",
        selection.decode[1].reason
    );
    assert_eq!(selection.decode[0].binding, "itl", "the next point misses it");
    assert!(selection.notes.is_empty(), "{:?}", selection.notes);
}

#[test]
fn lowest_latency_is_taken_and_flagged_where_nothing_meets_the_sla() {
    let mut job = job();
    job.sla.ttft_ms = Some(50.0);
    job.sla.itl_ms = Some(1.0);
    let selection = select(&job, &seed_points());
    assert_eq!((selection.prefill[0].candidate, selection.prefill[0].meets_sla), (1, false));
    assert_eq!((selection.decode[0].candidate, selection.decode[0].concurrency), (3, 1));
    assert_eq!(selection.prefill[0].binding, "ttft");
    assert_eq!(selection.notes.len(), 2);
    assert!(selection.notes[0].contains("no prefill candidate meets the SLA (mean)"), "{}", selection.notes[0]);
}

#[test]
fn the_slas_statistic_counts_not_the_mean() {
    let mut slow_tail = prefill_point(0, 3000, 1, 180.0);
    slow_tail.ttft_ms = Some(Stat { target: 230.0, ..Stat::flat(180.0, 0.01) });
    let selection = select(&job(), &[slow_tail, per_gpu(prefill_point(1, 3000, 1, 110.0), 2.0)]);
    assert_eq!(selection.prefill[0].candidate, 1);
    assert!(!selection.prefill[1].meets_sla);
}

#[test]
fn of_two_that_cannot_be_told_apart_the_cheaper_one_is_taken() {
    let twin = per_gpu(prefill_point(1, 3000, 1, 90.0), 2.0);
    let selection = select(&job(), &[twin, prefill_point(0, 3000, 1, 180.0)]);
    assert_eq!(selection.prefill[0].candidate, 0);
    assert!(selection.notes[0].contains("cannot be told apart"), "{:?}", selection.notes);

    let slightly_faster = per_gpu(prefill_point(1, 3000, 1, 89.5), 2.0);
    let selection = select(&job(), &[slightly_faster, prefill_point(0, 3000, 1, 180.0)]);
    assert_eq!(selection.prefill[0].candidate, 0);
    assert_eq!(
        selection.prefill[0].reason,
        "not distinguishable from tp2 in throughput per GPU, the cheaper one taken"
    );
    assert!(selection.notes[0].ends_with("tp1 is cheaper and was taken"), "{:?}", selection.notes);
    assert_eq!(selection.prefill[0].score, 3000.0 / 89.5 / 2.0 * 1e3, "as good as the fastest");

    // Intervals of ± 1 % each: a difference of 3 % is one.
    let clearly_faster = per_gpu(prefill_point(1, 3000, 1, 87.3), 2.0);
    let selection = select(&job(), &[clearly_faster, prefill_point(0, 3000, 1, 180.0)]);
    assert_eq!(selection.prefill[0].candidate, 1);
    assert!(selection.notes.is_empty(), "{:?}", selection.notes);
}

#[test]
fn an_end_to_end_target_is_met_by_pairs() {
    let mut job = job();
    (job.sla.ttft_ms, job.sla.itl_ms, job.sla.e2e_ms) = (None, None, Some(2000.0));
    // 149 · 8 + 180 = 1372; 149 · 17.9 + 110 = 2777; 149 · 5 + …; only the lowest loads meet it.
    let selection = select(&job, &seed_points());
    assert_eq!((selection.decode[0].candidate, selection.decode[0].concurrency), (2, 1));
    assert_eq!(selection.prefill[0].candidate, 0);
    assert!(selection.prefill[0].meets_sla && selection.prefill[0].reason.contains("with decode tp1 at 1"));
    // Truth by hand: p = 16667/3000 = 5.556, d = 125/150 = 0.8333 -> 0.7246.
    assert!((selection.prefill[0].score - 0.724_64).abs() < 1e-4, "{}", selection.prefill[0].score);

    job.sla.e2e_ms = Some(500.0);
    let selection = select(&job, &seed_points());
    assert!(!selection.prefill[0].meets_sla);
    assert_eq!((selection.prefill[0].candidate, selection.decode[0].candidate), (1, 3), "lowest latency pair");
}

#[test]
fn the_look_with_more_samples_counts_and_other_lengths_do_not() {
    let (mut again, other_isl) = (prefill_point(0, 3000, 1, 190.0), prefill_point(0, 100, 1, 1.0));
    (again.osl, again.samples) = (6, 64);
    let selection = select(&job(), &[prefill_point(0, 3000, 1, 180.0), again, other_isl]);
    assert!((selection.prefill[0].score - 3000.0 / 0.190).abs() < 1.0, "{}", selection.prefill[0].score);
}

#[test]
fn a_full_kv_cache_is_named_as_the_ceiling() {
    let mut history = history(&[decode_point(2, 3000, 150, 32, 10.0)]);
    history.facts.push(Facts { candidate: 2, kv_tokens: 33 * 3150 - 1, max_running: 256, launch_seconds: 1.0 });
    let selection = SelectThroughput::select(&job(), &Demand::Budget, &candidates(), &history).unwrap();
    assert_eq!(selection.decode[0].binding, "kv-cache");
}

#[test]
fn winners_beyond_the_budget_are_said() {
    let mut job = job();
    job.hardware.total_gpus = 1;
    assert!(select(&job, &seed_points()).notes[0].contains("need 2 GPUs for one engine each, but 1 may be used"));
}

#[test]
fn nothing_measured_is_an_empty_ranking_with_a_note() {
    let selection = select(&job(), &[]);
    assert!(selection.prefill.is_empty() && selection.decode.is_empty());
    assert_eq!(selection.notes.len(), 2);
}

#[test]
fn settings_are_refused() {
    let mut job = job();
    job.settings = vec![("x".into(), "1".into())];
    let answer = SelectThroughput::select(&job, &Demand::Budget, &candidates(), &history(&[]));
    assert!(matches!(answer, Err(Error::BadSetting(_))));
}

proptest! {
    /// Against the definition, over random points: the winner meets the SLA if any does, and none that does is better.
    #[test]
    fn the_winner_is_the_argmax(rows in prop::collection::vec((0u32..4, 1u32..300, 1.0f64..400.0), 1..40), e2e in any::<bool>()) {
        let mut job = job();
        if e2e {
            (job.sla.ttft_ms, job.sla.itl_ms, job.sla.e2e_ms) = (None, None, Some(8000.0));
        }
        let rows: Vec<_> = rows.into_iter().map(|(id, concurrency, ms)| if id < 2 {
            per_gpu(prefill_point(id, 3000, concurrency, ms), f64::from(id + 1))
        } else {
            per_gpu(decode_point(id, 3000, 150, concurrency, ms / 4.0), f64::from(id - 1))
        }).collect();
        let selection = select(&job, &rows);
        for ranking in [&selection.prefill, &selection.decode] {
            for pair in ranking.windows(2) {
                prop_assert!((pair[0].meets_sla && !pair[1].meets_sla)
                    || (pair[0].meets_sla == pair[1].meets_sla && pair[0].score >= pair[1].score));
                prop_assert_ne!(pair[0].candidate, pair[1].candidate);
            }
        }
        if !e2e {
            let last = |m: &Measurement| rows.iter().rfind(|n| n.candidate == m.candidate && n.concurrency == m.concurrency) == Some(m);
            let ok: Vec<_> = rows.iter().filter(|m| last(m) && m.itl_ms.is_some_and(|s| s.target <= 20.0)).collect();
            let best = ok.iter().map(|m| m.output_tokens_per_second_per_gpu).fold(f64::NEG_INFINITY, f64::max);
            if let Some(first) = selection.decode.first() {
                prop_assert_eq!(first.meets_sla, !ok.is_empty());
                if first.meets_sla { prop_assert_eq!(first.score, best); }
            }
        }
    }
}
