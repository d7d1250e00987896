"""Which requests of two runs are the same request.

Its own module because a difference between pairs is known far better than one between runs,
and because what may be paired must be decided before any figure is looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from loadtest.reports.measures import in_order, window_of, within
from loadtest.reports.objectives import judge
from loadtest.run import Requests

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loadtest.reports.measures import Window
    from loadtest.reports.objectives import Judgement
    from loadtest.run import Run

    Rows = NDArray[np.intp]

# Clocks of a schedule agree to this; it is computed, not measured.
_SAME_INSTANT_S = 1e-6
_OTHER_SCHEDULE = (
    "not comparable one by one: requests were not scheduled at the same times:"
    " another rate or duration, or a schedule that depends on replies"
)


class View(NamedTuple):
    """What is looked at of a run.

    Attributes:
        run: whose it is.
        requests: in the order of their schedule.
        judgement: of these.
        window: that they were scheduled in.

    """

    run: Run
    requests: Requests
    judgement: Judgement
    window: Window


class Pairing(NamedTuple):
    """Two runs as they are to be compared.

    Attributes:
        base: what is compared with.
        other: what is compared.
        paired: row by row they are the same requests.
        reasons: why they are not, or what else differs; one sentence each.

    """

    base: View
    other: View
    paired: bool
    reasons: tuple[str, ...]


def pair(base: Run, other: Run) -> Pairing:
    """Pair two runs request by request, where that can be done."""
    reasons = _obstacles(base, other)
    ones, others = in_order(base.requests), in_order(other.requests)
    rows = None if reasons else _matched(ones, others)
    if rows is None:
        if not reasons:
            reasons = [_OTHER_SCHEDULE]
        return Pairing(
            _view(base, ones), _view(other, others), paired=False, reasons=tuple(reasons)
        )
    alone = len(ones.ending) + len(others.ending) - 2 * len(rows[0])
    ones, others = _take(ones, rows[0]), _take(others, rows[1])
    windows = window_of(base), window_of(other)
    common = within(ones, windows[0]) & within(others, windows[1])
    notes = []
    if alone:
        notes.append(f"{alone:,} requests of one run alone are left out")
    if windows[0] != windows[1]:
        notes.append("their steady windows differ: only requests in both are compared")
    return Pairing(
        _view(base, ones, common),
        _view(other, others, common),
        paired=True,
        reasons=tuple(notes),
    )


def _obstacles(base: Run, other: Run) -> list[str]:
    """Say what makes them different loads."""
    differ = [
        f"not comparable: {name} differs ({one!r} and {two!r})"
        for name, one, two in (
            ("scenario", base.scenario, other.scenario),
            ("seed", base.seed, other.seed),
            ("model", base.model, other.model),
        )
        if one != two
    ]
    if base.closed_loop or other.closed_loop:
        differ.append(
            "not comparable one by one: a closed loop sends when replies come,"
            " there is no common schedule"
        )
    return differ


def _matched(ones: Requests, others: Requests) -> tuple[Rows, Rows] | None:
    """Find the rows that belong together, in the order of the first; None if there are none."""
    if len(ones.ending) == len(others.ending):
        same = np.abs(ones.scheduled_at_s - others.scheduled_at_s) <= _SAME_INSTANT_S
        if same.all():
            rows = np.arange(len(same))
            return rows, rows
    # The turns of a session come when replies do, so their instants differ; their places do not.
    if not len(ones.ending) or (ones.session < 0).any() or (others.session < 0).any():
        return None
    mine, theirs = _places(ones), _places(others)
    common, left, right = np.intersect1d(mine, theirs, assume_unique=True, return_indices=True)
    if not common.size:
        return None
    order = np.argsort(left)
    return left[order], right[order]


def _places(requests: Requests) -> NDArray[np.int64]:
    """Give each turn of each session a number of its own."""
    places: NDArray[np.int64] = requests.session.astype(np.int64) << 32 | requests.turn
    return places


def _view(run: Run, requests: Requests, rows: NDArray[np.bool_] | None = None) -> View:
    window = window_of(run)
    rows = within(requests, window) if rows is None else rows
    chosen = requests.select(rows)
    return View(run, chosen, judge(run, chosen), window)


def _take(requests: Requests, rows: Rows) -> Requests:
    return Requests(*(getattr(requests, name)[rows] for name in Requests.__slots__))
