"""What Ray Serve is told, checked against Ray Serve's own schema."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serve import deployment, rollout
from serve.config import Config
from serve.config_models import VariantConfig

HUB = {"hub": "organisation/model"}


def variant(**changes: Any) -> VariantConfig:
    value = {"name": "a", "accelerator": "h100-sxm", "checkpoint": HUB, **changes}
    return VariantConfig.model_validate(value)


def config(*variants: VariantConfig, **changes: Any) -> Config:
    models = [{"name": "m", "variants": [each.model_dump() for each in variants or [variant()]]}]
    return Config.model_validate({"models": models, **changes})


def test_ray_accepts_the_configuration_and_keeps_all_of_it() -> None:
    schema = pytest.importorskip("ray.serve.schema")
    told = deployment.serve_config(config(gateway={"grpc_port": 9100, "host": "0.0.0.0"}))
    parsed = schema.ServeDeploySchema.model_validate(json.loads(json.dumps(told)))
    assert parsed.grpc_options.port == 9100
    assert parsed.http_options.host == "0.0.0.0"
    assert parsed.grpc_options.grpc_servicer_functions == list(deployment.SERVICERS)
    assert parsed.applications[0].import_path == deployment.IMPORT_PATH


def test_the_application_gets_the_same_configuration() -> None:
    original = config(variant(name="a"), variant(name="b", quality=0.9))
    (application,) = deployment.serve_config(original)["applications"]
    assert Config.model_validate(json.loads(json.dumps(application["args"]))) == original


def test_what_only_the_planner_knows_replaces_nothing() -> None:
    def args(**changes: Any) -> dict[str, Any]:
        other = variant(name="b", min_replicas=0, **{"max_replicas": 2, **changes})
        (application,) = deployment.serve_config(config(variant(), other))["applications"]
        Config.model_validate(application["args"])
        arguments: dict[str, Any] = application["args"]
        return arguments

    assert args() == args(candidate=True) == args(max_replicas=3)
    assert args() != args(max_batch=9)


def test_every_servicer_can_be_imported() -> None:
    import importlib

    for path in deployment.SERVICERS:
        module, _, name = path.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))


def test_a_cpu_variant_asks_for_its_cores_and_no_gpu() -> None:
    cpu = variant(accelerator="cpu", kv_cache_gib=1, cpus_per_replica=2)
    options = deployment.variant_options(cpu, {"OMP_NUM_THREADS": "2"})
    assert options["ray_actor_options"] == {
        "num_cpus": 2,
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "2"}},
    }
    assert "placement_group_bundles" not in options


def test_a_gpu_variant_asks_for_one_of_its_kind() -> None:
    actor = deployment.variant_options(variant(), {})["ray_actor_options"]
    assert (actor["num_gpus"], actor["accelerator_type"]) == (1, "H100")


@pytest.mark.parametrize(
    ("tensor", "pipeline", "strategy"), [(4, 1, "STRICT_PACK"), (2, 2, "PACK"), (1, 2, "PACK")]
)
def test_a_parallel_variant_asks_for_a_bundle_for_each_rank(
    tensor: int, pipeline: int, strategy: str
) -> None:
    parallel = variant(tensor_parallel_size=tensor, pipeline_parallel_size=pipeline)
    options = deployment.variant_options(parallel, {})
    bundles = options["placement_group_bundles"]
    assert len(bundles) == tensor * pipeline
    assert all(bundle["GPU"] == 1 for bundle in bundles)
    assert bundles[0]["CPU"] >= options["ray_actor_options"]["num_cpus"]
    assert "num_gpus" not in options["ray_actor_options"]
    assert options["placement_group_strategy"] == strategy


def test_what_is_required_counts_every_rank_of_every_replica() -> None:
    two = config(
        variant(name="a", tensor_parallel_size=2, min_replicas=3, max_replicas=3),
        variant(name="b", accelerator="cpu", kv_cache_gib=1, cpus_per_replica=0.5),
    )
    assert deployment.required_gpus(two) == 6
    assert deployment.required_cpus(two) == 6.5


def details(status: str, **changes: Any) -> dict[str, Any]:
    replica = {"replica_id": "r", "state": "STARTING", "start_time_s": 90.0}
    engine = {"target_num_replicas": 2, "replicas": [replica], "message": ""}
    application = {"status": status, "message": "", "deployments": {"a": engine}, **changes}
    return {"applications": {deployment.APPLICATION: application}}


def test_a_rollout_is_read_from_rays_own_account() -> None:
    state = rollout.read(details("DEPLOYING"), now_s=100.0)
    assert state.wanted == {"a": 2}
    assert (state.replicas[0].state, state.replicas[0].age_s) == ("starting", 10.0)
    assert not state.running
    assert not state.failed


def test_a_rollout_ends_well_or_badly() -> None:
    assert rollout.read(details("RUNNING"), now_s=0).running
    assert rollout.read(details("DEPLOY_FAILED", message="why"), now_s=0).failed
    assert rollout.read({"applications": {}}, now_s=0).status == "not_started"


def test_the_telling_line_of_a_traceback_is_its_error() -> None:
    text = "Traceback:\n  File x\nValueError: no such thing\n\nduring handling\n"
    assert rollout.last_line(text) == "ValueError: no such thing"
