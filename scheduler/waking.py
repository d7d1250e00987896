"""Which sleeping variant is worth waking, once all replicas that are awake are at their limits.

Its own module because a decision can only advise it: the planner counts replicas, and whoever
carries out its plans wakes them. The price of a token from a replica that must be woken first,

    m + ((P0 − P_asleep) + E_wake/T_hold) / r_max

spreads what waking costs over what the replica serves while it is sure to be kept awake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduler.capacity import capability
from scheduler.plans import Demand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.fleet import Sleeper, Variant
    from scheduler.requests import Request, VariantName

# A replica that was woken is kept about as long as waking it was worth: for 12 kJ and the
# difference of 55 W between an H100 with and without a process, ski rental gives 200 s.
HOLD_S = 200.0


def wake(
    request: Request,
    variants: Sequence[Variant],
    sleepers: Sequence[Sleeper],
    hold_s: float = HOLD_S,
) -> VariantName | None:
    """Name the sleeping variant that serves requests like this one at the least energy.

    Args:
        request: that found every replica at its limit, or none.
        variants: of its model.
        sleepers: what could be woken, of any model.
        hold_s: for which a woken replica is kept at least.

    Returns:
        None where no sleeper can meet the request's objective.

    """
    demand = Demand(
        model=request.model,
        objective=request.objective,
        requests_per_s=0.0,
        prompt_tokens=request.prompt_tokens,
        completion_tokens=request.expected_completion_tokens,
    )
    by_name = {variant.name: variant for variant in variants}
    prices = [
        (price, sleeper.variant)
        for sleeper in sleepers
        if sleeper.variant in by_name
        and request.variant in {None, sleeper.variant}
        and (price := _price_j(by_name[sleeper.variant], sleeper, demand, hold_s)) is not None
    ]
    return min(prices)[1] if prices else None


def _price_j(variant: Variant, sleeper: Sleeper, demand: Demand, hold_s: float) -> float | None:
    """Joules of a request on a replica that has to be woken and is then kept at its limit."""
    can = capability(variant, demand)
    if can is None:
        return None
    standing_w = can.busy_w - sleeper.asleep_power_w + sleeper.start_j / hold_s
    return can.request_j + standing_w / can.requests_per_s
