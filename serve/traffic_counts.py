"""What a gateway counts of its requests, for the planner to learn from.

Its own module because counting has two ends, where a request is placed and where it has
ended, and neither needs to know what is made of the counts.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scheduler.decisions import Latencies
from scheduler.traffic import Traffic, crowded
from serve.plan_news import StreamKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scheduler.decisions import Decision, NoReplica
    from scheduler.fleet import Variant
    from scheduler.requests import ModelName, Request, VariantName
    from serve.calls import Journey


class TrafficCounts:
    """Totals since the gateway started, by model and service class.

    Attributes:
        held: requests that wait for a replica now.

    """

    def __init__(self, variants: Mapping[VariantName, Variant]) -> None:
        """Know the variants, and no traffic yet."""
        self.held: Counter[StreamKey] = Counter()
        self._siblings: dict[ModelName, tuple[Variant, ...]] = {
            model: tuple(each for each in variants.values() if each.model == model)
            for model in {each.model for each in variants.values()}
        }
        self._totals: dict[StreamKey, Traffic] = {}
        self._strained = False

    def came(self, journey: Journey, request: Request, verdict: Decision | NoReplica) -> None:
        """Count a request that was routed for the first time."""
        journey.stream = self._key(journey, request)
        journey.objective = request.objective
        traffic = self._of(journey.stream)
        traffic.requests += 1
        traffic.prompt_tokens += request.prompt_tokens
        traffic.crowded += crowded(request, verdict, self._siblings.get(request.model, ()))
        self._strained |= verdict.wake is not None

    def ended(self, journey: Journey) -> None:
        """Count a request that came here and was served to its end.

        Those that another gateway has begun are long ones, and would mislead.
        """
        outcome = journey.outcome
        if outcome is None or journey.stream is None or journey.call.resume is not None:
            return
        traffic = self._of(journey.stream)
        traffic.completions += 1
        traffic.completion_tokens += outcome.finish.completion_tokens
        traffic.cached_tokens += outcome.finish.cached_tokens
        traffic.completed_prompt_tokens += outcome.finish.prompt_tokens
        met = Latencies(outcome.latency.ttft_s, outcome.latency.tpot_s)
        traffic.missed += journey.objective is not None and not met.keep(journey.objective)

    @contextmanager
    def holding(self, journey: Journey, request: Request) -> Iterator[None]:
        """Count a request as one that waits, while inside."""
        key = self._key(journey, request)
        self.held[key] += 1
        try:
            yield
        finally:
            self.held[key] -= 1
            if not self.held[key]:
                del self.held[key]

    def totals(self) -> dict[StreamKey, Traffic]:
        """Give the counts up to now, as values that do not change any more."""
        return {key: traffic.plus(Traffic()) for key, traffic in self._totals.items()}

    def strained(self) -> bool:
        """Whether something more should have been awake since the last time this was asked."""
        strained, self._strained = self._strained, False
        return strained

    def _key(self, journey: Journey, request: Request) -> StreamKey:
        """Name the stream of a request; of floors between two variants' qualities, the upper."""
        qualities = sorted(each.quality for each in self._siblings.get(request.model, ()))
        asked = request.objective.min_quality
        floor = next((each for each in qualities if each >= asked), asked)
        if qualities and floor == qualities[0]:
            floor = 0.0
        return StreamKey(request.model, journey.service_class, floor, request.variant or "")

    def _of(self, key: StreamKey) -> Traffic:
        return self._totals.setdefault(key, Traffic())
