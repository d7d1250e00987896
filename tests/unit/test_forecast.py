"""Forecasts of streams whose course is known."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.forecast import DAY_S, Forecaster, ForecastSettings


def watch(
    forecaster: Forecaster, rates: list[float], every_s: float = 30.0, start_s: float = 0.0
) -> float:
    """Observe rates at regular times; give the last one."""
    now_s = start_s
    for index, rate in enumerate(rates):
        now_s = start_s + index * every_s
        forecaster.observe(now_s, rate)
    return now_s


def day(now_s: float, mean: float = 20.0) -> float:
    """Busiest at noon, a fifth of that at midnight."""
    return mean * (1.0 - 0.67 * math.cos(2 * math.pi * now_s / DAY_S))


def test_nothing_observed_nothing_expected() -> None:
    assert Forecaster().predict(0.0, 300.0)[:2] == (0.0, 0.0)


def test_a_constant_rate_is_expected_to_stay() -> None:
    forecaster = Forecaster()
    now_s = watch(forecaster, [7.0] * 100)
    forecast = forecaster.predict(now_s, 300.0)
    assert forecast.mean == pytest.approx(7.0)
    assert forecast.upper == pytest.approx(7.0)
    assert forecast.error.mape == pytest.approx(0.0, abs=1e-9)
    assert forecast.error.coverage == 1.0
    assert forecast.error.scored > 50


def test_a_ramp_is_followed_and_runs_out() -> None:
    forecaster = Forecaster()
    now_s = watch(forecaster, [0.1 * index for index in range(300)])
    near, far = forecaster.predict(now_s, 60.0), forecaster.predict(now_s, 1e6)
    slope_per_s = 0.1 / 30.0
    assert near.mean == pytest.approx(29.9 + 30 * slope_per_s, rel=0.02)
    assert far.upper < 29.9 + 1000 * slope_per_s + far.mean


def test_a_burst_raises_the_upper_rate_at_once_and_the_mean_slowly() -> None:
    forecaster = Forecaster()
    now_s = watch(forecaster, [10.0] * 100)
    forecaster.observe(now_s + 30.0, 30.0)
    forecast = forecaster.predict(now_s + 30.0, 300.0)
    assert forecast.upper > 27.0
    assert forecast.mean < 20.0


def test_bursts_that_have_been_seen_are_reckoned_with() -> None:
    forecaster = Forecaster()
    rates = [30.0 if index % 10 == 0 else 10.0 for index in range(400)]
    now_s = watch(forecaster, rates)
    assert forecaster.predict(now_s, 300.0).upper > 20.0


def test_the_season_is_used_once_it_is_known() -> None:
    forecaster = Forecaster(ForecastSettings(scored_s=3600.0))
    every_s = 300.0
    steps = int(3.3 * DAY_S / every_s)
    now_s = watch(forecaster, [day(index * every_s) for index in range(steps)], every_s)
    ahead_s = 2 * 3600.0
    forecast = forecaster.predict(now_s, ahead_s)
    truth = (day(now_s) + day(now_s + ahead_s)) / 2
    assert forecast.mean == pytest.approx(truth, rel=0.05)
    blind = Forecaster(ForecastSettings(scored_s=3600.0))
    recent = int(0.5 * DAY_S / every_s)
    watch(
        blind,
        [day(now_s - (recent - 1 - index) * every_s) for index in range(recent)],
        every_s,
        now_s - (recent - 1) * every_s,
    )
    assert abs(forecast.mean - truth) < abs(blind.predict(now_s, ahead_s).mean - truth)


def test_upper_covers_about_as_many_rates_as_it_says() -> None:
    rng, forecaster = random.Random(3), Forecaster()
    rates = [sum(rng.expovariate(1.0) < 0.2 for _ in range(300)) / 30.0 for _ in range(800)]
    now_s = watch(forecaster, rates)
    error = forecaster.predict(now_s, 300.0).error
    assert error.coverage > 0.85
    assert abs(error.bias) < 0.1
    assert error.mape < 0.3


@given(st.lists(st.tuples(st.floats(0.0, 5000.0), st.floats(0.0, 1e4)), max_size=60))
def test_forecasts_are_rates_and_asking_changes_nothing(seen: list[tuple[float, float]]) -> None:
    forecaster, now_s = Forecaster(), 0.0
    for elapsed_s, rate in seen:
        now_s += elapsed_s
        forecaster.observe(now_s, rate)
        forecast = forecaster.predict(now_s, 300.0)
        assert math.isfinite(forecast.upper)
        assert 0.0 <= forecast.mean <= forecast.upper
        assert 0.0 <= forecast.error.coverage <= 1.0
        assert forecaster.predict(now_s, 300.0) == forecast


@given(st.lists(st.floats(0.0, 100.0), min_size=30, max_size=60), st.floats(1.5, 10.0))
def test_forecasts_scale_with_the_rates(rates: list[float], factor: float) -> None:
    one, other = Forecaster(), Forecaster()
    now_s = watch(one, rates)
    watch(other, [rate * factor for rate in rates])
    low, high = one.predict(now_s, 300.0), other.predict(now_s, 300.0)
    assert high.mean == pytest.approx(low.mean * factor, rel=1e-6, abs=1e-6)
    assert high.upper == pytest.approx(low.upper * factor, rel=1e-6, abs=1e-6)


def test_observations_come_in_order() -> None:
    forecaster = Forecaster()
    now_s = watch(forecaster, [5.0, 5.0])
    forecaster.observe(now_s, 50.0)
    uppers = [forecaster.predict(now_s, horizon_s).upper for horizon_s in (0.0, 60.0, 600.0)]
    assert all(a <= b + 1e-9 for a, b in pairwise(uppers))
