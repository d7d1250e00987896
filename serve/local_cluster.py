"""Deploy to a Ray cluster, wait until it serves, and stop it.

Its own module because it is the shell around `serve.deployment`: all that the command
line asks of Ray goes through here.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve import cluster_record, processes, rollout
from serve.cluster_record import ClusterError, ClusterRecord
from serve.deployment import APPLICATION, RAY_ENVIRONMENT, required_gpus, serve_config
from serve.ray_head import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from serve.config import Config
    from serve.rollout import Rollout

_INGRESS_DEADLINE_S = 90.0
_POLL_S = 0.25
# Together below ten seconds: what the streams get to end, and what processes get after SIGTERM.
_SHUTDOWN_GRACE_S = 6.0
_TERMINATE_GRACE_S = 1.5
_DELETE_DEADLINE_S = 60.0


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
    try:
        client = _serve_client(config, record)
        _refuse_too_small(config)
        _refuse_strangers(client, record)
        _roll_out(client, config, record, watch)
    finally:
        _disconnect()
    _await_ingress(record)


@contextmanager
def serving(record: ClusterRecord) -> Iterator[Any]:
    """Give Ray Serve's client within the block.

    Raises:
        ClusterError: nothing serves there.

    """
    try:
        yield _serve_client(None, record)
    finally:
        _disconnect()


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


# ------------------------------------------------------------------------------------------ deploy


def connect(record: ClusterRecord) -> None:
    """Make this process a driver of the cluster."""
    variables = environment(Path(record.directory)) if record.directory else RAY_ENVIRONMENT
    if "ray" not in sys.modules:
        os.environ.update(variables)
    import ray

    if ray.is_initialized():
        return
    try:
        with _own_sigterm():
            ray.init(
                address=record.ray_address,
                namespace="serve",
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ClusterError(f"no Ray cluster at {record.ray_address}: {reason}") from error


def _serve_client(config: Config | None, record: ClusterRecord) -> Any:  # noqa: ANN401 (Ray's)
    """Connect to Ray Serve; start it with the configuration's ports if it is not there yet."""
    connect(record)
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
        except (RayError, TimeoutError):
            # A proxy was too slow; the controller, which is there, starts it again.
            client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        raise ClusterError(f"Ray Serve does not run at {record.ray_address}")
    return client


def _disconnect() -> None:
    import ray

    with _own_sigterm():
        ray.shutdown()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM: Ray's prints a stack, and when it leaves there is none."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


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
