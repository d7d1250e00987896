"""Steps, and the time between them, have a price; power is a mean of what was paid lately."""

from __future__ import annotations

import pytest

from cluster.meters import NJ, PowerMean, WorkModel, joules, nanojoules
from scheduler.steps import AffineSteps

STEPS = AffineSteps(0.1, 0.0, 5.0, 1.0, 0.001, 0.02)


def test_a_step_costs_and_takes_what_the_model_says() -> None:
    work = WorkModel(STEPS, 10.0).step(prefill_tokens=100, sequences=2, context_tokens=0)
    assert (work.prefill_nj, work.decode_nj) == (2 * NJ, 7 * NJ)
    assert work.busy_s == pytest.approx(0.2)
    assert WorkModel(STEPS, 10.0).idle_nj(3.0) == 30 * NJ


def test_a_step_of_several_rounds_costs_as_much_as_so_many_steps() -> None:
    model = WorkModel(STEPS, 10.0)
    one = model.step(prefill_tokens=0, sequences=2, context_tokens=5)
    both = model.step(prefill_tokens=0, sequences=2, context_tokens=5, rounds=2.0)
    assert both.decode_nj == 2 * one.decode_nj
    assert both.busy_s == pytest.approx(2 * one.busy_s)


def test_power_follows_what_is_used_and_falls_back() -> None:
    power = PowerMean(10.0)
    for _ in range(200):
        power.add(6 * NJ, 0.1)
    assert power.power_w == pytest.approx(60.0, rel=0.02)
    power.add(10 * 60 * NJ, 60.0)
    assert power.power_w == pytest.approx(10.0, rel=0.01)
    power.add(NJ, 0.0)
    assert power.power_w == pytest.approx(10.0, rel=0.01)


def test_less_than_nothing_is_nothing() -> None:
    assert nanojoules(-1e-12) == 0
    assert joules(nanojoules(1.5)) == 1.5
