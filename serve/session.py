"""One run of a cluster, from its configuration to its end.

Its own module because `up` and `demo` go the same way up, and whatever ends them the
cluster must go the same way down.
"""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from serve import checkpoint_job, cluster_record, local_cluster, ray_head
from serve.cluster_record import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serve.cluster_record import ClusterRecord
    from serve.config import Config
    from serve.live_view import View

_WATCH_PERIOD_S = 2.0


def bring_up(config: Config, view: View, *, ray_address: str | None = None) -> ClusterRecord:
    """Make checkpoints, start Ray unless an address is given, deploy, wait until all serves.

    Raises:
        CheckpointError: a checkpoint cannot be had.
        ClusterError: the cluster did not come up; what was started has been stopped, and its
            logs are kept.

    """
    local_cluster.refuse_second()
    if ray_address is None:
        ray_head.refuse_taken_ports(config)
    if wanted := checkpoint_job.sources(config):
        view.note("checkpoints")
        checkpoint_job.make_all(wanted, view.note)
    view.note("Ray" if ray_address is None else f"Ray at {ray_address}")
    record = (
        ray_head.start(config) if ray_address is None else local_cluster.adopt(config, ray_address)
    )
    try:
        view.note("replicas")
        local_cluster.deploy(config, record, view.show)
    except BaseException as error:
        with undisturbed():
            # Whoever interrupts has no question that a log would answer.
            local_cluster.stop(record, keep_logs=isinstance(error, Exception))
        raise
    return record


def hold(record: ClusterRecord) -> None:
    """Return when somebody stopped the cluster, or when the user interrupts.

    Raises:
        ClusterError: it died of itself.

    """
    try:
        while cluster_record.read() == record:
            if not record.is_alive():
                raise ClusterError(f"the cluster died; see {record.log_directory}")
            time.sleep(_WATCH_PERIOD_S)
    except KeyboardInterrupt:
        return


def bring_down(record: ClusterRecord) -> None:
    """Stop it, whatever the user presses meanwhile: it takes ten seconds at most."""
    with undisturbed():
        local_cluster.stop(record)


@contextmanager
def terminable() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP end the command in order, as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with _handling(interrupt, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within the block, no signal that asks this process to end does anything."""
    with _handling(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _handling(handler: signal._HANDLER, *numbers: signal.Signals) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
