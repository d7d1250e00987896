"""Step models from measured points: a straight line where one holds, else a monotone table.

Its own module because a measurement is a list of points, whoever took them, and which of
the two forms they support is decided by the points themselves: near the power cap, and for
small models on large accelerators, no line does.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import nnls

from scheduler.steps import AffineSteps

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from scheduler.steps import StepModel

# A line is kept while points left out of its fit are missed by no more than this, on average.
LINE_ERROR = 0.02
# Fewer batches than this cannot tell a line from anything else.
TABLE_POINTS = 4
# At one batch, contexts tell what a token of context costs if the longest is so many times
# the shortest; nearer ones tell noise.
CONTEXT_RATIO = 1.5
# Of the least figure, the least that does not depend on the batch: every step does something.
LEAST_SHARE = 0.01
# Of the time and energy at the smallest measured batch, the least that an empty step needs.
FLOOR_SHARE = 0.2


class StepPoint(NamedTuple):
    """What was measured at one batch.

    Attributes:
        batch: mean sequences in a step.
        step_s: mean time of a step.
        step_j: mean energy of a step, over the whole replica.
        context_tokens: that these sequences held together, mean; 0 where nobody counted.

    """

    batch: float
    step_s: float
    step_j: float
    context_tokens: float = 0.0


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
) -> AffineSteps | TableSteps:
    """Fit a step model to measured points.

    A table takes the place of the line only where points left out tell that no line holds, and
    that a table does better: what scatters is no reason to follow it.

    Args:
        points: at two different batches at least, in any order. Where some of one batch differ
            in their context, what a token of context costs is fitted too; else it is part of
            what a sequence costs.
        prefill: of a prompt token, measured apart.
        cap_w: power cap of the whole replica.

    Raises:
        ValueError: there are fewer than two batches, or a figure cannot be.

    """
    points = sorted(points)
    if len({point.batch for point in points}) < 2:  # noqa: PLR2004 (a line has two ends)
        raise ValueError("a profile needs points at two different batches at least")
    if any(min(point[:3]) <= 0 for point in points):
        raise ValueError("batch, time and energy of every point must be positive")
    if not all(0 <= point.context_tokens < math.inf for point in points):
        raise ValueError("the context of every point must be finite, and none negative")
    if len({point.batch for point in points}) < TABLE_POINTS or _line_holds(points):
        return fit_line(points, prefill, cap_w)
    return fit_table(points, prefill, cap_w)


def fit_line(
    points: Sequence[StepPoint], prefill: PrefillCost, cap_w: float = math.inf
) -> AffineSteps:
    """Fit t0 + t1·B + tc·C and the same of energy by least relative squares.

    B is the batch and C its context; no coefficient is negative, and t0 and e0 are positive.
    """
    points = points if tells_context(points) else _without_context(points)
    t0_s, t1_s, context_s = _line(points, [point.step_s for point in points])
    e0_j, e1_j, context_j = _line(points, [point.step_j for point in points])
    return AffineSteps(
        t0_s,
        t1_s,
        e0_j,
        e1_j,
        prefill.s_per_token,
        prefill.j_per_token,
        context_s_per_token=context_s,
        context_j_per_token=context_j,
        cap_w=cap_w,
    )


def fit_table(
    points: Sequence[StepPoint], prefill: PrefillCost, cap_w: float = math.inf
) -> TableSteps:
    """Follow the points, with those that fall behind a smaller batch raised to it.

    What a token of context costs is the line's, and what is left of the points is followed.
    """
    line = fit_line(points, prefill)
    bare = [_bare(point, line) for point in points]
    batches = tuple(sorted({point.batch for point in points}))
    return TableSteps(
        batches,
        _ascending(batches, bare, lambda point: point.step_s),
        _ascending(batches, bare, lambda point: point.step_j),
        prefill,
        cap_w,
        line.context_s_per_token,
        line.context_j_per_token,
    )


def fit_prefill(
    prompt_tokens: Sequence[float], prompt_s: Sequence[float], prompt_j: Sequence[float]
) -> PrefillCost:
    """Fit what a prompt token costs, beside what every prompt costs however short it is.

    Args:
        prompt_tokens: computed for a prompt, by measurement; of two lengths at least.
        prompt_s: time from asking for its first token to having it.
        prompt_j: energy of the replica in that time.

    Raises:
        ValueError: all prompts have one length, or a time is not positive.

    """
    if len(set(prompt_tokens)) < 2:  # noqa: PLR2004 (a line has two ends)
        raise ValueError("prefill needs prompts of two different lengths at least")
    if min(prompt_s) <= 0 or min(prompt_j) < 0:
        raise ValueError("the time of every prompt must be positive, and no energy negative")
    points = [StepPoint(tokens, 1.0, 1.0) for tokens in prompt_tokens]
    _, s_per_token, _ = _line(points, prompt_s, least_share=0.0)
    j_per_token = _line(points, prompt_j, least_share=0.0)[1] if min(prompt_j) > 0 else 0.0
    return PrefillCost(s_per_token, j_per_token)


def limited(steps: AffineSteps | TableSteps, limit_w: float) -> AffineSteps | TableSteps:
    """Keep the energy of a model's steps within a power limit; its times stay."""
    cap_w = min(steps.cap_w, limit_w)
    prefill_j = min(steps.prefill_j(1), limit_w * steps.prefill_s(1))
    if isinstance(steps, TableSteps):
        return replace(steps, cap_w=cap_w, prefill=steps.prefill._replace(j_per_token=prefill_j))
    return replace(steps, cap_w=cap_w, prefill_j_per_token=prefill_j)


