"""What can be known to go wrong before anything is made.

Its own module because a recipe may take hours, and everything here takes a moment.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from serve.variants.recipe import QuantizeStep

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from serve.variants.recipe import Recipe

# A token is rarely shorter than this in the calibration text.
_BYTES_PER_TOKEN = 3
_GB = 1e9
# Each step's result may be as large as the base, and the last is written while the one before is.
_ROOM = 1.5


def find_faults(recipe: Recipe, base: Path, text: Path, cache: Path) -> Iterator[str]:
    """Say what is wrong, and what to change.

    Args:
        recipe: to be followed.
        base: directory of the checkpoint that it begins with.
        text: to calibrate on.
        cache: where results go.

    """
    if not base.is_dir():
        yield f"base: {base} is on the hub; quantize needs it here: fetch it, and give its path"
        return
    yield from _text_faults(recipe, text)
    yield from _step_faults(recipe, json.loads((base / "config.json").read_text(encoding="utf-8")))
    yield from _room_faults(recipe, base, cache)


def _text_faults(recipe: Recipe, text: Path) -> Iterator[str]:
    try:
        size = len(text.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        yield f"calibration.text: {text} cannot be read ({error})"
        return
    if size < recipe.calibration.tokens * _BYTES_PER_TOKEN:
        yield (
            f"calibration.text: {text} has {size} characters, too few for one sample of"
            f" {recipe.calibration.tokens} tokens; give more text, or lower calibration.tokens"
        )


def _step_faults(recipe: Recipe, config: Mapping[str, Any]) -> Iterator[str]:
    widths = {
        key: int(config[key]) for key in ("hidden_size", "intermediate_size") if key in config
    }
    for place, step in enumerate(recipe.steps):
        settings = step.settings
        if isinstance(settings, QuantizeStep) and settings.scheme == "w4a16":
            for key, width in widths.items():
                if width % settings.group_size:
                    fitting = [size for size in (128, 64, 32, 16) if width % size == 0]
                    yield (
                        f"steps[{place}].quantize.group_size: {settings.group_size} does not"
                        f" divide the model's {key} of {width}; one that does: {fitting}"
                    )
        if (
            isinstance(settings, QuantizeStep)
            and settings.method == "awq"
            and recipe.accelerator == "cpu"
        ):
            yield (
                f"steps[{place}].quantize.method: awq needs an accelerator; gptq is as good here"
            )


def _room_faults(recipe: Recipe, base: Path, cache: Path) -> Iterator[str]:
    size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    needed = size * (len(recipe.steps) + _ROOM)
    free = free_bytes(cache)
    if free < needed:
        yield (
            f"{cache} has {free / _GB:.1f} GB free, and the recipe may write {needed / _GB:.1f} GB;"
            " free some, or set JOULESERVE_CACHE to another disk"
        )


def free_bytes(directory: Path) -> int:
    """Say how much may be written below a directory, which need not be there yet."""
    there = next(parent for parent in (directory, *directory.parents) if parent.exists())
    return shutil.disk_usage(there).free
