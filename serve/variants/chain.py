"""Which steps a recipe comes to, each with a key that says all that decides its result.

Its own module because it is pure: two recipes that begin alike share what they begin with, and
a step whose key is known needs not be done again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from serve.variants.recipe import Recipe

VERSIONS: Mapping[str, int] = {"quantize": 4, "prune": 4, "distill": 3, "export": 1, "tune": 1}
"""By kind of step; raised whenever the same settings would give another result."""

_KEY_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Stage:
    """A step on a certain input.

    Attributes:
        kind: of the step.
        settings: of the step, and of the calibration.
        key: of its result; equal keys, equal results.

    """

    kind: str
    settings: Mapping[str, Any]
    key: str

    @property
    def name(self) -> str:
        """For people, and unique."""
        return f"{self.kind}-{self.key}"


def stages(recipe: Recipe, *, base: str, calibration: str, environment: str) -> Iterator[Stage]:
    """Give the steps of a recipe.

    Args:
        recipe: to be followed.
        base: identity of the base's content.
        calibration: of the calibration text's.
        environment: of the libraries that steps are done with.

    """
    key = base
    calibrated = recipe.calibration.model_dump(mode="json", exclude={"text"})
    for step in recipe.steps:
        settings = step.settings.model_dump(mode="json") | {"calibration": calibrated}
        decides = (key, step.kind, VERSIONS[step.kind], settings, calibration, environment)
        key = digest(decides)
        yield Stage(step.kind, settings, key)


def digest(content: object) -> str:
    """Give a short name for a value: equal values, equal names."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]
