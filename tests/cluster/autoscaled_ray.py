"""A Ray cluster whose own autoscaler brings worker nodes and takes idle ones away.

Its own module because the nodes are made by Ray: its autoscaler is the real one, and what it
is told to make are further raylets on this machine.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from serve import ports, processes
from serve.deployment import RAY_ENVIRONMENT
from serve.ray_head import LOCAL_ENVIRONMENT, places
from tests.cluster.live_cluster import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

START_S = 120.0
GRACE_S = 10.0
_STORE_BYTES = 100 << 20


@contextmanager
def autoscaled_ray(worker: Mapping[str, float], most: int, idle_s: float) -> Iterator[str]:
    """Start a head without accelerators; give its address, and end everything whatever happens.

    Args:
        worker: resources of a worker node.
        most: worker nodes that may be on together.
        idle_s: after which the autoscaler takes one away that has nothing to do.

    """
    # HAProxy's admin socket wants a short path.
    directory = Path(tempfile.mkdtemp(prefix="js-", dir="/tmp"))
    found, mark = ports.reserve(), secrets.token_hex(8)
    address = f"127.0.0.1:{found.ray}"
    config = directory / "autoscaling.json"
    config.write_text(json.dumps(_config(address, worker, most, idle_s)))
    options = {
        "port": found.ray,
        "node-ip-address": "127.0.0.1",
        "temp-dir": directory,
        "num-cpus": 0,
        "object-store-memory": _STORE_BYTES,
        "include-dashboard": False,
        "dashboard-agent-listen-port": 0,
        "ray-client-server-port": found.ray_client,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "autoscaling-config": config,
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head"]
    command += ["--disable-usage-stats", *(f"--{key}={value}" for key, value in options.items())]
    head = subprocess.Popen(
        [
            *command,
            "--disable-usage-stats",
            *(f"--{name}={value}" for name, value in options.items()),
        ],
        cwd=PROJECT,
        env={
            **os.environ,
            **RAY_ENVIRONMENT,
            **LOCAL_ENVIRONMENT,
            **places(directory, found),
            "PYTHONPATH": str(PROJECT),
            "RAY_AUTH_MODE": "disabled",
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            processes.MARK: mark,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = head.communicate(timeout=START_S)
        assert head.returncode == 0, said
        yield address
    finally:
        processes.end(head.pid, mark, grace_s=GRACE_S)
        shutil.rmtree(directory, ignore_errors=True)


def _config(
    address: str, worker: Mapping[str, float], most: int, idle_s: float
) -> dict[str, object]:
    """Write what `ray start --autoscaling-config` reads."""
    nothing: dict[str, object] = {}
    return {
        "cluster_name": "autoscaled",
        "max_workers": most,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_s / 60.0,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            # The nodes share one address, and nobody has to log in to them.
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": nothing, "node_config": nothing, "max_workers": 0},
            "worker": {
                "resources": {"object_store_memory": _STORE_BYTES, **worker},
                "node_config": nothing,
                "min_workers": 0,
                "max_workers": most,
            },
        },
        "head_node_type": "ray.head.default",
        "auth": nothing,
        "docker": nothing,
        "file_mounts": nothing,
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }
