"""The search for variants worth serving: recipes are built, cheapest first, until time is up.

Its own module because it is all that builds several recipes, and survives one that fails.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serve.checkpoints import materialize
from serve.variants.build import build
from serve.variants.candidates import candidates
from serve.variants.errors import BuildError
from serve.variants.front import Point, points_of
from serve.variants.workshop import WorkshopError

if TYPE_CHECKING:
    from serve.config_models import CheckpointConfig
    from serve.variants.kit import Kit
    from serve.variants.manifest import Manifest
    from serve.variants.registry import Registry


@dataclass(frozen=True, slots=True)
class Found:
    """What a search has come to.

    Attributes:
        points: of all that was built, and of the base.
        failed: why recipes could not be built, by name.
        skipped: for which there was no time.

    """

    points: tuple[Point, ...]
    failed: dict[str, str]
    skipped: tuple[str, ...]


def search(  # noqa: PLR0913 (what a search is asked, each by its name)
    prefix: str,
    base: CheckpointConfig,
    accelerator: str,
    *,
    edge: bool,
    batch: int,
    limit_s: float,
    kit: Kit,
    registry: Registry,
) -> Found:
    """Build recipes for a base, and keep what came of them; blocks for minutes to hours.

    Interrupted from the keyboard, it ends with what it has.

    Args:
        prefix: of the names of variants.
        base: what they are made of.
        accelerator: that they are measured on.
        edge: try llama.cpp too.
        batch: sequences that decode together where they are compared.
        limit_s: after which no further recipe is begun; what was begun is finished.
        kit: where things are kept.
        registry: of manifests.

    Raises:
        CheckpointError: the base cannot be had.
        BuildError: the base is not here.

    """
    began_s = time.monotonic()
    built: list[Manifest] = []
    failed: dict[str, str] = {}
    skipped: list[str] = []
    directory = Path(materialize(base.source, cache=kit.cache, report=kit.report))
    if not directory.is_dir():
        raise BuildError(f"{directory} is on the hub; fetch it, and give its path")
    shape = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    for recipe in candidates(prefix, base, shape, accelerator, edge=edge):
        if time.monotonic() - began_s > limit_s:
            skipped.append(recipe.name)
            continue
        kit.report(f"── {recipe.name}")
        try:
            made = build(recipe, kit)
        except KeyboardInterrupt:
            # What was found took its time: it is told, and nothing more is begun.
            kit.report("interrupted")
            skipped.append(recipe.name)
            limit_s = 0.0
            continue
        except (BuildError, WorkshopError) as error:
            failed[recipe.name] = str(error)
            kit.report(f"not {recipe.name}: {error}")
            continue
        registry.save(made)
        built.append(made)
    return Found(tuple(points_of(built, batch)), failed, tuple(skipped))
