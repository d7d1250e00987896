"""Several decode steps of one batch, taken in one leap.

Its own module because it is the arithmetic that makes the virtual cluster fast: as long
as nobody joins or leaves a batch, each step has the same sequences and a context longer by
one token each, so that times and energies form arithmetic series.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scheduler.steps import StepModel

# A model counts as linear over a run if its middle is off the chord by less than this share:
# after a run of a second that is a nanosecond.
LINEARITY = 1e-9


class StepRun:
    """Consecutive steps that differ in their context only.

    Attributes:
        started_at_s: when the first step began.
        steps: how many; may be lowered while the run lasts.
        first_s: time of the first step.
        slope_s: by which each step is longer than the one before.
        first_j: energy that decoding takes in the first step.
        slope_j: by which each step takes more.
        prefill_j: energy that prefill takes; such a run has one step.
        prefill_tokens: computed meanwhile.

    """

    __slots__ = (
        "first_j",
        "first_s",
        "prefill_j",
        "prefill_tokens",
        "slope_j",
        "slope_s",
        "started_at_s",
        "steps",
    )

    def __init__(  # noqa: PLR0913, PLR0917 (a record that is made for every run; speed counts)
        self,
        started_at_s: float,
        steps: int,
        first_s: float,
        first_j: float,
        slope_s: float = 0.0,
        slope_j: float = 0.0,
        prefill_j: float = 0.0,
        prefill_tokens: int = 0,
    ) -> None:
        self.started_at_s = started_at_s
        self.steps = steps
        self.first_s = first_s
        self.slope_s = slope_s
        self.first_j = first_j
        self.slope_j = slope_j
        self.prefill_j = prefill_j
        self.prefill_tokens = prefill_tokens

    @property
    def ends_at_s(self) -> float:
        """When the last step ends."""
        return self.started_at_s + self.time_s(self.steps)

    def time_s(self, steps: int) -> float:
        """Time that its first steps take."""
        return steps * (self.first_s + self.slope_s * (steps - 1) / 2)

    def decode_j(self, steps: int) -> float:
        """Energy that decoding takes in its first steps."""
        return steps * (self.first_j + self.slope_j * (steps - 1) / 2)

    def completed(self, now_s: float) -> int:
        """Count the steps that have ended by an instant."""
        elapsed_s = now_s - self.started_at_s
        if elapsed_s < self.first_s:
            return 0
        # The root of n·first + n·(n − 1)/2·slope = elapsed, in the form that no small slope
        # spoils.
        half_s = self.first_s - self.slope_s / 2
        root_s = math.sqrt(max(0.0, half_s * half_s + 2 * self.slope_s * elapsed_s))
        most, time_s = self.steps, self.time_s
        steps = min(max(int(2 * elapsed_s / (half_s + root_s)), 1), most)
        # It may be off by one where a step ends at that very instant.
        while steps < most and time_s(steps + 1) <= elapsed_s:
            steps += 1
        while steps and time_s(steps) > elapsed_s:
            steps -= 1
        return steps

    def cut(self, now_s: float) -> bool:
        """End the run with the step that is under way; False if it would anyway."""
        if self.steps == 1:
            return False
        done = self.completed(now_s)
        ends_now = done and self.started_at_s + self.time_s(done) == now_s
        under_way = done if ends_now else done + 1
        if under_way >= self.steps:
            return False
        self.steps = under_way
        return True

    def share(self, now_s: float, completed: int) -> float:
        """Give the part of the step under way that has passed, 0 to 1."""
        if completed >= self.steps:
            return 0.0
        into_s = now_s - self.started_at_s - self.time_s(completed)
        return min(1.0, max(0.0, into_s / (self.first_s + self.slope_s * completed)))


def decode_run(
    steps: StepModel, started_at_s: float, batch: int, context_tokens: int, most: int
) -> StepRun:
    """Leap as far as the model is linear, `most` steps at the most."""
    first_s = steps.decode_s(batch, context_tokens)
    first_j = steps.decode_j(batch, context_tokens)
    while most > 1:
        span = most - 1
        last = context_tokens + span * batch
        rise_s = steps.decode_s(batch, last) - first_s
        rise_j = steps.decode_j(batch, last) - first_j
        middle = context_tokens + span * batch / 2
        bend_s = abs(first_s + rise_s / 2 - steps.decode_s(batch, middle))
        bend_j = abs(first_j + rise_j / 2 - steps.decode_j(batch, middle))
        if span == 1 or (bend_s <= LINEARITY * first_s and bend_j <= LINEARITY * first_j):
            return StepRun(started_at_s, most, first_s, first_j, rise_s / span, rise_j / span)
        most //= 2
    return StepRun(started_at_s, 1, first_s, first_j)