def tells_context(points: Sequence[StepPoint]) -> bool:
    """Whether the points of some batch differ so much in context that its cost can be told."""
    seen: dict[float, list[float]] = {}
    for point in points:
        seen.setdefault(point.batch, []).append(point.context_tokens)
    return any(max(each) > CONTEXT_RATIO * min(each) > 0 for each in seen.values())


def line_error(points: Sequence[StepPoint]) -> float:
    """Mean relative error of lines at batches that were left out of them, time and energy."""
    return _left_out_error(points, fit_line, {point.batch for point in points})


def _line_holds(points: Sequence[StepPoint]) -> bool:
    """Whether no table is nearer than a line at batches between others that were left out."""
    if line_error(points) <= LINE_ERROR:
        return True
    inner = set(sorted({point.batch for point in points})[1:-1])
    return _left_out_error(points, fit_line, inner) <= _left_out_error(points, fit_table, inner)


def _left_out_error(
    points: Sequence[StepPoint],
    fit: Callable[[Sequence[StepPoint], PrefillCost], StepModel],
    batches: Collection[float],
) -> float:
    """Mean relative error of a fit at each of these batches, without its own points."""
    errors: list[float] = []
    for batch in batches:
        steps = fit([each for each in points if each.batch != batch], PrefillCost(0.0, 0.0))
        for point in points:
            if point.batch == batch:
                errors += relative_errors(steps, point)
    return sum(abs(error) for error in errors) / len(errors)


def relative_errors(steps: StepModel, point: StepPoint) -> tuple[float, float]:
    """Error of a model's time and energy at a point, as shares of what was measured."""
    return (
        steps.decode_s(point.batch, point.context_tokens) / point.step_s - 1.0,
        steps.decode_j(point.batch, point.context_tokens) / point.step_j - 1.0,
    )


def _without_context(points: Sequence[StepPoint]) -> list[StepPoint]:
    return [point._replace(context_tokens=0.0) for point in points]


def _bare(point: StepPoint, line: AffineSteps) -> StepPoint:
    """Take what its context costs from a point, but not all of it."""
    context_s = line.context_s_per_token * point.context_tokens
    context_j = line.context_j_per_token * point.context_tokens
    return point._replace(
        step_s=max(point.step_s - context_s, LEAST_SHARE * point.step_s),
        step_j=max(point.step_j - context_j, LEAST_SHARE * point.step_j),
    )


def _line(
    points: Sequence[StepPoint], figures: Sequence[float], least_share: float = LEAST_SHARE
) -> tuple[float, float, float]:
    y = np.array(figures, dtype=np.float64)
    columns = np.column_stack(
        [
            np.ones_like(y),
            [point.batch for point in points],
            [point.context_tokens for point in points],
        ]
    )
    sizes = np.maximum(columns.max(axis=0), np.finfo(float).tiny)
    least = least_share * float(y.min())
    found, _ = nnls(columns / sizes / y[:, None], 1.0 - least / y)
    base, slope, context = found / sizes
    return float(base) + least, float(slope), float(context)


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
