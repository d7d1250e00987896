"""What is known of a variant that was made: how, how large, how good, how fast, and the verdict.

Its own module because people, the catalogue and the scheduler read it, and one pipeline writes it.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from serve.config_section import Section
from serve.step_profiles import StepProfile
from serve.variants.recipe import GateConfig, Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serve.variants.quality import Quality

FILE = "manifest.json"
VERSION = 2

Share = Annotated[float, Field(ge=0, le=1)]


class Figure(Section):
    """A value with the interval that it lies in with 95 % confidence."""

    value: float
    low: float
    high: float


class QualityRecord(Section):
    """The variant beside its base on the held-out text; see `quality.Quality`."""

    perplexity: float
    base_perplexity: float
    perplexity_ratio: Figure
    agreement: Figure
    tasks: Share
    base_tasks: Share
    positions: int

    @classmethod
    def of(cls, quality: Quality) -> QualityRecord:
        """Write a comparison down."""
        return cls(
            perplexity=quality.perplexity,
            base_perplexity=quality.base_perplexity,
            perplexity_ratio=Figure(**quality.perplexity_ratio._asdict()),
            agreement=Figure(**quality.agreement._asdict()),
            tasks=quality.tasks,
            base_tasks=quality.base_tasks,
            positions=quality.positions,
        )


class SpeedRecord(Section):
    """What was measured on the live engine, as it was measured."""

    load_s: float
    """Until it could serve."""
    memory_bytes: int
    """Of the machine's memory, held by the engine's processes; with 1 GiB of KV cache on a CPU."""
    prefill_s_per_token: float
    """Of a prompt, median."""
    decode_step_s: dict[int, float]
    """Medians, by batch."""

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> SpeedRecord:
        """Write a measurement down."""
        steps = found["decode_step_s"].items()
        return cls(
            load_s=found["load_s"],
            memory_bytes=found["memory_bytes"],
            prefill_s_per_token=found["prefill_s_per_token"],
            decode_step_s={int(batch): median(times) for batch, times in steps if times},
        )


class StageRecord(Section):
    """A step that was done."""

    kind: str
    key: str
    """Of its result: everything that decides it."""
    settings: dict[str, Any]
    took_s: float
    outcome: dict[str, Any]


class Manifest(Section):
    """Everything that is known of a variant."""

    version: int = VERSION
    name: str
    recipe: Recipe
    engine: Literal["vllm", "llamacpp"] = "vllm"
    """What it is served by, and was measured on."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the engine that a tune step has found, by the engine's names."""
    checkpoint: Path
    """Directory that the engine loads."""
    stages: tuple[StageRecord, ...]
    files: dict[str, str]
    """SHA-256 by name of file."""
    weight_bytes: int
    base_weight_bytes: int
    quality: QualityRecord
    speed: SpeedRecord
    base_speed: SpeedRecord
    profile: StepProfile
    base_profile: StepProfile
    licence: str
    made_at: str
    made_with: str

    def refusals(self, gate: GateConfig | None = None) -> list[str]:
        """Say what keeps it from being served, by its own gate or another one; none if nothing."""
        wanted = gate or self.recipe.gate
        ratio, agreement = self.quality.perplexity_ratio.value, self.quality.agreement.value
        found = []
        if ratio > wanted.max_perplexity_ratio:
            found.append(
                f"perplexity is {ratio:.3f} times the base's,"
                f" and at most {wanted.max_perplexity_ratio:g} is accepted"
            )
        if agreement < wanted.min_agreement:
            found.append(
                f"it agrees with the base at {agreement:.1%} of positions,"
                f" and at least {wanted.min_agreement:.1%} is accepted"
            )
        return found
