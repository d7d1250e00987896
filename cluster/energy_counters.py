"""A counter of energy that hardware keeps, and what of its readings can be energy.

Its own module because counters of every kind fail in the same ways: they wrap, start again
from zero, jump, or are gone; and a number that came so must not be taken for joules.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

# A counter is renewed now and then, and its rise may be read up to so much later.
RENEWAL_S = 1.0


class CounterError(Exception):
    """A counter cannot be read; the message says what to change."""


class RawReading(NamedTuple):
    """A counter's own value.

    Attributes:
        energy_nj: since whenever it began.
        at_s: when it was read, on the monotonic clock.

    """

    energy_nj: int
    at_s: float


class Fault(NamedTuple):
    """Why what a counter has counted is not known.

    Attributes:
        reason: always in the same words.
        detail: in figures.

    """

    reason: str
    detail: str


class EnergyCounter(Protocol):
    """A counter of one device."""

    @property
    def name(self) -> str:
        """The device's own."""

    @property
    def wrap_nj(self) -> int | None:
        """Value at which it begins at zero again; None for one that never does."""

    @property
    def most_w(self) -> float:
        """More than the device can draw: a faster rise is no energy."""

    def read(self, now_s: float) -> RawReading:
        """Read it.

        Raises:
            CounterError: it cannot be read.

        """


class CounterTotal:
    """Adds up what a counter has counted since the first reading.

    Attributes:
        total_nj: so far; it never falls.

    """

    def __init__(self, wrap_nj: int | None, most_w: float) -> None:
        """Begin before the first reading.

        Args:
            wrap_nj: value at which the counter begins at zero again, if it does.
            most_w: more than its device can draw.

        """
        self.total_nj = 0
        self._wrap_nj = wrap_nj
        self._most_w = most_w
        self._last: RawReading | None = None

    def lose(self) -> None:
        """Forget the newest reading: what the next one adds to it would be unknown."""
        self._last = None

    def take(self, reading: RawReading) -> Fault | None:
        """Take the next reading; say why what it adds is unknown, if it is.

        A reading that cannot be is where the next one is counted from.
        """
        last, self._last = self._last, reading
        if last is None:
            return None
        span_s = max(0.0, reading.at_s - last.at_s)
        rise_nj = reading.energy_nj - last.energy_nj
        most_nj = self._most_w * (span_s + RENEWAL_S) * 1e9
        if rise_nj < 0 and self._wrap_nj is not None:
            rise_nj += self._wrap_nj
        if self._wrap_nj is not None and most_nj >= self._wrap_nj:
            return Fault("may have wrapped more than once", f"not read for {span_s:.0f} s")
        if rise_nj < 0 or (reading.energy_nj < last.energy_nj and rise_nj > most_nj):
            before_j, after_j = last.energy_nj / 1e9, reading.energy_nj / 1e9
            return Fault("was reset", f"from {before_j:.3f} to {after_j:.3f} J")
        if rise_nj > most_nj:
            return Fault("jumped", f"by {rise_nj / 1e9:.0f} J in {span_s:.1f} s")
        self.total_nj += rise_nj
        return None
