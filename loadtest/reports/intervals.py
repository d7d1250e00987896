"""How far figures of one run may be off: confidence intervals that know of queues.

Its own module because requests that come one after the other wait behind one another: an
interval that takes them for independent is too narrow. Here rows are taken in batches of
neighbours, and only batches are taken for independent (batch means; Law, Simulation Modeling
and Analysis, ch. 9; block bootstrap: Künsch 1989).
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import norm, t

from loadtest.reports.values import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CONFIDENCE = 0.95
NOTHING = Interval(math.nan, math.nan)
_TAIL = (1 + CONFIDENCE) / 2
_NORMAL = float(norm.ppf(_TAIL))
_FEWEST_BATCHES = 10
_MOST_BATCHES = 100


def batches(count: int) -> NDArray[np.intp]:
    """Number rows by their batch: some √n batches, at least 10, at most 100."""
    number = min(max(math.isqrt(count), _FEWEST_BATCHES), _MOST_BATCHES, count)
    return np.arange(count) * number // max(count, 1)


def mean_interval(values: Floats) -> Interval:
    """Where the mean lies: Student over the means of batches."""
    error, freedom = _standard_error(values)
    if not freedom:
        return NOTHING
    half = _students(freedom) * error
    return Interval(float(values.mean()) - half, float(values.mean()) + half)


def quantile_interval(values: Floats, share: float) -> Interval:
    """Where a quantile lies: the order statistics around it (Woodruff 1952).

    How far the share below the quantile may be off is told by batches; the values at the two
    shares that this gives are the ends.

    Args:
        values: in the order in which they arose.
        share: of them, below the quantile.

    """
    if not values.size:
        return NOTHING
    below = (values <= np.quantile(values, share)).astype(np.float64)
    error, freedom = _standard_error(below)
    if not freedom:
        return NOTHING
    # Not less than if rows were independent: batches may agree by chance.
    error = max(error, math.sqrt(share * (1 - share) / values.size))
    half = _students(freedom) * error
    return Interval(_order_statistic(values, share - half), _order_statistic(values, share + half))


def share_interval(hits: NDArray[np.bool_]) -> Interval:
    """Where a share lies: Wilson's interval for as many rows as the batches are worth."""
    if not len(hits):
        return NOTHING
    return wilson(float(hits.mean()), worth(hits))


def worth(hits: NDArray[np.bool_]) -> float:
    """Say how many independent rows would tell a share as well as these do."""
    count, share = len(hits), float(hits.mean())
    error, freedom = _standard_error(hits.astype(np.float64))
    independent = share * (1 - share) / count
    if not freedom or not independent:
        return float(count)
    return max(count / max(1.0, error**2 / independent), 1.0)


def wilson(share: float, rows: float) -> Interval:
    """Where a share lies that so many independent rows had (Wilson 1927)."""
    z = _NORMAL
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + (z / rows / 2) ** 2)
    # At the ends the arithmetic of floats misses them by some 1e-17.
    low = 0.0 if share <= 0 else max(middle - half, 0.0)
    return Interval(low, 1.0 if share >= 1 else min(middle + half, 1.0))


@cache
def _students(freedom: int) -> float:
    """Give the factor on a standard error."""
    return float(t.ppf(_TAIL, freedom))


def _order_statistic(values: Floats, share: float) -> float:
    """The value at a share; NaN if it lies beyond what the values show."""
    if not 0 <= share <= 1:
        return math.nan
    return float(np.quantile(values, share))


def _standard_error(values: Floats) -> tuple[float, int]:
    """Of the mean, by batches, with the degrees of freedom; 0 of these: too few values."""
    rows = batches(len(values))
    number = int(rows[-1]) + 1 if len(rows) else 0
    if number < _FEWEST_BATCHES:
        return math.nan, 0
    means = np.bincount(rows, values) / np.bincount(rows)
    return float(means.std(ddof=1)) / math.sqrt(number), number - 1
