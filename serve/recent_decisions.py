"""The newest routing decisions of a gateway, for operators who ask why.

Its own module because a decision outlives its request here: what was decided, and why, can be
looked at without having asked the request to explain itself.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from serve.calls import Journey

# A minute of a gateway that routes four requests a second; some 100 kB.
CAPACITY = 256


class RecentDecision(NamedTuple):
    """One decision, without the scores.

    Attributes:
        request_id: of the request that was routed.
        made_at_s: on the gateway's monotonic clock.
        model: that the request named.
        service_class: that it belongs to.
        policy: that decided.
        variant: chosen.
        replica: chosen.
        reason: one line.
        candidates: replicas that were considered.
        eligible: of these, that could have served it.

    """

    request_id: str
    made_at_s: float
    model: str
    service_class: str
    policy: str
    variant: str
    replica: str
    reason: str
    candidates: int
    eligible: int


class RecentDecisions:
    """Keeps the newest ones; the oldest goes when there is no room."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._kept: deque[RecentDecision] = deque(maxlen=capacity)

    def made(self, journey: Journey, now_s: float) -> None:
        """Note the newest decision about a call."""
        decision = journey.chosen()
        self._kept.appendleft(
            RecentDecision(
                request_id=journey.call.request_id,
                made_at_s=now_s,
                model=journey.call.model,
                service_class=journey.service_class,
                policy=decision.policy,
                variant=decision.variant,
                replica=decision.replica,
                reason=decision.reason,
                candidates=decision.considered,
                eligible=decision.eligible,
            )
        )

    def newest(self, count: int) -> list[RecentDecision]:
        """Give up to so many, newest first."""
        return list(islice(self._kept, count))
