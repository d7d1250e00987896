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
    """What is in the way of a variant.

    Attributes:
        until_s: it is believed until then.
        reason: one line.
        times: in a row that it was found.

    """

    until_s: float
    reason: str
    times: int


class Obstacles:
    """Remembers which variants cannot have more replicas than they have."""

    def __init__(self, patience_s: float, retry_s: float) -> None:
        """Know of none.

        Args:
            patience_s: that a replica may look for a place; after as long it is tried again,
                with twice the patience, then after twice that, and so on.
            retry_s: after which it is tried again at the latest.

        """
        self._patience_s = patience_s
        self._retry_s = retry_s
        self._known: dict[VariantName, _Obstacle] = {}
        self._awake: dict[VariantName, int] = {}
        self._died_at_s: dict[VariantName, float] = {}
        self._now_s = 0.0

    def configure(self, patience_s: float, retry_s: float) -> None:
        """Go on with other times."""
        self._patience_s, self._retry_s = patience_s, retry_s

    def note(
        self,
        deployed: Deployed,
        troubles: Mapping[VariantName, str],
        boots_s: Mapping[VariantName, float],
        now_s: float,
    ) -> None:
        """Look at what starts and does not come up.

        Args:
            deployed: as it is now.
            troubles: of the nodes that a variant would go to; no trouble, no entry.
            boots_s: that a node takes to boot which a variant waits for; no node, no entry.
            now_s: the instant.

        """
        for name, waited_s in deployed.seekers.items():
            trouble = troubles.get(name, "")
            if trouble or waited_s >= self._patience(name) + boots_s.get(name, 0.0):
                why = trouble or f"a replica has looked for a place for {waited_s:.0f} s in vain"
                self._found(name, why, now_s)
        for name, failure in deployed.failures.items():
            self._found(name, failure, now_s)
        self._died_at_s = {name: self._died_at_s.get(name, now_s) for name in deployed.deaths}
        for name, since_s in self._died_at_s.items():
            if now_s - since_s >= self._patience(name):
                self._found(name, deployed.deaths[name], now_s)
        for name, known in list(self._known.items()):
            came_up = name in self._awake and deployed.awake.get(name, 0) > self._awake[name]
            if came_up or now_s >= known.until_s + self._retry_s:
                del self._known[name]
        self._awake = {name: deployed.awake.get(name, 0) for name in (*self._awake, *self._known)}
        self._awake |= deployed.awake
        self._now_s = now_s

    def _patience(self, name: VariantName) -> float:
        known = self._known.get(name)
        return self._wait(known.times + 1 if known else 1)

    def _wait(self, times: int) -> float:
        return min(self._retry_s, self._patience_s * 2.0 ** (times - 1))

    def _found(self, name: VariantName, why: str, now_s: float) -> None:
        known = self._known.get(name)
        if known is not None and now_s < known.until_s:
            return
        times = known.times + 1 if known else 1
        self._known[name] = _Obstacle(now_s + self._wait(times), why, times)

    def reason(self, variant: VariantName) -> str:
        """Say what is in its way, so that more of it need not be tried; empty if nothing is."""
        known = self._known.get(variant)
        return known.reason if known and self._now_s < known.until_s else ""

    def latest(self, variant: VariantName) -> str:
        """Say what was in its way the last time, whether it is tried again by now or not.

        It is empty once one has come up, or nobody has tried for long.
        """
        known = self._known.get(variant)
        return known.reason if known else ""
