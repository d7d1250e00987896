"""The block bootstrap: what a measure would be in other runs of the same kind.

Its own module because it is arithmetic on blocks of rows and knows of no measure's meaning.
Neighbouring rows are drawn together, for they waited behind one another (Künsch 1989).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from loadtest.reports.intervals import CONFIDENCE, NOTHING, batches
from loadtest.reports.values import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RESAMPLES = 1000
_FEWEST_BLOCKS = 10
# Weights of rows in memory at once.
_WEIGHTS_AT_ONCE = 2_000_000


class Blocks(NamedTuple):
    """Rows in blocks, and how often each block is drawn in each resample.

    Attributes:
        of_row: block of each row, rising from 0.
        weights: resamples × blocks.

    """

    of_row: NDArray[np.intp]
    weights: Floats

    @property
    def number(self) -> int:
        """Of blocks."""
        return int(self.weights.shape[1])

    @property
    def enough(self) -> bool:
        """An interval can be told from them."""
        return self.number >= _FEWEST_BLOCKS

    def sums(self, values: Floats) -> Floats:
        """Add up values in each block; NaN counts for nothing."""
        sums = np.bincount(self.of_row, np.nan_to_num(values), self.number)
        return sums.astype(np.float64)


def drawn(rows: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> Blocks:
    """Draw blocks of so many rows, with replacement."""
    of_row = batches(rows)
    count = int(of_row[-1]) + 1 if rows else 0
    weights = np.zeros((resamples, count))
    if count:
        weights[:] = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return Blocks(of_row, weights)


def ratios(blocks: Blocks, parts: Floats, wholes: Floats) -> Floats:
    """Resample a ratio of sums, such as a mean: values of blocks, not of rows."""
    above, below = blocks.weights @ parts, blocks.weights @ wholes
    divided: Floats = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
    return divided


def quantiles(blocks: Blocks, values: Floats, shares: tuple[float, ...]) -> Floats:
    """Resample quantiles of the rows' values; NaN is no value.

    Args:
        blocks: of the rows.
        values: of each row.
        shares: below each quantile.

    Returns:
        shares × resamples.

    """
    there = np.isfinite(values)
    order = np.argsort(values[there], kind="stable")
    ranked, of_row = values[there][order], blocks.of_row[there][order]
    found = np.full((len(shares), len(blocks.weights)), np.nan)
    if not ranked.size:
        return found
    at_once = max(_WEIGHTS_AT_ONCE // ranked.size, 1)
    for first in range(0, len(blocks.weights), at_once):
        rows = slice(first, first + at_once)
        heights = np.cumsum(blocks.weights[rows][:, of_row], axis=1)
        totals = heights[:, -1]
        for number, share in enumerate(shares):
            below = (heights < share * totals[:, None]).sum(axis=1)
            drawn_values = ranked[np.minimum(below, ranked.size - 1)]
            found[number, rows] = np.where(totals > 0, drawn_values, np.nan)
    return found


def interval(resampled: Floats) -> Interval:
    """The middle of what was resampled, as wide as confidence asks."""
    there = resampled[np.isfinite(resampled)]
    # If a measure is often not there, the rest of the resamples says nothing of it.
    if there.size < math.ceil(CONFIDENCE * resampled.size) or not there.size:
        return NOTHING
    low, high = np.quantile(there, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return Interval(low, high)
