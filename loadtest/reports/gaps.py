"""Gaps between the messages of a stream, out of the histograms that senders fill.

Its own module because there are too many gaps to keep: a histogram for each class and sender
merges them without loss, and this alone knows its format (HdrHistogram, microseconds).
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from typing import TYPE_CHECKING

from hdrh.codec import HdrCookieException, HdrLengthException
from hdrh.histogram import HdrHistogram

from loadtest.reports.intervals import NOTHING
from loadtest.reports.values import Distribution

if TYPE_CHECKING:
    from collections.abc import Iterable

_US_PER_S = 1e6
_NOBODY = (math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan)
NONE = Distribution(0, *_NOBODY, NOTHING, NOTHING)
_FAULTS = (
    binascii.Error,
    ValueError,
    zlib.error,
    IndexError,
    TypeError,
    HdrCookieException,
    HdrLengthException,
)


class GapsError(ValueError):
    """A histogram cannot be read."""


def distribution(encoded: Iterable[str]) -> Distribution:
    """Merge histograms and read their percentiles, to the histograms' own precision.

    Raises:
        GapsError: one of them is no histogram.

    """
    merged: HdrHistogram | None = None
    for each in encoded:
        histogram = _decoded(each)
        if merged is None:
            merged = histogram
        else:
            merged.add(histogram)
    if merged is None or not merged.get_total_count():
        return NONE

    def at(percentile: float) -> float:
        return float(merged.get_value_at_percentile(percentile)) / _US_PER_S

    return Distribution(
        count=merged.get_total_count(),
        mean_s=merged.get_mean_value() / _US_PER_S,
        p50_s=at(50),
        p90_s=at(90),
        p95_s=at(95),
        p99_s=at(99),
        p999_s=at(99.9),
        max_s=merged.get_max_value() / _US_PER_S,
        p50_interval_s=NOTHING,
        p99_interval_s=NOTHING,
    )


def _decoded(encoded: str) -> HdrHistogram:
    try:
        base64.b64decode(encoded, validate=True)
        return HdrHistogram.decode(encoded)
    except _FAULTS as error:
        raise GapsError(f"no histogram of gaps: {error}") from error
