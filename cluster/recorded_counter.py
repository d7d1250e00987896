"""A counter that repeats what another one has said, at the times at which it said so.

Its own module because a counter's worst moments (wraps, resets, gaps, a device that is gone)
are rare on hardware, and have to be there whenever what reads counters is tried.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from cluster.energy_counters import CounterError, RawReading

if TYPE_CHECKING:
    from collections.abc import Sequence


class Recorded(NamedTuple):
    """What a counter said at a time, and from then on.

    Attributes:
        at_s: the time, on the clock of whoever reads.
        energy_nj: its value; None while it could not be read.

    """

    at_s: float
    energy_nj: int | None


class RecordedCounter:
    """Implements `energy_counters.EnergyCounter` from a recording.

    Attributes:
        name: of the device.
        wrap_nj: value at which it begins at zero again, if it does.
        most_w: more than the device can draw.

    """

    def __init__(
        self,
        recording: Sequence[Recorded],
        wrap_nj: int | None = None,
        most_w: float = 1000.0,
        name: str = "recorded",
    ) -> None:
        """Take a recording.

        Args:
            recording: in the order of time; before its first entry nothing can be read.
            wrap_nj: value at which it begins at zero again, if it does.
            most_w: more than the device can draw.
            name: of the device.

        Raises:
            ValueError: the entries are not in the order of time.

        """
        self.name = name
        self.wrap_nj = wrap_nj
        self.most_w = most_w
        self._times: list[float] = []
        self._recording: list[Recorded] = []
        for entry in recording:
            self.record(entry)

    def record(self, entry: Recorded) -> None:
        """Go on with the recording.

        Raises:
            ValueError: the entry is older than the newest one.

        """
        if self._times and entry.at_s < self._times[-1]:
            raise ValueError("a recording is in the order of time; sort it by at_s")
        self._times.append(entry.at_s)
        self._recording.append(entry)

    def read(self, now_s: float) -> RawReading:
        """Say what it said then.

        Raises:
            CounterError: it could not be read then.

        """
        place = bisect_right(self._times, now_s) - 1
        entry = self._recording[place] if place >= 0 else None
        if entry is None or entry.energy_nj is None:
            raise CounterError("the recording says that it could not be read")
        return RawReading(entry.energy_nj, now_s)
