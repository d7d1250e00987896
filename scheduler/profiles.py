"""Step models from measured points: a straight line where one holds, else a monotone table.

Its own module because a measurement is a list of points, whoever took them, and which of
the two forms they support is decided by the points themselves: near the power cap, and for
small models on large accelerators, no line does.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import nnls

from scheduler.steps import AffineSteps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scheduler.steps import StepModel

# A line is kept while points left out of its fit are missed by no more than this, on average.
LINE_ERROR = 0.02
# Fewer points than this cannot tell a line from anything else.
TABLE_POINTS = 4
# Of the time and energy at the smallest measured batch, the least that an empty step needs.
FLOOR_SHARE = 0.2


class StepPoint(NamedTuple):
    """What was measured at one batch, at the typical context.

    Attributes:
        batch: mean sequences in a step.
        step_s: mean time of a step.
        step_j: mean energy of a step, over the whole replica.

    """

    batch: float
    step_s: float
    step_j: float


class PrefillCost(NamedTuple):
    """What a prompt token costs.

    Attributes:
        s_per_token: time.
        j_per_token: energy.

    """

    s_per_token: float
    j_per_token: float


@dataclass(frozen=True, slots=True)
class TableSteps:
    """A step model that follows measured points, and never falls with the batch.

    Between points it is straight; below the first and above the last it goes on as between
    the outermost two.

    Attributes:
        batches: measured, ascending; at least two.
        step_s: at each of them.
        step_j: at each of them.
        prefill: of a prompt token.
        cap_w: power that a decode step cannot exceed.
        context_s_per_token: that a token of context adds, where points are free of context.
        context_j_per_token: the same in energy.

    """

    batches: tuple[float, ...]
    step_s: tuple[float, ...]
    step_j: tuple[float, ...]
    prefill: PrefillCost
    cap_w: float = math.inf
    context_s_per_token: float = 0.0
    context_j_per_token: float = 0.0

    def decode_s(self, batch: float, context_tokens: float = 0.0) -> float:
        """Time of a decode step."""
        return _follow(self.batches, self.step_s, batch) + self.context_s_per_token * context_tokens

    def decode_j(self, batch: float, context_tokens: float = 0.0) -> float:
        """Energy of a decode step."""
        energy_j = _follow(self.batches, self.step_j, batch)
        energy_j += self.context_j_per_token * context_tokens
        return min(energy_j, self.cap_w * self.decode_s(batch, context_tokens))

    def prefill_s(self, tokens: float) -> float:
        """Time to compute prompt tokens."""
        return self.prefill.s_per_token * tokens

    def prefill_j(self, tokens: float) -> float:
        """Energy to compute prompt tokens."""
        return self.prefill.j_per_token * tokens


def fit_profile(
    points: Sequence[StepPoint], prefill: PrefillCost, cap_w: float = math.inf
) -> StepModel:
    """Fit a step model to measured points.

    Args:
        points: at two different batches at least, in any order.
        prefill: of a prompt token, measured apart.
        cap_w: power cap of the whole replica.

    Raises:
        ValueError: there are fewer than two batches, or a figure is not positive.

    """
    points = sorted(points)
    if len({point.batch for point in points}) < 2:  # noqa: PLR2004 (a line has two ends)
        raise ValueError("a profile needs points at two different batches at least")
    if any(min(point) <= 0 for point in points):
        raise ValueError("batch, time and energy of every point must be positive")
    if len(points) < TABLE_POINTS or line_error(points) <= LINE_ERROR:
        return fit_line(points, prefill, cap_w)
    return fit_table(points, prefill, cap_w)


def fit_line(
    points: Sequence[StepPoint], prefill: PrefillCost, cap_w: float = math.inf
) -> AffineSteps:
    """Fit t0 + t1·B and e0 + e1·B, none of them negative, by least relative squares."""
    t0_s, t1_s = _line([(point.batch, point.step_s) for point in points])
    e0_j, e1_j = _line([(point.batch, point.step_j) for point in points])
    return AffineSteps(
        t0_s, t1_s, e0_j, e1_j, prefill.s_per_token, prefill.j_per_token, cap_w=cap_w
    )


def fit_table(
    points: Sequence[StepPoint], prefill: PrefillCost, cap_w: float = math.inf
) -> TableSteps:
    """Follow the points, with those that fall behind a smaller batch raised to it."""
    batches = tuple(sorted({point.batch for point in points}))
    return TableSteps(
        batches,
        _ascending(batches, points, lambda point: point.step_s),
        _ascending(batches, points, lambda point: point.step_j),
        prefill,
        cap_w,
    )


def line_error(points: Sequence[StepPoint]) -> float:
    """Mean relative error of lines at points that were left out of them, time and energy."""
    errors = []
    for left_out in range(len(points)):
        kept = [point for row, point in enumerate(points) if row != left_out]
        line = fit_line(kept, PrefillCost(0.0, 0.0))
        point = points[left_out]
        errors += [
            abs(line.decode_s(point.batch) / point.step_s - 1.0),
            abs(line.decode_j(point.batch) / point.step_j - 1.0),
        ]
    return sum(errors) / len(errors)


def _line(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    x, y = np.array(pairs, dtype=np.float64).T
    (base, slope), _ = nnls(np.column_stack([1.0 / y, x / y]), np.ones_like(y))
    return float(base), float(slope)


def _ascending(
    batches: Sequence[float], points: Sequence[StepPoint], figure: Callable[[StepPoint], float]
) -> tuple[float, ...]:
    means = [
        float(np.mean([figure(point) for point in points if point.batch == batch]))
        for batch in batches
    ]
    return tuple(np.maximum.accumulate(means).tolist())


def _follow(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Interpolate; below the first point no less than a share of it."""
    left = min(max(bisect_right(xs, x) - 1, 0), len(xs) - 2)
    slope = (ys[left + 1] - ys[left]) / (xs[left + 1] - xs[left])
    y = ys[left] + slope * (x - xs[left])
    if x >= xs[0]:
        return y
    floor = max(ys[0] - slope * xs[0], FLOOR_SHARE * ys[0])
    return floor + (ys[0] - floor) * x / xs[0]
