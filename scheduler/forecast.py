"""How many requests will come: season, trend, and a guard against bursts.

Its own module because a plan made for the present is late by the time that replicas take to
start. A forecaster watches one stream of demand (a model and an objective). It is given
rates and times, has no clock, and keeps the score of its own past forecasts:

    rate ≈ season(time of day)·(level + trend·t)       Holt, damped, for irregular intervals
    upper = max(mean + a high quantile of what the rate exceeded forecasts by, the rate now)

The season is a factor for each bucket of the day, learnt from days and used once it has seen
each bucket on two of them. The guard attacks at once, since a burst that has begun is no
forecast any more, and decays with the residuals' memory.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

DAY_S = 86_400.0


class Error(NamedTuple):
    """How past forecasts of a stream turned out.

    Attributes:
        mape: mean absolute deviation from the rate that came, relative to the mean rate.
        bias: mean of forecast less rate, relative to the mean rate.
        coverage: share of rates that stayed within `upper`.
        scored: how many forecasts that is taken from; with none, the others are 0, 0 and 1.

    """

    mape: float
    bias: float
    coverage: float
    scored: int


class Forecast(NamedTuple):
    """What a stream will bring from now to a horizon.

    Attributes:
        mean: expected requests/s over that time.
        upper: requests/s that will hardly be exceeded within it.
        error: of the forecasts before.

    """

    mean: float
    upper: float
    error: Error


@dataclass(frozen=True, slots=True)
class ForecastSettings:
    """How quickly a forecaster learns and forgets.

    Attributes:
        level_s: time constant of the level; some planning periods, so that single periods
            of Poisson noise do not move it.
        trend_s: time constant of the trend.
        damping_s: time after which a trend is expected to have run out.
        burst_s: time constant of the rate that the guard attacks with.
        buckets: of a day, each with its own seasonal factor.
        season_days: over which a seasonal factor is averaged.
        scored_s: how far ahead the forecasts that are scored look; the planner's horizon.
        memory: scored forecasts that are remembered.
        quantile: of past residuals that `upper` covers.
        first_margin: share of the mean that `upper` adds before enough is scored.

    """

    level_s: float = 120.0
    trend_s: float = 900.0
    damping_s: float = 900.0
    burst_s: float = 15.0
    buckets: int = 96
    season_days: float = 7.0
    scored_s: float = 300.0
    memory: int = 240
    quantile: float = 0.95
    first_margin: float = 0.25


# Scored forecasts before their quantile is believed.
ENOUGH_SCORED = 20
# Days on which a bucket must have been seen before its factor counts.
ENOUGH_DAYS = 2


class _Pending(NamedTuple):
    """A forecast that waits for what comes."""

    due_s: float
    rate: float
    upper: float


class _Scored(NamedTuple):
    """A forecast, and what came."""

    rate: float
    forecast: float
    upper: float


class Season:
    """Factors by time of day, relative to the day's mean."""

    def __init__(self, buckets: int, days: float) -> None:
        """Know nothing: every factor is 1.

        Args:
            buckets: of a day.
            days: over which factors are averaged.

        """
        self._sums = np.zeros(buckets)
        self._times = np.zeros(buckets)
        self._seen_days = np.zeros(buckets, dtype=int)
        self._means = np.zeros(buckets)
        self._days = days
        self._bucket: tuple[int, int] | None = None

    def observe(self, now_s: float, rate: float) -> None:
        """Learn from a rate; a bucket counts when the next one begins."""
        day, bucket = int(now_s // DAY_S), self._index(now_s)
        if self._bucket is not None and self._bucket != (day, bucket):
            self._close(self._bucket[1])
        self._bucket = (day, bucket)
        self._sums[bucket] += rate
        self._times[bucket] += 1

    def factor(self, now_s: float) -> float:
        """Rate at this time of day relative to the day's mean; 1 until that is known."""
        if int(self._seen_days.min()) < ENOUGH_DAYS:
            return 1.0
        mean = float(self._means.mean())
        # Between the middles of two buckets, the factor moves in a line.
        place = (now_s % DAY_S) / DAY_S * len(self._means) - 0.5
        low = math.floor(place)
        share = place - low
        count = len(self._means)
        rate = (1 - share) * self._means[low % count] + share * self._means[(low + 1) % count]
        return max(0.05, float(rate) / mean) if mean > 0 else 1.0

    def _index(self, now_s: float) -> int:
        return int((now_s % DAY_S) / DAY_S * len(self._means))

    def _close(self, bucket: int) -> None:
        rate = self._sums[bucket] / self._times[bucket]
        self._seen_days[bucket] += 1
        weight = max(1.0 / self._seen_days[bucket], 1.0 / self._days)
        self._means[bucket] += weight * (rate - self._means[bucket])
        self._sums[bucket] = self._times[bucket] = 0.0


class Forecaster:
    """Learns one stream of demand, and says what it will bring."""

    def __init__(self, settings: ForecastSettings | None = None) -> None:
        """Know nothing yet; a forecast is 0 until a rate was observed."""
        self._settings = settings or ForecastSettings()
        self._season = Season(self._settings.buckets, self._settings.season_days)
        self._observed_at_s: float | None = None
        self._level = 0.0
        self._trend = 0.0
        self._fast = 0.0
        self._pending: deque[_Pending] = deque()
        self._scored: deque[_Scored] = deque(maxlen=self._settings.memory)

    def observe(self, now_s: float, rate: float) -> None:
        """Learn the mean rate since the observation before.

        Args:
            now_s: end of that time; observations come in order.
            rate: requests/s.

        """
        last_s = self._observed_at_s
        factor = self._season.factor(now_s)
        if last_s is None:
            self._level, self._fast = rate / factor, rate
        elif now_s > last_s:
            self._learn(now_s - last_s, rate, rate / factor)
        self._observed_at_s = now_s
        self._score(now_s)
        self._season.observe(now_s, rate)
        ahead = self.predict(now_s, self._settings.scored_s)
        later = self._rate_at(now_s + self._settings.scored_s)
        self._pending.append(_Pending(now_s + self._settings.scored_s, later, ahead.upper))

    def predict(self, now_s: float, horizon_s: float) -> Forecast:
        """Say what will come from now until a horizon; asking changes nothing."""
        here, there = self._rate_at(now_s), self._rate_at(now_s + horizon_s)
        upper = max(max(here, there) + self._margin(max(here, there)), self._fast)
        mean = (here + there) / 2
        return Forecast(mean, max(mean, upper), self.error())

    def error(self) -> Error:
        """How forecasts `scored_s` ahead turned out."""
        if not self._scored:
            return Error(0.0, 0.0, 1.0, 0)
        scored = np.array(self._scored)
        rate, forecast, upper = scored[:, 0], scored[:, 1], scored[:, 2]
        scale = max(float(rate.mean()), 1e-9)
        return Error(
            mape=float(np.abs(forecast - rate).mean()) / scale,
            bias=float((forecast - rate).mean()) / scale,
            coverage=float((rate <= upper).mean()),
            scored=len(self._scored),
        )

    def _learn(self, elapsed_s: float, rate: float, seasonless: float) -> None:
        settings = self._settings
        expected = self._level + self._ahead(elapsed_s)
        weight = 1.0 - math.exp(-elapsed_s / settings.level_s)
        level = expected + weight * (seasonless - expected)
        slope = (level - self._level) / elapsed_s
        self._trend += (1.0 - math.exp(-elapsed_s / settings.trend_s)) * (slope - self._trend)
        self._level = max(0.0, level)
        attack = 1.0 - math.exp(-elapsed_s / settings.burst_s)
        self._fast += attack * (rate - self._fast)

    def _ahead(self, elapsed_s: float) -> float:
        """What the trend adds: less and less as it runs out."""
        damping_s = self._settings.damping_s
        return self._trend * damping_s * (1.0 - math.exp(-elapsed_s / damping_s))

    def _rate_at(self, then_s: float) -> float:
        if self._observed_at_s is None:
            return 0.0
        level = self._level + self._ahead(max(0.0, then_s - self._observed_at_s))
        return max(0.0, level) * self._season.factor(then_s)

    def _margin(self, rate: float) -> float:
        """What the rate exceeded past forecasts by, in a bad case."""
        settings = self._settings
        if len(self._scored) < ENOUGH_SCORED:
            return settings.first_margin * rate
        residuals = [scored.rate - scored.forecast for scored in self._scored]
        return max(0.0, float(np.quantile(residuals, settings.quantile)))

    def _score(self, now_s: float) -> None:
        """Compare forecasts that are due with the rate now, free of a single period's noise."""
        while self._pending and self._pending[0].due_s <= now_s:
            due = self._pending.popleft()
            self._scored.append(_Scored(self._fast, due.rate, due.upper))
