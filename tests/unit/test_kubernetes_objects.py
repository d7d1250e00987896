"""Kubernetes objects as values: what is read and counted, and what is said of them."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.kubernetes import reading
from cluster.kubernetes.objects import PRICE
from cluster.kubernetes.settings import PRODUCT_LABEL, KubernetesGroup
from cluster.kubernetes.states import Sight, states
from tests.kube.kubernetes_json import (
    GROUP,
    NEW,
    NOW_S,
    OLD,
    closed_by,
    node_json,
    pod_json,
    raycluster_json,
    settings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cluster.nodes import GroupState


def state(
    raycluster: dict[str, Any] | None = None,
    nodes: Iterable[dict[str, Any]] = (),
    pods: Iterable[dict[str, Any]] = (),
    events: Iterable[dict[str, Any]] = (),
    asked: int = 0,
    **overrides: Any,
) -> GroupState:
    refusals = [reading.refusal(event) for event in events]
    sight = Sight(
        observed_at_s=NOW_S,
        nodes=tuple(reading.node(node) for node in nodes),
        workers=tuple(reading.worker(pod) for pod in pods),
        raycluster=reading.raycluster(raycluster or raycluster_json()),
        refusals=tuple(each for each in refusals if each is not None),
    )
    return states(sight, settings(**overrides), {GROUP: asked})[GROUP]


# ── reading ─────────────────────────────────────────────────────────────────


@given(st.integers(1, 10**6), st.sampled_from(["", "m", "k", "Ki", "Gi"]))
def test_quantities_are_read(amount: int, suffix: str) -> None:
    factor = {"": 1, "m": 0.001, "k": 1000, "Ki": 1024, "Gi": 1 << 30}[suffix]
    assert math.isclose(reading.quantity(f"{amount}{suffix}"), amount * factor)


@given(st.text() | st.none() | st.booleans() | st.floats())
def test_what_is_no_quantity_is_nothing_to_count_on(text: object) -> None:
    amount = reading.quantity(text)
    assert math.isfinite(amount)
    assert amount >= 0


def _paths(item: object, way: tuple[Any, ...] = ()) -> Iterable[tuple[Any, ...]]:
    entries = (
        item.items()
        if isinstance(item, dict)
        else enumerate(item if isinstance(item, list) else ())
    )
    for key, value in entries:
        yield (*way, key)
        yield from _paths(value, (*way, key))


@pytest.mark.parametrize(
    ("read", "item"),
    [
        (reading.node, node_json()),
        (reading.worker, pod_json()),
        (reading.raycluster, raycluster_json()),
        (reading.refusal, {"reason": "FailedToCreateWorkerPod", "message": "m"}),
    ],
)
def test_anything_may_be_absent(read: Callable[[Any], object], item: dict[str, Any]) -> None:
    for *way, last in list(_paths(item)):
        for emptied in (True, False):
            partial = copy.deepcopy(item)
            at: Any = partial
            for step in way:
                at = at[step]
            if emptied and isinstance(at, dict):
                at[last] = None
            else:
                del at[last]
            read(partial)


def test_a_node_is_read() -> None:
    node = reading.node(node_json())
    assert (node.name, node.ready, node.cordoned, node.managed) == ("gpu-0", True, False, False)
    assert node.accelerators == {"nvidia.com/gpu": 8}
    assert (node.cpu_cores, node.carbon_region, node.price_per_h) == (63, "eu", None)


@pytest.mark.parametrize("price", ["free", "-1", "nan", "inf", ""])
def test_a_price_that_is_none_is_not_known(price: str) -> None:
    item = node_json()
    item["metadata"]["annotations"][PRICE] = price
    assert reading.node(item).price_per_h is None


def test_a_selector_takes_any_of_its_values_and_all_of_its_labels() -> None:
    node = reading.node(node_json())
    region = "topology.kubernetes.io/region"
    product = {PRODUCT_LABEL: ("NVIDIA-H100-PCIe", "NVIDIA-H100-80GB-HBM3")}
    assert node.matches(product)
    assert node.matches(product | {region: ("eu",)})
    assert not node.matches(product | {region: ("us",)})
    assert not node.matches({"no-such-label": ("",)})


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="selector"):
        KubernetesGroup({})
    with pytest.raises(ValueError, match="give a selector"):
        KubernetesGroup.of("cpu")
    with pytest.raises(ValueError, match="stale_after_s"):
        settings(stale_after_s=10.0)


# ── counting ────────────────────────────────────────────────────────────────


def test_nodes_that_replicas_cannot_start_on_do_not_count() -> None:
    bare = node_json("bare")
    del bare["status"]["allocatable"]["nvidia.com/gpu"]
    nodes = [node_json(), bare, node_json("down", ready="False"), closed_by("kubectl")]
    assert state(nodes=nodes).ready == 1


def test_a_group_without_gpus_counts_cores() -> None:
    cores = raycluster_json({"groupName": GROUP, "template": {}})
    assert state(cores, nodes=[node_json()]).accelerators_per_node == 63


def test_a_worker_that_waits_for_the_node_that_boots_is_no_second_node() -> None:
    booting = node_json(ready="False")
    booting["status"]["conditions"][1]["lastTransitionTime"] = NEW
    group = raycluster_json({"groupName": GROUP, "replicas": 1})
    assert state(group, nodes=[booting], pods=[pod_json(since=NEW)]).booting == 1


def test_nothing_wrong_is_no_trouble() -> None:
    running = pod_json(node="gpu-0")
    assert state(nodes=[node_json()], pods=[running]).trouble == ""


# ── trouble ─────────────────────────────────────────────────────────────────


def _refused(group: str, why: str) -> dict[str, Any]:
    message = f'Failed to create worker Pod default/, pods "demo-{group}-worker-x7k2p" {why}'
    return {"reason": "FailedToCreateWorkerPod", "message": message, "lastTimestamp": NEW}


QUOTA = "is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=8, used: 8"
WANTS_ONE = raycluster_json({"groupName": GROUP, "replicas": 1})


def test_a_quota_is_trouble_of_the_group_that_it_refuses() -> None:
    assert "exceeded quota: gpus" in state(WANTS_ONE, events=[_refused("h100", QUOTA)]).trouble
    assert state(WANTS_ONE, events=[_refused("l4", QUOTA)]).trouble == ""
    assert state(WANTS_ONE, events=[_refused("h100-big", QUOTA)]).trouble == ""


def test_an_event_of_long_ago_says_nothing_of_now() -> None:
    old = _refused("h100", QUOTA) | {"lastTimestamp": OLD}
    assert state(WANTS_ONE, events=[old]).trouble == ""


def test_what_kuberay_says_otherwise_is_passed_on() -> None:
    item = copy.deepcopy(WANTS_ONE)
    item["status"] = {"reason": "admission webhook denied the request"}
    assert "KubeRay cannot make a worker (admission webhook denied" in state(item).trouble


def test_a_gate_is_no_lack_of_nodes() -> None:
    gated = pod_json()
    gated["status"]["conditions"][0]["reason"] = "SchedulingGated"
    assert "wait behind a scheduling gate" in state(WANTS_ONE, pods=[gated]).trouble
    assert "no node has room" not in state(WANTS_ONE, pods=[gated]).trouble


def test_what_the_operator_has_suspended_is_told() -> None:
    assert "suspend" in state(raycluster_json(suspend=True)).trouble
    assert "suspend" in state(raycluster_json({"groupName": GROUP, "suspend": True})).trouble


def test_more_than_the_ceiling_is_told() -> None:
    assert "maxReplicas of 8 allows 8" in state(asked=9).trouble
    assert state(asked=8).trouble == ""


@given(st.sampled_from([pod_json(), pod_json(node="n")]), st.integers(0, 12))
def test_trouble_is_a_line_that_names_the_group(pod: dict[str, Any], asked: int) -> None:
    trouble = state(WANTS_ONE, [node_json(ready="False")], [pod], asked=asked).trouble
    assert "\n" not in trouble
    assert trouble.startswith("group 'h100': ")
