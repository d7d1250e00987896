"""Power meters: what a replica's hardware has drawn, measured or modelled.

Its own module because every meter answers the same question. Counters of the hardware
(NVML, RAPL) get modules of their own and fill the same protocol; the meter here needs
none and works everywhere, from the step model alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from scheduler.steps import StepModel

# Over which the recent mean power is taken, seconds.
POWER_MEMORY_S = 5.0


class PowerMeter(Protocol):
    """A counter of energy that only grows."""

    @property
    def method(self) -> str:
        """How it knows: "model", "nvml" or "rapl"."""

    @property
    def boundary(self) -> str:
        """What it counts: "gpu", "cpu" or "node"."""

    def read_j(self, now_s: float) -> float:
        """Joules since it was made."""


class StepEnergy(NamedTuple):
    """What one engine step used.

    Attributes:
        prefill_j: to compute prompt tokens.
        decode_j: to decode sequences.

    """

    prefill_j: float
    decode_j: float


class ModelMeter:
    """Adds up what a step model says of the steps, and idle power for the time between.

    Attributes:
        method: "model".
        boundary: "gpu" or "cpu".

    """

    method = "model"

    def __init__(self, steps: StepModel, idle_power_w: float, boundary: str) -> None:
        """Start at zero joules; time starts with the first call that tells it.

        Args:
            steps: of the replica.
            idle_power_w: drawn by the replica when it does nothing.
            boundary: what is counted.

        """
        self.boundary = boundary
        self._steps = steps
        self._idle_power_w = idle_power_w
        self._busy_j = 0.0
        self._idle_j = 0.0
        self._power_w = idle_power_w
        self._now_s: float | None = None

    @property
    def energy_j(self) -> float:
        """Joules up to the latest time it was told."""
        return self._busy_j + self._idle_j

    @property
    def idle_j(self) -> float:
        """Of these, what no step used."""
        return self._idle_j

    @property
    def power_w(self) -> float:
        """Mean over the last seconds, newer ones weighing more."""
        return self._power_w

    def read_j(self, now_s: float) -> float:
        """Joules up to now."""
        self.advance(now_s)
        return self.energy_j

    def step(
        self,
        prefill_tokens: int,
        sequences: int,
        context_tokens: float,
        now_s: float,
        rounds: float = 1.0,
    ) -> StepEnergy:
        """Add a step that has just ended, and say what it used.

        In `rounds` steps of the model, sequences would have gained as many tokens.

        Time that passed since the latest call beyond what the model gives the step is
        idle time: so a replica never draws less than its idle power.
        """
        steps = self._steps
        decode_j = rounds * steps.decode_j(sequences, context_tokens) if sequences else 0.0
        decode_s = rounds * steps.decode_s(sequences, context_tokens) if sequences else 0.0
        prefill_j, prefill_s = steps.prefill_j(prefill_tokens), steps.prefill_s(prefill_tokens)
        self._pass(now_s, decode_s + prefill_s, decode_j + prefill_j)
        return StepEnergy(prefill_j, decode_j)

    def advance(self, now_s: float) -> None:
        """Let time pass without a step."""
        self._pass(now_s, 0.0, 0.0)

    def _pass(self, now_s: float, busy_s: float, busy_j: float) -> None:
        elapsed_s = 0.0 if self._now_s is None else max(0.0, now_s - self._now_s)
        self._now_s = now_s if self._now_s is None else max(self._now_s, now_s)
        idle_j = self._idle_power_w * max(0.0, elapsed_s - busy_s)
        self._busy_j += busy_j
        self._idle_j += idle_j
        span_s = max(elapsed_s, busy_s)
        if span_s > 0.0:
            weight = -math.expm1(-span_s / POWER_MEMORY_S)
            self._power_w += weight * ((busy_j + idle_j) / span_s - self._power_w)
