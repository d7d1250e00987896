"""A replica's meter as it runs: counters sampled by a thread, until it is closed.

Its own module because a driver that hangs must never hold up the event loop that serves: the
loop reads the newest sample, and notices by its age that there is no newer one.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from cluster.counting_meter import CountersMeter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cluster.counting_meter import Share
    from cluster.meters import Boundary, Method, Reading
    from cluster.shared_counter import SharedCounter

logger = logging.getLogger("jouleserve.cluster")

# Drivers renew their counters about as often.
SAMPLE_PERIOD_S = 0.1
# A thread that hangs in a driver is left behind.
CLOSE_S = 2.0


class DeviceMeter:
    """Implements `meters.CountingMeter`; counts from `start` until `close`.

    Attributes:
        method: which kind of counters it reads.
        boundary: what they count.
        devices: their names.

    """

    def __init__(  # noqa: PLR0913 (what a meter is made of)
        self,
        method: Method,
        boundary: Boundary,
        counters: Sequence[SharedCounter],
        share: Share | None = None,
        *,
        period_s: float = SAMPLE_PERIOD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put the parts together.

        Args:
            method: which kind of counters they are.
            boundary: what they count.
            counters: of all devices that the replica uses; closed with the meter.
            share: of these that is the replica's; None for all.
            period_s: from one sample to the next.
            clock: monotonic seconds.

        """
        self.method = method
        self.boundary = boundary
        self._meter = CountersMeter(method, boundary, counters, share)
        self.devices = self._meter.devices
        self._counters = counters
        self._period_s = period_s
        self._clock = clock
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="energy meter", daemon=True)

    def read(self) -> Reading:
        """What the newest sample has found."""
        return self._meter.read()

    def start(self) -> None:
        """Take the first sample, and go on."""
        self._meter.sample(self._clock())
        self._thread.start()

    def close(self) -> None:
        """Take no more samples, and let others read the devices."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
        for counter in self._counters:
            counter.close()

    def _run(self) -> None:
        while not self._over.wait(self._period_s):
            try:
                self._meter.sample(self._clock())
            except Exception:
                # The samples age, and whoever reads them falls back to the model.
                logger.exception("the energy meter has failed")
                return
