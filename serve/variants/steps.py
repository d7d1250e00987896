"""One step of a recipe: done once, in the environment that it needs.

Its own module because it is all that starts jobs which change a checkpoint, or the engine's
settings.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.processor import processor
from serve.config_models import CPU
from serve.variants import workshop
from serve.variants.chain import digest
from serve.variants.errors import BuildError
from serve.variants.kit import STEP_FILE, once
from serve.variants.manifest import StageRecord
from serve.variants.measuring import machine, made_with
from serve.variants.tuning import Trial, knobs, tuned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serve.variants.chain import Stage
    from serve.variants.kit import Bench
    from serve.variants.tuning import Settings


def done(stage: Stage, before: Path, bench: Bench) -> tuple[Path, StageRecord]:
    """Do a step on what the one before has made, or find it done.

    Raises:
        BuildError: it cannot be done.
        WorkshopError: the compression environment, or the job in it, failed.

    """
    target = bench.kit.steps / stage.name
    state = target.with_suffix(".state")

    def make(workspace: Path) -> None:
        began_s = time.monotonic()
        if stage.kind == "tune":
            outcome = _tune(stage, before, workspace, bench)
        else:
            outcome = _compress(stage, before, workspace, state, bench)
        record = StageRecord(
            kind=stage.kind,
            key=stage.key,
            settings=dict(stage.settings),
            took_s=time.monotonic() - began_s,
            outcome=dict(outcome),
        )
        (workspace / STEP_FILE).write_text(record.model_dump_json(indent=2), encoding="utf-8")

    once(target, make, bench.kit)
    shutil.rmtree(state, ignore_errors=True)
    record = StageRecord.model_validate_json((target / STEP_FILE).read_text(encoding="utf-8"))
    return target, record


def _compress(
    stage: Stage, before: Path, into: Path, state: Path, bench: Bench
) -> Mapping[str, Any]:
    """Have a job write another checkpoint; what it has reached in `state` outlives it."""
    kit = bench.kit
    asked = {
        **stage.settings,
        "base": str(before),
        "teacher": str(bench.base),
        "into": str(into),
        "state": str(state),
        "texts": bench.text_names,
        "threads": os.cpu_count() or 1,
        "native_bf16": processor().native_bf16,
    }
    return workshop.work(
        workshop.python(kit.cache, kit.report),
        f"serve.variants.jobs.{stage.kind}",
        asked,
        into.with_suffix(".log"),
        lambda text: kit.report(f"{stage.kind}: {text}"),
    )


def _tune(stage: Stage, before: Path, into: Path, bench: Bench) -> Mapping[str, Any]:
    """Try settings of the engine; the checkpoint stays what it is."""
    for file in before.iterdir():
        if file.is_file() and file.name != STEP_FILE:
            os.link(file, into / file.name)
    found = tuned(
        knobs(on_cpu=bench.recipe.accelerator == CPU, fast=stage.settings["fast"]),
        lambda settings: _tried(settings, stage, before, bench),
    )
    if found is None:
        raise BuildError("tune: the engine cannot serve the checkpoint even as it is")
    return {
        "settings": dict(found.best.settings),
        "trials": [asdict(trial) for trial in found.trials],
        "gain": found.trials[0].s_per_token / found.best.s_per_token,
    }


def _tried(settings: Settings, stage: Stage, checkpoint: Path, bench: Bench) -> Trial | None:
    """Measure some settings once on this machine; None where the engine does not take them."""
    kit, accelerator = bench.kit, bench.recipe.accelerator

    def make(workspace: Path) -> None:
        asked = {
            "base": str(checkpoint),
            "settings": settings,
            "on_cpu": accelerator == CPU,
            "texts": bench.text_names,
        }
        try:
            outcome: Mapping[str, Any] = workshop.work(
                Path(sys.executable),
                "serve.variants.trial",
                asked,
                workspace.with_suffix(".log"),
                lambda text: kit.report(f"tune: {text}"),
            )
        except workshop.WorkshopError as error:
            kit.report(f"tune: not with {settings}: {error}")
            outcome = {"error": str(error)}
        (workspace / "trial.json").write_text(json.dumps(dict(outcome)), encoding="utf-8")

    key = digest((stage.key, settings, accelerator, made_with("vllm"), machine()))
    target = once(kit.measurements / f"trial-{key}", make, kit)
    found = json.loads((target / "trial.json").read_text(encoding="utf-8"))
    return None if "error" in found else Trial(settings, **found)
