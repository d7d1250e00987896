"""When requests arrive: processes with a constant rate, and rates that change.

Its own module because a load is two independent things, when requests come and what they
are; this is the first, and `loadtest.lengths` the second.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Times: TypeAlias = NDArray[np.float64]
    Rate: TypeAlias = Callable[[Times], Times]
    """Requests/s at each of many instants (seconds from the start)."""

DAY_S = 86_400.0
# Of the integral of a rate: a millisecond of a run of two minutes.
GRID_POINTS = 120_001


def constant(requests_per_s: float, duration_s: float) -> Times:
    """One request every 1/rate seconds, the first after half of that."""
    # A product that is an integer but for rounding is that integer.
    count = int(requests_per_s * duration_s * (1 + 1e-9))
    return (np.arange(count, dtype=np.float64) + 0.5) / requests_per_s


def poisson(requests_per_s: float, duration_s: float, rng: np.random.Generator) -> Times:
    """Independent requests at a constant rate."""
    count = int(rng.poisson(requests_per_s * duration_s))
    return np.sort(rng.uniform(0.0, duration_s, count))


def gamma(
    requests_per_s: float, burstiness: float, duration_s: float, rng: np.random.Generator
) -> Times:
    """Gaps from a Gamma distribution.

    Args:
        requests_per_s: mean rate.
        burstiness: coefficient of variation of the gaps; 1 is Poisson, above comes in bursts.
        duration_s: from 0 on.
        rng: source of chance.

    """
    shape = 1.0 / burstiness**2
    scale = burstiness**2 / requests_per_s
    expected = requests_per_s * duration_s
    times = np.empty(0)
    while not times.size or times[-1] < duration_s:
        count = int(expected + 4 * burstiness * math.sqrt(expected)) + 16
        start = times[-1] if times.size else 0.0
        times = np.concatenate([times, start + np.cumsum(rng.gamma(shape, scale, count))])
    return times[times < duration_s]


def thinned(rate: Rate, highest_per_s: float, duration_s: float, rng: np.random.Generator) -> Times:
    """Independent requests at a rate that changes: candidates at the highest, some kept.

    Args:
        rate: that may depend on time.
        highest_per_s: that it never exceeds.
        duration_s: from 0 on.
        rng: source of chance.

    Raises:
        ValueError: the rate exceeds `highest_per_s`.

    """
    candidates = poisson(highest_per_s, duration_s, rng)
    rates = rate(candidates)
    if candidates.size and rates.max() > highest_per_s * (1 + 1e-9):
        raise ValueError(f"the rate reaches {rates.max():g}/s, above {highest_per_s:g}/s")
    return candidates[rng.uniform(0.0, highest_per_s, candidates.size) < rates]


def diurnal(mean_per_s: float, swing: float = 0.6, period_s: float = DAY_S) -> Rate:
    """A rate that follows the day: lowest at the start, highest after half a period.

    Args:
        mean_per_s: over a whole period.
        swing: of it, up and down; 0 to 1.
        period_s: a day, or a shorter one to see more of them.

    """

    def rate(at_s: Times) -> Times:
        return mean_per_s * (1.0 - swing * np.cos(2.0 * np.pi * at_s / period_s))

    return rate


def flash_crowd(
    base_per_s: float, factor: float, start_s: float, length_s: float, ramp_s: float = 30.0
) -> Rate:
    """A rate that multiplies for a while, with ramps on both sides.

    Args:
        base_per_s: before and after.
        factor: times the base while the crowd is there.
        start_s: when it begins to come.
        length_s: from then until all have left again.
        ramp_s: that its coming and its leaving take.

    """

    def rate(at_s: Times) -> Times:
        corners = [start_s, start_s + ramp_s, start_s + length_s - ramp_s, start_s + length_s]
        crowd = np.interp(at_s, corners, [0.0, 1.0, 1.0, 0.0])
        return base_per_s * (1.0 + (factor - 1.0) * crowd)

    return rate


def ramp(first_per_s: float, last_per_s: float, length_s: float) -> Rate:
    """A rate that changes in a straight line, and stays where it has come to.

    Args:
        first_per_s: at the start.
        last_per_s: at the end.
        length_s: from the one to the other.

    """

    def rate(at_s: Times) -> Times:
        return np.interp(at_s, [0.0, length_s], [first_per_s, last_per_s])

    return rate


def steps(levels: Sequence[tuple[float, float]]) -> Rate:
    """A rate that jumps.

    Args:
        levels: pairs of an instant (s) and the rate (1/s) from then on, in order; the first
            holds before its instant too.

    """
    starts = np.array([at_s for at_s, _ in levels])
    rates = np.array([rate_per_s for _, rate_per_s in levels])

    def rate(at_s: Times) -> Times:
        rows = np.clip(np.searchsorted(starts, at_s, side="right") - 1, 0, None)
        followed: Times = rates[rows]
        return followed

    return rate


def warped(rate: Rate, duration_s: float, unit: Callable[[float], Times]) -> Times:
    """Give any process a rate that changes: its own time passes as fast as the rate says.

    Time-rescaling: if u is a process of rate 1, then the instants t with Λ(t) = u, where Λ is
    the integral of the rate, have that rate, and gaps as irregular as those of u.

    Args:
        rate: that may depend on time.
        duration_s: from 0 on.
        unit: makes a process of rate 1, of the length that it is given.

    """
    at_s = np.linspace(0.0, duration_s, GRID_POINTS)
    middle = rate((at_s[1:] + at_s[:-1]) / 2.0)
    passed = np.concatenate([[0.0], np.cumsum(middle * np.diff(at_s))])
    return np.interp(unit(float(passed[-1])), passed, at_s)
