"""What each gateway has said last, and what that makes together.

Its own module because gateways come, go, fall silent and are overtaken by their own older
news on the way; the planner is to see none of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scheduler.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scheduler.requests import ReplicaId, VariantName
    from serve.plan_news import GatewayNews, StreamKey

# A gateway that has said nothing for this long is gone.
FORGET_GATEWAY_S = 30.0


@dataclass(slots=True)
class _Said:
    news: GatewayNews
    heard_at_s: float


class Hearsay:
    """The newest news of every gateway that is there."""

    def __init__(self) -> None:
        """Have heard of nobody."""
        self._said: dict[str, _Said] = {}

    def __iter__(self) -> Iterator[GatewayNews]:
        """Go through the newest news of each."""
        return (each.news for each in self._said.values())

    def hear(self, news: GatewayNews, now_s: float) -> dict[StreamKey, Traffic] | None:
        """Take news.

        Returns:
            The traffic since what that gateway has said before; None if these news have been
            overtaken on their way. The past of a gateway that was not known is over: its totals
            may be of hours.

        """
        said = self._said.get(news.gateway)
        if said is not None and news.number < said.news.number:
            return None
        before = said.news.traffic if said else news.traffic
        self._said[news.gateway] = _Said(news, now_s)
        return {key: total.since(before.get(key, Traffic())) for key, total in news.traffic.items()}

    def forget(self, now_s: float) -> None:
        """Drop who has been silent for too long."""
        self._said = {
            name: said
            for name, said in self._said.items()
            if now_s - said.heard_at_s <= FORGET_GATEWAY_S
        }

    def strained(self) -> bool:
        """Whether requests wait, or come, for which something should be awake that is not."""
        return any(news.strained or news.held for news in self)

    def held(self) -> dict[StreamKey, int]:
        """Count requests that wait for a replica; each waits in one gateway."""
        total: dict[StreamKey, int] = {}
        for news in self:
            for key, count in news.held.items():
                total[key] = total.get(key, 0) + count
        return total

    def waiting(self) -> dict[VariantName, int]:
        """Count requests that wait in replicas; every gateway has heard of the same ones."""
        most: dict[VariantName, int] = {}
        for news in self:
            for name, count in news.waiting.items():
                most[name] = max(count, most.get(name, 0))
        return most

    def power_w(self) -> float | None:
        """Say what replicas draw, as the gateway has it that knows of most of them."""
        told = [news.power_w for news in self if news.power_w is not None]
        return max(told, default=None)

    def awake(self) -> dict[ReplicaId, VariantName]:
        """Name the replicas that some gateway has a line to."""
        return {replica: name for news in self for replica, name in news.awake.items()}

    def busy(self) -> frozenset[ReplicaId]:
        """Name the replicas that have work."""
        return frozenset(replica for news in self for replica in news.busy)

    def lost(self) -> frozenset[str]:
        """Name the replicas that a gateway has lost and no gateway reaches.

        A gateway that never had a line to one says nothing of it.
        """
        told = frozenset(replica for news in self for replica in news.lost)
        return told.difference(self.awake()) if told else told
