"""How long replicas take to come up, learnt from those that did.

Its own module because what counts as a start is a rule of its own: Ray Serve lists a replica
anew that was reconfigured, or that its controller found again after a restart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scheduler.requests import VariantName
    from serve.census import Started

# Weight of the newest start.
WEIGHT = 0.3
LEAST_S = 0.1
# A replica that nobody has seen serve for this long does not come back under its name.
FORGET_S = 3600.0


class StartTimes:
    """The seconds from the order for a replica until it serves, by variant."""

    def __init__(self) -> None:
        """Know nothing; whoever serves at the first look may have served for days."""
        self.learnt_s: dict[VariantName, float] = {}
        self._seen_at_s: dict[str, float] | None = None

    def observe(self, running: Iterable[Started], now_s: float) -> None:
        """Learn from the replicas that have come up since the last look."""
        there = {each.replica: each for each in running}
        seen_at_s = dict.fromkeys(there, now_s) if self._seen_at_s is None else self._seen_at_s
        for name in there.keys() - seen_at_s.keys():
            variant, took_s = there[name].variant, max(LEAST_S, now_s - there[name].asked_at_s)
            before_s = self.learnt_s.get(variant, took_s)
            self.learnt_s[variant] = before_s + WEIGHT * (took_s - before_s)
        known = {name: at_s for name, at_s in seen_at_s.items() if now_s - at_s < FORGET_S}
        self._seen_at_s = known | dict.fromkeys(there, now_s)
