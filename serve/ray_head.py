"""Start a Ray head of our own on this machine, beside any that others run.

Its own module because it is the only place that starts processes, and the only one that
decides their environment, which must be set before Ray is imported anywhere.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from serve import cluster_record, ports, processes, rollout
from serve.cluster_record import ClusterError, ClusterRecord
from serve.deployment import RAY_ENVIRONMENT, required_cpus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serve.config import Config
    from serve.ports import Ports

LOCAL_ENVIRONMENT: Mapping[str, str] = {
    # No load balancer outside has to notice that a gateway leaves; Ray's 30 s would delay `down`.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "0.5",
    # A busy laptop takes longer than Ray's 5 s to start a proxy, which would be killed each time.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
    # Ray warns that a GPU is hidden from actors that asked for none; that is what we want.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

_TOKEN_FILE = "auth"  # noqa: S105 (a file name)
# Tokens and reports pass by value; Ray's default of 30 % of the memory would lie idle.
_OBJECT_STORE_BYTES = 256 << 20
# A few seconds on an idle machine, a minute on one that is busy with something else.
_START_DEADLINE_S = 180.0
# HAProxy's admin socket may have 97 characters in its path, and Ray adds 68 of its own.
_LONGEST_TEMP_ROOT = 17


def start(config: Config) -> ClusterRecord:
    """Start a Ray cluster for this configuration; nothing is deployed yet.

    Raises:
        ClusterError: Ray does not start.

    """
    directory = _make_directory()
    record = _launch(config, directory)
    cluster_record.write(record)
    return record


def refuse_taken_ports(config: Config) -> None:
    """Raise ClusterError where somebody else listens on a port of the gateway."""
    gateway = config.gateway
    ports = {"grpc": gateway.grpc_port, "http": gateway.http_port}
    for name, port in ports.items():
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((gateway.host, port))
            except OSError as error:
                raise ClusterError(
                    f"{gateway.host}:{port} cannot be used ({error.strerror}); choose another"
                    f" with --{name}-port, or as gateway.{name}_port in the configuration"
                ) from error


def _make_directory() -> Path:
    root = tempfile.gettempdir()
    if len(root) > _LONGEST_TEMP_ROOT:
        root = "/tmp"  # noqa: S108 (mkdtemp makes it private)
    return Path(tempfile.mkdtemp(prefix="js-", dir=root))


def _launch(config: Config, directory: Path) -> ClusterRecord:
    mark = secrets.token_hex(8)
    try:
        found = ports.reserve()
    except ports.NoFreePortsError as error:
        raise ClusterError(str(error)) from error
    token = directory / _TOKEN_FILE
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    log = directory / "head.log"
    with log.open("w") as output:
        head = subprocess.Popen(  # noqa: S603 (our own command)
            _head_command(config, directory, found),
            env={
                **os.environ,
                **environment(directory),
                **places(directory, found),
                processes.MARK: mark,
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    gateway = config.gateway
    record = ClusterRecord(
        ray_address=f"127.0.0.1:{found.ray}",
        host=gateway.host,
        grpc_port=gateway.grpc_port,
        http_port=gateway.http_port,
        directory=str(directory),
        session_id=head.pid,
        mark=mark,
    )
    _await_head(head, record, log)
    return record


def _await_head(head: subprocess.Popen[bytes], record: ClusterRecord, log: Path) -> None:
    """Wait for `ray start`, which returns when its daemons run; leave nothing behind if not."""
    try:
        if head.wait(timeout=_START_DEADLINE_S) == 0:
            return
        reason = rollout.last_line(log.read_text(errors="replace"))
    except subprocess.TimeoutExpired:
        reason = f"nothing happened for {_START_DEADLINE_S:.0f} s"
    except BaseException:
        processes.end(head.pid, record.mark, grace_s=0.0)
        shutil.rmtree(log.parent, ignore_errors=True)
        raise
    processes.end(head.pid, record.mark, grace_s=0.0)
    raise ClusterError(f"Ray did not start: {reason}; see {log}")


def _head_command(config: Config, directory: Path, found: Ports) -> list[str]:
    """Give the command; every port is a free one, so that it gets on with other Ray clusters."""
    # Ray counts cores to place replicas; more than there are means slow, not stuck.
    cpus = max(os.cpu_count() or 1, math.ceil(required_cpus(config)))
    options: dict[str, object] = {
        "port": found.ray,
        "temp-dir": directory,
        "num-cpus": cpus,
        "object-store-memory": _OBJECT_STORE_BYTES,
        "include-dashboard": False,
        "include-log-monitor": False,
        "dashboard-port": found.dashboard,
        "dashboard-agent-listen-port": 0,
        "ray-client-server-port": found.ray_client,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "log-style": "record",
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head"]
    return [*command, "--disable-usage-stats", *(f"--{k}={v}" for k, v in options.items())]


def environment(directory: Path) -> dict[str, str]:
    """Give what every process of a cluster finds in its environment before it imports Ray."""
    project = str(Path(__file__).resolve().parent.parent)
    paths = [project, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **RAY_ENVIRONMENT,
        **LOCAL_ENVIRONMENT,
        # A token of its own, for whoever reaches Ray's ports can run code as this user.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "",
        "RAY_AUTH_TOKEN_PATH": str(directory / _TOKEN_FILE),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
    }


def places(directory: Path, found: Ports) -> dict[str, str]:
    """Give, besides, where its daemons listen and keep their files."""
    return {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(directory / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(directory / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(directory),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(directory / "server-state"),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(found.fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(found.fallback_grpc),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(found.haproxy_stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(found.haproxy_metrics),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(found.gateways_http.first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(found.gateways_http.last),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(found.gateways_grpc.first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(found.gateways_grpc.last),
    }
