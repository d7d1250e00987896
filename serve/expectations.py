"""What will come: learnt from the traffic that gateways counted, and from what waits already.

Its own module because forecasting knows streams of requests and nothing of replicas; what is
awake for them is the planner's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scheduler.requests import Objective, VariantName
from scheduler.traffic import Stream, Traffic, sure_rate
from serve.plan_problem import with_held

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.plans import Demand
    from scheduler.requests import ModelName
    from serve.config import Config
    from serve.plan_news import StreamKey

# Gateways speak up this often: a count over less is not of all of them.
LEAST_PERIOD_S = 1.0


class Expectations:
    """Streams of requests by model and service class."""

    def __init__(self, now_s: float) -> None:
        """Know of no request yet.

        Args:
            now_s: seconds since the epoch, as everywhere here.

        """
        self._streams: dict[StreamKey, Stream] = {}
        self._pending: dict[StreamKey, Traffic] = {}
        self._came_at_s: dict[StreamKey, float] = {}
        self._observed_at_s = now_s

    def count(self, key: StreamKey, traffic: Traffic) -> None:
        """Take what a gateway has counted since it last spoke."""
        self._pending[key] = self._pending.get(key, Traffic()).plus(traffic)

    def observe(self, now_s: float) -> None:
        """Learn from everything that was counted since the last call."""
        period_s = max(1e-3, now_s - self._observed_at_s)
        for key in {**self._streams, **self._pending}:
            traffic = self._pending.get(key, Traffic())
            self._streams.setdefault(key, Stream()).observe(traffic, now_s, period_s)
            if traffic.requests or key not in self._came_at_s:
                self._came_at_s[key] = now_s
        self._pending.clear()
        self._observed_at_s = now_s

    def demands(
        self,
        config: Config,
        now_s: float,
        held: Mapping[StreamKey, int],
        backlog_per_s: Mapping[ModelName, float],
    ) -> dict[StreamKey, Demand]:
        """Say what is expected over the planner's horizon.

        Args:
            config: of the whole cluster.
            now_s: the instant.
            held: requests that wait for a replica to wake.
            backlog_per_s: rate at which what waits in replicas is to be worked off besides.

        """
        horizon_s = config.planner.horizon_s
        shares = self._shares()
        demands = {}
        for key in sorted({*self._streams, *self._pending, *held}):
            given = config.service_classes.get(key.service_class)
            if given is None:
                continue
            floor = max(given.min_quality, key.min_quality)
            objective = Objective(given.ttft_s, given.tpot_s, floor)
            demand = self._stream(key).demand(key.model, objective, now_s, horizon_s)
            if now_s - self._came_at_s.get(key, now_s) > config.planner.asleep_after_s:
                # A forecast fades for hours; who may sleep is not to lie awake for its tail.
                demand = replace(demand, requests_per_s=0.0, upper_requests_per_s=0.0)
            upper = max(demand.upper_requests_per_s, self._sure_per_s(key, now_s))
            upper += shares.get(key, 0.0) * backlog_per_s.get(key.model, 0.0)
            only = VariantName(key.variant) if key.variant else None
            demand = replace(demand, upper_requests_per_s=upper, variant=only)
            demands[key] = with_held(demand, held.get(key, 0), horizon_s)
        return demands

    def _stream(self, key: StreamKey) -> Stream:
        """Give what is known of a stream; of one that has just begun, what has come of it."""
        known = self._streams.get(key)
        if known is not None:
            return known
        begun = Stream()
        begun.lengths(self._pending.get(key, Traffic()))
        return begun

    def _shares(self) -> dict[StreamKey, float]:
        """Share what waits of a model among its streams, as they came lately if any did."""
        models: dict[ModelName, dict[StreamKey, float]] = {}
        for key, stream in self._streams.items():
            models.setdefault(key.model, {})[key] = stream.requests_per_s
        shares = {}
        for rates in models.values():
            total = sum(rates.values())
            for key, rate in rates.items():
                shares[key] = rate / total if total else 1.0 / len(rates)
        return shares

    def _sure_per_s(self, key: StreamKey, now_s: float) -> float:
        """Give the rate that requests since the last observation show already."""
        pending = self._pending.get(key)
        if pending is None:
            return 0.0
        return sure_rate(pending.requests, max(LEAST_PERIOD_S, now_s - self._observed_at_s))
