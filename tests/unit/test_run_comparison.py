"""Comparisons of runs: known differences are found, others are not, and pairs are pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.reports import resampling
from loadtest.reports.differences import compare_runs, labelled
from tests.run_fakes import DURATION_S, counters, plain_requests, plain_run

if TYPE_CHECKING:
    from pathlib import Path

    from loadtest.reports.comparison_values import Against, Difference
    from loadtest.run import Run

SHIFT_S = 0.02


def run_with(seed: int, shift_s: float = 0.0, noise_s: float = 0.0) -> Run:
    """The same requests each time; what differs is how long their first tokens take."""
    rng = np.random.default_rng(7)
    at_s = np.sort(rng.uniform(0, DURATION_S, 800))
    # Requests share good and bad minutes, as those behind one queue do.
    slow_s = 0.2 + 0.1 * np.sin(at_s) + rng.exponential(0.05, at_s.size)
    own_s = np.random.default_rng(seed).normal(0, noise_s, at_s.size) if noise_s else 0.0
    first_s = at_s + slow_s + own_s + shift_s
    return plain_run(plain_requests(at_s, first_token_at_s=first_s), samples=counters(50.0))


def against(one: Run, two: Run) -> Against:
    (found,) = compare_runs([("one", one), ("two", two)]).against
    return found


def measure(found: Against, name: str) -> Difference:
    return next(each for each in found.differences if each.measure == name)


def test_a_known_shift_is_found_request_by_request() -> None:
    found = against(run_with(1, noise_s=0.02), run_with(2, SHIFT_S, noise_s=0.02))
    assert found.paired
    for name in ("TTFT mean, ms", "TTFT p50, ms"):
        each = measure(found, name)
        assert each.interval.low <= 1e3 * SHIFT_S <= each.interval.high
        assert each.verdict == "worse"
    assert measure(found, "TPOT p50, ms").verdict == "no difference shown"


def test_intervals_hold_a_shift_nearly_always() -> None:
    held = 0
    for seed in range(0, 24, 2):
        base, shifted = run_with(seed, noise_s=0.05), run_with(seed + 1, SHIFT_S, noise_s=0.05)
        mean = measure(against(base, shifted), "TTFT mean, ms").interval
        held += mean.low <= 1e3 * SHIFT_S <= mean.high
    assert held >= 9


def test_pairs_know_more_than_wholes() -> None:
    base, other = run_with(1, noise_s=0.02), run_with(2, SHIFT_S, noise_s=0.02)
    paired = measure(against(base, other), "TTFT mean, ms").interval
    unpaired = against(base, replace(other, seed=5))
    assert not unpaired.paired
    assert any("seed differs (0 and 5)" in note for note in unpaired.notes)
    wide = measure(unpaired, "TTFT mean, ms").interval
    assert wide.high - wide.low > 2 * (paired.high - paired.low)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scenario": "other"}, "scenario differs"),
        ({"model": "n"}, "model differs"),
        ({"closed_loop": True}, "closed loop"),
    ],
)
def test_other_loads_are_not_paired(change: dict[str, Any], reason: str) -> None:
    found = against(run_with(1), replace(run_with(1), **change))
    assert not found.paired
    assert any(reason in note for note in found.notes)


def test_another_rate_is_not_paired() -> None:
    base = run_with(1)
    fewer = replace(base, requests=base.requests.select(np.arange(800) % 2 == 0))
    found = against(base, fewer)
    assert not found.paired
    assert any("not scheduled at the same times" in note for note in found.notes)


def test_turns_are_paired_by_their_place_for_their_instants_differ() -> None:
    base = run_with(1)
    places: dict[str, Any] = {
        "session": (np.arange(800) // 2).astype(np.int32),
        "turn": (np.arange(800) % 2).astype(np.int16),
    }
    moved = np.random.default_rng(3).uniform(0, 0.5, 800)
    one = replace(base, requests=replace(base.requests, **places))
    times: dict[str, Any] = {
        name: getattr(base.requests, name) + moved
        for name in ("scheduled_at_s", "sent_at_s", "first_token_at_s", "ended_at_s")
    }
    two = replace(base, requests=replace(base.requests, **places, **times))
    found = against(one, two)
    assert found.paired
    assert measure(found, "TTFT mean, ms").interval.high == pytest.approx(0, abs=5)
    less = replace(two, requests=two.requests.select(np.arange(800) < 700))
    assert any("100 requests of one run alone" in note for note in against(one, less).notes)


def test_watts_are_compared_by_counters() -> None:
    base = run_with(1)
    hungry = replace(base, samples=counters(60.0))
    each = measure(against(base, hungry), "J/token, all")
    assert each.relative == pytest.approx(0.2, rel=1e-6)
    assert each.verdict == "worse"
    assert measure(against(base, hungry), "J/token, replies").difference == 0


def test_too_few_requests_give_no_interval() -> None:
    base = run_with(1)
    few = replace(base, requests=base.requests.select(np.arange(800) < 5))
    found = against(few, few)
    assert measure(found, "TTFT mean, ms").verdict == "not known"
    assert any("too few" in note for note in found.notes)


def test_labels_are_those_of_folders_and_unique(tmp_path: Path) -> None:
    run = run_with(1)
    paths = [tmp_path / "a" / "run.json.gz", tmp_path / "b" / "run.json.gz", tmp_path / "c.json"]
    assert [label for label, _ in labelled(paths, [run] * 3)] == ["a", "b", "c"]
    twice = [tmp_path / "x" / "a" / "run.json", tmp_path / "y" / "a" / "run.json"]
    assert [label for label, _ in labelled(twice, [run] * 2)] == ["1-a", "2-a"]


@given(
    st.lists(st.floats(0, 1e3), min_size=1, max_size=120),
    st.sampled_from([0.5, 0.99]),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=50)
def test_a_resampled_quantile_is_that_of_the_rows_that_were_drawn(
    values: list[float], share: float, seed: int
) -> None:
    column = np.array(values)
    blocks = resampling.drawn(len(values), np.random.default_rng(seed), resamples=20)
    (found,) = resampling.quantiles(blocks, column, (share,))
    for weights, quantile in zip(blocks.weights, found, strict=True):
        drawn = np.repeat(column, weights[blocks.of_row].astype(int))
        assert quantile == np.quantile(drawn, share, method="inverted_cdf")
