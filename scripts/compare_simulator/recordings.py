"""Measurements as JSON, so that they can be analysed again without a cluster.

Its own module because it is the one place that knows the file.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from scheduler.fleet import Variant
from scheduler.requests import ModelName, Objective, VariantName
from scheduler.steps import AffineSteps
from scripts.compare_simulator.runs import ComparisonError, Run, Served, Setup

if TYPE_CHECKING:
    from collections.abc import Mapping


def to_json(setup: Setup, calibration_run: Run, test_run: Run) -> dict[str, Any]:
    """Give the measurements, and all that a later analysis of them needs."""
    return {
        "setup": asdict(setup),
        "calibration_run": asdict(calibration_run),
        "test_run": asdict(test_run),
    }


def from_json(content: Mapping[str, Any]) -> tuple[Setup, Run, Run]:
    """Read what `to_json` wrote.

    Raises:
        ComparisonError: something is missing in it.

    """
    try:
        setup = content["setup"]
        variants = {name: _variant(each) for name, each in setup["variants"].items()}
        objective = Objective(**setup["objective"])
        calibration_run, test_run = (
            Run(
                **{
                    **content[name],
                    "served": tuple(Served(**each) for each in content[name]["served"]),
                    "errors": tuple(content[name]["errors"]),
                }
            )
            for name in ("calibration_run", "test_run")
        )
        return (
            Setup(**{**setup, "variants": variants, "objective": objective}),
            calibration_run,
            test_run,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ComparisonError(f"no recorded measurements: {error!r}") from error


def _variant(content: Mapping[str, Any]) -> Variant:
    return Variant(
        **{
            **content,
            "name": VariantName(content["name"]),
            "model": ModelName(content["model"]),
            "steps": AffineSteps(**content["steps"]),
        }
    )
