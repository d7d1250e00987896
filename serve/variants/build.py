"""The pipeline: a recipe's steps, one after the other, then measured, compared and written down.

Its own module because it is the order of things and nothing else. Everything that takes long is
done once, kept under a key that says all that decides it, and appears complete or not at all: a
pipeline that was killed goes on where it was.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.processor import processor
from serve.atomic_directory import sweep
from serve.checkpoints import check as check_source
from serve.checkpoints import materialize
from serve.config_models import CPU
from serve.variants import workshop
from serve.variants.chain import digest, stages
from serve.variants.errors import BuildError
from serve.variants.fitting import fitted
from serve.variants.kit import Bench, Kit, content_key, file_key, hashes, once
from serve.variants.manifest import Manifest, QualityRecord, SpeedRecord
from serve.variants.measuring import made_with, measured, profile_of, reading
from serve.variants.preflight import find_early_faults, find_faults
from serve.variants.quality import compared
from serve.variants.steps import done

if TYPE_CHECKING:
    from serve.variants.recipe import Recipe

DATA = Path(__file__).parent / "data"
# Texts that steps learn from.
_READ = ("calibration", "reference")


def build(recipe: Recipe, kit: Kit) -> Manifest:
    """Make a variant, or find that it is made; blocks for seconds to hours.

    Raises:
        BuildError: a step failed.
        CheckpointError: the base cannot be had.
        WorkshopError: the compression environment, or a job in it, failed.

    """
    bench = _prepared(recipe, kit)
    # First, for an engine that does not serve the base will serve nothing that is made of it.
    for directory in (kit.steps, kit.measurements):
        sweep(directory)
    kit.report("measuring the base")
    before = measured(bench.base, "vllm", {}, bench)
    checkpoint, records = bench.base, []
    for stage in stages(
        bench.recipe,
        base=content_key(bench.base),
        calibration=digest([file_key(bench.texts[name]) for name in _READ if name in bench.texts]),
        # The last bits of what is computed depend on what computes.
        environment=f"{workshop.identity()} {processor().instructions}",
    ):
        checkpoint, record = done(stage, checkpoint, bench)
        records.append(record)
    settings = records[-1].outcome.get("settings", {})
    kit.report("measuring the variant")
    # An accelerator may not have the room for both; it is as fast a minute later.
    beside = bench.base if recipe.accelerator == CPU else None
    after = measured(checkpoint, recipe.engine, settings, bench, beside=beside)
    before |= after["beside"] or {}
    tasks = bench.texts["tasks"].read_text(encoding="utf-8").splitlines()
    solutions = [json.loads(line)["answer"] for line in tasks]
    return Manifest(
        name=recipe.name,
        recipe=recipe,
        engine=recipe.engine,
        settings=settings,
        checkpoint=checkpoint,
        stages=tuple(records),
        files=hashes(checkpoint),
        weight_bytes=_weight_bytes(checkpoint),
        base_weight_bytes=_weight_bytes(bench.base),
        quality=QualityRecord.of(compared(reading(after), reading(before), solutions)),
        speed=SpeedRecord.of(after),
        base_speed=SpeedRecord.of(before),
        profile=profile_of(checkpoint, after, recipe.engine, recipe.accelerator),
        base_profile=profile_of(bench.base, before, "vllm", recipe.accelerator),
        licence=recipe.licence,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        made_with=made_with(recipe.engine),
    )


def check(recipe: Recipe, kit: Kit) -> None:
    """Refuse a recipe that can only fail; makes nothing but the base.

    Raises:
        BuildError: what is wrong, and what to change.
        CheckpointError: the base cannot be had.

    """
    _prepared(recipe, kit)


def _prepared(recipe: Recipe, kit: Kit) -> Bench:
    """Give base and texts of a recipe that may work."""
    check_source(recipe.base.source)
    texts = {
        "calibration": recipe.calibration.text or DATA / "calibration.txt",
        "heldout": DATA / "heldout.txt",
        "tasks": DATA / "tasks.jsonl",
    }
    if faults := list(find_early_faults(recipe, texts["calibration"])):
        raise BuildError("; ".join(faults))
    base = Path(materialize(recipe.base.source, cache=kit.cache, report=kit.report))
    if faults := list(find_faults(recipe, base, texts["calibration"], kit.cache)):
        raise BuildError("; ".join(faults))
    if recipe.calibration.python_reference:
        texts["reference"] = _python_reference(kit)
    return Bench(fitted(recipe, processor()), base, texts, kit)


def _python_reference(kit: Kit) -> Path:
    """Give the reference of the Python language as a file of passages."""
    from pydoc_data.topics import topics

    content = "\n\n".join(topics[name] for name in sorted(topics))
    target = kit.cache / "variants" / "texts" / digest(content)

    def make(workspace: Path) -> None:
        (workspace / "reference.txt").write_text(content, encoding="utf-8")

    return once(target, make, kit) / "reference.txt"


def _weight_bytes(checkpoint: Path) -> int:
    files = [*checkpoint.glob("*.safetensors"), *checkpoint.glob("*.gguf")]
    return sum(file.stat().st_size for file in files)
