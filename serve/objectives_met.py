"""Which of a gateway's calls have lately met their objectives.

Its own module because counting is the scheduler's, and what a call's end says about the service
is known here alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduler.attainment import FAILED, Attainment, Met, completed
from scheduler.decisions import Latencies
from serve.errors import JouleserveError

if TYPE_CHECKING:
    from serve.calls import Journey

_TOO_MANY_REQUESTS = 429
_SERVER_FAULT = 500


class ObjectivesMet(Attainment):
    """Counts calls over a sliding window.

    One that was refused for want of room or of a replica has failed; one that its client gave
    up, or that nobody could ever serve, does not count.
    """

    def ended(self, journey: Journey, now_s: float) -> None:
        """Count a call that has ended, if it says anything about the service."""
        met = judged(journey)
        if met is not None:
            self.count(journey.service_class, met, now_s)


def judged(journey: Journey) -> Met | None:
    """Measure a call by its objectives; None if it says nothing about the service."""
    if not journey.service_class or journey.objective is None:
        return None
    if journey.outcome is not None:
        latency = journey.outcome.latency
        return completed(Latencies(latency.ttft_s, latency.tpot_s), journey.objective)
    return FAILED if serverside(journey.error) else None


def serverside(error: BaseException | None) -> bool:
    """Whether an error is the service's, not the request's nor its client's."""
    if isinstance(error, JouleserveError):
        return error.http_status == _TOO_MANY_REQUESTS or error.http_status >= _SERVER_FAULT
    return isinstance(error, Exception)
