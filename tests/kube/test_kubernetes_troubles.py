"""What keeps workers from coming is told, another accelerator serves, and the first comes back.

The planner is the one that runs in a cluster, with its loop, over a real API server; only Ray
Serve is a stand-in, which starts what there is room for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from cluster.kubernetes.nodes import connect
from cluster.kubernetes.settings import PRODUCT_LABEL, KubernetesGroup
from serve import planner_deployment
from serve.deployment import APPLICATION
from serve.plan_news import GatewayNews, PlanNews
from serve.planner_deployment import PlannerDeployment
from tests.kube.control_plane import eventually
from tests.kube.operated_cluster import GROUP, OperatedCluster, paper_node, ready_status
from tests.planner_fakes import BIG, H100, L4, SMALL, STANDARD, config, nodes_of, traffic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.kube.control_plane import ControlPlane, Fate

pytestmark = [pytest.mark.kube, pytest.mark.timeout(120)]

LONG_AGO = "2026-01-01T00:00:00Z"
GPUS = {"nvidia.com/gpu": "4"}
ASK_S = 0.1
SOON_S = 20.0
NEVER = "never-there"


class PaperServe:
    """Stands in for Ray Serve: replicas serve at once where there is room, else they wait.

    Attributes:
        room: whether there are workers for the large accelerator; there always are for the small.

    """

    def __init__(self) -> None:
        self.room = False
        self.wanted: Callable[[], dict[str, float]] = dict
        self._asked_at_s: dict[str, float] = {}

    def serves(self, variant: str) -> bool:
        has_room = self.room or variant == SMALL
        return has_room and self.wanted().get(f"replicas:{variant}", 0.0) > 0

    def details(self) -> dict[str, Any]:
        deployments: dict[str, dict[str, Any]] = {}
        for variant in (BIG, SMALL):
            if not self.wanted().get(f"replicas:{variant}", 0.0):
                self._asked_at_s.pop(variant, None)
                deployments[variant] = {"replicas": [], "status": "HEALTHY"}
                continue
            serves = self.serves(variant)
            replica = {
                "replica_id": f"{variant}-1",
                "state": "RUNNING" if serves else "STARTING",
                "start_time_s": self._asked_at_s.setdefault(variant, time.time()),
                "node_id": f"node-of-{variant}" if serves else None,
            }
            deployments[variant] = {"replicas": [replica], "status": "UPDATING"}
        return {"applications": {APPLICATION: {"deployments": deployments}}}


class Planned:
    """A planner that runs, and a gateway that gets a request a second."""

    def __init__(self, serve: PaperServe) -> None:
        self.serve = serve
        self.deployment = PlannerDeployment()
        self.news = PlanNews()
        serve.wanted = self.deployment.record_autoscaling_stats

    def told(self, words: str, subject: str) -> bool:
        return any(words in each.reason for each in self.news.troubles if each.subject == subject)

    async def talk(self) -> None:
        began_s, number = time.monotonic(), 0
        while True:
            number += 1
            served = traffic(int(time.monotonic() - began_s))
            held = {} if self.serve.serves(BIG) or self.serve.serves(SMALL) else {STANDARD: 1}
            said = GatewayNews("g", number, {STANDARD: served}, held)
            self.news = await self.deployment.exchange(said)
            await asyncio.sleep(ASK_S)

    async def until(self, check: Callable[[], bool]) -> None:
        assert await asyncio.to_thread(eventually, check, SOON_S), self.news


@contextlib.asynccontextmanager
async def planned(
    demo: OperatedCluster, monkeypatch: pytest.MonkeyPatch, product: str
) -> AsyncIterator[Planned]:
    """Run the planner over a RayCluster with two groups; the large one has nodes of `product`."""
    small = f"{product}-small"
    two = [demo.group(), demo.group() | {"groupName": L4}]
    demo.plane.merge(demo.path, {"spec": {"workerGroupSpecs": two}})
    make_ready(demo.plane, paper_node(demo.plane, small))
    groups = {
        H100: KubernetesGroup({PRODUCT_LABEL: (product,)}),
        L4: KubernetesGroup({PRODUCT_LABEL: (small,)}),
    }
    settings = demo.settings(groups=groups, ask_deadline_s=1.0)
    monkeypatch.setattr(planner_deployment, "node_provider", lambda _: connect(settings))
    serve = PaperServe()
    monkeypatch.setattr(planner_deployment, "_serve_details", serve.details)
    # The small accelerator's nodes draw so much that nobody would choose it.
    given = config(
        node_groups=(
            nodes_of(H100, "h100-sxm", boot_s=1.0),
            nodes_of(L4, "l4", boot_s=1.0, node_power_w=5000.0),
        ),
        nodes="kubernetes",
        period_s=1.0,
        no_capacity_s=2.0,
        retry_s=4.0,
    )
    running = Planned(serve)
    await running.deployment.reconfigure(given.model_dump())
    gateway = asyncio.create_task(running.talk())
    try:
        yield running
    finally:
        gateway.cancel()
        await running.deployment.__del__()


def make_ready(plane: ControlPlane, name: str) -> None:
    status = ready_status(ready=True, since=LONG_AGO, allocatable=GPUS)
    plane.merge(f"/api/v1/nodes/{name}/status", status)


async def told_worked_around_and_undone(
    here: Planned, subject: str, words: str, heal: Callable[[], object]
) -> None:
    """See the reason, then the other accelerator, and the first one again once it is healed."""
    await here.until(lambda: here.told(words, subject))
    await here.until(lambda: here.serve.serves(SMALL))
    await asyncio.to_thread(heal)
    here.serve.room = True
    await here.until(lambda: here.serve.serves(BIG) and not here.serve.serves(SMALL))
    await here.until(lambda: not here.told(words, subject))


async def test_no_capacity(demo: OperatedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def heal() -> None:
        demo.end()
        demo.reconcile(nodeName=paper_node(demo.plane, "with-room"))

    async with planned(demo, monkeypatch, "scarce") as here:
        await here.until(lambda: demo.floor()[0] == 1)
        await asyncio.to_thread(demo.reconcile, nodeSelector={"there": NEVER})
        words = "no node has room for 1 of its workers"
        await told_worked_around_and_undone(here, GROUP, words, heal)


async def test_a_missing_image(demo: OperatedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async with planned(demo, monkeypatch, "imageless") as here:
        await here.until(lambda: demo.floor()[0] == 1)
        node = await asyncio.to_thread(paper_node, demo.plane, "paper")
        (worker,) = await asyncio.to_thread(demo.reconcile, nodeName=node)
        pulling = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "unknown"}}}
        demo.write_container(worker, pulling)
        up = {"state": {"running": {}}, "ready": True}
        await told_worked_around_and_undone(
            here, GROUP, "is not to be had", lambda: demo.write_container(worker, up)
        )


async def test_a_node_that_is_never_ready(
    demo: OperatedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = paper_node(demo.plane, "sick")
    demo.plane.merge(f"/api/v1/nodes/{node}/status", ready_status(ready=False, since=LONG_AGO))
    async with planned(demo, monkeypatch, "sick") as here:
        words = f"node {node} has not been ready"
        await told_worked_around_and_undone(
            here, GROUP, words, lambda: make_ready(demo.plane, node)
        )


async def test_a_refused_quota(demo: OperatedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    quotas = f"/api/v1/namespaces/{demo.namespace}/resourcequotas"
    hard = {"hard": {"requests.nvidia.com/gpu": "0"}}
    demo.plane.create(quotas, {"metadata": {"name": "gpus"}, "spec": hard})
    assert eventually(lambda: "hard" in demo.plane.get(f"{quotas}/gpus")["status"])

    def heal() -> None:
        demo.plane.delete(f"{quotas}/gpus")
        assert eventually(lambda: len(demo.reconcile("event")) == 1)

    async with planned(demo, monkeypatch, "forbidden") as here:
        await here.until(lambda: demo.floor()[0] == 1)
        await asyncio.to_thread(demo.reconcile)
        await told_worked_around_and_undone(here, GROUP, "exceeded quota: gpus", heal)


async def test_an_api_server_that_is_gone(
    demo: OperatedCluster, monkeypatch: pytest.MonkeyPatch, fate: Fate
) -> None:
    async with planned(demo, monkeypatch, "unseen") as here:
        await here.until(lambda: demo.floor()[0] == 1)
        await asyncio.to_thread(fate.kill)
        await told_worked_around_and_undone(here, "nodes", "Connection refused", fate.restore)
