from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.scenario import Scenario
from loadtest.schedule import CHUNK_SESSIONS, Schedule, Session

if TYPE_CHECKING:
    from pathlib import Path

SEEDS = st.integers(0, 2**31)


def scenario_of(
    arrivals: dict[str, Any], requests: list[dict[str, Any]] | None = None, **times: float
) -> Scenario:
    plain = [{"prompt": {"tokens": 10}, "completion_tokens": 5}]
    return Scenario.model_validate(
        {"arrivals": arrivals, "requests": requests or plain, "duration_s": 100, **times}
    )


@st.composite
def shapes(draw: st.DrawFn) -> Any:
    factor = st.floats(0.1, 4.0)
    return draw(
        st.one_of(
            st.none(),
            st.builds(lambda a, b: {"ramp": {"from_factor": a, "to_factor": b}}, factor, factor),
            st.builds(
                lambda a, b: {"steps": [{"after_s": 0, "factor": a}, {"after_s": 40, "factor": b}]},
                factor,
                factor,
            ),
            st.builds(lambda a: {"diurnal": {"swing": a, "period_s": 50}}, st.floats(0.0, 1.0)),
            st.builds(
                lambda a: {"flash_crowd": {"factor": a, "after_s": 20, "length_s": 30}}, factor
            ),
        )
    )


@st.composite
def open_loops(draw: st.DrawFn) -> Scenario:
    process = draw(st.sampled_from(["poisson", "constant", "gamma"]))
    arrivals = {"process": process, "rate_per_s": draw(st.floats(1.0, 200.0))}
    if (shape := draw(shapes())) is not None:
        arrivals["shape"] = shape
    return scenario_of({"open": arrivals}, ramp_s=draw(st.sampled_from([0.0, 10.0])), warmup_s=5.0)


def sessions_of(schedule: Schedule, count: int) -> list[Session]:
    return [schedule.session(number) for number in range(count)]


@given(open_loops(), SEEDS)
@settings(max_examples=30, deadline=None)
def test_instants_are_sorted_and_within_the_run(scenario: Scenario, seed: int) -> None:
    begin_s = Schedule(scenario, seed).begin_s
    assert (np.diff(begin_s) >= 0).all()
    assert begin_s[0] >= 0
    assert begin_s[-1] <= scenario.total_s


@given(open_loops(), SEEDS)
@settings(max_examples=20, deadline=None)
def test_the_same_seed_gives_the_same_schedule_and_another_another(
    scenario: Scenario, seed: int
) -> None:
    one, same, other = (Schedule(scenario, each) for each in (seed, seed, seed + 1))
    assert np.array_equal(one.begin_s, same.begin_s)
    count = min(50, len(one.begin_s))
    assert sessions_of(one, count) == sessions_of(same, count)
    process = scenario.arrivals.open
    if process is not None and process.process != "constant":
        assert not np.array_equal(one.begin_s, other.begin_s)


@given(st.floats(5.0, 100.0), SEEDS)
@settings(max_examples=30, deadline=None)
def test_a_constant_process_keeps_its_rate_and_its_gaps(rate_per_s: float, seed: int) -> None:
    begin_s = Schedule(
        scenario_of({"open": {"process": "constant", "rate_per_s": rate_per_s}}), seed
    ).begin_s
    assert abs(len(begin_s) - rate_per_s * 100) <= 1
    assert np.diff(begin_s) == pytest.approx(1 / rate_per_s, rel=1e-3)


@given(st.sampled_from(["poisson", "gamma"]), SEEDS)
@settings(max_examples=20, deadline=None)
def test_processes_by_chance_keep_their_rate_within_five_deviations(
    process: str, seed: int
) -> None:
    loop = {"process": process, "rate_per_s": 100, "burstiness": 2.0}
    count = len(Schedule(scenario_of({"open": loop}), seed).begin_s)
    spread = 2.0 if process == "gamma" else 1.0
    assert abs(count - 10_000) < 5 * spread * 100 + 10


def test_gamma_is_as_bursty_as_it_is_told() -> None:
    loop = {"process": "gamma", "rate_per_s": 500, "burstiness": 3.0}
    gaps_s = np.diff(Schedule(scenario_of({"open": loop}), seed=3).begin_s)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(3.0, rel=0.1)


def test_a_step_multiplies_the_rate_from_its_instant_on() -> None:
    steps = [{"after_s": 0, "factor": 1}, {"after_s": 50, "factor": 3}]
    loop = {"process": "constant", "rate_per_s": 10, "shape": {"steps": steps}}
    begin_s = Schedule(scenario_of({"open": loop}), seed=0).begin_s
    assert (begin_s < 50).sum() == pytest.approx(500, abs=1)
    assert (begin_s >= 50).sum() == pytest.approx(1500, abs=1)


