"""A recipe, fitted to the processor that it is made for.

Its own module because it is pure, and because what a person leaves open is decided once, before
the keys of steps are made of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve.config_models import CPU

if TYPE_CHECKING:
    from cluster.processor import Processor
    from serve.variants.recipe import QuantizeStep, Recipe

# What goes into down_proj has outliers, and loses most where 8 bits are scarce.
_SENSITIVE = ("down_proj",)


def fitted(recipe: Recipe, processor: Processor) -> Recipe:
    """Decide what the recipe leaves open."""
    scarce = recipe.accelerator == CPU and not processor.native_int8
    steps = tuple(
        step
        if step.quantize is None
        else step.model_copy(update={"quantize": _fitted(step.quantize, scarce=scarce)})
        for step in recipe.steps
    )
    return recipe.model_copy(update={"steps": steps})


def _fitted(step: QuantizeStep, *, scarce: bool) -> QuantizeStep:
    """Spare int8 where there are no units for it.

    There two products of 8 bits are added in 16, and what is too large for them is cut off: of
    SmolLM2-135M's perplexity on AVX2 that takes 8 % instead of 4. With weights of 7 bits nothing
    is cut off, and what is left of the loss goes with down_proj: 2 %.
    """
    int8 = scarce and step.scheme == "w8a8"
    chosen = {"keep": _SENSITIVE if int8 else (), "reduced_range": int8 and step.method == "rtn"}
    open_ = {key: value for key, value in chosen.items() if getattr(step, key) is None}
    return step.model_copy(update=open_)
