"""Solve the plan's program exactly, with HiGHS.

Its own module because it is the only place that calls a solver. Where capacity suffices,
everything is served at the least cost; where it does not, the least that must be left is
found first, requests before headroom, and watts are saved only within that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import Bounds, milp

from scheduler.program import ROOM, Program, program_of, without_presence
from scheduler.solution import Solution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scheduler.instance import Instance
    from scheduler.program import Columns

# Relative distance from the optimum at which the search for fewer watts ends.
OPTIMAL = 2e-4
# What a missing unit of headroom weighs against a missing unit of the mean.
HEADROOM_WEIGHT = 0.05
_INFEASIBLE = 2
WHOLE = True


class Relaxed(NamedTuple):
    """A solution with divisible replicas and nodes.

    Attributes:
        cost: weighted watts.
        replicas: awake, by slot.

    """

    cost: float
    replicas: tuple[float, ...]


class _Outcome(NamedTuple):
    values: NDArray[np.float64] | None
    bound: float
    infeasible: bool


def solve(
    instance: Instance,
    *,
    limit_s: float,
    floors: Sequence[int] | None = None,
    ceilings: Sequence[int] | None = None,
    whole_busy: bool = True,
) -> Solution | None:
    """Find the cheapest replicas and nodes that carry the loads, or as much as can be.

    Args:
        instance: to be solved.
        limit_s: for the search; when it ends early, the best solution so far counts.
        floors: replicas of each slot at least; by default the instance's.
        ceilings: replicas of each slot at most; by default the instance's.
        whole_busy: count busy replicas as whole ones; a large problem is solved many times
            faster without, and its busy replicas have to be counted again.

    Returns:
        None when the time was too short for any solution, or bounds contradict each other.

    """
    program = program_of(instance, floors, ceilings)
    if not whole_busy:
        program.integral[program.columns.busy] = 0
    outcome = _search(program, limit_s)
    return None if outcome.values is None else _read(instance, program.columns, outcome)


def relax(instance: Instance, *, whole: bool = False) -> Relaxed | None:
    """Solve the problem with divisible replicas and nodes: no solution costs less.

    Args:
        instance: to be solved.
        whole: keep the rows that only whole solutions obey by themselves, for a closer bound.

    Returns:
        None if it cannot be solved.

    """
    program = program_of(instance, None, None, whole=whole)
    program.integral[:] = 0
    values = _search(program, np.inf).values
    if values is None:
        return None
    return Relaxed(float(program.cost @ values), tuple(values[program.columns.awake].tolist()))


def _search(program: Program, limit_s: float) -> _Outcome:
    """Serve everything at the least cost, else as much as can be at the least cost."""
    outcome = _run(program, program.cost, limit_s / 2, OPTIMAL)
    if not outcome.infeasible:
        return outcome
    columns, shortage = program.columns, np.zeros(program.columns.width)
    shortage[columns.unserved] = 1.0
    shortage[columns.uncovered] = HEADROOM_WEIGHT
    open_high = program.high.copy()
    open_high[columns.unserved] = np.inf
    open_high[columns.uncovered] = np.inf
    opened = Program(
        columns, program.cost, without_presence(program), program.low, open_high, program.integral
    )
    least = _run(opened, shortage, limit_s / 4, ROOM)
    if least.values is None:
        return least
    for kind in (columns.unserved, columns.uncovered):
        found = np.maximum(least.values[kind], 0.0)
        open_high[kind] = found + ROOM * (1.0 + found)
    cheapest = _run(opened, program.cost, limit_s / 4, OPTIMAL)
    return least if cheapest.values is None else cheapest


def _run(program: Program, cost: NDArray[np.float64], limit_s: float, optimal: float) -> _Outcome:
    options = {"mip_rel_gap": optimal}
    if np.isfinite(limit_s):
        options["time_limit"] = limit_s
    result = milp(
        cost,
        integrality=program.integral,
        bounds=Bounds(program.low, program.high),
        constraints=program.rows,
        options=options,
    )
    bound = -np.inf
    if result.x is not None and cost is program.cost:
        bound = result.mip_dual_bound if program.integral.any() else result.fun
        bound = -np.inf if bound is None else float(bound)
    return _Outcome(result.x, bound, result.status == _INFEASIBLE)


def _read(instance: Instance, columns: Columns, outcome: _Outcome) -> Solution:
    values = outcome.values
    assert values is not None  # noqa: S101 (the caller looked; mypy cannot see it)
    replicas = tuple(int(count) for count in np.rint(values[columns.awake]))
    busy = np.rint(values[columns.busy])
    duty = np.maximum(values[columns.duty], 0.0)
    for pair, rate in zip(instance.pairs, duty, strict=True):
        busy[pair.slot] += rate / pair.duty
    return Solution(
        replicas=replicas,
        nodes=tuple(instance.nodes_for(replicas)),
        busy=tuple(float(count) for count in busy),
        rates=tuple(float(rate) for rate in np.maximum(values[columns.full], 0.0) + duty),
        spare=tuple(float(rate) for rate in np.maximum(values[columns.spare], 0.0)),
        unserved=_missing(values[columns.unserved]),
        uncovered=_missing(values[columns.uncovered]),
        bound=outcome.bound,
    )


def _missing(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(0.0 if value < 10 * ROOM else float(value) for value in values)
