"""A replica's energy from one look at its meter to the next: how much, and what of it was work.

Its own module because it is where a counter and the step model meet, under one rule. Of a
window in which steps should have used `work`, and the time without steps `floor`, a counter
that says `total` means

    work' = total − floor                  where it says at least floor + work
            total · work / (floor + work)  where it says less

and the rest is idle: what the hardware draws beyond its idle power, the steps have used; and
where the model promises more than there is, both are lowered alike. Where nothing is counted,
total = floor + work by itself. Where a counter has a gap, that stands in, and is marked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from cluster.meters import PowerMean

if TYPE_CHECKING:
    from cluster.meters import CountingMeter, Reading, StepWork, WorkModel

# A counter is read ten times a second: in a window of a second it is a tenth behind. And steps
# of the model end in the window in which they began, but for one.
WINDOW_S = 1.0
# A counter without a newer reading for so long is not waited for.
STALE_S = 5.0
# Of the weight of older windows, what is left after each in what counted over modelled is.
MEMORY = 0.8
# Shorter than this, an open window says more of when the counter was read than of what it counts.
TELLING_S = 0.5


class Closed(NamedTuple):
    """What a window has come to.

    Attributes:
        shared_nj: for those whose weights were open when it was closed.
        idle_nj: nobody's.
        work_nj: all that steps have used in it, what was charged ahead included.

    """

    shared_nj: int
    idle_nj: int
    work_nj: int


@dataclass(slots=True)
class _Open:
    """What the open window has so far: by the model, and what was charged of it ahead."""

    work_nj: int = 0
    charged_nj: int = 0
    busy_s: float = 0.0
    idle_s: float = 0.0


class EnergyWindow:
    """The open window, and the sum of those before it.

    Attributes:
        booked_nj: energy of all windows that are closed.
        power: recent mean.
        modelled: how many windows of a counter had to be modelled.

    """

    def __init__(self, model: WorkModel, counter: CountingMeter | None, window_s: float) -> None:
        """Open the first window.

        Args:
            model: of the replica.
            counter: of the hardware; None where the model is all there is.
            window_s: least length of a window.

        """
        self.booked_nj = 0
        self.power = PowerMean(model.idle_nj(1.0) / 1e9)
        self.modelled = 0
        self._model = model
        self._counter = counter
        self._window_s = window_s
        self._open = _Open()
        self._began_s: float | None = None
        self._now_s = 0.0
        self._base = None if counter is None else counter.read()
        self._adrift = False  # The newest closed window ended without a reading.
        self._counted_nj = self._expected_nj = 0.0  # Of work, newer windows weighing more.

    @property
    def energy_nj(self) -> int:
        """All that was used, up to the newest reading or the latest time that was told."""
        if self._counter is None or self._base is None or self._adrift:
            return self.booked_nj + max(self._modelled_nj(), self._open.charged_nj)
        return self.booked_nj + self._counter.read().energy_nj - self._base.energy_nj

    @property
    def charged_total_nj(self) -> int:
        """Everything that is on somebody's account: closed windows, and what was charged ahead."""
        return self.booked_nj + self._open.charged_nj

    @property
    def worked(self) -> bool:
        """Whether a step has ended in the open window, or something was charged of it."""
        return bool(self._open.work_nj or self._open.charged_nj)

    @property
    def trouble(self) -> str:
        """What is wrong with the counter; empty if nothing."""
        if self._counter is None:
            return ""
        reading = self._counter.read()
        age_s = self._now_s - reading.at_s
        if reading.trouble or age_s <= STALE_S:
            return reading.trouble
        return f"no reading for more than {STALE_S:g} s; energy is modelled meanwhile"

    @property
    def counts(self) -> bool:
        """Whether what is used now is counted."""
        return self._counter is not None and self._sound(self._counter.read())

    def step(self, work: StepWork, duration_s: float, now_s: float) -> None:
        """Add a step that has just ended.

        Args:
            work: that the model gives it.
            duration_s: that it took.
            now_s: the instant.

        """
        busy_s = work.busy_s if self._counter is None else duration_s
        self._open.work_nj += work.prefill_nj + work.decode_nj
        self._pass(now_s, busy_s)

    def tell(self, now_s: float) -> None:
        """Let time pass without a step."""
        self._pass(now_s, 0.0)

    def charge(self, weight_nj: int) -> int:
        """Charge ahead for a weight that leaves before the window is closed; gives its energy.

        It is what such weights have lately come to.
        """
        charged_nj = weight_nj if self._counter is None else round(weight_nj * self._scale())
        self._open.charged_nj += charged_nj
        return charged_nj

    def due(self) -> bool:
        """Whether the window can be closed."""
        if self._began_s is None or self._now_s - self._began_s < self._window_s:
            return False
        if self._counter is None or self._base is None:
            return True
        reading = self._counter.read()
        if not self._sound(reading):
            return True
        counted_nj = reading.energy_nj - self._base.energy_nj
        renewed = reading.at_s - self._base.at_s >= min(self._window_s, TELLING_S)
        return renewed and counted_nj >= self._open.charged_nj

    def close(self) -> Closed:
        """Close it and open the next; a counter that is behind what was charged is modelled."""
        open_ = self._open
        span_s = 0.0 if self._began_s is None else self._now_s - self._began_s
        total_nj, counted = self._total()
        floor_nj = self._model.idle_nj(open_.idle_s)
        work_nj = _work_of(total_nj, floor_nj, open_.work_nj)
        left_nj = total_nj - open_.charged_nj
        shared_nj = min(max(0, work_nj - open_.charged_nj), left_nj)
        if counted:
            self._counted_nj = MEMORY * self._counted_nj + work_nj
            self._expected_nj = MEMORY * self._expected_nj + open_.work_nj
        self.booked_nj += total_nj
        self.power.add(total_nj, max(span_s, open_.busy_s))
        self._open = _Open()
        self._began_s = self._now_s
        return Closed(shared_nj, left_nj - shared_nj, open_.charged_nj + shared_nj)

    def _pass(self, now_s: float, busy_s: float) -> None:
        if self._began_s is None:
            self._began_s = self._now_s = now_s
        elapsed_s = max(0.0, now_s - self._now_s)
        self._now_s = max(self._now_s, now_s)
        self._open.busy_s += busy_s
        self._open.idle_s = max(0.0, self._open.idle_s + elapsed_s - busy_s)

    def _modelled_nj(self) -> int:
        return self._open.work_nj + self._model.idle_nj(self._open.idle_s)

    def _sound(self, reading: Reading) -> bool:
        """Whether the counter knows what was used since the window began."""
        if self._base is None or self._adrift:
            return False
        return reading.gaps == self._base.gaps and self._now_s - reading.at_s <= STALE_S

    def _total(self) -> tuple[int, bool]:
        """Give the window's energy, and whether it was counted; the next one begins there."""
        if self._counter is None or self._base is None:
            return self._modelled_nj(), False
        before, reading = self._base, self._counter.read()
        sound, adrift = self._sound(reading), self._adrift
        self._base = reading
        self._adrift = self._now_s - reading.at_s > STALE_S
        counted_nj = reading.energy_nj - before.energy_nj
        if sound and counted_nj >= self._open.charged_nj:
            return counted_nj, True
        self.modelled += 1
        # What was counted before a gap is true; after time without readings it was modelled.
        least_nj = self._open.charged_nj if adrift else max(counted_nj, self._open.charged_nj)
        return max(self._modelled_nj(), least_nj), False

    def _scale(self) -> float:
        """What a modelled joule of work has lately come to."""
        counted_nj, expected_nj = self._counted_nj, self._expected_nj
        if self._counter is not None and self._base is not None and self._began_s is not None:
            reading = self._counter.read()
            if self._sound(reading) and reading.at_s - self._base.at_s >= TELLING_S:
                total_nj = reading.energy_nj - self._base.energy_nj
                floor_nj = self._model.idle_nj(self._open.idle_s)
                counted_nj += _work_of(total_nj, floor_nj, self._open.work_nj)
                expected_nj += self._open.work_nj
        return counted_nj / expected_nj if expected_nj > 0 else 1.0


def _work_of(total_nj: int, floor_nj: int, work_nj: int) -> int:
    """Give what of a window's energy its steps have used."""
    if not work_nj:
        return 0
    if total_nj >= floor_nj + work_nj:
        return total_nj - floor_nj
    return total_nj * work_nj // (floor_nj + work_nj)
