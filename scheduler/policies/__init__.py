"""Routing policies, by the name that configuration gives.

Its own package because a policy is one small file, and this is where it gets its name.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from scheduler.policies.energy import Energy
from scheduler.policies.kv_overlap import KvOverlap
from scheduler.policies.least_loaded import LeastLoaded
from scheduler.policies.least_tokens import LeastTokens
from scheduler.policies.power_of_two import PowerOfTwo
from scheduler.policies.prefix_affinity import PrefixAffinity
from scheduler.policies.queue_kv import QueueKv
from scheduler.policies.round_robin import RoundRobin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scheduler.routing import Policy

POLICIES: Mapping[str, Callable[[], Policy]] = MappingProxyType(
    {
        "energy": Energy,
        "kv_overlap": KvOverlap,
        "least_loaded": LeastLoaded,
        "least_tokens": LeastTokens,
        "power_of_two": PowerOfTwo,
        "prefix_affinity": PrefixAffinity,
        "queue_kv": QueueKv,
        "round_robin": RoundRobin,
    }
)


def make_policy(name: str) -> Policy:
    """Make the policy of that name.

    Raises:
        ValueError: there is none; the message lists those there are.

    """
    try:
        return POLICIES[name]()
    except KeyError:
        raise ValueError(f"no policy {name!r}; known: {', '.join(sorted(POLICIES))}") from None
