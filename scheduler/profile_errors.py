"""How well a profile tells what was measured: where it was fitted, and where it was not.

Its own module because a fit must not judge itself: points that were left out of it do, and
people and tests read the verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scheduler.profiles import PrefillCost, fit_profile, relative_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.profiles import StepPoint
    from scheduler.steps import StepModel

# Figures that differ by less than this share of their mean leave nothing to explain.
LEAST_SPREAD = 0.02
# Batches of which every second can be left out, and enough is left for a line.
LEAST_BATCHES = 3

_NO_PREFILL = PrefillCost(0.0, 0.0)


class Explained(NamedTuple):
    """R² of a model at points; None where all figures are alike, and nothing is to explain."""

    time: float | None
    energy: float | None


class HeldOut(NamedTuple):
    """A point that took no part in a fit, and what that fit says of it.

    Attributes:
        point: as measured.
        step_s: predicted.
        step_j: predicted.
        error_s: of the time, as a share of what was measured.
        error_j: the same of the energy.

    """

    point: StepPoint
    step_s: float
    step_j: float
    error_s: float
    error_j: float


def explained(points: Sequence[StepPoint], steps: StepModel) -> Explained:
    """Give the share of the points' variance that a model explains (R²), 1 at best.

    A model that does worse than the mean of the points has a negative one.
    """
    return Explained(
        _r_squared(
            [point.step_s for point in points],
            [steps.decode_s(point.batch, point.context_tokens) for point in points],
        ),
        _r_squared(
            [point.step_j for point in points],
            [steps.decode_j(point.batch, point.context_tokens) for point in points],
        ),
    )


def held_out(points: Sequence[StepPoint]) -> list[HeldOut]:
    """Fit a profile without every second batch, and predict what was left out.

    The least and the largest batch always take part, for nobody serves beyond them. Nothing is
    left out of fewer than three batches.
    """
    batches = sorted({point.batch for point in points})
    if len(batches) < LEAST_BATCHES:
        return []
    left_out = set(batches[1:-1:2])
    steps = fit_profile([each for each in points if each.batch not in left_out], _NO_PREFILL)
    return [
        HeldOut(
            point,
            steps.decode_s(point.batch, point.context_tokens),
            steps.decode_j(point.batch, point.context_tokens),
            *relative_errors(steps, point),
        )
        for point in sorted(points)
        if point.batch in left_out
    ]


def _r_squared(measured: Sequence[float], predicted: Sequence[float]) -> float | None:
    y, fit = np.array(measured), np.array(predicted)
    if float(y.max() - y.min()) <= LEAST_SPREAD * float(y.mean()):
        return None
    return 1.0 - float(((y - fit) ** 2).sum() / ((y - y.mean()) ** 2).sum())
