"""Several decode steps of one batch, taken in one leap.

Its own module because it is the arithmetic that makes the virtual cluster fast: as long
as nobody joins or leaves a batch, each step has the same sequences and a context longer by
one token each, so that times and energies form arithmetic series.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from scheduler.steps import StepModel

# A model counts as linear over a run if its middle is off the chord by less than this share:
# after a run of a second that is a nanosecond.
LINEARITY = 1e-9


class Series(NamedTuple):
    """An arithmetic series: first, first + slope, first + 2·slope and so on."""

    first: float
    slope: float = 0.0

    def total(self, terms: int) -> float:
        """Add up that many terms."""
        return terms * (self.first + self.slope * (terms - 1) / 2)


class StepRun:
    """Consecutive steps that differ in their context only.

    Attributes:
        started_at_s: when the first step began.
        steps: how many; may be lowered while the run lasts.
        time: seconds of each step.
        energy: joules that decoding takes in each step.
        prefill_j: joules that prefill takes; such a run has one step.
        prefill_tokens: computed meanwhile.

    """

    __slots__ = ("energy", "prefill_j", "prefill_tokens", "started_at_s", "steps", "time")

    def __init__(  # noqa: PLR0913, PLR0917 (a record that is made for every run; speed counts)
        self,
        started_at_s: float,
        steps: int,
        time: Series,
        energy: Series,
        prefill_j: float = 0.0,
        prefill_tokens: int = 0,
    ) -> None:
        self.started_at_s = started_at_s
        self.steps = steps
        self.time = time
        self.energy = energy
        self.prefill_j = prefill_j
        self.prefill_tokens = prefill_tokens

    @property
    def ends_at_s(self) -> float:
        """When the last step ends."""
        return self.started_at_s + self.time.total(self.steps)

    def completed(self, now_s: float) -> int:
        """Count the steps that have ended by an instant."""
        elapsed_s = now_s - self.started_at_s
        first_s, slope_s = self.time
        if slope_s > 0:
            offset_s = first_s - slope_s / 2
            root = math.sqrt(offset_s * offset_s + 2 * slope_s * max(0.0, elapsed_s))
            steps = int((root - offset_s) / slope_s)
        else:
            steps = int(elapsed_s / first_s)
        steps = min(max(steps, 0), self.steps)
        # The closed form may be off by one where a step ends at that very instant.
        while steps < self.steps and self.time.total(steps + 1) <= elapsed_s:
            steps += 1
        while steps > 0 and self.time.total(steps) > elapsed_s:
            steps -= 1
        return steps

    def cut(self, now_s: float) -> bool:
        """End the run with the step that is under way; False if it would anyway."""
        if self.steps == 1:
            return False
        done = self.completed(now_s)
        under_way = (
            done if done and self.started_at_s + self.time.total(done) == now_s else done + 1
        )
        if under_way >= self.steps:
            return False
        self.steps = max(under_way, 1)
        return True

    def share(self, now_s: float, completed: int) -> float:
        """Give the part of the step under way that has passed, 0 to 1."""
        if completed >= self.steps:
            return 0.0
        into_s = now_s - self.started_at_s - self.time.total(completed)
        return min(1.0, max(0.0, into_s / (self.time.first + self.time.slope * completed)))


def decode_run(
    steps: StepModel, started_at_s: float, batch: int, context_tokens: int, most: int
) -> StepRun:
    """Leap as far as the model is linear, `most` steps at the most."""
    first_s = steps.decode_s(batch, context_tokens)
    first_j = steps.decode_j(batch, context_tokens)
    while most > 1:
        span = most - 1
        last_s = steps.decode_s(batch, context_tokens + span * batch)
        last_j = steps.decode_j(batch, context_tokens + span * batch)
        middle = context_tokens + span * batch / 2
        bend_s = abs(first_s + last_s - 2 * steps.decode_s(batch, middle))
        bend_j = abs(first_j + last_j - 2 * steps.decode_j(batch, middle))
        if span == 1 or (bend_s <= LINEARITY * first_s and bend_j <= LINEARITY * first_j):
            time = Series(first_s, (last_s - first_s) / span)
            return StepRun(started_at_s, most, time, Series(first_j, (last_j - first_j) / span))
        most //= 2
    return StepRun(started_at_s, 1, Series(first_s), Series(first_j))
