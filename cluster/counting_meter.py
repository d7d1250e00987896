"""The joules of one replica, from the counters of all devices that it uses.

Its own module because it is the one place where raw counters become one total: devices are
added up, a replica's share of what it does not have alone is taken, and what could not be
counted is told as a gap instead of being guessed.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple, Protocol

from cluster.energy_counters import CounterError, CounterTotal, Fault, RawReading
from cluster.meters import Reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.energy_counters import EnergyCounter
    from cluster.meters import Boundary, Method

logger = logging.getLogger("jouleserve.cluster")

# A trouble that is over is still told for so long, so that somebody sees it.
TROUBLE_MEMORY_S = 60.0
# Every device draws something: a counter that is read and stands still for so long counts nothing.
FROZEN_S = 30.0


class Share(Protocol):
    """How much of its devices' energy is a replica's."""

    def of(self, energy_nj: int) -> int:
        """Take it of energy that was counted since the previous call."""


class Whole:
    """All of it: the replica has its devices alone."""

    def of(self, energy_nj: int) -> int:
        """Give all."""
        return energy_nj


class FixedShare(NamedTuple):
    """The same part at all times, as of a slice of a GPU.

    Attributes:
        part: of
        whole: in the same unit.

    """

    part: int
    whole: int

    def of(self, energy_nj: int) -> int:
        """Take the part."""
        return energy_nj * self.part // self.whole


class _Device:
    """A counter, what it has counted, and whether it can be read."""

    def __init__(self, counter: EnergyCounter) -> None:
        self.counter = counter
        self.total = CounterTotal(counter.wrap_nj, counter.most_w)
        self.lost = False
        self.read_at_s = float("-inf")
        self._rose: RawReading | None = None  # When it had another value for the last time.

    def sample(self, now_s: float) -> tuple[int, Fault | None]:
        """Read it; say what it has counted since, and what is wrong."""
        before_nj = self.total.total_nj
        try:
            reading = self.counter.read(now_s)
        except CounterError as error:
            self.lost = True
            self.total.lose()
            return 0, Fault(str(error), "")
        self.read_at_s = reading.at_s
        was_lost, self.lost = self.lost, False
        fault = self.total.take(reading) or self._frozen(reading)
        if was_lost:
            fault = fault or Fault("could not be read for a while", "")
        return self.total.total_nj - before_nj, fault

    def _frozen(self, reading: RawReading) -> Fault | None:
        rose = self._rose
        if rose is None or reading.energy_nj != rose.energy_nj:
            self._rose = reading
        elif reading.at_s - rose.at_s >= FROZEN_S:
            return Fault("does not rise", f"at {reading.energy_nj / 1e9:.3f} J")
        return None


class CountersMeter:
    """Implements `meters.CountingMeter`; whoever owns it calls `sample` now and then.

    Attributes:
        method: which kind of counters they are.
        boundary: what they count.
        devices: their names.

    """

    def __init__(
        self,
        method: Method,
        boundary: Boundary,
        counters: Sequence[EnergyCounter],
        share: Share | None = None,
    ) -> None:
        """Begin to count with the first sample.

        Args:
            method: which kind of counters they are.
            boundary: what they count.
            counters: of all devices that the replica uses.
            share: of these that is the replica's; None for all.

        """
        self.method = method
        self.boundary = boundary
        self.devices = tuple(counter.name for counter in counters)
        self._devices = [_Device(counter) for counter in counters]
        self._share = share or Whole()
        self._reading = Reading(0, float("-inf"))
        self._told_at_s = float("-inf")

    def read(self) -> Reading:
        """What the newest sample has found."""
        return self._reading

    def sample(self, now_s: float) -> None:
        """Read all counters."""
        counted_nj, faults = 0, []
        for device in self._devices:
            rise_nj, fault = device.sample(now_s)
            counted_nj += rise_nj
            if fault is not None:
                faults.append(Fault(f"{device.counter.name} {fault.reason}", fault.detail))
        known = self._reading
        trouble = self._trouble(faults, now_s)
        self._reading = Reading(
            known.energy_nj + self._share.of(counted_nj),
            min((device.read_at_s for device in self._devices), default=now_s),
            known.gaps + bool(faults),
            trouble,
        )

    def _trouble(self, faults: list[Fault], now_s: float) -> str:
        """Tell a fault, and go on telling it for a while; log it once."""
        if faults:
            trouble = "; ".join(fault.reason for fault in faults)
            if trouble != self._reading.trouble:
                details = "; ".join(filter(None, (fault.detail for fault in faults)))
                logger.warning("energy counter: %s: %s", trouble, details or "it is modelled")
            self._told_at_s = now_s
            return trouble
        fresh = now_s - self._told_at_s < TROUBLE_MEMORY_S
        return self._reading.trouble if fresh else ""
