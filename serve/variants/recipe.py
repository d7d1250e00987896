"""What people write to have a variant made: a base, steps, and what the result has to be.

Its own module because a recipe is checked before anything is made: hours are not to be spent on
one that cannot work.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from cluster.accelerators import CATALOGUE
from serve.config_models import CheckpointConfig
from serve.config_section import Fault, Section

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RecipeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
LayerName = Annotated[str, StringConstraints(pattern=r"^\w+$")]
Count: TypeAlias = Annotated[int, Field(ge=1)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]


class CalibrationConfig(Section):
    """Text that steps learn from; never the text that results are measured on."""

    text: Path | None = None
    """UTF-8, passages parted by empty lines; by default the one that comes with Jouleserve."""
    samples: Count = 64
    """Stretches of text that statistics are taken from."""
    tokens: Count = 256
    """Length of each."""
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    """Of everything that is drawn."""
    python_reference: bool = False
    """Whether a student reads the reference of the Python language too, which every Python brings:
    110,000 tokens more."""


class QuantizeStep(Section):
    """Fewer bits for weights, and perhaps for activations and the KV cache."""

    scheme: Literal["w8a8", "w4a16", "fp8"]
    """int8 weights and activations, int4 weights, or fp8 weights and activations."""
    method: Literal["rtn", "gptq", "smoothquant_gptq", "awq"] = "rtn"
    """Round to nearest, or with what the calibration text says is worth keeping."""
    group_size: Count = 128
    """Weights of w4a16 that share a scale; it must divide the width of every layer."""
    keep: tuple[LayerName, ...] | None = None
    """Projections that stay exact in every layer, beside the output embedding; by default
    down_proj of w8a8 on processors without units for int8, and none elsewhere."""
    reduced_range: bool | None = None
    """Weights of w8a8 within ±63 instead of ±127, so that processors without units for int8 do not
    overflow where they add two products in 16 bits; by default there, with rtn."""
    kv_cache: Literal["auto", "fp8"] = "auto"
    """Precision of the KV cache; fp8 halves it, with scales from the calibration text."""

    def find_faults(self) -> Iterator[Fault]:
        """Yield methods that a scheme has no use for."""
        if self.scheme == "fp8" and self.method != "rtn":
            yield Fault("method", f"fp8 is rounded to nearest; remove method {self.method!r}")
        if self.reduced_range and (self.scheme, self.method) != ("w8a8", "rtn"):
            yield Fault("reduced_range", "only w8a8 that is rounded to nearest (rtn) knows it")
        if self.method == "smoothquant_gptq" and self.scheme != "w8a8":
            yield Fault("method", "smoothquant_gptq evens out activations, which only w8a8 rounds")


class PruneStep(Section):
    """A smaller model: narrower feed-forward layers, fewer layers, or both."""

    ffn_width: Count | None = None
    """Features that each feed-forward layer keeps; what is left is fitted again."""
    layers: Count | None = None
    """Layers that stay; one after the other goes that the predictions miss least."""

    def find_faults(self) -> Iterator[Fault]:
        """Yield a step that takes nothing away."""
        if self.ffn_width is None and self.layers is None:
            yield Fault("", "give ffn_width or layers")


class DistillStep(Section):
    """The smaller model learns from the base what it has lost."""

    steps: Count = 100
    """At most; it ends sooner where more no longer helps."""
    batch: Count = 8
    """Stretches of text in a step."""
    tokens: Count = 128
    """Length of each."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """Of AdamW, after a warm-up and before it slows down."""
    check_every: Count = 10
    """Steps between looks at text that is kept back; progress is saved with each."""
    patience: Count = 5
    """Looks without an improvement after which it ends."""


class ExportStep(Section):
    """One GGUF file, for llama.cpp: on machines at the edge that have no vLLM."""

    precision: Literal["f16", "q8_0", "q4_0"] = "q8_0"
    """Of weights: exact, 8.5 or 4.5 bits each, by llama.cpp's blocks of 32."""


class TuneStep(Section):
    """The engine's own knobs, turned one after the other on the live engine."""

    fast: bool = True
    """Leave out what takes minutes to compile: fused kernels and graphs."""


class StepConfig(Section):
    """One step of a recipe: exactly one of these."""

    quantize: QuantizeStep | None = None
    """Fewer bits."""
    prune: PruneStep | None = None
    """Fewer weights."""
    distill: DistillStep | None = None
    """Taught by the base."""
    export: ExportStep | None = None
    """A file for llama.cpp."""
    tune: TuneStep | None = None
    """Settings of the engine."""

    def find_faults(self) -> Iterator[Fault]:
        """Yield a step that is none, or several."""
        if len(self._given()) != 1:
            found = " and ".join(self._given()) or "none"
            yield Fault("", f"a step is exactly one of {', '.join(_KINDS)}; it has {found}")

    @property
    def kind(self) -> str:
        """Which one it is."""
        return self._given()[0]

    @property
    def settings(self) -> Section:
        """What it is told."""
        chosen: Section = getattr(self, self.kind)
        return chosen

    def _given(self) -> list[str]:
        return [name for name in _KINDS if getattr(self, name) is not None]


_KINDS = tuple(StepConfig.model_fields)


class GateConfig(Section):
    """What a variant has to be to be served."""

    max_perplexity_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.05
    """Perplexity on the held-out text, in that of the base."""
    min_agreement: Share = 0.85
    """Share of positions at which it and the base think the same token the most probable."""


class Recipe(Section):
    """How a variant is made of a base."""

    name: RecipeName
    """Of the variant; unique among those that are kept."""
    base: CheckpointConfig
    """What it is made of, and compared with."""
    accelerator: str = "cpu"
    """Where it is measured; a name in the accelerator catalogue."""
    licence: str = ""
    """Of the base's weights, for those who use what is made of them."""
    calibration: CalibrationConfig = CalibrationConfig()
    """What steps learn from."""
    steps: Annotated[tuple[StepConfig, ...], Field(min_length=1)]
    """One after the other, each on what the one before has made."""
    gate: GateConfig = GateConfig()
    """What it has to be."""

    @property
    def engine(self) -> Literal["vllm", "llamacpp"]:
        """What serves the result."""
        return "llamacpp" if self.steps[-1].kind == "export" else "vllm"

    def find_faults(self) -> Iterator[Fault]:
        """Yield steps that nothing can follow, and bases that are quantized already."""
        if self.accelerator not in CATALOGUE:
            known = ", ".join(sorted(CATALOGUE))
            yield Fault("accelerator", f"no accelerator {self.accelerator!r}; known: {known}")
        if self.base.quantize is not None:
            yield Fault("base.quantize", "a recipe begins with exact weights; make it a step")
        for place, (step, after) in enumerate(pairwise(self.steps)):
            followers = _FOLLOWERS.get(step.kind, _KINDS)
            if after.kind not in followers:
                allowed = " or ".join(followers) or "nothing"
                yield Fault(
                    f"steps[{place}]",
                    f"{allowed} can follow {step.kind}, and not {after.kind}: put it at the end",
                )


# Their results are for an engine, and can be changed no more.
_FOLLOWERS: Mapping[str, tuple[str, ...]] = {"quantize": ("tune",), "export": (), "tune": ()}
