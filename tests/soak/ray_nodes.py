"""Ray nodes that tests add and take away.

Its own module because what is done with nodes has nothing to do with how they are made.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve import ports
from serve.deployment import RAY_ENVIRONMENT
from serve.ray_head import LOCAL_ENVIRONMENT, places
from tests.cluster.live_cluster import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Their daemons start one after the other.
START_S = 180.0
STOP_S = 60.0


class RayNodes:
    """Nodes of one Ray cluster on this machine.

    Attributes:
        address: of the Ray cluster.
        numbers: of the worker nodes that are there.

    """

    def __init__(self, process: subprocess.Popen[str], address: str, workers: int) -> None:
        self.address = address
        self.numbers = list(range(workers))
        self._process = process

    async def add(self) -> None:
        """Have one more."""
        self.numbers.append(int(await asyncio.to_thread(self._ask, "add")))

    async def remove(self, number: int) -> None:
        """Let one vanish."""
        self.numbers.remove(number)
        await asyncio.to_thread(self._ask, f"remove {number}")

    def _ask(self, command: str) -> str:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(command + "\n")
        stdin.flush()
        answer = stdout.readline().strip()
        if not answer:
            raise RuntimeError(f"the process of the nodes has ended at {command!r}")
        return answer


@contextmanager
def ray_nodes(
    workers: int, worker: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> Iterator[RayNodes]:
    """Start nodes; end them whatever happens.

    Args:
        workers: beside the head, which has no room for replicas that need a GPU.
        worker: what each has, as `ray.cluster_utils.Cluster.add_node` takes it.
        environment: of Ray's processes, beside what they always have.

    """
    settings = json.dumps({"workers": workers, "worker": worker})
    # HAProxy's admin socket wants a short path.
    directory = Path(tempfile.mkdtemp(prefix="js-", dir="/tmp"))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.soak.node_process", settings],
        cwd=PROJECT,
        env={
            **os.environ,
            **RAY_ENVIRONMENT,
            **LOCAL_ENVIRONMENT,
            **places(directory, ports.reserve()),
            "PYTHONPATH": str(PROJECT),
            **(environment or {}),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError("no Ray nodes came up")
        yield RayNodes(process, address, workers)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
        shutil.rmtree(directory, ignore_errors=True)
