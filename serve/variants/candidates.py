"""Recipes that a search tries for a model on an accelerator, cheapest first.

Its own module because it is pure, and what is worth trying is a judgement of its own: what the
model's shape and the accelerator's units allow.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from cluster.accelerators import CATALOGUE
from serve.variants.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from serve.config_models import CheckpointConfig

_GROUPS = (128, 64, 32)
# Of its layers, what a student keeps.
_KEPT = 0.9


def candidates(
    prefix: str,
    base: CheckpointConfig,
    shape: Mapping[str, Any],
    accelerator: str,
    *,
    edge: bool = False,
) -> Iterator[Recipe]:
    """Give recipes, those first that take seconds.

    Args:
        prefix: of their names.
        base: what they begin with.
        shape: the base's config.json.
        accelerator: that they are measured on.
        edge: try llama.cpp too.

    """
    exports = _exports() if edge else iter(())
    for name, steps in chain(exports, _chains(shape, accelerator)):
        yield Recipe.model_validate(
            {
                "name": f"{prefix}-{name}",
                "base": base.model_dump(exclude_none=True),
                "accelerator": accelerator,
                "calibration": {"samples": 96, "tokens": 256, "python_reference": True},
                "steps": steps,
            }
        )


def _exports() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    yield "gguf", [{"export": {"precision": "q8_0"}}]
    yield "gguf-4bit", [{"export": {"precision": "q4_0"}}]


def _chains(
    shape: Mapping[str, Any], accelerator: str
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    int8 = {"quantize": {"scheme": "w8a8", "keep": []}}
    # What goes into down_proj has outliers, which a common scale serves badly.
    keeping = {"quantize": {"scheme": "w8a8", "keep": ["down_proj"]}}
    yield "int8", [int8]
    yield "int8-kept", [keeping]
    if "fp8" in CATALOGUE[accelerator].tflops:
        yield "fp8", [{"quantize": {"scheme": "fp8"}}]
    calibrated = {"quantize": {"scheme": "w8a8", "method": "smoothquant_gptq", "keep": []}}
    yield "int8-gptq", [calibrated]
    if group := _group(shape):
        yield "int4", [{"quantize": {"scheme": "w4a16", "method": "gptq", "group_size": group}}]
    yield "tuned", [{"tune": {}}]
    yield "int8-tuned", [int8, {"tune": {}}]
    layers = int(shape.get("num_hidden_layers", 0))
    kept = int(layers * _KEPT)
    if 0 < kept < layers:
        learn = {"steps": 48, "batch": 8, "tokens": 128, "learning_rate": 2e-4, "check_every": 8}
        student: list[dict[str, Any]] = [{"prune": {"layers": kept}}, {"distill": learn}]
        yield "student", student
        yield "student-int8", [*student, calibrated]


def _group(shape: Mapping[str, Any]) -> int:
    """Give the largest group of int4 weights that divides every layer; 0 if none does."""
    widths = [int(shape[key]) for key in ("hidden_size", "intermediate_size") if key in shape]
    fitting = (size for size in _GROUPS if all(width % size == 0 for width in widths))
    return next(fitting, 0)
