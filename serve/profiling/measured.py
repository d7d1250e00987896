"""What was measured of a replica or a decoder, before anything is fitted to it.

Its own module because a live replica and a decoder of the same shape are measured by other
means, and fitted, shown and written by the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class DecodePoint(NamedTuple):
    """Decode steps of one batch.

    Attributes:
        batch: sequences.
        context_tokens: mean, of all of them together.
        step_s: mean time of a step.
        step_j: mean energy of a step; None where no counter tells.
        steps: that the means are over.
        own_step_s: mean time of a step by the engine's own account; 0 where it gives none.

    """

    batch: int
    context_tokens: float
    step_s: float
    step_j: float | None
    steps: float
    own_step_s: float = 0.0


class PromptPoint(NamedTuple):
    """Prompts of one length, computed one at a time.

    Attributes:
        prompt_tokens: computed for each.
        prompt_s: to the first token, median.
        prompt_j: of the replica, from one prompt to the next; None where no counter tells.
        prompts: in number.

    """

    prompt_tokens: float
    prompt_s: float
    prompt_j: float | None
    prompts: int


@dataclass(frozen=True, slots=True)
class Measured:
    """All of it.

    Attributes:
        points: decode steps.
        prompts: prefills.
        energy_method: nvml or rapl for a counter; model where none tells.
        energy_boundary: what is counted.
        bare_w: power of the accelerator with no process on it; None where nobody measured.
        awake_w: power of a replica that does nothing; None where no counter tells.
        exited_w: power after its process has gone; None where nobody measured.
        load_s: time that it took to load; None where nobody measured.
        load_j: energy of that; None where nobody measured.
        remarks: what could not be measured, and why; one line each.

    """

    points: tuple[DecodePoint, ...]
    prompts: tuple[PromptPoint, ...]
    energy_method: str
    energy_boundary: str
    bare_w: float | None = None
    awake_w: float | None = None
    exited_w: float | None = None
    load_s: float | None = None
    load_j: float | None = None
    remarks: tuple[str, ...] = ()

    @property
    def tells_energy(self) -> bool:
        """Whether a counter told the energy of every point."""
        return (
            bool(self.energy_method)
            and self.energy_method != "model"
            and all(each.step_j for each in self.points)
            and all(each.prompt_j for each in self.prompts)
        )
