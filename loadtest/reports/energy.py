"""Joules of a run's steady window, and the tokens that they were spent on.

Its own module because energy and tokens must be of the very same seconds, and because only
counters see what idles: this says which of the two kinds of joules a figure is made of.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from loadtest.reports.values import Energy
from loadtest.run import Ending

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loadtest.run import Requests, Run

    Floats = NDArray[np.float64]

# Counters are used if samples cover at least this share of the window.
_LEAST_COVERED = 0.8


class Counted(NamedTuple):
    """What the server's counters say.

    Attributes:
        begin_s: of the seconds that samples cover.
        end_s: the same.
        energy_j: in them; NaN if the counters cannot be used.
        fault: why not; empty if they can.

    """

    begin_s: float
    end_s: float
    energy_j: float
    fault: str = ""


def counted(run: Run, begin_s: float, end_s: float) -> Counted:
    """Read the server's counters at both ends of a window, by interpolation."""
    points = [(each.at_s, each.energy_j) for each in run.samples if math.isfinite(each.energy_j)]
    unusable = Counted(begin_s, end_s, math.nan)
    if len(points) < 2:  # noqa: PLR2004 (a difference has two ends)
        return unusable._replace(fault="the server does not tell its energy counters")
    at_s, energy_j = np.array(points).T
    first_s, last_s = max(begin_s, float(at_s[0])), min(end_s, float(at_s[-1]))
    if last_s - first_s < _LEAST_COVERED * (end_s - begin_s) or last_s <= first_s:
        return unusable._replace(
            fault=f"samples of the server's counters reach from {at_s[0]:.1f} to {at_s[-1]:.1f} s"
            f" only, the window from {begin_s:.1f} to {end_s:.1f} s"
        )
    within = (at_s >= first_s) & (at_s <= last_s)
    if (np.diff(energy_j[within]) < 0).any():
        return unusable._replace(fault="the server's energy counters went backwards")
    low_j, high_j = np.interp([first_s, last_s], at_s, energy_j)
    return Counted(first_s, last_s, float(high_j - low_j))


def energy_of(run: Run, requests: Requests, good: NDArray[np.bool_], counts: Counted) -> Energy:
    """Take all measures of energy.

    Args:
        run: they are of.
        requests: all of the run, in the window or not.
        good: which of them met every objective.
        counts: of the server, with the seconds to be looked at.

    """
    begin_s, end_s = counts.begin_s, counts.end_s
    share = _share_within(requests, begin_s, end_s, run.ended_at_s)
    told = np.isfinite(requests.energy_j)
    attributed_j = _sum(share * requests.energy_j, told)
    by_counter = math.isfinite(counts.energy_j)
    energy_j = counts.energy_j if by_counter else attributed_j
    # Where only replies tell joules, tokens are those of replies that do.
    paid = share * requests.completion_tokens * (1.0 if by_counter else told)
    ended = (requests.ended_at_s >= begin_s) & (requests.ended_at_s < end_s)
    completed = int((ended & (requests.ending == Ending.COMPLETED) & (by_counter | told)).sum())
    tokens, good_tokens = float(paid.sum()), float(paid[good].sum())
    known_j = _sum(share * requests.energy_j, np.isfinite(requests.gco2e) & told)
    gco2e = _ratio(_sum(share * requests.gco2e, np.isfinite(requests.gco2e)), known_j) * energy_j
    awake = [each.awake_replicas for each in run.samples if begin_s <= each.at_s <= end_s]
    return Energy(
        source="counter" if by_counter else "attributed" if told.any() else "none",
        method=run.energy_method,
        begin_s=begin_s,
        end_s=end_s,
        energy_j=energy_j,
        mean_power_w=_ratio(energy_j, end_s - begin_s),
        completion_tokens=tokens,
        good_tokens=good_tokens if _judges(run) else math.nan,
        joules_per_token=_ratio(energy_j, tokens),
        joules_per_good_token=_ratio(energy_j, good_tokens) if _judges(run) else math.nan,
        joules_per_request=_ratio(energy_j, completed),
        unattributed_share=1 - _ratio(attributed_j, energy_j) if by_counter else math.nan,
        gco2e=gco2e,
        gco2e_per_request=_ratio(gco2e, completed),
        mean_awake_replicas=float(np.mean(awake)) if awake else math.nan,
    )


def energy_in(run: Run, edges: Floats) -> tuple[Floats, Floats]:
    """Give joules of the server's counters, and tokens, between neighbouring instants.

    Args:
        run: whose counters can be used (`counted`).
        edges: instants, rising.

    """
    points = [(each.at_s, each.energy_j) for each in run.samples if math.isfinite(each.energy_j)]
    at_s, energy_j = np.array(points).T
    joules: Floats = np.diff(np.interp(edges, at_s, energy_j))
    tokens = [
        float(
            (
                _share_within(run.requests, begin_s, end_s, run.ended_at_s)
                * run.requests.completion_tokens
            ).sum()
        )
        for begin_s, end_s in pairwise(edges.tolist())
    ]
    return joules, np.array(tokens)


def _share_within(requests: Requests, begin_s: float, end_s: float, over_s: float) -> Floats:
    """Of each request's tokens, the share that fell into a window.

    They are spread evenly from first to last; those of streams that never ended, to the end
    of the run.
    """
    stop_s = np.where(np.isnan(requests.ended_at_s), over_s, requests.ended_at_s)
    start_s = np.where(np.isnan(requests.first_token_at_s), stop_s, requests.first_token_at_s)
    length_s = stop_s - start_s
    overlap_s = np.minimum(stop_s, end_s) - np.maximum(start_s, begin_s)
    at_once = ((stop_s >= begin_s) & (stop_s < end_s)).astype(np.float64)
    spread = np.clip(overlap_s / np.where(length_s > 0, length_s, 1.0), 0.0, 1.0)
    share: Floats = np.where(length_s > 0, spread, at_once)
    return share


def _judges(run: Run) -> bool:
    return any(each.objective is not None for each in run.classes)


def _sum(values: Floats, rows: NDArray[np.bool_]) -> float:
    """NaN if there are none: nobody has told."""
    return float(values[rows].sum()) if rows.any() else math.nan


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
