"""planner-linear: replicas without queues, as a spreadsheet would do it.

Prefill engines are filled to `headroom` of what they do one prompt at a time, decode engines to the highest load that was
measured within the ITL target. Waiting is not modelled, which the plan says.
"""

from math import ceil, isfinite, nan

from guarded import guarded
from wit_world import exports
from wit_world.exports.about import Description, Setting
from wit_world.exports.model import DeploymentPlan
from wit_world.imports.types import Demand_Concurrency, Demand_RequestsPerSecond, Error_BadSetting, Error_Other
from componentize_py_types import Err

HEADROOM = Setting("headroom", "0.8", "highest load of an engine, as a fraction of what it could do, 0.05 to 1")


class About(exports.About):
    @guarded
    def describe(self) -> Description:
        return Description("planner-linear", "0.1.0", "Replicas in proportion to the demand, without queues.", [HEADROOM])


class Model(exports.Model):
    @guarded
    def plan(self, job, engines, curves, demand) -> DeploymentPlan:
        share = headroom(dict(job.settings).get(HEADROOM.name, HEADROOM.default))
        isl, osl = job.workload.isl, job.workload.osl
        ttft_ms = nearest_ttft_ms(curves.prefill, isl)
        itl_ms, load = best_decode(curves.decode, isl, osl, job.sla.itl_ms)
        # Requests per second that one engine of each role takes.
        prefill_rate = share * 1e3 * max(1, engines.prefill.attention_dp) / ttft_ms
        decode_rate = share * 1e3 * load / (itl_ms * osl)

        total = job.hardware.total_gpus
        gpus = lambda p, d: p * engines.prefill.gpus + d * engines.decode.gpus
        if isinstance(demand, Demand_RequestsPerSecond):
            wanted = demand.value
        elif isinstance(demand, Demand_Concurrency):
            wanted = demand.value / ((ttft_ms + itl_ms * osl) / 1e3)  # Little's law
        else:
            wanted = float("inf")
        most = max(1, total)
        pairs = [(p, d) for p in range(1, most + 1) for d in range(1, most + 1) if gpus(p, d) <= total] or [(1, 1)]
        capacity = lambda pair: min(pair[0] * prefill_rate, pair[1] * decode_rate)
        enough = [pair for pair in pairs if capacity(pair) >= wanted]
        # The fewest GPUs that do; where none do, the most that the budget serves.
        p, d = min(enough, key=lambda pair: (gpus(*pair), pair)) if enough else max(pairs, key=lambda q: (capacity(q), -gpus(*q)))
        served = min(capacity((p, d)), wanted)
        meets = lambda value, limit: limit is None or value <= limit
        e2e_ms = ttft_ms + itl_ms * osl
        sla = job.sla
        return DeploymentPlan(
            prefill_replicas=p,
            decode_replicas=d,
            capacity_requests_per_second=capacity((p, d)),
            prefill_requests_per_second=p * prefill_rate,
            decode_requests_per_second=d * decode_rate,
            decode_concurrency=max(1, ceil(served * itl_ms * osl / 1e3 / d)),
            expected_ttft_ms=ttft_ms,
            expected_itl_ms=itl_ms,
            meets_sla=meets(ttft_ms, sla.ttft_ms) and meets(itl_ms, sla.itl_ms) and meets(e2e_ms, sla.e2e_ms),
            meets_demand=bool(enough) or wanted == float("inf"),
            assumptions=[f"Engines run at {share:.0%} of what they could do; waiting is not modelled."],
            extra=[],
        )


def headroom(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = nan
    if not 0.05 <= value <= 1:
        raise Err(Error_BadSetting(f'headroom is "{text}", but must be a number from 0.05 to 1'))
    return value


def nearest_ttft_ms(curve, isl: int) -> float:
    """TTFT in the SLA's statistic, at the measured input length nearest to `isl`, in proportion to the length."""
    points = [(abs(n - isl), n, ms) for n, ms in zip(curve.isl, curve.ttft_ms.target) if isfinite(ms) and ms > 0]
    if not points:
        raise Err(Error_Other("nothing was measured of the prefill engine"))
    _, n, ms = min(points)
    return ms * isl / n


def best_decode(curve, isl: int, osl: int, limit_ms: float | None) -> tuple[float, int]:
    """ITL and load of the highest load within the target, at the lengths nearest to the job's; else of the lowest load."""
    points = [
        (abs(i - isl) + abs(o - osl), n, ms)
        for i, o, n, ms in zip(curve.isl, curve.osl, curve.concurrency, curve.itl_ms.target)
        if isfinite(ms) and ms > 0
    ]
    if not points:
        raise Err(Error_Other("nothing was measured of the decode engine"))
    nearest = min(distance for distance, _, _ in points)
    loads = sorted((n, ms) for distance, n, ms in points if distance == nearest)
    within = [point for point in loads if limit_ms is None or point[1] <= limit_ms]
    n, ms = within[-1] if within else loads[0]
    return ms, n
