"""my-plugin: most tokens per second and GPU within the SLA."""

from math import isfinite

from componentize_py_types import Err
from guarded import guarded
from wit_world import exports
from wit_world.exports.about import Description
from wit_world.exports.policy import Choice, Selection
from wit_world.imports.types import Error_Unsupported, Role


class About(exports.About):
    @guarded
    def describe(self) -> Description:
        return Description("my-plugin", "0.1.0", "Most tokens per second and GPU within the SLA.", settings=[])


class Policy(exports.Policy):
    @guarded
    def select(self, job, demand, candidates, history) -> Selection:
        """Ranks what was measured, best first."""
        if job.sla.e2e_ms is not None:
            raise Err(Error_Unsupported("my-plugin knows no end-to-end target"))
        m = history.measurements
        return Selection(
            rank(job, candidates, m, Role.PREFILL, m.ttft_ms.target, m.input_tokens_per_second_per_gpu, job.sla.ttft_ms, "ttft"),
            rank(job, candidates, m, Role.DECODE, m.itl_ms.target, m.output_tokens_per_second_per_gpu, job.sla.itl_ms, "itl"),
            notes=[],
        )


def rank(job, candidates, m, role, latencies, rates, limit_ms, binding) -> list[Choice]:
    choices = []
    for row, candidate in enumerate(m.candidate):
        latency_ms, rate = latencies[row], rates[row]
        at_the_jobs_lengths = m.isl[row] == job.workload.isl and (role == Role.PREFILL or m.osl[row] == job.workload.osl)
        if candidates.role[candidate] != role or not at_the_jobs_lengths or not isfinite(latency_ms) or not isfinite(rate):
            continue
        meets_sla = limit_ms is None or latency_ms <= limit_ms
        choices.append(
            Choice(
                candidate=candidate,
                concurrency=m.concurrency[row],
                meets_sla=meets_sla,
                score=rate if meets_sla else -latency_ms,
                reason=f"{latency_ms:.1f} ms, {rate:.0f} tokens/s/GPU",
                binding="" if meets_sla else binding,
            )
        )
    # The last word makes the answer independent of the order of the input.
    choices.sort(key=lambda choice: (choice.meets_sla, choice.score, -choice.concurrency), reverse=True)
    best = {}
    for choice in choices:
        best.setdefault(choice.candidate, choice)
    return list(best.values())
