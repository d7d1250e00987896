"""An API server that goes away, says nothing, or has forgotten: what is known meanwhile."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING

import pytest

from cluster.kubernetes import reading
from cluster.kubernetes.api import KubernetesApi
from cluster.kubernetes.errors import ApiGoneError
from cluster.kubernetes.mirror import Mirror
from cluster.kubernetes.settings import PRODUCT_LABEL, KubernetesGroup
from cluster.nodes import NodesUnknownError
from tests.kube.control_plane import eventually
from tests.kube.operated_cluster import GROUP, OperatedCluster, paper_node, ready_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster.kubernetes.api import Change, Feed, Page
    from cluster.kubernetes.nodes import KubernetesNodes
    from cluster.kubernetes.settings import KubernetesSettings
    from tests.kube.control_plane import Fate

    Connect = Callable[[KubernetesSettings], KubernetesNodes]

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600)]

STALE_S = 6.0
ASK_S = 4.0
RESTART_S = 120.0


def _known(nodes: KubernetesNodes) -> bool:
    try:
        nodes.observe()
    except NodesUnknownError:
        return False
    return True


def _ready(nodes: KubernetesNodes, count: int) -> Callable[[], bool]:
    return lambda: _known(nodes) and nodes.observe()[GROUP].ready == count


def test_nothing_is_known_before_anybody_answers(demo: OperatedCluster, connected: Connect) -> None:
    nobody = demo.plane.kubeconfig_of("nobody", "x", "https://127.0.0.1:1")
    nodes = connected(demo.settings(kubeconfig=nobody, ask_deadline_s=0.5))
    with pytest.raises(NodesUnknownError, match="Connection refused"):
        nodes.observe()
    assert nodes.age_s() == float("inf")


def test_a_missing_kubeconfig_is_told_at_once(demo: OperatedCluster, connected: Connect) -> None:
    with pytest.raises(NodesUnknownError, match="no way into Kubernetes"):
        connected(demo.settings(kubeconfig="does-not-exist.yaml"))


def test_a_wrong_token_is_told_and_is_no_secret(
    demo: OperatedCluster, connected: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    stranger = demo.plane.kubeconfig_of("stranger", "a-secret-that-is-wrong")
    nodes = connected(demo.settings(kubeconfig=stranger, ask_deadline_s=0.5))
    with pytest.raises(NodesUnknownError, match="401"):
        nodes.observe()
    nodes.close()
    assert "a-secret-that-is-wrong" not in caplog.text


def test_an_api_server_that_is_restarted(
    demo: OperatedCluster, connected: Connect, fate: Fate
) -> None:
    product = "restarted"
    name = paper_node(demo.plane, product)
    path, gpus = f"/api/v1/nodes/{name}/status", {"nvidia.com/gpu": "8"}
    status = ready_status(ready=True, since="2026-01-01T00:00:00Z", allocatable=gpus)
    demo.plane.merge(path, status)
    groups = {GROUP: KubernetesGroup({PRODUCT_LABEL: (product,)})}
    nodes = connected(demo.settings(groups=groups, ask_deadline_s=ASK_S, stale_after_s=STALE_S))
    assert eventually(_ready(nodes, 1))

    fate.kill()
    assert _ready(nodes, 1)(), "the last known state is good for a while"
    began_s = time.monotonic()
    with pytest.raises(NodesUnknownError, match="Connection refused"):
        nodes.ask({GROUP: 1})
    assert time.monotonic() - began_s < ASK_S + 1.0
    assert eventually(lambda: not _known(nodes), 2 * STALE_S)
    assert nodes.age_s() > STALE_S
    with pytest.raises(NodesUnknownError, match=r"last seen \d+ s ago: .*Connection refused"):
        nodes.observe()

    fate.restore()
    assert eventually(lambda: _known(nodes), RESTART_S)
    demo.plane.merge(path, ready_status(ready=False, since="2026-01-01T00:00:00Z"))
    assert eventually(_ready(nodes, 0))
    nodes.ask({GROUP: 2})
    assert demo.floor()[0] == 2


class _Dated:
    """A feed whose first list claims to be as old as the cluster."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.lists = 0

    def list(self) -> Page:
        self.lists += 1
        page = self._feed.list()
        return page._replace(version="1") if self.lists == 1 else page

    def watch(self, version: str) -> Iterator[Change]:
        return self._feed.watch(version)

    def cancel(self) -> None:
        self._feed.cancel()


def test_history_that_is_forgotten_is_listed_again(demo: OperatedCluster, fate: Fate) -> None:
    # A new API server knows no history from before it was started.
    fate.kill()
    fate.restore()
    settings = demo.settings()
    api = KubernetesApi(settings)
    with pytest.raises(ApiGoneError, match="too old resource version"):
        deque(api.nodes().watch("1"), maxlen=0)
    feed = _Dated(api.nodes())
    mirror = Mirror("nodes", feed, reading.node, settings)
    mirror.start()
    try:
        assert eventually(lambda: feed.lists == 2)
        name = paper_node(demo.plane, "after")
        assert eventually(lambda: name in {node.name for node in mirror.objects()})
        assert feed.lists == 2
    finally:
        mirror.end()
        assert mirror.join(5.0)
        api.close()


def test_an_api_server_that_takes_calls_and_says_nothing(
    demo: OperatedCluster, connected: Connect, fate: Fate
) -> None:
    nodes = connected(
        demo.settings(request_timeout_s=1.0, ask_deadline_s=ASK_S, stale_after_s=STALE_S)
    )
    assert eventually(_ready(nodes, 3))
    fate.freeze()
    began_s = time.monotonic()
    with pytest.raises(NodesUnknownError):
        nodes.ask({GROUP: 1})
    assert time.monotonic() - began_s < ASK_S + 2.0
    assert eventually(lambda: not _known(nodes), 3 * STALE_S)
    fate.restore()
    assert eventually(_ready(nodes, 3), RESTART_S)


def test_closing_ends_within_its_deadlines_whatever_the_api_server_does(
    demo: OperatedCluster, connected: Connect, fate: Fate
) -> None:
    nodes = connected(demo.settings(ask_deadline_s=2.0, close_deadline_s=3.0))
    assert eventually(_ready(nodes, 3))
    fate.freeze()
    began_s = time.monotonic()
    nodes.close()
    assert time.monotonic() - began_s < 2.0 + 3.0 + 2.0


def test_a_watch_that_ends_is_opened_again(demo: OperatedCluster, connected: Connect) -> None:
    nodes = connected(demo.settings(watch_s=1.0))
    assert eventually(_ready(nodes, 3))
    deadline_s = time.monotonic() + 5.0
    while time.monotonic() < deadline_s:
        assert nodes.age_s() < STALE_S
        time.sleep(0.1)
    demo.plane.merge(demo.path, {"spec": {"suspend": True}})
    assert eventually(lambda: "suspended" in nodes.observe()[GROUP].trouble)
