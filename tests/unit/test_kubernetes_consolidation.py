"""Which nodes are closed because nothing of ours is on them, and which are opened again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.kubernetes import consolidation, reading
from cluster.kubernetes.consolidation import Turn, turn
from cluster.kubernetes.cordons import is_ours
from cluster.kubernetes.objects import (
    CORDONED_BY,
    FIELD_MANAGER,
    MANAGED,
    GpuNode,
    Worker,
    WorkerGroup,
)
from tests.kube.kubernetes_json import OWNER, node_json

if TYPE_CHECKING:
    from collections.abc import Sequence


def node(name: str, *, managed: bool = True, ready: bool = True, closed: str = "") -> GpuNode:
    """Make a node; `closed` is by whom it takes no new pods."""
    ours = closed == OWNER
    marks = ({MANAGED: "true"} if managed else {}) | ({CORDONED_BY: OWNER} if ours else {})
    return replace(
        reading.node(node_json(name)),
        annotations=marks,
        ready=ready,
        cordoned=bool(closed),
        cordon_manager=FIELD_MANAGER if ours else closed,
    )


def on(*names: str) -> list[Worker]:
    return [Worker(f"worker-on-{name}", "h100", node=name) for name in names]


NODES = st.lists(
    st.builds(
        node,
        name=st.sampled_from("abcdef"),
        managed=st.booleans(),
        ready=st.booleans(),
        closed=st.sampled_from(["", OWNER, "kubectl"]),
    ),
    unique_by=lambda each: each.name,
)
WORKERS = st.lists(st.sampled_from("abcdef")).map(lambda names: on(*names))


def after(nodes: Sequence[GpuNode], done: Turn) -> list[GpuNode]:
    """Carry a turn out."""
    closed = {
        each.name: node(each.name, managed=each.managed, ready=each.ready, closed=OWNER)
        for each in nodes
        if each.name in done.closing
    }
    opened = {
        each.name: node(each.name, managed=each.managed, ready=each.ready)
        for each in nodes
        if each.name in done.opening
    }
    return [(closed | opened).get(each.name, each) for each in nodes]


def usable(nodes: Sequence[GpuNode]) -> int:
    return sum(each.ready and not each.cordoned for each in nodes)


@given(NODES, WORKERS, st.integers(0, 6))
def test_what_is_needed_stays_open_and_what_is_not_is_closed_once(
    nodes: list[GpuNode], workers: list[Worker], needed: int
) -> None:
    done = turn(nodes, workers, needed, OWNER)
    left = after(nodes, done)
    assert usable(left) >= min(needed, usable(nodes))
    assert turn(left, workers, needed, OWNER) == Turn()
    if usable(left) < needed:
        assert not any(each.ready and is_ours(each, OWNER) for each in left)
    if usable(left) > needed:
        occupied = {worker.node for worker in workers}
        assert all(
            each.name in occupied or not each.managed
            for each in left
            if each.ready and not each.cordoned
        )


@given(NODES, WORKERS, st.integers(0, 6))
def test_only_marked_empty_nodes_are_closed_and_only_ours_are_opened(
    nodes: list[GpuNode], workers: list[Worker], needed: int
) -> None:
    done = turn(nodes, workers, needed, OWNER)
    known, occupied = {each.name: each for each in nodes}, {worker.node for worker in workers}
    assert all(known[name].managed and name not in occupied for name in done.closing)
    assert all(is_ours(known[name], OWNER) for name in done.opening)
    assert not (done.closing and done.opening)


def test_a_node_that_still_has_workers_is_opened_first() -> None:
    nodes = [node("a", closed=OWNER), node("b", closed=OWNER)]
    assert turn(nodes, on("b"), 1, OWNER) == Turn(opening=("b",))


@pytest.mark.parametrize(
    ("replicas", "hosts", "per_node", "asked", "nodes"),
    [(0, 1, 1, 2, 2), (3, 1, 1, 1, 3), (3, 1, 2, 1, 2), (2, 2, 1, 0, 4)],
)
def test_workers_that_are_due_need_their_nodes_whoever_asked_for_them(
    replicas: int, hosts: int, per_node: int, asked: int, nodes: int
) -> None:
    group = WorkerGroup("h100", replicas, 0, 8, hosts, 8)
    assert consolidation.needed(group, asked, per_node) == nodes
