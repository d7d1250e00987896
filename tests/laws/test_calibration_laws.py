"""What a step model corrected by reports must obey, whatever the reports say."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.calibration import Calibration, FactoredSteps, rescale
from scheduler.fleet import StepTotals
from scheduler.profiles import PrefillCost, TableSteps
from scheduler.requests import ReplicaId
from scheduler.steps import AffineSteps, StepModel

A = ReplicaId("a")
PRIOR = AffineSteps(7e-3, 60e-6, 3.0, 0.05, 30e-6, 0.02, 50e-9, 20e-6)
TABLE = TableSteps(
    (1.0, 64.0, 256.0), (7e-3, 12e-3, 28e-3), (3.1, 7.5, 20.0), PrefillCost(3e-5, 0.02)
)
STANDING_W = 120.0

factor = st.floats(0.4, 2.5)


class Machine:
    """A replica whose steps take what `truth` says, times noise."""

    def __init__(self, truth: StepModel, seed: int, noise: float = 0.0) -> None:
        self.truth = truth
        self.totals = StepTotals()
        self._rng = random.Random(seed)
        self._noise = noise

    def window(self, *, stall: float = 1.0, measured: bool = False) -> StepTotals:
        steps, rng = 40, self._rng
        batch, context = rng.randrange(1, 200), rng.randrange(100, 2000)
        prefill = rng.choice([0, 0, rng.randrange(20_000)])
        luck = stall * (1.0 + self._noise * rng.uniform(-1, 1))
        seconds = steps * self.truth.decode_s(batch, batch * context) + self.truth.prefill_s(
            prefill
        )
        joules = steps * self.truth.decode_j(batch, batch * context) + self.truth.prefill_j(prefill)
        before = self.totals
        self.totals = StepTotals(
            before.steps + steps,
            before.decode_steps + steps,
            before.sequences + steps * batch,
            before.context_tokens + steps * batch * context,
            before.prefill_tokens + prefill,
            before.busy_s + seconds * luck,
            before.busy_j + (joules * luck if measured else 0.0),
        )
        return self.totals


def truth_of(prior: AffineSteps, factors: tuple[float, ...]) -> AffineSteps:
    fixed, sequences, context, prefill = factors
    return AffineSteps(
        prior.t0_s * fixed,
        prior.t1_s * sequences,
        prior.e0_j * fixed,
        prior.e1_j * sequences,
        prior.prefill_s_per_token * prefill,
        prior.prefill_j_per_token * prefill,
        prior.context_s_per_token * context,
        prior.context_j_per_token * context,
    )


def error(steps: StepModel, truth: StepModel) -> float:
    """Mean relative error of time and energy over operating points."""
    points = [(batch, batch * context) for batch in (1, 16, 64, 192) for context in (300, 1500)]
    off = [abs(steps.decode_s(*p) / truth.decode_s(*p) - 1) for p in points]
    off.append(abs(steps.prefill_s(1000) / truth.prefill_s(1000) - 1))
    return sum(off) / len(off)


def learn(calibration: Calibration, machine: Machine, windows: int) -> None:
    calibration.observe(A, machine.totals)
    for _ in range(windows):
        calibration.observe(A, machine.window())


@settings(max_examples=25, deadline=None)
@given(st.tuples(factor, factor, factor, factor), st.integers(0, 99))
def test_the_truth_is_found_if_it_can_be_seen(factors: tuple[float, ...], seed: int) -> None:
    truth = truth_of(PRIOR, factors)
    calibration = Calibration(PRIOR, STANDING_W)
    learn(calibration, Machine(truth, seed), 200)
    assert error(calibration.steps, truth) < 0.05


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(0, 60), st.floats(0, 0.3))
def test_a_prior_that_is_right_is_hardly_spoilt_by_noise(
    seed: int, windows: int, noise: float
) -> None:
    calibration = Calibration(PRIOR, STANDING_W)
    learn(calibration, Machine(PRIOR, seed, noise), windows)
    assert error(calibration.steps, PRIOR) <= 0.02 + noise / 2


@given(st.integers(0, 99), st.floats(0.5, 2))
def test_a_handful_of_windows_changes_nothing(seed: int, factor: float) -> None:
    calibration = Calibration(PRIOR, STANDING_W)
    learn(calibration, Machine(truth_of(PRIOR, (factor,) * 4), seed), 7)
    assert calibration.steps == PRIOR


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.floats(2, 1e6))
def test_stalls_do_not_count_as_speed(seed: int, stall: float) -> None:
    truth = truth_of(PRIOR, (1.3, 1.3, 1.3, 1.3))
    calibration, machine = Calibration(PRIOR, STANDING_W), Machine(truth, seed, 0.02)
    learn(calibration, machine, 100)
    for number in range(40):
        calibration.observe(A, machine.window(stall=stall if number % 10 == 0 else 1.0))
    assert error(calibration.steps, truth) < 0.1


totals = st.builds(
    StepTotals,
    *(st.integers(0, 10**7) for _ in range(5)),
    st.floats(0, 1e9) | st.just(float("nan")) | st.just(float("inf")),
    st.floats(0, 1e9),
)


@settings(deadline=None)
@given(st.sampled_from([PRIOR, TABLE]), st.lists(totals, max_size=40))
def test_no_report_can_break_a_model(prior: StepModel, reported: list[StepTotals]) -> None:
    calibration = Calibration(prior, STANDING_W)
    for each in reported:
        calibration.observe(A, each)
    steps = calibration.steps
    for batch in (1, 8, 64):
        assert 0 < steps.decode_s(batch, 100) <= steps.decode_s(batch + 1, 200) < float("inf")
        assert 0 < steps.decode_j(batch, 100) <= steps.decode_j(batch + 1, 200) < float("inf")
    assert 0 < steps.prefill_s(10) < float("inf")
    assert 0 < steps.prefill_j(10) < float("inf")


@settings(max_examples=20, deadline=None)
@given(st.tuples(factor, factor, factor, factor), st.integers(0, 99))
def test_measured_energy_is_learnt_too(factors: tuple[float, ...], seed: int) -> None:
    truth = truth_of(PRIOR, factors)
    calibration, machine = Calibration(PRIOR, STANDING_W), Machine(truth, seed)
    calibration.observe(A, machine.totals)
    for _ in range(200):
        calibration.observe(A, machine.window(measured=True))
    for batch in (4, 100):
        found, true = calibration.steps.decode_j(batch, 9e4), truth.decode_j(batch, 9e4)
        assert found == pytest.approx(true, rel=0.1)


@given(st.tuples(factor, factor, factor, factor), st.integers(1, 200), st.floats(0, 1e5))
def test_an_affine_model_is_rescaled_as_any_other(
    factors: tuple[float, float, float, float], batch: int, context: float
) -> None:
    from scheduler.calibration import Factors

    both = Factors(*factors)
    affine, general = rescale(PRIOR, both, both), FactoredSteps(PRIOR, both, both)
    assert affine.decode_s(batch, context) == pytest.approx(general.decode_s(batch, context))
    assert affine.decode_j(batch, context) == pytest.approx(general.decode_j(batch, context))
    assert affine.prefill_s(7) == pytest.approx(general.prefill_s(7))
    assert affine.prefill_j(7) == pytest.approx(general.prefill_j(7))


def test_a_slower_step_costs_the_power_that_is_drawn_anyway() -> None:
    calibration = Calibration(PRIOR, STANDING_W)
    learn(calibration, Machine(truth_of(PRIOR, (2, 2, 2, 2)), 1), 200)
    steps = calibration.steps
    added_s = steps.decode_s(32, 32_000) - PRIOR.decode_s(32, 32_000)
    added_j = steps.decode_j(32, 32_000) - PRIOR.decode_j(32, 32_000)
    assert added_j == pytest.approx(STANDING_W * added_s, rel=1e-6)


def test_totals_that_start_anew_are_a_new_beginning() -> None:
    calibration, machine = Calibration(PRIOR, STANDING_W), Machine(PRIOR, 1)
    learn(calibration, machine, 10)
    assert not calibration.observe(A, StepTotals(1, 1, 1, 1, 1, 1e-2))
    calibration.forget(A)
    assert not calibration.observe(A, StepTotals())
