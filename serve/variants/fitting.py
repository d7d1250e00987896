"""A recipe, fitted to the processor that it is made for.

Its own module because it is pure, and because what a person leaves open is decided once, before
the keys of steps are made of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve.config_models import CPU

if TYPE_CHECKING:
    from cluster.processor import Processor
    from serve.variants.recipe import Recipe, StepConfig

# Where there are no units for int8, products of 8-bit weights lose a bit: of SmolLM2-135M's, on
# AVX2, 8.5 % of perplexity instead of 4 %. What goes into down_proj has outliers, and loses most.
_SENSITIVE = ("down_proj",)


def fitted(recipe: Recipe, processor: Processor) -> Recipe:
    """Decide what the recipe leaves open."""
    keep = _SENSITIVE if recipe.accelerator == CPU and not processor.native_int8 else ()
    steps = tuple(_fitted(step, keep) for step in recipe.steps)
    return recipe.model_copy(update={"steps": steps})


def _fitted(step: StepConfig, keep: tuple[str, ...]) -> StepConfig:
    quantize = step.quantize
    if quantize is None or quantize.keep is not None:
        return step
    chosen = keep if quantize.scheme == "w8a8" else ()
    return step.model_copy(update={"quantize": quantize.model_copy(update={"keep": chosen})})
