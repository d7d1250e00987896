"""A dashboard beside a cluster asks it by gRPC, and a virtual one comes with it if asked to."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from protos.jouleserve.client import AsyncClient, Client, JouleserveClientError
from serve.cluster_record import ClusterError
from serve.dashboard.remote import RemoteSource, serve_for
from serve.dashboard.snapshot import document
from serve.dashboard.virtual_process import virtual_cluster

FLEET = Path(__file__).parents[2] / "examples/fleets/8xh100.yaml"
LIMIT_S = 30.0
# A process that imports what a simulation needs, on a machine that is busy.
pytestmark = pytest.mark.timeout(180)


async def test_a_snapshot_is_what_the_gateway_says() -> None:
    with virtual_cluster(FLEET, ["--load", "0.3"]) as address:
        async with AsyncClient(address, timeout_s=LIMIT_S) as client:
            taken = await RemoteSource(client).take()
    assert taken.status.gateway == "virtual"
    assert taken.plan is not None
    (model,) = taken.models
    written: Any = document(taken)
    assert set(written["replicas"]) == {each.replica for each in taken.status.replicas}
    assert {each.name for each in model.variants} >= {
        each.variant for each in taken.status.replicas
    }


def test_a_virtual_cluster_ends_with_whoever_wanted_it() -> None:
    with virtual_cluster(FLEET) as address, Client(address, timeout_s=LIMIT_S) as client:
        assert client.status().replicas
    with (
        Client(address, timeout_s=LIMIT_S) as client,
        pytest.raises(JouleserveClientError),
    ):
        client.status()


def lives(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_a_virtual_cluster_outlives_no_dashboard(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "serve.cli", "dashboard", "--fleet", str(FLEET)]
    with subprocess.Popen(
        [*command, "--port", "0"], cwd=FLEET.parents[2], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "/dashboard" in process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(number)
        process.wait(LIMIT_S)
    (child,) = children
    while lives(child):
        time.sleep(0.05)


def test_a_fleet_that_is_none_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ClusterError, match="has not come up"),
        virtual_cluster(tmp_path / "none.yaml"),
    ):
        pass


def test_a_port_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ClusterError, match="--port"):
            serve_for("127.0.0.1:1", "127.0.0.1", port, lambda _: None)
