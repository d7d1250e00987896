"""Nodes as Ray tells of them, and as its autoscaler is asked for them."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.nodes import GroupState, NodesUnknownError
from cluster.ray_nodes import RayGroup, RayNodes, states
from scheduler.plans import NodeGroupName

H100, L4, CPU = NodeGroupName("h100"), NodeGroupName("l4"), NodeGroupName("cpu")
GROUPS = (RayGroup(H100, "h100-sxm", 8), RayGroup(L4, "l4"), RayGroup(CPU, "cpu", 16))


def node(resources: dict[str, float], *, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"memory": 1e9, **resources}}


def gpus(count: float, *types: str, alive: bool = True) -> dict[str, Any]:
    marks = {f"accelerator_type:{each}": 1.0 for each in types}
    return node({"CPU": 64.0, "GPU": count, **marks}, alive=alive)


def ready(*nodes: dict[str, Any]) -> dict[NodeGroupName, tuple[int, int]]:
    """Nodes that are ready and accelerators of the largest, of the groups that have any."""
    found = states(nodes, GROUPS)
    assert set(found) == {H100, L4, CPU}
    return {
        name: (each.ready, each.accelerators_per_node)
        for name, each in found.items()
        if each != GroupState()
    }


def test_without_nodes_every_group_is_empty() -> None:
    assert ready() == {}


def test_a_node_belongs_to_the_group_of_its_accelerator() -> None:
    assert ready(gpus(8, "H100"), gpus(8, "H100"), gpus(2, "L4")) == {H100: (2, 8), L4: (1, 2)}


def test_a_node_that_has_died_does_not_count() -> None:
    assert ready(gpus(8, "H100", alive=False), gpus(4, "H100")) == {H100: (1, 4)}


def test_of_nodes_of_different_sizes_the_largest_tells() -> None:
    assert ready(gpus(8, "H100"), gpus(4, "H100")) == {H100: (2, 8)}


def test_a_node_without_gpus_is_counted_by_its_cores() -> None:
    assert ready(node({"CPU": 16.0})) == {CPU: (1, 16)}


@pytest.mark.parametrize("resources", [{}, {"CPU": 0.0}, {"CPU": 0.0, "GPU": 0.0}])
def test_a_node_that_lends_nothing_is_in_no_group(resources: dict[str, float]) -> None:
    assert ready(node(resources)) == {}


def test_gpus_of_a_type_that_ray_does_not_know_may_be_any() -> None:
    assert ready(gpus(4)) == {H100: (1, 4), L4: (1, 4)}


def test_gpus_of_a_type_that_no_group_has_are_in_none() -> None:
    assert ready(gpus(4, "V100")) == {}


def test_gpus_of_a_group_whose_type_ray_has_no_name_for_may_be_of_any_type() -> None:
    a30 = NodeGroupName("a30")
    assert states([gpus(4, "V100")], [RayGroup(a30, "a30")])[a30].ready == 1


# ── asking ──────────────────────────────────────────────────────────────────


class Autoscaler:
    """Stands in for Ray's.

    Attributes:
        asked: bundles of each request.
        away: whether it fails.

    """

    def __init__(self) -> None:
        self.asked: list[list[dict[str, float]]] = []
        self.away = False

    def request_resources(self, *, bundles: list[dict[str, float]]) -> None:
        if self.away:
            raise ConnectionError("gone")
        self.asked.append(bundles)


@pytest.fixture
def autoscaler(monkeypatch: pytest.MonkeyPatch) -> Autoscaler:
    sdk = pytest.importorskip("ray.autoscaler.sdk")
    fake = Autoscaler()
    monkeypatch.setattr(sdk, "request_resources", fake.request_resources)
    return fake


def test_each_node_is_asked_for_with_all_its_accelerators(autoscaler: Autoscaler) -> None:
    RayNodes(GROUPS).ask({H100: 2, CPU: 1})
    ((first, second, third),) = autoscaler.asked
    assert first == second == {"GPU": 8.0, "accelerator_type:H100": 0.001}
    assert third == {"CPU": 16.0}


def test_nodes_that_are_not_ours_to_ask_for_are_not(autoscaler: Autoscaler) -> None:
    RayNodes(GROUPS).ask({L4: 3, NodeGroupName("another"): 1})
    assert autoscaler.asked == []


def test_the_same_is_not_asked_again(autoscaler: Autoscaler) -> None:
    nodes = RayNodes(GROUPS)
    for count in (1, 1, 2, 0):
        nodes.ask({H100: count})
    assert [len(bundles) for bundles in autoscaler.asked] == [1, 2, 0]


def test_what_could_not_be_asked_is_asked_again(autoscaler: Autoscaler) -> None:
    nodes = RayNodes(GROUPS)
    autoscaler.away = True
    with pytest.raises(NodesUnknownError, match="gone"):
        nodes.ask({H100: 1})
    autoscaler.away = False
    nodes.ask({H100: 1})
    assert [len(bundles) for bundles in autoscaler.asked] == [1]


def test_at_the_end_what_was_asked_for_is_withdrawn(autoscaler: Autoscaler) -> None:
    nodes = RayNodes(GROUPS)
    nodes.close()
    assert autoscaler.asked == []
    nodes.ask({H100: 1})
    nodes.close()
    assert autoscaler.asked[1:] == [[]]


def test_when_ray_does_not_answer_nodes_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(pytest.importorskip("ray"), "nodes", away)
    with pytest.raises(NodesUnknownError, match="gone"):
        RayNodes(GROUPS).observe()


def test_what_ray_says_is_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest.importorskip("ray"), "nodes", lambda: [gpus(8, "H100")])
    assert RayNodes(GROUPS).observe() == states([gpus(8, "H100")], GROUPS)
