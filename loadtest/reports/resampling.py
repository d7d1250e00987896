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
# A resampled quantile is looked for within so many standard deviations of a block's share,
# among at most so many values.
_REACH = 5.0
_MOST_TRIED = 4096


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

    A resampled quantile is the smallest value that enough of the drawn rows do not exceed. Of
    many values, it is looked for among those about the quantile: as far as blocks can move it.

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
    if not ranked.size:
        return np.full((len(shares), len(blocks.weights)), np.nan)
    totals = blocks.weights @ np.bincount(of_row, minlength=blocks.number)
    return np.array([_quantile(blocks, ranked, of_row, share, totals) for share in shares])


def _quantile(
    blocks: Blocks, ranked: Floats, of_row: NDArray[np.intp], share: float, totals: Floats
) -> Floats:
    """Resample one quantile of values in their order, with the block of each."""
    few = ranked.size <= _MOST_TRIED
    reach = 1.0 if few else _REACH * math.sqrt(share * (1 - share) / blocks.number)
    ends = np.clip([share - reach, share + reach], 0.0, 1.0) * (ranked.size - 1)
    first, last = math.floor(ends[0]), math.ceil(ends[1])
    tried = np.unique(np.linspace(first, last, min(last - first + 1, _MOST_TRIED)).astype(np.intp))
    # Rows of each block up to each rank that is tried, then the same of each resample.
    column = np.searchsorted(tried, np.arange(ranked.size))
    cells = of_row * (tried.size + 1) + column
    counts = np.bincount(cells, minlength=blocks.number * (tried.size + 1))
    below = np.cumsum(counts.reshape(blocks.number, tried.size + 1), axis=1)[:, :-1]
    enough = blocks.weights @ below >= share * totals[:, None]
    found = np.where(enough.any(axis=1), enough.argmax(axis=1), tried.size - 1)
    quantile: Floats = np.where(totals > 0, ranked[tried[found]], np.nan)
    return quantile


def interval(resampled: Floats) -> Interval:
    """The middle of what was resampled, as wide as confidence asks."""
    there = resampled[np.isfinite(resampled)]
    # If a measure is often not there, the rest of the resamples says nothing of it.
    if there.size < math.ceil(CONFIDENCE * resampled.size) or not there.size:
        return NOTHING
    low, high = np.quantile(there, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return Interval(low, high)
