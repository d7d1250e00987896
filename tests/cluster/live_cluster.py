"""A cluster that `jouleserve up` has started for the tests, and what they may ask of it.

Its own module because starting and stopping it, and the truth about what it still holds,
are the same for every test.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protos.jouleserve.client import AsyncClient
from serve.deployment import GATEWAY, RAY_ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from protos.jouleserve.client import ClusterStatus

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]

# What a client leaves behind when it goes must be gone within this.
RELEASE_S = 2.0
# Everything else only has to happen; a machine that is busy with other things may need this long.
PATIENCE_S = 120.0
# Starting is the work of a dozen processes.
UP_S = 420.0
DOWN_S = 120.0
POLL_S = 0.05
PROBE_ATTEMPTS = 2


async def eventually(
    check: Callable[[], Awaitable[object]], within_s: float = PATIENCE_S
) -> object:
    """Ask again and again until the answer is true; give the last answer."""
    deadline = time.monotonic() + within_s
    while True:
        answer = await check()
        if answer or time.monotonic() > deadline:
            return answer
        await asyncio.sleep(POLL_S)


class ReplicaProbe:
    """Asks the replicas themselves, in a process of its own; see `replica_probe`."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._record = record
        self._process = self._start()
        self._turn = asyncio.Lock()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(HERE / "replica_probe.py"), self._record["ray_address"]],
            env={
                **os.environ,
                **RAY_ENVIRONMENT,
                **_authority(self._record["directory"]),
                "PYTHONPATH": str(PROJECT),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    async def replicas(self) -> list[dict[str, Any]]:
        """List every process of the application: deployment, replica, pid and node."""
        return await self._ask("replicas")

    async def statuses(self) -> list[dict[str, Any]]:
        """Give what every engine replica says of itself."""
        return await self._ask("status")

    async def kill(self, replica: Mapping[str, Any]) -> None:
        """Let the kernel end a replica's process."""
        os.kill(replica["pid"], signal.SIGKILL)

    def close(self) -> None:
        """Leave the cluster, before it goes."""
        self._process.kill()
        self._process.communicate()

    async def _ask(self, question: str) -> list[dict[str, Any]]:
        async with self._turn:
            for _ in range(PROBE_ATTEMPTS):
                try:
                    return await asyncio.to_thread(self._ask_now, question)
                except (BrokenPipeError, ValueError):
                    # It went with the node that it had chosen to connect to.
                    self.close()
                    self._process = await asyncio.to_thread(self._start)
            return await asyncio.to_thread(self._ask_now, question)

    def _ask_now(self, question: str) -> list[dict[str, Any]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(question + "\n")
        stdin.flush()
        answer: list[dict[str, Any]] = json.loads(stdout.readline())
        return answer


@dataclass(frozen=True, slots=True)
class LiveCluster:
    """A running cluster.

    Attributes:
        address: of its gRPC ingress.
        http_url: of its HTTP ingress.
        probe: asks its replicas themselves.
        environ: in which its commands find it.
        directory: of Ray's files, logs among them; empty where others have started Ray.

    """

    address: str
    http_url: str
    probe: ReplicaProbe
    environ: Mapping[str, str] = field(default_factory=dict)
    directory: str = ""

    def client(self) -> AsyncClient:
        """Make a client on connections of its own."""
        return AsyncClient(self.address, timeout_s=PATIENCE_S)

    async def status(self) -> ClusterStatus:
        """Ask one of its gateways."""
        async with self.client() as client:
            return await client.status()

    async def awake(self, variant: str) -> int:
        """Count the replicas of a variant that take work."""
        replicas = (await self.status()).replicas
        return sum(each.variant == variant and each.state == "awake" for each in replicas)

    async def engines(self, variant: str) -> list[dict[str, Any]]:
        """List the processes of one variant."""
        return [each for each in await self.probe.replicas() if each["deployment"] == variant]

    async def command(self, *arguments: str) -> str:
        """Run a command of `jouleserve`; give what it prints."""
        return await asyncio.to_thread(_jouleserve, self.environ, PATIENCE_S, *arguments)

    async def gateways(self) -> list[dict[str, Any]]:
        """List the processes that are gateways."""
        return await self.engines(GATEWAY)

    async def leftovers(self) -> dict[str, int]:
        """What it still holds, by the gateway's books and by the replicas' own; empty if idle."""
        status, replicas = await asyncio.gather(self.status(), self.probe.statuses())
        held = {"in_flight": status.counters.in_flight, "leases": status.counters.leases}
        for each in status.replicas:
            held[f"{each.replica} reported"] = each.running_requests + each.waiting_requests
            held[f"{each.replica} leases"] = each.leases
        for own in replicas:
            for name in ("unfinished_requests", "open_streams", "running_requests"):
                held[f"{own['replica']} {name}"] = own[name]
        return {name: count for name, count in held.items() if count}

    async def assert_released(self, within_s: float = RELEASE_S) -> None:
        """Assert that all of it is free within that time."""

        async def free() -> bool:
            return not await self.leftovers()

        if not await eventually(free, within_s):
            raise AssertionError(f"left after {within_s:g} s: {await self.leftovers()}")

    async def assert_serves(self, model: str, **options: Any) -> None:
        """Assert that a request is answered as an echo engine should."""
        async with self.client() as client:
            reply = await client.complete(
                model, prompt_token_ids=[7, 8, 9], max_tokens=4, **options
            )
        assert reply.token_ids == (7, 8, 9, 7)


def _authority(directory: str) -> dict[str, str]:
    """Give what opens a cluster that `up` has started itself; others are open to this machine."""
    if not directory:
        return {}
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(Path(directory, "auth"))}


@contextmanager
def running(
    directory: Path,
    config: str,
    environment: Mapping[str, str] | None = None,
    ray_address: str | None = None,
) -> Iterator[LiveCluster]:
    """Start a cluster with a state directory and ports of its own; stop it whatever happens.

    Args:
        directory: for its state.
        config: as YAML.
        environment: of the commands, beside this process's own.
        ray_address: of a Ray cluster to deploy to; by default one is started.

    """
    file = directory / "cluster.yaml"
    file.write_text(config)
    environ = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "XDG_STATE_HOME": str(directory),
        **(environment or {}),
    }
    grpc_port, http_port = free_ports(2)
    ports = ["--grpc-port", str(grpc_port), "--http-port", str(http_port)]
    if ray_address is not None:
        ports += ["--address", ray_address]
    try:
        _jouleserve(environ, UP_S, "up", "--config", str(file), "--detach", *ports)
        record = json.loads((directory / "jouleserve" / "cluster.json").read_text())
        probe = ReplicaProbe(record)
        try:
            url = f"http://127.0.0.1:{http_port}"
            address = f"127.0.0.1:{grpc_port}"
            yield LiveCluster(address, url, probe, environ, record["directory"] or "")
        finally:
            probe.close()
            if os.environ.get("KEEP_CLUSTER_LOGS"):  # For who looks for a failure's cause.
                logs = Path(record["directory"], "session_latest", "logs")
                shutil.copytree(logs, directory / "logs", symlinks=True)
    finally:
        _jouleserve(environ, DOWN_S, "down")


def _jouleserve(environ: Mapping[str, str], limit_s: float, *arguments: str) -> str:
    command = [sys.executable, "-m", "serve.cli", *arguments]
    done = subprocess.run(
        command,
        check=False,
        cwd=PROJECT,
        env=environ,
        timeout=limit_s,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise RuntimeError(f"jouleserve {arguments[0]} failed:\n{done.stdout}")
    return done.stdout


def free_ports(count: int) -> list[int]:
    """Give ports of this machine that nobody listens on just now."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
