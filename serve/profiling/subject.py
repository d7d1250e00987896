"""The one replica that is measured, and whether anything else disturbs it.

Its own module because a profile is worth nothing if somebody else's requests are in it: this is
asked before, and every time that the cluster is looked at meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve.profiling.errors import SubjectError

if TYPE_CHECKING:
    from protos.jouleserve.client import ClusterStatus, Replica

# Others are on their way out, and measured no more.
_PRESENT = frozenset({"starting", "awake", "resting"})
_PIN = "jouleserve plan --pin"


def subject_of(status: ClusterStatus, variant: str) -> Replica:
    """Give the replica to measure.

    Raises:
        SubjectError: there is none, or several, it takes no work, or it is not left alone.

    """
    known = sorted({each.variant for each in status.replicas})
    present = _present(status, variant)
    if not present:
        there = f"; there are replicas of {', '.join(known)}" if known else ""
        raise SubjectError(
            f"no replica of {variant!r} is awake{there}. Wake one: {_PIN} {variant}=1"
        )
    if len(present) > 1:
        raise SubjectError(
            f"{len(present)} replicas of {variant!r} are there, and one is measured at a time."
            f" Keep one: {_PIN} {variant}=1"
        )
    (replica,) = present
    if replica.state != "awake":
        raise SubjectError(f"{replica.replica} is {replica.state}; try again when it is awake")
    if reason := disturbance(status, replica, running=0):
        raise SubjectError(reason)
    return replica


def disturbance(status: ClusterStatus, subject: Replica, running: int) -> str:
    """Say what disturbs a measurement; empty if nothing does.

    Args:
        status: newest.
        subject: the replica that is measured.
        running: requests that it may have, for they are the measurement's own.

    """
    present = _present(status, subject.variant)
    if [each.replica for each in present] != [subject.replica]:
        now = ", ".join(each.replica for each in present) or "none"
        return (
            f"replicas of {subject.variant!r} have changed from {subject.replica} to {now}; keep"
            f" their number: {_PIN} {subject.variant}=1"
        )
    (newest,) = present
    load = newest.running_requests + newest.waiting_requests
    if load > running or newest.leases > running:
        return (
            f"{subject.replica} has {max(load, newest.leases)} requests where {running} are the"
            " measurement's own; keep other clients away until it is done"
        )
    for each in status.replicas:
        beside = each.node == subject.node and each.replica != subject.replica
        if beside and each.running_requests + each.waiting_requests:
            return (
                f"{each.replica} serves requests on the same node, {subject.node}; keep other"
                " clients away until it is done"
            )
    return ""


def _present(status: ClusterStatus, variant: str) -> list[Replica]:
    return [each for each in status.replicas if each.variant == variant and each.state in _PRESENT]
