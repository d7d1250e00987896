"""What a replica's hardware has drawn: the joules that its steps should cost, and a mean of power.

Its own module because every way of knowing energy needs both: the model by itself, and a
counter of the hardware to tell whose its joules were. Counters have modules of their own.
Energy is kept in whole nanojoules, so that parts add up to their sum exactly.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from scheduler.steps import StepModel

Method = Literal["model", "nvml", "rapl"]
Boundary = Literal["gpu", "cpu", "node"]

NJ = 1_000_000_000
"""Nanojoules in a joule."""

# Over which the recent mean power is taken, seconds.
POWER_MEMORY_S = 5.0


class Reading(NamedTuple):
    """What a counting meter knows.

    Attributes:
        energy_nj: counted since it was made.
        at_s: when its counters were read last, on the monotonic clock.
        gaps: how often energy was used that it could not count.
        trouble: what is or was just now wrong with it; empty if nothing.

    """

    energy_nj: int
    at_s: float
    gaps: int = 0
    trouble: str = ""


class CountingMeter(Protocol):
    """Counters of the hardware that one replica uses, or a share of them."""

    @property
    def method(self) -> Method:
        """Which kind of counter it is."""

    @property
    def boundary(self) -> Boundary:
        """What it counts."""

    @property
    def devices(self) -> tuple[str, ...]:
        """What it reads, by name."""

    def read(self) -> Reading:
        """What it knows; takes no time worth speaking of."""


class StepWork(NamedTuple):
    """What one engine step should use.

    Attributes:
        prefill_nj: to compute prompt tokens.
        decode_nj: to decode sequences.
        busy_s: that it should take.

    """

    prefill_nj: int
    decode_nj: int
    busy_s: float


class WorkModel:
    """Prices an engine's steps, and the time between them, by a step model."""

    def __init__(self, steps: StepModel, idle_power_w: float) -> None:
        """Take the figures of a replica.

        Args:
            steps: of the replica.
            idle_power_w: drawn by the replica when it does nothing.

        """
        self._steps = steps
        self._idle_power_w = idle_power_w

    def step(
        self, prefill_tokens: int, sequences: int, context_tokens: float, rounds: float = 1.0
    ) -> StepWork:
        """Price a step; in `rounds` steps of the model, sequences would gain as many tokens."""
        steps = self._steps
        decode_j = rounds * steps.decode_j(sequences, context_tokens) if sequences else 0.0
        decode_s = rounds * steps.decode_s(sequences, context_tokens) if sequences else 0.0
        return StepWork(
            nanojoules(steps.prefill_j(prefill_tokens)),
            nanojoules(decode_j),
            decode_s + steps.prefill_s(prefill_tokens),
        )

    def idle_nj(self, span_s: float) -> int:
        """Price time in which nothing is done."""
        return nanojoules(self._idle_power_w * span_s)


class PowerMean:
    """A mean over the last seconds, newer ones weighing more.

    Attributes:
        power_w: the mean.

    """

    def __init__(self, power_w: float) -> None:
        """Start with what is drawn when nothing is done."""
        self.power_w = power_w

    def add(self, energy_nj: int, span_s: float) -> None:
        """Take in energy that was used over a time."""
        if span_s > 0.0:
            weight = -math.expm1(-span_s / POWER_MEMORY_S)
            self.power_w += weight * (energy_nj / NJ / span_s - self.power_w)


def nanojoules(energy_j: float) -> int:
    """Round to whole nanojoules; less than nothing is nothing."""
    return max(0, round(energy_j * NJ))


def joules(energy_nj: int) -> float:
    """Give the same in joules."""
    return energy_nj / NJ
