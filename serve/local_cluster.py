"""Start, deploy to, watch and stop a Ray cluster on this machine.

Its own module because it is the shell around `serve.deployment`: the only place that
starts processes, and, with its environment, the only one that must precede Ray's import.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve import cluster_record, processes, rollout
from serve.cluster_record import ClusterRecord
from serve.deployment import (
    APPLICATION,
    RAY_ENVIRONMENT,
    required_cpus,
    required_gpus,
    serve_config,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from serve.config import Config
    from serve.rollout import Rollout

LOCAL_ENVIRONMENT: Mapping[str, str] = {
    # No load balancer outside has to notice that a gateway leaves; Ray's 30 s would delay `down`.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "0.5",
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "2",
    # Ray warns that a GPU is hidden from actors that asked for none; that is what we want.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

_TOKEN_FILE = "auth"  # noqa: S105 (a file name)
# Tokens and reports pass by value; Ray's default of 30 % of the memory would lie idle.
_OBJECT_STORE_BYTES = 256 << 20
_HEAD_DEADLINE_S = 90.0
_INGRESS_DEADLINE_S = 30.0
_POLL_S = 0.25
# Together below ten seconds: what the streams get to end, and what processes get after SIGTERM.
_SHUTDOWN_GRACE_S = 6.0
_TERMINATE_GRACE_S = 1.5
_DELETE_DEADLINE_S = 60.0
# HAProxy's admin socket may have 97 characters in its path, and Ray adds 68 of its own.
_LONGEST_TEMP_ROOT = 17


class ClusterError(Exception):
    """The cluster cannot be started, reached or deployed to; the message says what to change."""


def start(config: Config) -> ClusterRecord:
    """Start a Ray cluster for this configuration; nothing is deployed yet.

    Raises:
        ClusterError: Ray does not start.

    """
    directory = _make_directory()
    record = _launch(config, directory)
    cluster_record.write(record)
    return record


def adopt(config: Config, ray_address: str) -> ClusterRecord:
    """Use a Ray cluster that somebody else started and will stop."""
    gateway = config.gateway
    record = ClusterRecord(ray_address, gateway.host, gateway.grpc_port, gateway.http_port)
    cluster_record.write(record)
    return record


def deploy(config: Config, record: ClusterRecord, watch: Callable[[Rollout], None]) -> None:
    """Deploy declaratively and wait until every replica and the ingress serve.

    Args:
        config: what to deploy.
        record: where.
        watch: told of the state a few times a second.

    Raises:
        ClusterError: the cluster cannot hold it, or a replica does not come up.

    """
    client = _serve_client(config, record)
    try:
        _refuse_too_small(config)
        _refuse_strangers(client, record)
        _roll_out(client, config, record, watch)
    finally:
        _disconnect()
    _await_ingress(record)


def stop(record: ClusterRecord, *, keep_logs: bool = False) -> None:
    """End what `start` started, or take the application off a cluster that is not ours."""
    if record.session_id is None:
        _apart(_DELETE_DEADLINE_S, _delete_application, record)
    else:
        if record.is_alive():
            _apart(_SHUTDOWN_GRACE_S, _shutdown_serve, record)
        processes.end(record.session_id, record.mark, grace_s=_TERMINATE_GRACE_S)
    if record.directory and not keep_logs:
        shutil.rmtree(record.directory, ignore_errors=True)
    cluster_record.forget()


# ------------------------------------------------------------------------------------------- start


def refuse_second() -> None:
    """Raise ClusterError where a cluster of ours lives; clear away the remains of a dead one."""
    record = cluster_record.read()
    if record is None:
        return
    if record.is_alive():
        raise ClusterError(
            f"a cluster runs already, at {record.grpc_address}; stop it with: jouleserve down"
        )
    stop(record)


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
    port, mark = _free_port(), secrets.token_hex(8)
    token = directory / _TOKEN_FILE
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    log = directory / "head.log"
    with log.open("w") as output:
        head = subprocess.Popen(  # noqa: S603 (our own command)
            _head_command(config, directory, port),
            env={**os.environ, **_environment(directory), processes.MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    gateway = config.gateway
    record = ClusterRecord(
        ray_address=f"127.0.0.1:{port}",
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
        if head.wait(timeout=_HEAD_DEADLINE_S) == 0:
            return
        reason = rollout.last_line(log.read_text(errors="replace"))
    except subprocess.TimeoutExpired:
        reason = f"nothing happened for {_HEAD_DEADLINE_S:.0f} s"
    except BaseException:
        processes.end(head.pid, record.mark, grace_s=0.0)
        raise
    processes.end(head.pid, record.mark, grace_s=0.0)
    raise ClusterError(f"Ray did not start: {reason}; see {log}")


def _head_command(config: Config, directory: Path, port: int) -> list[str]:
    """Give the command; every port is a free one, so that it gets on with other Ray clusters."""
    # Ray counts cores to place replicas; more than there are means slow, not stuck.
    cpus = max(os.cpu_count() or 1, math.ceil(required_cpus(config)))
    options: dict[str, object] = {
        "port": port,
        "temp-dir": directory,
        "num-cpus": cpus,
        "object-store-memory": _OBJECT_STORE_BYTES,
        "include-dashboard": False,
        "include-log-monitor": False,
        "dashboard-port": _free_port(),
        "dashboard-agent-listen-port": 0,
        "ray-client-server-port": _free_port(),
        "min-worker-port": 0,
        "max-worker-port": 0,
        "log-style": "record",
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head"]
    return [*command, "--disable-usage-stats", *(f"--{k}={v}" for k, v in options.items())]


def _environment(directory: Path) -> dict[str, str]:
    """Give what Ray's processes, and this one before it imports Ray, find in their environment."""
    project = str(Path(__file__).resolve().parent.parent)
    paths = [project, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **RAY_ENVIRONMENT,
        **LOCAL_ENVIRONMENT,
        # A token of its own, for whoever reaches Ray's ports can run code as this user.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "",
        "RAY_AUTH_TOKEN_PATH": str(directory / _TOKEN_FILE),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(directory / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(directory / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(directory),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(directory / "server-state"),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(_free_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free_port()),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# ------------------------------------------------------------------------------------------ deploy


def _connect(record: ClusterRecord) -> None:
    """Make this process a driver of the cluster."""
    environment = _environment(Path(record.directory)) if record.directory else RAY_ENVIRONMENT
    if "ray" not in sys.modules:
        os.environ.update(environment)
    import ray

    if ray.is_initialized():
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=record.ray_address,
            namespace="serve",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        signal.signal(signal.SIGTERM, handler)  # Ray's own prints a stack.
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ClusterError(f"no Ray cluster at {record.ray_address}: {reason}") from error


def _serve_client(config: Config | None, record: ClusterRecord) -> Any:  # noqa: ANN401 (Ray's)
    """Connect to Ray Serve; start it with the configuration's ports if it is not there yet."""
    _connect(record)
    from ray.exceptions import RayError
    from ray.serve._private.api import serve_start
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None and config is not None:
        plan = serve_config(config)
        options = {k: plan[k] for k in ("http_options", "grpc_options", "proxy_location")}
        try:
            with _silence():
                client = serve_start(**options)
        except RayError as error:
            raise ClusterError(_failure(f"Ray Serve did not start: {error}", record)) from error
    if client is None:
        raise ClusterError(f"Ray Serve does not run at {record.ray_address}")
    return client


def _disconnect() -> None:
    import ray

    ray.shutdown()


def _roll_out(
    client: Any,  # noqa: ANN401 (Ray's)
    config: Config,
    record: ClusterRecord,
    watch: Callable[[Rollout], None],
) -> None:
    from ray.serve.schema import ServeDeploySchema

    client.deploy_apps(ServeDeploySchema.model_validate(serve_config(config)))
    while not (state := _observe(client)).running:
        watch(state)
        if state.failed:
            raise ClusterError(_failure(state.message or state.status, record))
        time.sleep(_POLL_S)
    watch(state)


def _refuse_too_small(config: Config) -> None:
    import ray

    there, needed = ray.cluster_resources().get("GPU", 0), required_gpus(config)
    if needed > there:
        raise ClusterError(
            f"the configuration asks for {needed} GPUs, the cluster has {there:.0f}; lower"
            " min_replicas or parallel sizes, or use variants on 'cpu'"
        )


def _refuse_strangers(client: Any, record: ClusterRecord) -> None:  # noqa: ANN401
    """A declarative deployment replaces all others of its kind: never those of other people."""
    if record.session_id is not None:
        return
    others = sorted(set(client.get_serve_details()["applications"]) - {APPLICATION})
    if others:
        raise ClusterError(
            f"the cluster at {record.ray_address} also serves {', '.join(others)}, which this"
            " would remove; use a Ray cluster without other Serve applications"
        )


def _observe(client: Any) -> Rollout:  # noqa: ANN401
    return rollout.read(client.get_serve_details(), now_s=time.time())


def _failure(message: str, record: ClusterRecord) -> str:
    where = f"; logs: {record.log_directory}" if record.log_directory else ""
    return f"{rollout.last_line(message)}{where}"


def _await_ingress(record: ClusterRecord) -> None:
    """Wait until a client on this machine is answered."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(record.grpc_address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        deadline = time.monotonic() + _INGRESS_DEADLINE_S
        while True:
            try:
                reply = check(health_pb2.HealthCheckRequest(), timeout=2.0)
                reason = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
                if reason == "SERVING":
                    return
            except grpc.RpcError as error:
                reason = error.code().name
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"replicas run, but {record.grpc_address} answers {reason} to a health check"
                )
            time.sleep(_POLL_S)


# -------------------------------------------------------------------------------------------- stop


def _shutdown_serve(record: ClusterRecord) -> None:
    _serve_client(None, record).shutdown(timeout_s=_SHUTDOWN_GRACE_S)


def _delete_application(record: ClusterRecord) -> None:
    _serve_client(None, record).delete_apps([APPLICATION])


def _apart(limit_s: float, action: Callable[[ClusterRecord], None], record: ClusterRecord) -> None:
    """Run an action in a process of its own, no longer than that, and whatever comes of it.

    Ray ends the process that is connected when its cluster goes; that must not be this one.
    """
    process = multiprocessing.get_context("spawn").Process(target=_quietly, args=(action, record))
    process.start()
    process.join(limit_s)
    process.kill()
    process.join()


def _quietly(action: Callable[[ClusterRecord], None], record: ClusterRecord) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    action(record)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep to ourselves that Ray Serve has started; failures are raised anyhow."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
