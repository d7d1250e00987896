"""What a cluster says of itself while load is on it, once a second.

Its own module because it is the one thing of a run that waits for no request: a thread of the
process that starts the workers.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from loadtest.run import ServerSample
from protos.jouleserve.client import JouleserveClientError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from protos.jouleserve.client import Client, ClusterStatus

PERIOD_S = 1.0
# A run of a week, by the second.
MOST_SAMPLES = 604_800


class ServerWatch:
    """Samples a cluster; as a context manager it runs from entering to leaving."""

    def __init__(self, client: Client | None, model: str, period_s: float = PERIOD_S) -> None:
        """Prepare to watch.

        Args:
            client: of the cluster; None watches nothing.
            model: whose replicas count.
            period_s: between two questions.

        """
        self._client = client
        self._model = model
        self._period_s = period_s
        self._samples: list[ServerSample] = []
        self._energy_j: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="server watch", daemon=True)
        self.method = ""
        """How the cluster knows its joules; empty if it tells none."""

    def samples(self, start_s: float) -> tuple[ServerSample, ...]:
        """Give all of them, with instants from a start on the monotonic clock."""
        return tuple(replace(each, at_s=each.at_s - start_s) for each in self._samples)

    def __enter__(self) -> Self:
        if self._client is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._client is not None:
            self._thread.join()
            self._client.close()

    def _watch(self) -> None:
        due_s = time.monotonic()
        while len(self._samples) < MOST_SAMPLES:
            last = self._over.is_set()
            self._ask()
            if last:
                return
            due_s = max(due_s + self._period_s, time.monotonic())
            self._over.wait(due_s - time.monotonic())

    def _ask(self) -> None:
        if self._client is None:
            return
        try:
            status = self._client.status()
        except JouleserveClientError:
            return  # Requests tell that it is gone; a gap in the samples tells it too.
        self._samples.append(self._sample(status, time.monotonic()))

    def _sample(self, status: ClusterStatus, at_s: float) -> ServerSample:
        replicas = [each for each in status.replicas if each.model == self._model]
        for each in replicas:
            # One that is gone keeps what it has used; its name never comes back.
            self._energy_j[each.replica] = each.energy_j
            self.method = each.energy_method or self.method
        return ServerSample(
            at_s=at_s,
            energy_j=math.fsum(self._energy_j.values()) if self.method else math.nan,
            power_w=math.fsum(each.power_w for each in replicas),
            awake_replicas=sum(each.state == "awake" for each in replicas),
            running_requests=sum(each.running_requests for each in replicas),
            waiting_requests=sum(each.waiting_requests for each in replicas),
        )
