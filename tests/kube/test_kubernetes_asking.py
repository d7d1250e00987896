"""Asking for nodes: floors under worker groups, and cordons."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

import pytest

from cluster.kubernetes.errors import NotManagedError
from cluster.kubernetes.objects import CORDONED_BY, FLOORS, MANAGED
from cluster.kubernetes.settings import PRODUCT_LABEL, KubernetesGroup
from tests.kube.control_plane import eventually
from tests.kube.operated_cluster import GROUP, OperatedCluster, paper_node, ready_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.kubernetes.nodes import KubernetesNodes
    from cluster.kubernetes.settings import KubernetesSettings
    from tests.kube.control_plane import ControlPlane

    Connect = Callable[[KubernetesSettings], KubernetesNodes]

pytestmark = [pytest.mark.kube, pytest.mark.timeout(300)]


def test_floors_follow_what_is_asked(demo: OperatedCluster, connected: Connect) -> None:
    nodes = connected(demo.settings())
    nodes.ask({GROUP: 2})
    assert demo.floor() == (2, 2)
    nodes.ask({GROUP: 1})
    assert demo.floor() == (1, 2), "Ray's autoscaler takes idle workers away, nobody else"
    nodes.ask({})
    assert demo.floor() == (0, 2)
    assert FLOORS not in demo.raycluster()["metadata"]["annotations"]


def test_nothing_is_written_when_nothing_changes(demo: OperatedCluster, connected: Connect) -> None:
    nodes = connected(demo.settings())
    nodes.ask({GROUP: 2})
    version = demo.raycluster()["metadata"]["resourceVersion"]
    nodes.ask({GROUP: 2})
    assert demo.raycluster()["metadata"]["resourceVersion"] == version


def test_no_more_is_asked_than_the_operator_allows(
    demo: OperatedCluster, connected: Connect
) -> None:
    nodes = connected(demo.settings())
    nodes.ask({GROUP: 99})
    assert demo.floor() == (8, 8)
    trouble = eventually(lambda: "maxReplicas" in nodes.observe()[GROUP].trouble)
    assert trouble


def test_the_operators_floor_holds_and_comes_back(plane: ControlPlane, connected: Connect) -> None:
    demo = OperatedCluster.start(plane, minReplicas=2, replicas=3)
    nodes = connected(demo.settings())
    nodes.ask({GROUP: 1})
    assert demo.floor() == (2, 3)
    nodes.ask({GROUP: 5})
    assert demo.floor() == (5, 5)
    nodes.close()
    assert demo.floor() == (2, 5)


def test_the_operators_floor_outlives_a_crash(plane: ControlPlane, connected: Connect) -> None:
    demo = OperatedCluster.start(plane, minReplicas=1, replicas=1)
    connected(demo.settings()).ask({GROUP: 4})  # ...and is never heard of again.
    successor = connected(demo.settings())
    successor.ask({GROUP: 3})
    successor.close()
    assert demo.floor()[0] == 1


def test_what_the_operator_writes_meanwhile_is_theirs(
    demo: OperatedCluster, connected: Connect
) -> None:
    nodes = connected(demo.settings())
    nodes.ask({GROUP: 4})
    group = demo.group() | {"minReplicas": 2}
    demo.plane.merge(demo.path, {"spec": {"workerGroupSpecs": [group]}})
    nodes.ask({GROUP: 3})
    assert demo.floor()[0] == 3
    nodes.close()
    assert demo.floor()[0] == 2


def test_two_writers_do_not_lose_each_others_words(
    demo: OperatedCluster, connected: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "jouleserve.cluster")
    nodes, ending, count = connected(demo.settings(ask_deadline_s=60.0)), threading.Event(), 0

    def other_writer() -> None:
        nonlocal count
        while not ending.is_set():
            count += 1
            demo.plane.merge(demo.path, {"metadata": {"annotations": {"count": str(count)}}})
            time.sleep(0.01)

    other = threading.Thread(target=other_writer)
    other.start()
    try:
        for wanted in [1, 2, 3, 4] * 10:
            nodes.ask({GROUP: wanted})
            assert demo.floor()[0] == wanted
    finally:
        ending.set()
        other.join()
    assert demo.raycluster()["metadata"]["annotations"]["count"] == str(count)
    assert "once more" in caplog.text, "the two never met"


def test_a_raycluster_without_our_mark_is_left_alone(
    demo: OperatedCluster, connected: Connect
) -> None:
    demo.plane.merge(demo.path, {"metadata": {"annotations": {MANAGED: None}}})
    before = demo.raycluster()
    nodes = connected(demo.settings())
    assert nodes.observe()[GROUP].ready == 3
    with pytest.raises(NotManagedError, match=r"kubectl annotate raycluster .*/managed=true"):
        nodes.ask({GROUP: 2})
    nodes.close()
    assert demo.raycluster() == before


def test_a_node_without_our_mark_is_left_alone(demo: OperatedCluster, connected: Connect) -> None:
    name = paper_node(demo.plane, "unmarked")
    nodes = connected(demo.settings())
    with pytest.raises(NotManagedError, match=f"kubectl annotate node {name} .*/managed=true"):
        nodes.cordon(name)
    assert "unschedulable" not in demo.plane.get(f"/api/v1/nodes/{name}")["spec"]


@pytest.mark.parametrize("mark", ["annotations", "labels"])
def test_our_cordon_is_lifted_by_us(demo: OperatedCluster, connected: Connect, mark: str) -> None:
    name = "gpu-0" if mark == "annotations" else "gpu-1"
    path = f"/api/v1/nodes/{name}"
    demo.plane.merge(path, {"metadata": {mark: {MANAGED: "true"}}})
    nodes = connected(demo.settings())
    assert nodes.cordon(name)
    closed = demo.plane.get(path)
    assert closed["spec"]["unschedulable"]
    assert closed["metadata"]["annotations"][CORDONED_BY] == f"{demo.namespace}/demo"
    assert eventually(lambda: nodes.observe()[GROUP].ready == 2)
    assert nodes.cordon(name), "it is still ours"
    nodes.uncordon(name)
    opened = demo.plane.get(path)
    assert not opened["spec"].get("unschedulable")
    assert CORDONED_BY not in opened["metadata"]["annotations"]
    assert eventually(lambda: nodes.observe()[GROUP].ready == 3)


def test_somebody_elses_cordon_stays(demo: OperatedCluster, connected: Connect) -> None:
    name = paper_node(demo.plane, "theirs", annotations={MANAGED: "true"})
    path = f"/api/v1/nodes/{name}"
    demo.plane.merge(path, {"spec": {"unschedulable": True}})
    nodes = connected(demo.settings())
    assert not nodes.cordon(name)
    nodes.uncordon(name)
    assert demo.plane.get(path)["spec"]["unschedulable"]


def test_a_cordon_that_somebody_has_renewed_is_theirs(
    demo: OperatedCluster, connected: Connect
) -> None:
    name = paper_node(demo.plane, "renewed", annotations={MANAGED: "true"})
    path = f"/api/v1/nodes/{name}"
    nodes = connected(demo.settings())
    assert nodes.cordon(name)
    demo.plane.merge(path, {"spec": {"unschedulable": None}})
    demo.plane.merge(path, {"spec": {"unschedulable": True}})
    nodes.uncordon(name)
    left = demo.plane.get(path)
    assert left["spec"]["unschedulable"]
    assert CORDONED_BY not in left["metadata"]["annotations"]


def test_closing_opens_what_we_closed(demo: OperatedCluster, connected: Connect) -> None:
    name = paper_node(demo.plane, "left-closed", annotations={MANAGED: "true"})
    nodes = connected(demo.settings())
    assert nodes.cordon(name)
    nodes.close()
    assert not demo.plane.get(f"/api/v1/nodes/{name}")["spec"].get("unschedulable")


def test_nodes_beyond_the_plan_are_closed_once_empty_and_opened_when_wanted(
    demo: OperatedCluster, connected: Connect
) -> None:
    product = "consolidated"
    gpus = {"nvidia.com/gpu": "8"}
    names = [paper_node(demo.plane, product, annotations={MANAGED: "true"}) for _ in range(3)]
    for name in names:
        path = f"/api/v1/nodes/{name}/status"
        status = ready_status(ready=True, since="2026-01-01T00:00:00Z", allocatable=gpus)
        demo.plane.merge(path, status)
    groups = {GROUP: KubernetesGroup({PRODUCT_LABEL: (product,)})}
    nodes = connected(demo.settings(groups=groups))

    def closed() -> list[str]:
        return [
            name
            for name in names
            if demo.plane.get(f"/api/v1/nodes/{name}")["spec"].get("unschedulable")
        ]

    def ready(count: int) -> bool:
        return bool(eventually(lambda: nodes.observe()[GROUP].ready == count))

    assert ready(3)
    nodes.ask({GROUP: 2})
    (spare,) = closed()
    used = next(name for name in names if name != spare)
    assert len(demo.reconcile(nodeName=used)) == 2
    assert eventually(lambda: len(nodes.workers_on(used)) == 2)
    nodes.ask({GROUP: 1})
    assert closed() == [spare], "two workers are due still"

    def asked_again(count: int) -> int:
        nodes.ask({GROUP: count})
        return len(closed())

    # Ray's autoscaler ends a worker that is left without replicas.
    group = demo.group() | {"replicas": 1}
    demo.plane.merge(demo.path, {"spec": {"workerGroupSpecs": [group]}})
    demo.plane.delete(f"{demo.pods}/{demo.made.pop()}")
    assert eventually(lambda: asked_again(1) == 2)
    assert used not in closed()
    assert list(nodes.workers_on(used)) == demo.made

    nodes.ask({GROUP: 2})
    assert ready(2)
    nodes.close()
    assert closed() == []
