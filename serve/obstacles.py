"""What keeps replicas from coming up, and until when nothing is expected of it.

Its own module because a plan that is repeated against an obstacle serves nobody: the planner
has to know how many replicas of a variant can be had, and try again only now and then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.requests import VariantName
    from serve.census import Deployed


class _Obstacle(NamedTuple):
    """Attributes: until: it is believed, seconds on the planner's clock; reason: one line."""

    until_s: float
    reason: str


class Obstacles:
    """Remembers which variants cannot have more replicas than they have."""

    def __init__(self, patience_s: float, retry_s: float) -> None:
        """Know of none.

        Args:
            patience_s: that a replica may look for a place.
            retry_s: after which it is tried again.

        """
        self._patience_s = patience_s
        self._retry_s = retry_s
        self._known: dict[VariantName, _Obstacle] = {}

    def note(self, deployed: Deployed, troubles: Mapping[VariantName, str], now_s: float) -> None:
        """Look at what starts and does not come up.

        Args:
            deployed: as it is now.
            troubles: of the nodes that a variant would go to; no trouble, no entry.
            now_s: the instant.

        """
        self._known = {name: known for name, known in self._known.items() if known.until_s > now_s}
        for name, waited_s in deployed.seekers.items():
            trouble = troubles.get(name, "")
            if trouble or waited_s >= self._patience_s:
                why = trouble or f"a replica has looked for a place for {waited_s:.0f} s in vain"
                self._known[name] = _Obstacle(now_s + self._retry_s, why)
        for name, failure in deployed.failures.items():
            self._known[name] = _Obstacle(now_s + self._retry_s, failure)

    def reason(self, variant: VariantName) -> str:
        """Say what is in its way; empty if nothing is."""
        known = self._known.get(variant)
        return known.reason if known else ""
