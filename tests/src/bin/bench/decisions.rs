//! Tables of whole decisions: one policy as a component, natively, and behind gRPC.

use std::path::Path;

use sla_profiler::plugin::Limits;
use sla_profiler::spec::{PluginChoice, PluginSource};
use sla_profiler_plugin as sdk;
use sla_profiler_plugin::SelectionPolicy as _;
use sla_profiler_plugin_select_cost::SelectCost;
use sla_profiler_plugin_select_throughput::SelectThroughput;
use sla_profiler_tests::guests;

use crate::figures::{spread, timed};
use crate::grpc::Remote;
use crate::plugins::{bundled, host};
use crate::question::Question;

/// A policy that there is in all three forms.
pub struct Policy {
    /// The bundled plugin's.
    pub name: &'static str,
    /// The same code as a function of this program.
    pub native: fn(&sdk::Job, &sdk::Demand, &sdk::Candidates, &sdk::History) -> Result<sdk::Selection, sdk::Error>,
}

/// All of them.
pub const POLICIES: [Policy; 2] = [
    Policy { name: "select-throughput", native: SelectThroughput::select },
    Policy { name: "select-cost", native: SelectCost::select },
];

/// Beyond this the answer is larger than a plugin may give by default.
const DEFAULT_LIMITS_UP_TO: u32 = 10_000;

/// The policies over so many candidates, so many times each.
pub fn decisions(cache: &Path) {
    let [throughput, cost] = &POLICIES;
    let mut remote = Remote::start();
    let sizes = [(10, 1001), (100, 1001), (1_000, 101), (10_000, 11), (100_000, 5)];
    table(throughput, &mut remote, cache, &sizes);
    table(cost, &mut remote, cache, &[(10, 201), (100, 21), (1_000, 3)]);
}

/// One policy as a component, with a store of its own for every decision as in every run; against the same code in this
/// program on input that is there already; against the same code behind gRPC; and against a component that always gives
/// the same answer: what is left there is the host's part.
fn table(policy: &Policy, remote: &mut Remote, cache: &Path, sizes: &[(u32, usize)]) {
    let host = host(Some(cache.to_owned()));
    println!("Decisions of {}, in µs; the last column counts instructions.\n", policy.name);
    println!(
        "| candidates | native | component | gRPC | component − native | component / native | component / gRPC | component \
         that does nothing | fuel |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for &(count, rounds) in sizes {
        let question = Question::new(count, 64, sla_profiler::domain::Demand::RequestsPerSecond(5.0));
        let mut choice = bundled(policy.name);
        if count > DEFAULT_LIMITS_UP_TO {
            choice.limits.returned_mb = std::num::NonZeroU32::new(32);
        }
        let component = host.selection(&choice).expect("a bundled policy");
        let file = cache.join(format!("idle-{count}.wasm"));
        std::fs::write(&file, guests::ranks(&[(0, 1, "1")], &[(count - 1, 1, "1")])).expect("writable");
        // The hand-written guest has 4 MiB of memory, and keeps one of it for itself.
        let idle = (count <= 1_000)
            .then(|| host.selection(&PluginChoice::new(PluginSource::File(file.clone()))).expect("a policy"));
        let native = || {
            let (job, demand, candidates, history) = &question.native;
            (policy.native)(job, demand, candidates, history).expect("an answer")
        };
        let decided = question.ask(component.as_ref());
        let there = remote.ask(policy, &question);
        assert_eq!(there, decided.value, "the server gives the same answer as the component");
        let ours: Vec<_> = native().decode.into_iter().map(|c| (c.candidate, c.concurrency, c.reason)).collect();
        let theirs: Vec<_> = there.decode.into_iter().map(|c| (c.candidate, c.concurrency, c.reason)).collect();
        assert_eq!(ours, theirs, "and so does the function");
        let mut rows: Vec<[f64; 4]> = Vec::with_capacity(rounds);
        for round in 0..rounds {
            let a = || timed(native);
            let b = || timed(|| question.ask(component.as_ref()));
            let mut c = || timed(|| remote.ask(policy, &question));
            let d = || idle.as_ref().map_or(f64::NAN, |idle| timed(|| question.ask(idle.as_ref())));
            rows.push(if round % 2 == 0 {
                [a(), b(), c(), d()]
            } else {
                let (d, c, b, a) = (d(), c(), b(), a());
                [a, b, c, d]
            });
        }
        let column = |value: fn(&[f64; 4]) -> f64| spread(rows.iter().map(value).collect());
        println!(
            "| {count} | {} | {} | {} | {} | {} | {} | {} | {} |",
            column(|[a, _, _, _]| *a),
            column(|[_, b, _, _]| *b),
            column(|[_, _, c, _]| *c),
            column(|[a, b, _, _]| b - a),
            column(|[a, b, _, _]| b / a),
            column(|[_, b, c, _]| b / c),
            column(|[_, _, _, d]| *d),
            decided.cost.fuel,
        );
    }
    let limit = Limits::default().returned_bytes >> 20;
    println!(
        "\nMore than {DEFAULT_LIMITS_UP_TO} candidates with `returnedMb: 32` (default: {limit}), else the default limits.\n"
    );
}
