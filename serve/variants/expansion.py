"""What a configuration says by naming a manifest: checkpoint, quality and profile.

Its own module because it joins what was made with what is to be served, and refuses what was
refused.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from serve.checkpoints import cache_directory
from serve.engine_options import OWN_KEYS
from serve.variants.registry import Registry, UnknownVariantError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KEY = "manifest"


def expand(variant: dict[str, Any], *, force: bool) -> Iterator[str]:
    """Write into a variant of a configuration what its manifest says, and yield what is wrong.

    What the configuration says itself stays.

    Args:
        variant: not validated yet; changed.
        force: serve it although its gate has refused it.

    """
    name = variant.get(KEY)
    if not isinstance(name, str):
        return
    if variant.get("checkpoint") is not None:
        yield "give manifest or checkpoint, not both: a manifest names its checkpoint"
        return
    try:
        made = Registry(cache_directory(os.environ)).load(name)
    except UnknownVariantError as error:
        yield str(error)
        return
    reasons = made.refusals()
    if reasons and not force:
        yield f"variant {name!r} is refused: {'; '.join(reasons)}; --force serves it all the same"
    variant["checkpoint"] = {"path": str(made.checkpoint)}
    variant.setdefault("engine", made.engine)
    _set_tuned(variant, made.settings)
    # Perplexity that is below the base's makes it no better than the base.
    variant.setdefault("quality", min(1.0, 1.0 / made.quality.perplexity_ratio.value))
    if variant.get("accelerator") == made.recipe.accelerator:
        variant.setdefault("profile", made.profile.model_dump(mode="json"))


def _set_tuned(variant: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Write tuned settings where a configuration has them."""
    own = {name: key for name, key in OWN_KEYS.items() if "." not in key}
    options = {name: value for name, value in settings.items() if name not in own}
    for name in settings.keys() & own.keys():
        variant.setdefault(own[name], settings[name])
    if options:
        variant["engine_options"] = {**options, **(variant.get("engine_options") or {})}