def test_a_ramp_sends_half_as_much_as_the_full_rate() -> None:
    loop = {"process": "constant", "rate_per_s": 10}
    begin_s = Schedule(scenario_of({"open": loop}, ramp_s=20.0), seed=0).begin_s
    assert (begin_s < 20).sum() == pytest.approx(100, abs=1)
    assert (begin_s < 10).sum() == pytest.approx(25, abs=1)
    assert (begin_s >= 20).sum() == pytest.approx(1000, abs=1)


@given(st.lists(st.floats(0.1, 10.0), min_size=2, max_size=4), SEEDS)
@settings(max_examples=20, deadline=None)
def test_kinds_come_by_their_shares(shares: list[float], seed: int) -> None:
    kinds = [{"share": s, "prompt": {"tokens": 5}, "completion_tokens": 5} for s in shares]
    scenario = scenario_of({"open": {"process": "constant", "rate_per_s": 50}}, kinds)
    schedule = Schedule(scenario, seed)
    seen = np.bincount(schedule.table.kind, minlength=len(shares)) / len(schedule.table)
    for had, share in zip(seen, shares, strict=True):
        wanted = share / sum(shares)
        assert abs(had - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / 5000) + 1e-3


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_lengths_and_turns_keep_their_bounds(seed: int) -> None:
    kind = {
        "prompt": {"tokens": {"log_normal": {"mean": 50, "most": 90}}},
        "completion_tokens": {"uniform": {"least": 3, "most": 9}},
        "turns": {"exponential": {"mean": 3, "most": 6}},
        "think_time_s": {"uniform": {"least": 1, "most": 2}},
    }
    scenario = scenario_of({"open": {"process": "poisson", "rate_per_s": 3}}, [kind])
    schedule = Schedule(scenario, seed)
    keys = []
    for session in sessions_of(schedule, len(schedule.begin_s)):
        assert 1 <= len(session.turns) <= 6
        assert session.turns[0].think_s == 0
        for turn in session.turns:
            keys.append(turn.key)
            assert 1 <= turn.prompt_tokens <= 90
            assert 3 <= turn.completion_tokens <= 9
        assert all(1 <= turn.think_s <= 2 for turn in session.turns[1:])
    assert len(set(keys)) == len(keys), "two prompts would be the same"


def test_a_closed_loop_never_runs_out_of_sessions_that_differ() -> None:
    closed = {"closed": {"users": 3, "think_time_s": {"exponential": {"mean": 2}}}}
    kind = {
        "prompt": {"tokens": 5},
        "completion_tokens": 5,
        "turns": {"uniform": {"most": 9, "least": 1}},
    }
    one, same = (Schedule(scenario_of(closed, [kind]), seed=5) for _ in range(2))
    count = 3 * CHUNK_SESSIONS
    assert not one.begin_s.size
    # Whoever asks in another order gets the same sessions.
    backwards = [same.session(number) for number in reversed(range(count))]
    assert sessions_of(one, count) == backwards[::-1]
    keys = [turn.key for session in backwards for turn in session.turns]
    assert len(set(keys)) == len(keys)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    lines = [
        {
            "timestamp": at_ms,
            "input_length": 600 + at_ms,
            "output_length": 7,
            "hash_ids": [1, at_ms],
        }
        for at_ms in (0, 100, 1500, 1600, 4000)
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_trace_keeps_its_gaps_times_its_speed(trace: Path) -> None:
    replay = {"trace": {"file": trace, "speed": 2}}
    schedule = Schedule(scenario_of(replay, [{}], duration_s=2.1), seed=0)
    assert schedule.begin_s == pytest.approx([0, 0.05, 0.75, 0.8, 2.0])
    assert [schedule.session(n).turns[0].prompt_tokens for n in range(5)] == [
        600, 700, 2100, 2200, 4600,
    ]  # fmt: skip


def test_a_trace_that_is_too_short_begins_again_with_other_prompts(trace: Path) -> None:
    schedule = Schedule(scenario_of({"trace": {"file": trace}}, [{}], duration_s=30), seed=0)
    keys = [schedule.session(n).turns[0].key for n in range(len(schedule.begin_s))]
    assert len(keys) > 20
    assert keys == list(range(len(keys)))
    assert all(later - sooner >= 0 for sooner, later in pairwise(schedule.begin_s))


def test_a_trace_can_be_stretched_to_a_rate(trace: Path) -> None:
    replay = {"trace": {"file": trace, "rate_per_s": 20}}
    schedule = Schedule(scenario_of(replay, [{}], duration_s=50), seed=0)
    assert len(schedule.begin_s) == pytest.approx(1000, rel=0.02)


def test_lengths_of_a_trace_can_come_by_other_arrivals(trace: Path) -> None:
    loop = {"open": {"process": "constant", "rate_per_s": 1}}
    schedule = Schedule(scenario_of(loop, [{"prompt": {"trace": trace}}], duration_s=10), seed=0)
    lengths = [schedule.session(n).turns[0].prompt_tokens for n in range(7)]
    assert lengths == [600, 700, 2100, 2200, 4600, 600, 700]
