"""The tree: what survives a round trip, what is refused, and why."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from serve.config import Config
from serve.config_models import VariantConfig
from serve.config_section import FaultsError

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)


def echo(name: str = "a", **changes: Any) -> dict[str, Any]:
    return {"name": name, "engine": "echo", "accelerator": "cpu", **changes}


def tree(*variants: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"models": [{"name": "m", "variants": list(variants or [echo()])}], **changes}


def faults_of(value: dict[str, Any]) -> dict[str, str]:
    """Every contradiction that is found in a tree, by key."""
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(value)
    found: dict[str, str] = {}
    for details in caught.value.errors():
        if isinstance(error := details["ctx"].get("error"), FaultsError):
            found |= {fault.key: fault.message for fault in error.faults}
    return found


@settings(deadline=None)
@given(
    names=st.lists(NAMES, min_size=1, max_size=4, unique=True),
    replicas=st.integers(1, 8),
    quality=st.floats(0.01, 1.0),
    step_s=st.floats(0, 1),
)
def test_json_brings_back_the_same_tree(
    names: list[str], replicas: int, quality: float, step_s: float
) -> None:
    variants = [
        echo(name, min_replicas=replicas, quality=quality, echo={"decode_step_s": step_s})
        for name in names
    ]
    config = Config.model_validate(tree(*variants))
    assert Config.model_validate(config.model_dump(mode="json")) == config
    assert Config.model_validate_json(config.model_dump_json()) == config


@settings(deadline=None)
@given(least=st.integers(1, 20), most=st.integers(1, 20))
def test_replica_bounds_are_accepted_exactly_when_they_are_in_order(least: int, most: int) -> None:
    variant = echo(min_replicas=least, max_replicas=most)
    if least <= most:
        assert VariantConfig.model_validate(variant).max_replicas == most
    else:
        assert set(faults_of(tree(variant))) == {"min_replicas"}


def test_values_are_frozen() -> None:
    config = Config.model_validate(tree())
    with pytest.raises(ValidationError):
        config.models[0].variants[0].max_batch = 1  # type: ignore[misc]


# Of these the chart refuses the same (tests/chart).
IMPOSSIBLE: list[dict[str, Any]] = [
    {"max_batch": 0},
    {"quality": 1.5},
    {"quality": 0},
    {"min_replicas": 0},
    {"tensor_parallel_size": 0},
    {"name": "Upper"},
    {"echo": {"decode_step_s": -1}},
    {"kv_cache_gib": float("inf")},
    {"unknown": 1},
]


@pytest.mark.parametrize("change", IMPOSSIBLE)
def test_an_impossible_value_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        VariantConfig.model_validate(echo() | change)


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"accelerator": "abacus"}, "accelerator"),
    ({"tensor_parallel_size": 2}, "tensor_parallel_size"),
    ({"pipeline_parallel_size": 2}, "pipeline_parallel_size"),
    ({"quantization": "fp8"}, "quantization"),
    ({"engine_options": {"seed": 1}}, "engine_options"),
    ({"engine": "vllm", "kv_cache_gib": 1}, "checkpoint"),
    ({"engine": "vllm", "checkpoint": {"hub": "a/b"}}, "kv_cache_gib"),
]


@pytest.mark.parametrize(("change", "key"), CONTRADICTIONS)
def test_a_contradiction_names_the_key_to_change(change: dict[str, Any], key: str) -> None:
    assert key in faults_of(tree(echo() | change))


def test_a_checkpoint_names_exactly_one_place() -> None:
    for checkpoint in ({}, {"hub": "a/b", "package": "c"}, {"path": "x", "revision": "main"}):
        assert faults_of(tree(echo(engine="vllm", kv_cache_gib=1, checkpoint=checkpoint)))


def test_all_contradictions_of_the_whole_are_found_at_once() -> None:
    value = tree(
        echo("a"),
        echo("a"),
        service_classes={"fast": {"ttft_s": 1, "tpot_s": 0.1}},
    )
    assert set(faults_of(value)) == {
        "models.0.variants.0.name",
        "models.0.variants.1.name",
        "models.0.default_service_class",
    }


def test_a_default_class_that_no_variant_can_satisfy_is_refused() -> None:
    classes = {"standard": {"ttft_s": 1, "tpot_s": 0.1, "min_quality": 0.9}}
    found = faults_of(tree(echo(quality=0.5), service_classes=classes))
    assert set(found) == {"models.0.default_service_class"}


def test_gateway_ports_differ() -> None:
    assert set(faults_of(tree(gateway={"grpc_port": 8000}))) == {"http_port"}


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    found = faults_of(tree(scheduler={"policy": "astrology"}))
    assert "energy" in found["policy"]
    assert "round_robin" in found["policy"]


CORES = {"name": "cores", "accelerator": "cpu", "accelerators_per_node": 4, "max_nodes": 2}
LABELLED = CORES | {"node_labels": {"pool": ["a"]}}


GROUPS: list[tuple[list[dict[str, Any]], str, tuple[str, ...]]] = [
    ([], "kubernetes", ("node_groups",)),
    ([CORES], "ray", ()),
    ([CORES], "kubernetes", ("node_groups.0.node_labels",)),
    ([LABELLED], "kubernetes", ()),
    ([LABELLED, LABELLED], "kubernetes", ("node_groups.1.name", "node_groups.0.accelerator")),
    ([CORES | {"workers_per_node": 3}], "ray", ("workers_per_node",)),
    ([CORES | {"workers_per_node": 4}], "ray", ("node_groups.0.accelerators_per_node",)),
    ([CORES | {"workers_per_node": 2}], "ray", ()),
]


@pytest.mark.parametrize(("groups", "nodes", "keys"), GROUPS)
def test_node_groups_can_be_told_apart_and_hold_their_replicas(
    groups: list[dict[str, Any]], nodes: str, keys: tuple[str, ...]
) -> None:
    value = tree(echo(cpus_per_replica=2), node_groups=groups, planner={"nodes": nodes})
    if keys:
        assert faults_of(value).keys() >= set(keys)
    else:
        Config.model_validate(value)
