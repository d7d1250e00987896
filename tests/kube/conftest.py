"""One control plane for all tests here, started when the first one asks; a RayCluster for each."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.kubernetes.nodes import KubernetesNodes, connect
from tests.kube.control_plane import UP_S, ControlPlane, Fate
from tests.kube.operated_cluster import GPUS, HOLLOW_NODES, OperatedCluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster.kubernetes.settings import KubernetesSettings

PROJECT = Path(__file__).parents[2]
DEFAULT_TOOL = PROJECT.parent / "shared" / "tools" / "kube-testbed"


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Give a control plane with three hollow nodes of eight GPUs."""
    tool = Path(os.environ.get("KUBE_TESTBED_TOOL", DEFAULT_TOOL))
    if not tool.is_file():
        pytest.skip("no Kubernetes control plane: KUBE_TESTBED_TOOL names no program")
    began = subprocess.run(
        [tool, "up", str(HOLLOW_NODES), str(GPUS)],
        check=False,
        capture_output=True,
        text=True,
        timeout=UP_S,
    )
    if began.returncode and "build" in began.stderr:
        pytest.skip(f"no Kubernetes control plane: {began.stderr.strip()}")
    assert not began.returncode, began.stderr
    folder = tmp_path_factory.mktemp("kubeconfigs")
    plane = ControlPlane(tool, Path(began.stdout.split()[-1]), folder)
    try:
        yield plane
    finally:
        plane.down()


@pytest.fixture
def demo(plane: ControlPlane) -> Iterator[OperatedCluster]:
    """Give a RayCluster that is marked as ours."""
    cluster = OperatedCluster.start(plane)
    try:
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
def fate(plane: ControlPlane) -> Iterator[Fate]:
    """Let a test take the API server away; it is back at the end whatever happens."""
    fate = Fate(plane)
    yield fate
    fate.restore()


@pytest.fixture
def connected() -> Iterator[Callable[[KubernetesSettings], KubernetesNodes]]:
    """Connect to clusters, and let go of all of them at the end."""
    everyone: list[KubernetesNodes] = []

    def connect_to(settings: KubernetesSettings) -> KubernetesNodes:
        everyone.append(connect(settings))
        return everyone[-1]

    yield connect_to
    for nodes in everyone:
        nodes.close()
