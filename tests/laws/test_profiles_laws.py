"""What a profile fitted to measured points must obey."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.profiles import PrefillCost, StepPoint, TableSteps, fit_profile, fit_table
from scheduler.steps import AffineSteps

PREFILL = PrefillCost(3e-5, 0.02)
BATCHES = (1, 8, 16, 32, 64, 128, 256)

points = st.lists(
    st.builds(
        StepPoint,
        st.floats(1, 512),
        st.floats(1e-3, 1.0),
        st.floats(1e-1, 1e2),
        st.floats(0, 1e6),
    ),
    min_size=2,
    max_size=12,
    unique_by=lambda point: point.batch,
)


@given(points, st.floats(1, 1e4))
def test_time_and_energy_never_fall_with_the_batch_and_keep_the_cap(
    measured: list[StepPoint], cap_w: float
) -> None:
    for steps in (fit_profile(measured, PREFILL, cap_w), fit_table(measured, PREFILL, cap_w)):
        for batch in range(1, 600, 7):
            assert 0 < steps.decode_s(batch) <= steps.decode_s(batch + 7) * (1 + 1e-9)
            assert 0 < steps.decode_j(batch) <= steps.decode_j(batch + 7) * (1 + 1e-9)
            assert steps.decode_j(batch) <= cap_w * steps.decode_s(batch) * (1 + 1e-9)


@given(st.floats(1e-3, 0.1), st.floats(1e-5, 1e-3), st.floats(0.1, 10), st.floats(1e-3, 1))
def test_points_of_a_line_give_that_line(t0: float, t1: float, e0: float, e1: float) -> None:
    measured = [StepPoint(b, t0 + t1 * b, e0 + e1 * b) for b in BATCHES]
    steps = fit_profile(reversed(measured), PREFILL)  # type: ignore[arg-type]
    assert isinstance(steps, AffineSteps)
    assert (steps.t0_s, steps.t1_s, steps.e0_j, steps.e1_j) == pytest.approx((t0, t1, e0, e1))


def test_where_no_line_holds_a_table_follows_the_points() -> None:
    measured = [StepPoint(b, 5e-3 + 1e-6 * b**1.6, min(0.5 * b, 40.0)) for b in BATCHES]
    steps = fit_profile(measured, PREFILL)
    assert isinstance(steps, TableSteps)
    for point in measured:
        assert steps.decode_s(point.batch) == pytest.approx(point.step_s)
        assert steps.decode_j(point.batch) == pytest.approx(point.step_j)
    assert steps.prefill_s(10) == pytest.approx(3e-4)
    assert steps.prefill_j(10) == pytest.approx(0.2)


@pytest.mark.parametrize("measured", [[], [StepPoint(1, 1, 1)], [StepPoint(1, 1, 1)] * 3])
def test_one_batch_is_no_profile(measured: list[StepPoint]) -> None:
    with pytest.raises(ValueError, match="two different batches"):
        fit_profile(measured, PREFILL)


def test_figures_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        fit_profile([StepPoint(1, 0.0, 1), StepPoint(2, 1, 1)], PREFILL)
