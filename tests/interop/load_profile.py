"""Reads a run directory with Dynamo's own loaders: `load_profile.py [--planner-only] RUN`.

RUN holds what `sla-profiler profile` wrote. Prints, as JSON, what the planner, the mocker and the profiler of
NVIDIA's packages made of it; the test compares. Nothing here needs a server, and the replay's clock is virtual.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml

PLANNER, PROFILE = "planner-config-", "planner-profile-data-"


def documents(path: Path) -> list[dict]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def config_map(documents: list[dict], prefix: str) -> dict[str, str]:
    """The data of the ConfigMap whose name starts so."""
    maps = [d for d in documents if d["kind"] == "ConfigMap" and d["metadata"]["name"].startswith(prefix)]
    assert len(maps) == 1, f"{len(maps)} ConfigMaps are called {prefix}..."
    return maps[0]["data"]


def planner(folder: Path, fitted: bool = True) -> dict:
    """The planner's own chain: no worker to ask, no simulator, so the files."""
    from dynamo.planner.config.defaults import SubComponentType
    from dynamo.planner.monitoring.perf_metrics import fetch_pre_deployment_metrics
    from dynamo.planner.monitoring.worker_info import WorkerInfo

    def fetch(role: SubComponentType) -> list:
        return asyncio.run(fetch_pre_deployment_metrics(None, "test", WorkerInfo(), str(folder), role))

    prefill, decode = fetch(SubComponentType.PREFILL), fetch(SubComponentType.DECODE)
    return {
        "prefill": [[m.scheduled_requests.sum_prefill_tokens, m.wall_time * 1e3] for m in prefill],
        "decode": [
            [m.scheduled_requests.num_decode_requests, m.scheduled_requests.sum_decode_kv_tokens, m.wall_time * 1e3]
            for m in decode
        ],
        "fit": fit(prefill, decode) if fitted else None,
    }


def fit(prefill: list, decode: list) -> dict:
    """The planner's regressions on them: the mean error in per cent, and what it would scale by."""
    from dynamo.planner.core.perf_model import DecodeRegressionModel, PrefillRegressionModel

    p = PrefillRegressionModel(max_num_fpm_samples=64)
    p.load_benchmark_fpms(prefill)
    d = DecodeRegressionModel(max_num_fpm_samples=64)
    d.load_benchmark_fpms(decode)
    prefill_rps, ttft_ms = p.find_best_engine_prefill_rps(ttft_sla=300, isl=3000)
    decode_rps, itl_ms = d.find_best_engine_decode_rps(itl=10, context_length=3150, osl=300)
    return {
        "decode_itl_one_request_ms": d._predict_2d(1, 3150) * 1e3,
        "prefill_rps": prefill_rps,
        "ttft_ms": ttft_ms,
        "decode_rps": decode_rps,
        "itl_ms": itl_ms,
    }


def mocker(folder: Path) -> dict:
    """The mocker's conversion of a folder, and a replay on the table that comes out."""
    from dynamo._core import run_mocker_synthetic_trace_replay
    from dynamo.mocker.args import resolve_planner_profile_data
    from dynamo.mocker.config import normalize_mocker_config
    from dynamo.mocker.utils.planner_profiler_perf_data_converter import is_mocker_format_npz, is_profile_results_dir

    assert is_profile_results_dir(folder), "the mocker does not take it for a profile"
    resolved = resolve_planner_profile_data(folder)
    assert is_mocker_format_npz(resolved.npz_path)
    table = {key: value.copy() for key, value in np.load(resolved.npz_path).items()}
    timing = {"type": "external", "provider": "dynamo_profile", "config": {"path": str(resolved.npz_path)}}
    config = normalize_mocker_config({"engine": {"timing_model": timing, "num_gpu_blocks": 65536, "block_size": 16}})
    result = run_mocker_synthetic_trace_replay(3000, 50, 4, extra_engine_args=config, replay_concurrency=1)
    nearest = int(np.searchsorted(table["prefill_isl"], 3000))
    return {
        "shapes": {key: [str(value.dtype), list(value.shape)] for key, value in table.items()},
        "finite": bool(all(np.isfinite(value).all() for value in table.values())),
        "ttft_in_table_ms": float(table["prefill_ttft_ms"][nearest]),
        "replayed_ttft_ms": result.summary["mean_ttft_ms"],
        "replayed_itl_ms": result.summary["mean_tpot_ms"],
    }


def deployment(documents: list[dict]) -> dict:
    """Command lines of the deployment, read by the programs that they are for; containers' paths exist there only."""
    from dynamo.frontend.frontend_args import FrontendArgGroup
    from dynamo.mocker.args import parse_args

    graph = next(d for d in documents if d["kind"] == "DynamoGraphDeployment")
    read = {}
    for component in graph["spec"]["components"]:
        container = component["podTemplate"]["spec"]["containers"][0]
        module, arguments = container["command"][-1], container.get("args", [])
        if module == "dynamo.mocker":
            parsed = vars(parse_args(arguments))
            read[component["name"]] = {key: value for key, value in parsed.items() if isinstance(value, (str, int, float))}
        elif module == "dynamo.frontend":
            parser = argparse.ArgumentParser()
            FrontendArgGroup().add_arguments(parser)
            parser.parse_args(arguments)
            read[component["name"]] = {}
    return read


def planner_config(text: str) -> dict:
    from dynamo.planner.config.planner_config import PlannerConfig

    return json.loads(PlannerConfig.model_validate_json(text).model_dump_json(exclude_unset=True))


def main(run: Path) -> None:
    from dynamo.profiler.utils.dgd_generation import _load_profiling_data

    final, mocked = documents(run / "final_config.yaml"), documents(run / "mocker_config_with_planner.yaml")
    with tempfile.TemporaryDirectory() as folder:
        # As the ConfigMap is mounted.
        for name, text in config_map(final, PROFILE).items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        as_json = {"planner": planner(Path(folder)), "mocker": mocker(Path(folder))}
    as_npz = {"planner": planner(run), "mocker": mocker(run)}
    said = {
        "npz": as_npz,
        "json": as_json,
        "profiler": _load_profiling_data(str(run)),
        "planner_config": planner_config(config_map(final, PLANNER)["planner_config.json"]),
        "mocker_planner_config": planner_config(config_map(mocked, PLANNER)["planner_config.json"]),
        "mocker_deployment": deployment(mocked),
    }
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    if sys.argv[1] == "--planner-only":
        # Too few points for its regression.
        json.dump(planner(Path(sys.argv[2]), fitted=False), sys.stdout)
    else:
        main(Path(sys.argv[1]))
