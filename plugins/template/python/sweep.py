"""my-plugin: doubles the load of each decode engine until the ITL target breaks."""

from componentize_py_types import Err
from guarded import guarded
from wit_world import exports
from wit_world.exports.about import Description, Setting
from wit_world.exports.strategy import (
    Goal_Decode,
    Goal_DecodeCurve,
    Goal_Prefill,
    Goal_PrefillCurve,
    Step_Done,
    Step_Measure,
)
from wit_world.imports.types import Error_BadSetting, Probe, Role

SAMPLES = Setting("samples", "64", "samples per point at most, 1 to 10000")
CURVE_POINTS = 6  # per axis
PREFILL_OSL = 5  # as few tokens as give a TTFT


class About(exports.About):
    @guarded
    def describe(self) -> Description:
        summary = "Doubles the load of each decode engine until the ITL target breaks."
        return Description("my-plugin", "0.1.0", summary, [SAMPLES])


class Strategy(exports.Strategy):
    @guarded
    def next(self, job, goal, candidates, history):
        """What to measure next; called again and again, with all that was measured so far, until it says `done`."""
        sweep = Sweep(job, candidates, history, samples(dict(job.settings).get(SAMPLES.name, SAMPLES.default)))
        probes = [probe for probe in sweep.points(goal) if not sweep.is_settled(probe)]
        if not probes:
            return Step_Done(f"{len(history.measurements.candidate)} points are measured")
        return Step_Measure(probes)


class Sweep:
    def __init__(self, job, candidates, history, samples: int):
        self.job, self.candidates, self.samples = job, candidates, samples
        m, facts, failures = history.measurements, history.facts, history.failures
        self.measured = dict(zip(zip(m.candidate, m.isl, m.osl, m.concurrency), m.itl_ms.target))
        self.facts = dict(zip(facts.candidate, zip(facts.kv_tokens, facts.max_running)))
        self.failed = set(zip(failures.candidate, failures.isl, failures.osl, failures.concurrency))
        # A failure at concurrency 0 is the engine's own: there is no use in asking for more of it.
        self.broken = {candidate for candidate, _, _, concurrency in self.failed if concurrency == 0}

    def points(self, goal) -> list[Probe]:
        isl, osl = self.job.workload.isl, self.job.workload.osl
        if isinstance(goal, Goal_Prefill):
            return [self.probe(c, isl, PREFILL_OSL, self.ranks(c)) for c in self.of(Role.PREFILL)]
        if isinstance(goal, Goal_Decode):
            return [probe for c in self.of(Role.DECODE) for probe in self.doubling(c)]
        curve = goal.value
        c, ranks = curve.candidate, self.ranks(curve.candidate)
        if isinstance(goal, Goal_PrefillCurve):
            return [self.probe(c, n, PREFILL_OSL, ranks) for n in self.lengths(curve, PREFILL_OSL)]
        assert isinstance(goal, Goal_DecodeCurve)
        lengths = self.lengths(curve, osl)
        return [self.probe(c, n, osl, k * ranks) for n in lengths for k in spaced(1, self.room(c, n) // ranks)]

    def doubling(self, c: int) -> list[Probe]:
        """The first load of the series that is not measured yet, unless the series has ended."""
        isl, osl, limit_ms = self.job.workload.isl, self.job.workload.osl, self.job.sla.itl_ms
        load = self.ranks(c)
        while (c, isl, osl, load) in self.measured:
            broken = limit_ms is not None and self.measured[c, isl, osl, load] > limit_ms
            load *= 2
            if broken or load > self.room(c, isl):
                return []
        return [self.probe(c, isl, osl, load)]

    def probe(self, c: int, isl: int, osl: int, concurrency: int) -> Probe:
        return Probe(c, isl, osl, concurrency, relative_precision=0.02, max_samples=self.samples)

    def is_settled(self, p: Probe) -> bool:
        point = (p.candidate, p.isl, p.osl, p.concurrency)
        return point in self.measured or point in self.failed or p.candidate in self.broken

    def of(self, role) -> list[int]:
        return [c for c, of in enumerate(self.candidates.role) if of == role]

    def ranks(self, c: int) -> int:
        return max(1, self.candidates.attention_dp[c])

    def room(self, c: int, isl: int) -> int:
        """Requests that fit the engine's KV cache; unknown before it has run."""
        kv_tokens, max_running = self.facts.get(c, (0, 0))
        return max(self.ranks(c), min(max_running, kv_tokens // (isl + self.job.workload.osl)))

    def lengths(self, curve, osl: int) -> list[int]:
        return spaced(curve.min_isl, max(curve.min_isl, min(curve.max_isl, self.job.model.max_context - osl)))


def spaced(least: int, most: int) -> list[int]:
    """Whole numbers from `least` to `most`, both included, without repeats."""
    return sorted({least + (most - least) * i // (CURVE_POINTS - 1) for i in range(CURVE_POINTS)})


def samples(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 10000):
        raise Err(Error_BadSetting(f'samples is "{text}", but must be a whole number from 1 to 10000'))
    return int(text)
