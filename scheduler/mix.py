"""What serving takes with one set of variants, and with another: which of them are worth having.

Its own module because a plan decides what is awake for the next minutes among what may be, and
this what may be at all. It is reckoned from nothing, as if nothing were awake, so that what is
there has no advantage over what could be; over hours the way from one to the other is nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scheduler.instance import instance_of
from scheduler.plans import Census
from scheduler.search import best_solution, missing

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from scheduler.plans import PlanInput
    from scheduler.requests import VariantName

# Over which the energy of waking and booting is spread: a mix stays for hours.
HORIZON_S = 3600.0
# For the search of each mix; a small fleet takes a hundredth of it.
LIMIT_S = 0.3


@dataclass(frozen=True, slots=True)
class Mix:
    """What the best plan takes with certain variants.

    Attributes:
        power_w: mean, by the power model.
        missing_per_s: requests/s that it cannot carry, headroom at its weight.

    """

    power_w: float
    missing_per_s: float


@dataclass(frozen=True, slots=True)
class Mixes:
    """What serving takes with the variants that are admitted, and with one more or less.

    Attributes:
        admitted: with all that may be awake.
        other: by candidate, the same with it; where it is admitted, without it.

    """

    admitted: Mix
    other: Mapping[VariantName, Mix]


def mixes(
    plan_input: PlanInput, admitted: Collection[VariantName], candidates: Collection[VariantName]
) -> Mixes:
    """Compare what is admitted with the same and one candidate more, or less.

    Args:
        plan_input: with the placements of all variants, candidates too.
        admitted: variants that may be awake.
        candidates: to be looked at, admitted or not.

    """
    here = frozenset(admitted)
    return Mixes(
        best_mix(plan_input, here),
        {name: best_mix(plan_input, here ^ {name}) for name in candidates},
    )


def best_mix(plan_input: PlanInput, variants: Collection[VariantName]) -> Mix:
    """Say what the best plan takes that has only these variants."""
    alone = replace(
        plan_input,
        census=Census(plan_input.census.observed_at_s, {}),
        placements=tuple(each for each in plan_input.placements if each.variant in variants),
        settings=replace(plan_input.settings, horizon_s=HORIZON_S),
    )
    instance = instance_of(alone)
    solution, _ = best_solution(instance, LIMIT_S)
    return Mix(solution.power_w(instance), missing(solution))
