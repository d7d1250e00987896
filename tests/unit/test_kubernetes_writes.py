"""What is written on RayClusters and nodes: floors and cordons, and nothing of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.kubernetes import cordons, floors, reading
from cluster.kubernetes.access import required_rules
from cluster.kubernetes.objects import FIELD_MANAGER, FLOORS
from cluster.kubernetes.settings import KubernetesGroup
from scheduler.plans import NodeGroupName
from tests.kube.kubernetes_json import (
    GROUP,
    OTHER,
    OWNER,
    applied,
    closed_by,
    node_json,
    raycluster_json,
    settings,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

# ── floors ──────────────────────────────────────────────────────────────────

REPLICAS = st.integers(0, 12)
ASKS = st.dictionaries(st.sampled_from([GROUP, OTHER]), REPLICAS)


@st.composite
def rayclusters(draw: st.DrawFn) -> dict[str, Any]:
    def group(name: str) -> dict[str, Any]:
        low, high = sorted((draw(REPLICAS), draw(REPLICAS)))
        return {
            "groupName": name,
            "minReplicas": low,
            "maxReplicas": high,
            "replicas": draw(st.integers(low, high)),
            "numOfHosts": draw(st.integers(1, 3)),
        }

    return raycluster_json(*(group(name) for name in ("theirs", GROUP, OTHER)))


def _asked(item: dict[str, Any], nodes: Mapping[NodeGroupName, int]) -> dict[str, Any]:
    groups = settings().groups
    return applied(item, floors.patch(reading.raycluster(item), groups, nodes))


@given(rayclusters(), st.lists(ASKS, max_size=4))
def test_floors_stay_within_the_operators_bounds(
    item: dict[str, Any], asks: list[dict[NodeGroupName, int]]
) -> None:
    own = reading.raycluster(item).groups
    for nodes in asks:
        item = _asked(item, nodes)
        assert floors.patch(reading.raycluster(item), settings().groups, nodes) == ()
        for before, group in zip(own, reading.raycluster(item).groups, strict=True):
            wanted = -(-nodes.get(NodeGroupName(group.name), 0) // group.hosts)
            if group.name == "theirs":
                assert group == before
            else:
                floor = max(before.min_replicas, min(wanted, before.max_replicas))
                assert group.min_replicas == floor
                assert before.max_replicas >= group.replicas >= max(floor, before.replicas)


@given(rayclusters(), st.lists(ASKS, max_size=4))
def test_the_operators_floors_come_back(
    item: dict[str, Any], asks: list[dict[NodeGroupName, int]]
) -> None:
    own = [group.min_replicas for group in reading.raycluster(item).groups]
    annotations = item["metadata"]["annotations"]
    for nodes in asks:
        item = _asked(item, nodes)
    item = _asked(item, {})
    assert [group.min_replicas for group in reading.raycluster(item).groups] == own
    assert item["metadata"]["annotations"] == annotations


def test_a_floor_that_the_operator_writes_meanwhile_is_theirs() -> None:
    item = _asked(raycluster_json({"groupName": GROUP}), {GROUP: 4})
    item["spec"]["workerGroupSpecs"][0]["minReplicas"] = 2
    item = _asked(_asked(item, {GROUP: 3}), {})
    assert item["spec"]["workerGroupSpecs"][0]["minReplicas"] == 2


def test_workers_that_share_a_node_are_asked_for_together() -> None:
    groups = {GROUP: KubernetesGroup.of("h100-sxm", workers_per_node=2)}
    item = raycluster_json({"groupName": GROUP})
    item = applied(item, floors.patch(reading.raycluster(item), groups, {GROUP: 3}))
    assert item["spec"]["workerGroupSpecs"][0]["minReplicas"] == 6


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"h100": 1}', '{"h100": {"own": "x"}}'])
def test_a_note_that_somebody_has_spoilt_is_no_note(text: str) -> None:
    item = raycluster_json()
    item["metadata"]["annotations"][FLOORS] = text
    assert reading.raycluster(item).held == {}


# ── cordons ─────────────────────────────────────────────────────────────────


def test_our_cordon_can_be_undone() -> None:
    item = node_json()
    closed = applied(item, cordons.cordon(reading.node(item), OWNER))
    assert closed["spec"]["unschedulable"]
    closed["metadata"]["managedFields"] = closed_by(FIELD_MANAGER)["metadata"]["managedFields"]
    assert cordons.is_ours(reading.node(closed), OWNER)
    opened = applied(closed, cordons.uncordon(reading.node(closed), OWNER))
    assert opened["spec"] == item["spec"]
    assert opened["metadata"]["annotations"] == item["metadata"]["annotations"]


@pytest.mark.parametrize(
    "item",
    [
        closed_by("kubectl-cordon"),
        closed_by("kubectl-cordon", OWNER),
        closed_by(FIELD_MANAGER, "default/another"),
        closed_by("", OWNER),
    ],
)
def test_a_cordon_of_others_stays(item: dict[str, Any]) -> None:
    node = reading.node(item)
    assert cordons.cordon(node, OWNER) == ()
    opened = applied(item, cordons.uncordon(node, OWNER))
    assert opened["spec"]["unschedulable"]


def test_rights_are_no_wildcards() -> None:
    for rule in required_rules():
        assert "*" not in (*rule.api_groups, *rule.resources, *rule.verbs)


def test_the_rights_that_operators_are_told_of_are_those_that_are_used() -> None:
    document = Path(__file__).parents[2] / "docs" / "kubernetes-nodes.md"
    told = document.read_text()
    for rule in required_rules():
        cells = [rule.api_groups[0] or "core", rule.resources[0], ", ".join(rule.verbs)]
        assert f"| {' | '.join(cells)} |" in told
