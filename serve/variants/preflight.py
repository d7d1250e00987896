"""What can be known to go wrong before anything is made.

Its own module because a recipe may take hours, and everything here takes a moment.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from serve.config_models import CPU
from serve.variants.recipe import DistillStep, PruneStep, QuantizeStep

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from serve.variants.recipe import Recipe

# A token is rarely shorter than this in the calibration text.
_BYTES_PER_TOKEN = 3
# Of the text, what distillation keeps back to look at, and never learns from.
_HELD_BACK = 0.1
_GB = 1e9
# Each step's result may be as large as the base, and the last is written while the one before is.
_ROOM = 1.5


@dataclass(frozen=True, slots=True)
class _Shape:
    """What is known of a checkpoint's layers; None where its config.json does not say.

    Attributes:
        hidden: width of what passes from layer to layer.
        ffn: features of each feed-forward layer.
        layers: how many there are.
        projections: names of what layers multiply with; empty where no file says.

    """

    hidden: int | None
    ffn: int | None
    layers: int | None
    projections: frozenset[str]


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
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        yield f"base: {base / 'config.json'} cannot be read ({error})"
        return
    if "quantization_config" in config:
        yield f"base: {base} is quantized already; a recipe begins with exact weights"
        return
    try:
        size = len(text.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        yield f"calibration.text: {text} cannot be read ({error})"
        return
    yield from _text_faults(recipe, text, size)
    yield from _step_faults(recipe, _shape(base, config))
    yield from _room_faults(recipe, base, cache)


def free_bytes(directory: Path) -> int:
    """Say how much may be written below a directory, which need not be there yet."""
    there = next(parent for parent in (directory, *directory.parents) if parent.exists())
    return shutil.disk_usage(there).free


# ── text and disk ───────────────────────────────────────────────────────────


def _text_faults(recipe: Recipe, text: Path, size: int) -> Iterator[str]:
    most_tokens = size // _BYTES_PER_TOKEN
    if most_tokens < recipe.calibration.tokens:
        yield (
            f"calibration.text: {text} has {size} characters, too few for one sample of"
            f" {recipe.calibration.tokens} tokens; give more text, or lower calibration.tokens"
        )
    for place, step in enumerate(recipe.steps):
        settings = step.settings
        if isinstance(settings, DistillStep) and most_tokens * _HELD_BACK < settings.tokens:
            yield (
                f"steps[{place}].distill.tokens: {settings.tokens} are more than the tenth of"
                f" calibration.text that is kept back, some {most_tokens * _HELD_BACK:.0f} tokens"
                f" of {text}; lower it, or give more text"
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


# ── steps ───────────────────────────────────────────────────────────────────


def _step_faults(recipe: Recipe, shape: _Shape) -> Iterator[str]:
    """Go through the steps, with the shape that each of them finds."""
    for place, step in enumerate(recipe.steps):
        settings, at = step.settings, f"steps[{place}].{step.kind}"
        if isinstance(settings, QuantizeStep):
            yield from _quantize_faults(settings, at, shape, recipe.accelerator)
        elif isinstance(settings, PruneStep):
            yield from _prune_faults(settings, at, shape)
            shape = replace(
                shape,
                ffn=settings.ffn_width or shape.ffn,
                layers=settings.layers or shape.layers,
            )


def _quantize_faults(
    settings: QuantizeStep, at: str, shape: _Shape, accelerator: str
) -> Iterator[str]:
    for name in settings.keep or ():
        if shape.projections and name not in shape.projections:
            known = ", ".join(sorted(shape.projections))
            yield f"{at}.keep: no layer has a {name!r}; they have {known}"
    if settings.scheme == "w4a16":
        # Only what down_proj takes in is as wide as the feed-forward layer.
        inner = None if "down_proj" in (settings.keep or ()) else shape.ffn
        for key, width in (("hidden_size", shape.hidden), ("intermediate_size", inner)):
            if width and width % settings.group_size:
                fitting = [size for size in (128, 64, 32, 16) if width % size == 0]
                yield (
                    f"{at}.group_size: {settings.group_size} does not divide the model's {key}"
                    f" of {width}; one that does: {fitting}"
                )
    if settings.method == "awq" and accelerator == CPU:
        yield f"{at}.method: awq needs an accelerator; gptq is as good here"


def _prune_faults(settings: PruneStep, at: str, shape: _Shape) -> Iterator[str]:
    if shape.projections and "down_proj" not in shape.projections:
        yield f"{at}: only models like Llama can be pruned, whose layers have a down_proj"
    for key, kept, there in (
        ("ffn_width", settings.ffn_width, shape.ffn),
        ("layers", settings.layers, shape.layers),
    ):
        if kept is not None and there is not None and kept >= there:
            yield f"{at}.{key}: the model has {there}; keep fewer than that, not {kept}"


def _shape(base: Path, config: Mapping[str, Any]) -> _Shape:
    return _Shape(
        config.get("hidden_size"),
        config.get("intermediate_size"),
        config.get("num_hidden_layers"),
        _projections(base),
    )


def _projections(base: Path) -> frozenset[str]:
    """Name what layers multiply with, by the headers of the weights' files."""
    names: set[str] = set()
    for file in base.glob("*.safetensors"):
        with file.open("rb") as content:
            size = int.from_bytes(content.read(8), "little")
            try:
                names.update(json.loads(content.read(min(size, file.stat().st_size))))
            except ValueError:
                continue  # Whoever loads it says what is wrong with it.
    parts = (name.split(".") for name in names)
    return frozenset(
        part[-2] for part in parts if part[-1] == "weight" and part[-2:][0].endswith("_proj")
    )
