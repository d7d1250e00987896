"""What a scheduler wrongly believes of its variants.

Its own module because every profile errs, and a policy that only works with exact ones is
worth nothing: runs are repeated with beliefs that are off by a known share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from scheduler.fleet import Variant
    from scheduler.requests import VariantName
    from scheduler.steps import StepModel


@dataclass(frozen=True, slots=True)
class ScaledSteps:
    """A step model that is off by constant factors.

    Attributes:
        steps: the true one.
        decode_time: factor of the time of decode steps.
        decode_energy: factor of their energy.
        prefill_time: factor of the time of prefill.
        prefill_energy: factor of its energy.

    """

    steps: StepModel
    decode_time: float
    decode_energy: float
    prefill_time: float
    prefill_energy: float

    def decode_s(self, batch: float, context_tokens: float = 0.0) -> float:
        """Time of a decode step."""
        return self.decode_time * self.steps.decode_s(batch, context_tokens)

    def decode_j(self, batch: float, context_tokens: float = 0.0) -> float:
        """Energy of a decode step."""
        return self.decode_energy * self.steps.decode_j(batch, context_tokens)

    def prefill_s(self, tokens: float) -> float:
        """Time to compute prompt tokens."""
        return self.prefill_time * self.steps.prefill_s(tokens)

    def prefill_j(self, tokens: float) -> float:
        """Energy to compute prompt tokens."""
        return self.prefill_energy * self.steps.prefill_j(tokens)


def mistaken(
    variants: Mapping[VariantName, Variant], error: float, rng: random.Random
) -> dict[VariantName, Variant]:
    """Let each variant's profile err, each figure by its own factor of 1 ± error at the most."""

    def factor() -> float:
        return 1.0 + rng.uniform(-error, error)

    return {
        name: replace(
            variant, steps=ScaledSteps(variant.steps, factor(), factor(), factor(), factor())
        )
        for name, variant in variants.items()
    }
