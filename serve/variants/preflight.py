"""What can be known to go wrong before anything is made.

Its own module because a recipe may take hours, and everything here takes a moment.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.processor import processor
from serve.atomic_directory import free_bytes
from serve.config_models import CPU
from serve.variants import workshop
from serve.variants.calibration import TextError, content_of, find_text_faults
from serve.variants.errors import BuildError
from serve.variants.measuring import VLLM_FOR_CPU, made_with
from serve.variants.recipe import DistillStep, ExportStep, PruneStep, QuantizeStep
from serve.variants.shape import ShapeError, shape_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from serve.variants.recipe import Recipe
    from serve.variants.shape import Shape

_GB = 1e9
# Each step's result may be as large as the base, and the last is written while the one before is.
_ROOM = 1.5
# A student is kept with its optimizer and its best form in float32, and the next beside the last.
_STUDENT_ROOM = 16.0
# Widths of layers and heads that vLLM's kernels for CPUs take come in such blocks.
_CPU_BLOCK = 32
_GROUPS = (128, 64, 32, 16)
# Without these vLLM 0.32 refuses fp8 in the KV cache, and its engine dies of int4 (2026-11-24).
_WIDE_SETS = ("AMX", "AVX-512")
# Compute capability 10.0 and up: vLLM has no kernels for int8 there (its documentation, 0.32).
_WITHOUT_INT8 = frozenset({"b200", "rtx-pro-6000"})


def find_early_faults(recipe: Recipe, text: Path) -> Iterator[str]:
    """Say what is wrong whatever the base: that may have to be made first.

    Args:
        recipe: to be followed.
        text: to calibrate on.

    """
    on_cpu = recipe.accelerator == CPU
    try:
        content_of(text)
        vllm = made_with("vllm")
        made_with(recipe.engine)
    except (TextError, BuildError) as error:
        yield str(error)
        return
    if vllm.startswith(f"{VLLM_FOR_CPU} ") != on_cpu:
        other = "a machine that has it" if not on_cpu else "one with vLLM for CPUs"
        yield (
            f"accelerator: {recipe.accelerator} is what the variant is measured on, and {vllm} is"
            f" installed here; build it on {other}, or name another accelerator"
        )


def find_faults(recipe: Recipe, base: Path, text: Path, cache: Path) -> Iterator[str]:
    """Say what is wrong, and what to change.

    Args:
        recipe: to be followed.
        base: directory of the checkpoint that it begins with.
        text: to calibrate on.
        cache: where results go.

    """
    if not base.is_dir():
        yield f"base: {base} is on the hub; a recipe needs it here: fetch it, and give its path"
        return
    try:
        shape = shape_of(base)
    except ShapeError as error:
        yield f"base: {error}"
        return
    yield from find_text_faults(recipe, base, text, shape.context)
    yield from _step_faults(recipe, shape)
    yield from _room_faults(recipe, base, cache)


def _room_faults(recipe: Recipe, base: Path, cache: Path) -> Iterator[str]:
    size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    taught = any(isinstance(step.settings, DistillStep) for step in recipe.steps)
    needed = size * (len(recipe.steps) + _ROOM + taught * _STUDENT_ROOM)
    if any(step.kind != "tune" for step in recipe.steps) and not workshop.is_made(cache):
        needed += workshop.ROOM_BYTES
    free = free_bytes(cache)
    if free < needed:
        yield (
            f"{cache} has {free / _GB:.1f} GB free, and the recipe may write {needed / _GB:.1f} GB;"
            " free some, or set JOULESERVE_CACHE to another disk"
        )


# ── steps ───────────────────────────────────────────────────────────────────


def _step_faults(recipe: Recipe, shape: Shape) -> Iterator[str]:
    """Go through the steps, with the shape that each of them finds."""
    for place, step in enumerate(recipe.steps):
        settings, at = step.settings, f"steps[{place}].{step.kind}"
        if isinstance(settings, QuantizeStep):
            yield from _quantize_faults(settings, at, shape, recipe.accelerator)
        elif isinstance(settings, ExportStep):
            yield from _export_faults(at, shape)
        elif isinstance(settings, PruneStep):
            yield from _prune_faults(settings, at, shape)
            shape = replace(
                shape,
                ffn=settings.ffn_width or shape.ffn,
                layers=settings.layers or shape.layers,
            )


def _quantize_faults(
    settings: QuantizeStep, at: str, shape: Shape, accelerator: str
) -> Iterator[str]:
    known = shape.projection_names
    for name in settings.keep or ():
        if known and name not in known:
            yield f"{at}.keep: no layer has a {name!r}; they have {', '.join(sorted(known))}"
    if settings.scheme == "w4a16":
        yield from _group_faults(settings, at, shape, on_cpu=accelerator == CPU)
    if settings.scheme == "w8a8" and accelerator in _WITHOUT_INT8:
        yield f"{at}.scheme: vLLM computes no int8 on {accelerator}; take fp8"
    if accelerator == CPU:
        yield from _cpu_faults(settings, at, shape)


def _group_faults(settings: QuantizeStep, at: str, shape: Shape, *, on_cpu: bool) -> Iterator[str]:
    # Only what down_proj takes in is as wide as the feed-forward layer.
    inner = None if "down_proj" in (settings.keep or ()) else shape.ffn
    for key, width in (("hidden_size", shape.hidden), ("intermediate_size", inner)):
        if not width:
            continue
        if width % settings.group_size:
            fitting = [size for size in _GROUPS if width % size == 0]
            instead = f"one that does: {fitting}" if fitting else "none does: keep it exact"
            yield (
                f"{at}.group_size: {settings.group_size} does not divide the model's {key}"
                f" of {width}; {instead}"
            )
        elif on_cpu and width % _CPU_BLOCK:
            yield (
                f"{at}.scheme: on a CPU vLLM computes w4a16 for widths that {_CPU_BLOCK} divides,"
                f" and the model's {key} is {width}; take w8a8"
            )


def _cpu_faults(settings: QuantizeStep, at: str, shape: Shape) -> Iterator[str]:
    """Yield what this machine's processor cannot do, or no processor."""
    instructions = processor().instructions
    wide = instructions.startswith(_WIDE_SETS)
    lacking = f"{' or '.join(_WIDE_SETS)}, and this one has {instructions or 'neither'}"
    if settings.scheme == "w4a16" and not wide:
        yield f"{at}.scheme: on a CPU vLLM computes w4a16 with {lacking}; take w8a8"
    if settings.method == "awq":
        yield f"{at}.method: awq needs an accelerator; gptq is as good here"
    if settings.kv_cache != "fp8":
        return
    if not wide:
        yield f"{at}.kv_cache: on a CPU vLLM reads fp8 with {lacking}; leave kv_cache out"
    elif shape.head is not None and shape.head % _CPU_BLOCK:
        yield (
            f"{at}.kv_cache: on a CPU vLLM reads fp8 for heads that {_CPU_BLOCK} divides, and the"
            f" model's are {shape.head} wide; leave kv_cache out"
        )


def _prune_faults(settings: PruneStep, at: str, shape: Shape) -> Iterator[str]:
    if shape.projections and ("mlp", "down_proj") not in shape.projections:
        yield f"{at}: only models like Llama can be pruned, whose layers have mlp.down_proj"
    elif settings.ffn_width is not None and shape.ffn_bias:
        yield f"{at}.ffn_width: layers with a bias cannot be narrowed; give layers instead"
    for key, kept, there in (
        ("ffn_width", settings.ffn_width, shape.ffn),
        ("layers", settings.layers, shape.layers),
    ):
        if kept is not None and there is not None and kept >= there:
            yield f"{at}.{key}: the model has {there}; keep fewer than that, not {kept}"


def _export_faults(at: str, shape: Shape) -> Iterator[str]:
    if shape.model_type != "llama":
        yield (
            f"{at}: only models of type llama can be exported; this one is"
            f" {shape.model_type or 'of none'}"
        )
    elif not shape.byte_pairs:
        yield f"{at}: only byte-pair tokenizers can be exported; that of the base is another"
