"""What is to be awake and who carries what, with the power that takes.

Its own module because both solvers give one, and hysteresis, validation and the plan itself
read it without knowing which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.instance import Instance

# Shares of a replica that are none.
NOTHING = 1e-9


@dataclass(frozen=True, slots=True)
class Solution:
    """What is to be awake, and who carries what; sequences follow the instance's order.

    Attributes:
        replicas: awake, by slot.
        nodes: on, by group.
        busy: replicas' worth of busy power, by slot; a fraction is a replica that is idle
            part of the time.
        rates: requests/s, by pair.
        spare: requests/s kept free above that, by pair.
        unserved: requests/s of the mean that nobody carries, by load.
        uncovered: requests/s of headroom that is not there, by load.
        bound: weighted watts that no solution can be below; −inf where none is known.

    """

    replicas: tuple[int, ...]
    nodes: tuple[int, ...]
    busy: tuple[float, ...]
    rates: tuple[float, ...]
    spare: tuple[float, ...]
    unserved: tuple[float, ...]
    uncovered: tuple[float, ...]
    bound: float

    def power_w(self, instance: Instance) -> float:
        """Mean power, without what it takes to get there."""
        requests_w = sum(
            pair.request_j * rate for pair, rate in zip(instance.pairs, self.rates, strict=True)
        )
        busy_w = sum(
            terms.busy_w * busy for terms, busy in zip(instance.slots, self.busy, strict=True)
        )
        return instance.standing_w(self.replicas, self.nodes) + busy_w + requests_w

    def cost(self, instance: Instance) -> float:
        """Weighted watts, headroom and getting there included: what a solver makes small."""
        weights = [instance.groups[terms.group].weight for terms in instance.slots]
        requests = sum(
            weights[pair.slot] * (pair.request_j * rate + pair.spare_j * spare)
            for pair, rate, spare in zip(instance.pairs, self.rates, self.spare, strict=True)
        )
        busy = sum(
            weight * terms.busy_w * busy
            for weight, terms, busy in zip(weights, instance.slots, self.busy, strict=True)
        )
        return instance.standing_cost(self.replicas, self.nodes) + busy + requests

    def gap(self, instance: Instance) -> float:
        """Relative distance of the cost from its bound; infinite without one."""
        cost = self.cost(instance)
        return max(0.0, cost - self.bound) / cost if cost > 0 else 0.0


def busy_replicas(instance: Instance, rates: Sequence[float]) -> tuple[float, ...]:
    """Count how many replicas' worth of busy power rates take, when few replicas share them.

    All but one replica of a slot are full; the last is busy, or idle part of the time.
    """
    full, partly = [0.0] * len(instance.slots), [0.0] * len(instance.slots)
    for pair, rate in zip(instance.pairs, rates, strict=True):
        full[pair.slot] += rate / pair.capacity
        partly[pair.slot] += rate / pair.duty
    return tuple(_busy(*shares) for shares in zip(full, partly, strict=True))


def _busy(full: float, partly: float) -> float:
    whole = math.floor(full + NOTHING)
    rest = full - whole
    return whole + min(1.0, partly * rest / full) if rest > NOTHING else float(whole)
