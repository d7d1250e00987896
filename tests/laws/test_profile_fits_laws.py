"""What a fit with contexts, its errors, and energy that is left to a model must obey."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.modelled_energy import StepTime, modelled, modelled_prefill, with_modelled_energy
from scheduler.profile_errors import explained, held_out
from scheduler.profiles import (
    PrefillCost,
    StepPoint,
    TableSteps,
    fit_line,
    fit_prefill,
    fit_profile,
    fit_table,
    limited,
    tells_context,
)
from scheduler.steps import AffineSteps

PREFILL = PrefillCost(3e-5, 0.02)
BATCHES = (1, 2, 4, 8, 16, 32)

lines = st.builds(
    AffineSteps,
    t0_s=st.floats(1e-3, 0.1),
    t1_s=st.floats(1e-5, 1e-3),
    e0_j=st.floats(0.1, 10),
    e1_j=st.floats(1e-3, 1),
    prefill_s_per_token=st.floats(1e-6, 1e-3),
    prefill_j_per_token=st.floats(1e-4, 1e-1),
    context_s_per_token=st.floats(1e-8, 1e-6),
    context_j_per_token=st.floats(1e-6, 1e-4),
)


def points_of(steps: AffineSteps, *contexts: int) -> list[StepPoint]:
    return [
        StepPoint(batch, steps.decode_s(batch, held), steps.decode_j(batch, held), held)
        for batch in BATCHES
        for context in contexts
        for held in [batch * context]
    ]


@given(lines)
def test_what_a_token_of_context_costs_is_told_by_two_contexts(truth: AffineSteps) -> None:
    found = fit_profile(points_of(truth, 100, 1500), PREFILL)
    assert isinstance(found, AffineSteps)
    for batch, context in ((1, 0), (24, 0), (24, 24_000), (64, 10_000)):
        assert found.decode_s(batch, context) == pytest.approx(truth.decode_s(batch, context))
        assert found.decode_j(batch, context) == pytest.approx(truth.decode_j(batch, context))


@given(lines)
def test_with_one_context_its_cost_is_part_of_a_sequence(truth: AffineSteps) -> None:
    points = points_of(truth, 500)
    assert not tells_context(points)
    found = fit_profile(points, PREFILL)
    for batch in BATCHES:
        assert found.decode_s(batch) == pytest.approx(truth.decode_s(batch, 500 * batch))
        assert found.decode_s(batch, 10**6) == found.decode_s(batch)


@given(lines)
def test_a_table_takes_the_context_from_its_points(truth: AffineSteps) -> None:
    points = points_of(truth, 100, 1500)
    table = fit_table(points, PREFILL)
    for point in points:
        found = table.decode_s(point.batch, point.context_tokens)
        assert found == pytest.approx(point.step_s)


@given(lines)
def test_a_perfect_fit_explains_all_and_misses_nothing(truth: AffineSteps) -> None:
    points = points_of(truth, 100, 1500)
    assert all(share is None or share > 0.999 for share in explained(points, truth))
    left_out = held_out(points)
    assert {each.point.batch for each in left_out} == {2, 8}
    assert all(abs(each.error_s) < 1e-6 and abs(each.error_j) < 1e-6 for each in left_out)


def test_a_bad_model_explains_less_than_nothing() -> None:
    truth = AffineSteps(0.01, 0.001, 1.0, 0.1, 1e-4, 0.01)
    points = points_of(truth, 0)
    time, energy = explained(points, replace(truth, t0_s=1.0))
    assert time is not None
    assert time < 0
    assert energy == pytest.approx(1.0)
    flat = [StepPoint(batch, 0.01, 1.0) for batch in BATCHES]
    assert explained(flat, truth) == (None, None)


def test_of_two_batches_none_is_left_out() -> None:
    assert held_out([StepPoint(1, 0.1, 1.0), StepPoint(2, 0.2, 2.0)]) == []


@given(lines, lines)
def test_energy_left_to_a_model_is_the_measured_time_at_its_power(
    times: AffineSteps, predicted: AffineSteps
) -> None:
    (point,) = modelled([StepTime(8, 0.5, 800)], predicted)
    power_w = predicted.decode_j(8, 800) / predicted.decode_s(8, 800)
    assert point._replace(step_j=0.0) == StepPoint(8, 0.5, 0.0, 800)
    assert point.step_j == pytest.approx(0.5 * power_w)
    filled = with_modelled_energy(times, predicted)
    assert filled.decode_s(7, 77) == times.decode_s(7, 77)
    assert filled.prefill_s(9) == times.prefill_s(9)
    power_w = predicted.prefill_j(1) / predicted.prefill_s(1)
    assert filled.prefill_j(9) == pytest.approx(times.prefill_s(9) * power_w)
    assert modelled_prefill(0.1, predicted).j_per_token == pytest.approx(0.1 * power_w)


@given(lines, st.floats(50, 700))
def test_of_a_model_of_one_power_every_step_has_that_power(
    times: AffineSteps, power_w: float
) -> None:
    predicted = replace(
        times,
        e0_j=power_w * times.t0_s,
        e1_j=power_w * times.t1_s,
        context_j_per_token=power_w * times.context_s_per_token,
        prefill_j_per_token=power_w * times.prefill_s_per_token,
    )
    table = TableSteps((1, 4, 16), (0.01, 0.02, 0.05), (0.0,) * 3, PREFILL, 1e9, 1e-6)
    for filled in (with_modelled_energy(times, predicted), with_modelled_energy(table, predicted)):
        for batch, context in ((1, 0), (4, 0), (16, 0), (16, 9000)):
            drawn_w = filled.decode_j(batch, context) / filled.decode_s(batch, context)
            assert drawn_w == pytest.approx(power_w, rel=1e-3)


@given(lines, st.floats(1, 1000))
def test_a_limit_bounds_power_and_leaves_time(truth: AffineSteps, limit_w: float) -> None:
    table = fit_table(points_of(truth, 100), PREFILL)
    for steps in (truth, table):
        bounded = limited(steps, limit_w)
        assert bounded.decode_s(5, 50) == steps.decode_s(5, 50)
        assert bounded.decode_j(5, 50) <= limit_w * steps.decode_s(5, 50) * (1 + 1e-9)
        assert bounded.prefill_j(3) <= limit_w * steps.prefill_s(3) * (1 + 1e-9)
        assert limited(bounded, limit_w) == bounded


@given(st.floats(1e-6, 1e-3), st.floats(0, 0.1), st.floats(1e-4, 0.1), st.floats(0, 5))
def test_what_every_prompt_costs_is_not_its_tokens(
    token_s: float, each_s: float, token_j: float, each_j: float
) -> None:
    lengths = (100, 400, 900)
    found = fit_prefill(
        lengths,
        [each_s + token_s * tokens for tokens in lengths],
        [each_j + token_j * tokens for tokens in lengths],
    )
    assert found == pytest.approx((token_s, token_j), rel=1e-3)


def test_prompts_of_one_length_or_no_time_are_refused() -> None:
    with pytest.raises(ValueError, match="two different lengths"):
        fit_prefill((8, 8), (0.1, 0.2), (1.0, 2.0))
    with pytest.raises(ValueError, match="positive"):
        fit_prefill((8, 16), (0.0, 0.2), (1.0, 2.0))


@pytest.mark.parametrize("context", [-1.0, float("inf"), float("nan")])
def test_a_context_that_cannot_be_is_refused(context: float) -> None:
    with pytest.raises(ValueError, match="context"):
        fit_profile([StepPoint(1, 1, 1, context), StepPoint(2, 1, 1)], PREFILL)


def test_a_line_begins_above_zero() -> None:
    steps = fit_line([StepPoint(b, 0.01 * b, 1.0 * b) for b in BATCHES], PREFILL)
    assert steps.t0_s > 0
    assert steps.e0_j > 0
