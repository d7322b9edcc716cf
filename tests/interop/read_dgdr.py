"""Says which DGDRs Dynamo's profiler takes: JSON lines `{"name", "text"}` in, `{"name", "accepts", "reason"}` out.

A document passes when NVIDIA's pydantic model takes its spec and the profiler's own gates let it through, after what the
operator fills in by itself (image, GPUs per node, budget) has been filled in where it is absent.
"""

import json
import sys

import yaml

OPERATOR = {"image": "registry.invalid/dynamo-planner:1.6.1", "hardware": {"numGpusPerNode": 8, "totalGpus": 8}}


def spec(text: str) -> object:
    """The spec of a resource, or the document itself if it is a bare spec."""
    document = yaml.safe_load(text)
    if isinstance(document, dict) and ("spec" in document or "kind" in document):
        return document.get("spec")
    return document


def completed(spec: object) -> object:
    if not isinstance(spec, dict):
        return spec
    spec = {**spec, "image": spec["image"] if spec.get("image") is not None else OPERATOR["image"]}
    hardware = spec.get("hardware")
    if hardware is None:
        spec["hardware"] = OPERATOR["hardware"]
    elif isinstance(hardware, dict):
        known = {key: value for key, value in hardware.items() if value is not None}
        spec["hardware"] = {**OPERATOR["hardware"], **known}
    return spec


def problem(text: str) -> str | None:
    from dynamo.profiler.utils.dgdr_v1beta1_types import DynamoGraphDeploymentRequestSpec
    from dynamo.profiler.utils.dgdr_validate import valid_dgdr_spec, validate_dgdr_dynamo_features

    try:
        read = DynamoGraphDeploymentRequestSpec.model_validate(completed(spec(text)))
        validate_dgdr_dynamo_features(valid_dgdr_spec(read), aic_supported=True)
    except (ValueError, yaml.YAMLError) as error:
        return str(error)
    return None


def main() -> None:
    for line in sys.stdin:
        document = json.loads(line)
        reason = problem(document["text"])
        print(json.dumps({"name": document["name"], "accepts": reason is None, "reason": reason}))


if __name__ == "__main__":
    main()
