"""Looks at the cluster while it is measured: the energy counter, and who else is there.

Its own module because it is a task of its own beside the load, with an end of its own.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from protos.jouleserve.client import JouleserveClientError
from serve.profiling.errors import SubjectError
from serve.profiling.subject import disturbance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protos.jouleserve.client import ClusterStatus, Replica

# Twice as often as replicas report, so that no report is missed.
PERIOD_S = 0.25
# Looks in a row that may fail: a gateway that is busy answers late, one that is gone never.
MOST_FAILURES = 20
# A window's power is that between the first and the last report in it; of less than this share
# of the window it says little.
LEAST_SHARE = 0.5


class Watched(Protocol):
    """What can be asked how it is; an `AsyncClient` is one."""

    async def status(self) -> ClusterStatus:
        """Ask what the cluster is doing."""


class Glimpse(NamedTuple):
    """The replica at one instant.

    Attributes:
        at_s: when its report was made, on the event loop's clock.
        energy_j: of its counter.
        step_time_s: recent mean, by its own account.
        running_requests: in its batch.
        waiting_requests: not in it yet.
        kv_cache_usage: 0 to 1.

    """

    at_s: float
    energy_j: float
    step_time_s: float
    running_requests: int
    waiting_requests: int
    kv_cache_usage: float


def power_w(glimpses: Sequence[Glimpse], begin_s: float, end_s: float) -> float | None:
    """Mean power within a window, by the counter; None where too few reports lie in it."""
    inside = within(glimpses, begin_s, end_s)
    if not inside:
        return None
    span_s = inside[-1].at_s - inside[0].at_s
    if span_s <= 0 or span_s < LEAST_SHARE * (end_s - begin_s):
        return None
    return (inside[-1].energy_j - inside[0].energy_j) / span_s


def within(glimpses: Sequence[Glimpse], begin_s: float, end_s: float) -> list[Glimpse]:
    """Give those within a window."""
    return [each for each in glimpses if begin_s <= each.at_s <= end_s]


class Watch:
    """Looks again and again for as long as it is open: `async with Watch(...) as watch`."""

    def __init__(self, cluster: Watched, subject: Replica, running: int) -> None:
        """Look at nothing yet.

        Args:
            cluster: to ask.
            subject: the replica that is measured.
            running: requests that it may have.

        """
        self.glimpses: list[Glimpse] = []
        self._cluster = cluster
        self._subject = subject
        self._running = running
        self._fault = ""
        # What is seen once may be the end of one wave beside the beginning of the next.
        self._suspected = False
        self._failures = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._look_on(), name="watch of a measurement")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def check(self) -> None:
        """Raise SubjectError if something has disturbed the measurement."""
        if self._fault:
            raise SubjectError(self._fault)

    async def _look_on(self) -> None:
        while not self._fault:
            await self._look()
            await asyncio.sleep(PERIOD_S)

    async def _look(self) -> None:
        try:
            status = await self._cluster.status()
        except JouleserveClientError as error:
            self._failures += 1
            if self._failures >= MOST_FAILURES:
                self._fault = f"the gateway says no more how it is: {error}"
            return
        self._failures = 0
        now_s = asyncio.get_running_loop().time()
        seen = disturbance(status, self._subject, self._running)
        self._fault = seen if self._suspected else ""
        self._suspected = bool(seen)
        for each in status.replicas:
            if each.replica == self._subject.replica:
                self._keep(each, now_s)

    def _keep(self, replica: Replica, now_s: float) -> None:
        glimpse = Glimpse(
            now_s - replica.age_s,
            replica.energy_j,
            replica.step_time_s,
            replica.running_requests,
            replica.waiting_requests,
            replica.kv_cache_usage,
        )
        # A report is seen again until the next one comes; its age is only that exact.
        if not self.glimpses or glimpse.energy_j != self.glimpses[-1].energy_j:
            self.glimpses.append(glimpse)
