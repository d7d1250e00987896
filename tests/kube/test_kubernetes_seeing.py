"""What is seen of nodes and workers, and how what is wrong with them is told."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from cluster.kubernetes.objects import CARBON_REGION, PRICE
from cluster.kubernetes.settings import PRODUCT_LABEL, KubernetesGroup
from tests.kube.control_plane import RefusedError, eventually
from tests.kube.operated_cluster import GROUP, OperatedCluster, paper_node, ready_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.kubernetes.nodes import KubernetesNodes
    from cluster.kubernetes.settings import KubernetesSettings

    Connect = Callable[[KubernetesSettings], KubernetesNodes]

pytestmark = [pytest.mark.kube, pytest.mark.timeout(300)]

LONG_AGO = "2026-01-01T00:00:00Z"


def _trouble(nodes: KubernetesNodes, *words: str) -> str:
    """Give the trouble once it has these words, or what there is instead."""
    eventually(lambda: all(word in nodes.observe()[GROUP].trouble for word in words))
    return nodes.observe()[GROUP].trouble


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _on(product: str) -> dict[str, object]:
    return {"groups": {GROUP: KubernetesGroup({PRODUCT_LABEL: (product,)})}}


def test_nodes_are_counted_by_group(demo: OperatedCluster, connected: Connect) -> None:
    state = connected(demo.settings()).observe()[GROUP]
    assert (state.ready, state.booting, state.trouble) == (3, 0, "")
    assert state.accelerators_per_node == 8


def test_observing_answers_from_memory(demo: OperatedCluster, connected: Connect) -> None:
    nodes = connected(demo.settings())
    nodes.observe()
    began_s = time.monotonic()
    for _ in range(100):
        nodes.observe()
    assert time.monotonic() - began_s < 1.0


def test_nodes_tell_zone_price_and_region(demo: OperatedCluster, connected: Connect) -> None:
    marks = {"annotations": {PRICE: "12.5", CARBON_REGION: "eu-north"}}
    demo.plane.merge("/api/v1/nodes/gpu-1", {"metadata": marks})
    region = {"labels": {"topology.kubernetes.io/region": "us-east"}}
    demo.plane.merge("/api/v1/nodes/gpu-2", {"metadata": region})
    nodes = {node.name: node for node in connected(demo.settings()).nodes()}
    assert sorted(nodes) == ["gpu-0", "gpu-1", "gpu-2"]
    assert [nodes[name].zone for name in sorted(nodes)] == ["zone-0", "zone-1", "zone-2"]
    assert (nodes["gpu-1"].price_per_h, nodes["gpu-1"].carbon_region) == (12.5, "eu-north")
    assert (nodes["gpu-2"].price_per_h, nodes["gpu-2"].carbon_region) == (None, "us-east")


def test_mig_slices_count_as_accelerators(demo: OperatedCluster, connected: Connect) -> None:
    name = paper_node(demo.plane, "sliced")
    slices = {"nvidia.com/mig-1g.10gb": "4", "nvidia.com/mig-3g.40gb": "2", "cpu": "64"}
    status = ready_status(ready=True, since=LONG_AGO, allocatable=slices)
    demo.plane.merge(f"/api/v1/nodes/{name}/status", status)
    state = connected(demo.settings(**_on("sliced"))).observe()[GROUP]
    assert (state.ready, state.accelerators_per_node) == (1, 6)


def test_workers_run_on_nodes(demo: OperatedCluster, connected: Connect) -> None:
    nodes = connected(demo.settings())
    nodes.ask({GROUP: 2})
    made = demo.reconcile()
    everywhere = ("gpu-0", "gpu-1", "gpu-2")
    assert eventually(lambda: sum(len(nodes.workers_on(name)) for name in everywhere) == 2)
    assert sorted(pod for name in everywhere for pod in nodes.workers_on(name)) == made
    assert nodes.observe()[GROUP].trouble == ""


def test_a_worker_that_waits_is_a_node_to_come_and_then_trouble(
    demo: OperatedCluster, connected: Connect
) -> None:
    nodes = connected(demo.settings(no_capacity_after_s=5.0))
    nodes.ask({GROUP: 4})
    demo.reconcile()
    assert eventually(lambda: nodes.observe()[GROUP].booting == 1)
    trouble = _trouble(nodes, "Insufficient nvidia.com/gpu")
    assert trouble.startswith("group 'h100': no node has room for 1 of its workers (0/")
    assert "add nodes" in trouble
    assert nodes.observe()[GROUP].booting == 0
    demo.plane.delete(f"{demo.pods}/{demo.made.pop()}")
    assert eventually(lambda: nodes.observe()[GROUP].trouble != trouble)


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName"])
def test_a_missing_image_is_told(demo: OperatedCluster, connected: Connect, reason: str) -> None:
    waiting = {"reason": reason, "message": "manifest unknown"}
    demo.put_on_paper({"state": {"waiting": waiting}})
    trouble = _trouble(connected(demo.settings()), reason)
    assert trouble.startswith("group 'h100': image 'registry.example/ray:2.60' of worker demo-")
    assert "manifest unknown" in trouble
    assert (
        f"correct the image, or the imagePullSecrets, of the worker group in RayCluster"
        f" {demo.namespace}/demo" in trouble
    )


def test_a_crash_loop_is_told(demo: OperatedCluster, connected: Connect) -> None:
    container = {
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}},
        "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
        "restartCount": 7,
    }
    name = demo.put_on_paper(container)
    trouble = _trouble(connected(demo.settings()), "CrashLoopBackOff")
    assert f"worker {name} does not stay up, 7 restarts so far" in trouble
    assert "exit code 137 OOMKilled" in trouble
    assert f"kubectl logs -n {demo.namespace} {name} --previous" in trouble


@pytest.mark.parametrize("told_by", ["condition", "event"])
def test_a_refused_quota_is_told(demo: OperatedCluster, connected: Connect, told_by: str) -> None:
    quotas = f"/api/v1/namespaces/{demo.namespace}/resourcequotas"
    quota = {
        "metadata": {"name": "gpus"},
        "spec": {"hard": {"requests.nvidia.com/gpu": "8"}},
    }
    demo.plane.create(quotas, quota)
    assert eventually(lambda: "hard" in demo.plane.get(f"{quotas}/gpus")["status"])
    nodes = connected(demo.settings())
    nodes.ask({GROUP: 2})
    demo.reconcile(told_by)
    trouble = _trouble(nodes, "exceeded quota: gpus")
    assert trouble.startswith(
        f"group 'h100': namespace '{demo.namespace}' refuses another worker (exceeded quota: gpus"
    )
    assert "raise that ResourceQuota, or lower maxReplicas" in trouble
    demo.plane.delete(f"{quotas}/gpus")
    assert eventually(lambda: _made(demo, 2))
    assert eventually(lambda: nodes.observe()[GROUP].trouble == "")


def _made(demo: OperatedCluster, count: int) -> bool:
    try:
        return len(demo.reconcile("event")) == count
    except RefusedError:
        return False


def test_a_node_that_boots_is_not_trouble_until_it_takes_too_long(
    demo: OperatedCluster, connected: Connect
) -> None:
    name = paper_node(demo.plane, "slow")
    path = f"/api/v1/nodes/{name}/status"
    demo.plane.merge(path, ready_status(ready=False, since=_now()))
    nodes = connected(demo.settings(**_on("slow")))
    assert eventually(lambda: nodes.observe()[GROUP].booting == 1)
    assert nodes.observe()[GROUP].trouble == ""

    demo.plane.merge(path, ready_status(ready=False, since=LONG_AGO))
    trouble = _trouble(nodes, "has not been ready")
    assert f"node {name} has not been ready for " in trouble
    assert "KubeletNotReady: container runtime network not ready" in trouble
    assert "repair its kubelet, or delete the node" in trouble
    assert nodes.observe()[GROUP].booting == 0

    demo.plane.merge(path, ready_status(ready=True, since=LONG_AGO))
    assert "device plugin" in _trouble(nodes, "offers no GPU")

    gpus = {"nvidia.com/gpu": "4"}
    demo.plane.merge(path, ready_status(ready=True, since=LONG_AGO, allocatable=gpus))
    assert eventually(lambda: nodes.observe()[GROUP].ready == 1)
    assert nodes.observe()[GROUP].trouble == ""


def test_a_group_or_a_raycluster_that_is_not_there_is_told(
    demo: OperatedCluster, connected: Connect
) -> None:
    group = demo.group() | {"groupName": "a100"}
    demo.plane.merge(demo.path, {"spec": {"workerGroupSpecs": [group]}})
    nodes = connected(demo.settings())
    assert "has no worker group of that name (it has: a100)" in _trouble(nodes, "a100")
    demo.plane.delete(demo.path)
    assert "there is no RayCluster" in _trouble(nodes, "there is no RayCluster")
