"""`PYTHONPATH=<bindings> python3 test_app.py`: the planner under plain Python. The README says how to make the bindings."""

import unittest
from types import SimpleNamespace as Some

from wit_world.imports import log

LINES = []
log.write = lambda level, message: LINES.append((level, message))

import app  # noqa: E402
from componentize_py_types import Err  # noqa: E402
from wit_world.imports.types import Demand_Budget, Demand_Concurrency, Demand_RequestsPerSecond  # noqa: E402

ENGINES = Some(prefill=Some(gpus=1, attention_dp=1), decode=Some(gpus=2, attention_dp=1))
CURVES = Some(
    # 100 ms for 3000 tokens: 8 requests/s at 80 %.
    prefill=Some(isl=[1000, 3000], ttft_ms=Some(target=[35.0, 100.0])),
    # 20 requests at 8 ms and 250 tokens: 8 requests/s at 80 %; 40 requests miss the target.
    decode=Some(isl=[3000] * 3, osl=[250] * 3, concurrency=[1, 40, 20], itl_ms=Some(target=[5.0, 12.0, 8.0])),
)


def job(settings=(), itl_ms=10.0, total=8):
    return Some(
        settings=list(settings),
        workload=Some(isl=3000, osl=250),
        hardware=Some(total_gpus=total),
        sla=Some(ttft_ms=200.0, itl_ms=itl_ms, e2e_ms=None),
    )


class Plans(unittest.TestCase):
    def plan(self, demand, **kwargs):
        return app.Model().plan(job(**kwargs), ENGINES, CURVES, demand)

    def test_replicas_follow_the_demand(self):
        plan = self.plan(Demand_RequestsPerSecond(12.0))
        self.assertEqual((plan.prefill_replicas, plan.decode_replicas), (2, 2))
        self.assertAlmostEqual(plan.capacity_requests_per_second, 16.0)
        self.assertTrue(plan.meets_demand and plan.meets_sla)

    def test_a_concurrency_becomes_a_rate(self):
        # 2.1 s a request, so 21 in flight are 10 a second.
        plan = self.plan(Demand_Concurrency(21))
        self.assertEqual((plan.prefill_replicas, plan.decode_replicas), (2, 2))

    def test_without_a_demand_the_budget_is_used(self):
        plan = self.plan(Demand_Budget())
        self.assertEqual((plan.prefill_replicas, plan.decode_replicas), (2, 2))
        self.assertTrue(plan.meets_demand)

    def test_too_much_demand_is_said(self):
        self.assertFalse(self.plan(Demand_RequestsPerSecond(1000.0)).meets_demand)

    def test_a_target_out_of_reach_is_said(self):
        self.assertFalse(self.plan(Demand_RequestsPerSecond(1.0), itl_ms=1.0).meets_sla)

    def test_a_senseless_setting_is_refused(self):
        for text in ("2", "nan", "much"):
            with self.assertRaises(Err) as caught:
                self.plan(Demand_Budget(), settings=[("headroom", text)])
            self.assertEqual(type(caught.exception.value).__name__, "Error_BadSetting")

    def test_an_exception_becomes_a_message_with_its_place(self):
        with self.assertRaises(Err) as caught:
            app.Model().plan(None, ENGINES, CURVES, Demand_Budget())
        self.assertIn("AttributeError", caught.exception.value.value)
        self.assertIn("plan:", LINES[-1][1])

    def test_print_goes_to_the_log(self):
        print("hello", 1)
        self.assertEqual(LINES[-1][1], "hello 1")


if __name__ == "__main__":
    unittest.main()
