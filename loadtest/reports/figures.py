"""Numbers as people read them; a dash where there is none.

Its own module because terminal and page must show the same figure in the same way.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadtest.reports.values import Interval

NOTHING = "–"
_MS = 1e3


def number(value: float) -> str:
    """Three significant digits, or all digits before the point."""
    if not math.isfinite(value):
        return NOTHING
    size = abs(value)
    if size >= 100:  # noqa: PLR2004 (three digits stand before the point)
        return f"{value:,.0f}"
    if not size:
        return "0"
    digits = 2 - math.floor(math.log10(size))
    return f"{value:.{min(digits, 6)}f}" if size >= 1e-3 else f"{value:.2e}"  # noqa: PLR2004


def milliseconds(value_s: float) -> str:
    """Of seconds."""
    return number(_MS * value_s)


def percent(share: float) -> str:
    """Of a share, without the sign; what is nearly all or nearly nothing keeps its digits."""
    if not math.isfinite(share):
        return NOTHING
    value = 100 * share
    text = f"{value:.2f}" if min(abs(share), abs(1 - share)) < 0.1 else f"{value:.1f}"  # noqa: PLR2004
    return "100" if share == 1 else "0" if share == 0 else text


def between(interval: Interval, scale: float = 1.0) -> str:
    """Both ends, scaled; an end that nothing bounds is left open."""
    low, high = (number(scale * each) for each in (interval.low, interval.high))
    if low == high == NOTHING:
        return NOTHING
    return f"{low if low != NOTHING else '…'} to {high if high != NOTHING else '…'}"


def between_ms(interval: Interval) -> str:
    """The same of seconds, in milliseconds."""
    return between(interval, _MS)
