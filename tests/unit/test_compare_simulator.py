"""The comparison finds what made a run, and says so when simulation and run disagree."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from loadtest.virtual.simulated_replica import EngineSettings
from scheduler.fleet import Variant
from scheduler.requests import ModelName, Objective, VariantName
from scheduler.steps import AffineSteps
from scripts.compare_simulator.__main__ import main
from scripts.compare_simulator.analysis import TARGETS, analyse
from scripts.compare_simulator.fit import calibrate
from scripts.compare_simulator.recordings import to_json
from scripts.compare_simulator.runs import ComparisonError, Run, Served, Setup
from scripts.compare_simulator.serving import make_trace
from scripts.compare_simulator.simulation import simulate_pinned

if TYPE_CHECKING:
    from pathlib import Path

ENGINE = EngineSettings(max_batched_tokens=2048)
NETWORK_S = 0.005
TRUE = {
    "bf16": AffineSteps(0.034, 0.0026, 0.17, 0.013, 1.5e-3, 7.7e-3),
    "int8": AffineSteps(0.026, 0.0012, 0.13, 0.006, 0.6e-3, 2.9e-3),
}


def variant(name: str, steps: AffineSteps) -> Variant:
    return Variant(VariantName(name), ModelName("m"), 1.0, 1024, 32, 23_000, steps, 1.5)


# What the configuration says of time is of no use here: the fit must not need it.
SETUP = Setup(
    {
        name: variant(name, replace(steps, t0_s=1.0, t1_s=1.0, prefill_s_per_token=1.0))
        for name, steps in TRUE.items()
    },
    {"bf16": 1, "int8": 1},
    "least_loaded",
    Objective(5.0, 0.3),
    2048,
)


# With one replica there is one way to route, which the stand-in for a real run takes too.
LONE = replace(
    SETUP, variants={"int8": SETUP.variants["int8"]}, replicas={"int8": 1}, policy="energy"
)


def real_run(seed: int, names: tuple[str, ...] = ("bf16", "int8"), slower: float = 1.0) -> Run:
    """Serve a trace by simulated replicas, chosen by chance, whose times are then disturbed."""
    noise = 0.03
    rng = np.random.default_rng(seed + 1000)
    planned = make_trace(seed, 1.5, 60.0)
    served = [
        Served(*each[:1], 0.0, *each[1:], 0, 0.0, 0.0, name, f"{name}-replica")
        for each in planned
        for name in [names[int(rng.integers(len(names)))]]
    ]
    variants = {
        name: variant(
            name,
            replace(
                steps,
                t0_s=slower * steps.t0_s,
                t1_s=slower * steps.t1_s,
                prefill_s_per_token=slower * steps.prefill_s_per_token,
            ),
        )
        for name, steps in TRUE.items()
    }
    times = simulate_pinned(served, variants, ENGINE, NETWORK_S)
    ttft_s = times.ttft_s * rng.lognormal(0.0, noise, len(served))
    decode_s = (times.e2e_s - times.ttft_s) * rng.lognormal(0.0, noise, len(served))
    rows = zip(served, ttft_s.tolist(), (ttft_s + decode_s).tolist(), strict=True)
    done = tuple(replace(each, ttft_s=first_s, e2e_s=end_s) for each, first_s, end_s in rows)
    return Run(seed, 1.5, 60.0, done)


@pytest.fixture(scope="module")
def calibration_run() -> Run:
    return real_run(1, ("int8",))


@pytest.fixture(scope="module")
def result(calibration_run: Run) -> dict[str, object]:
    return analyse(LONE, calibration_run, real_run(2, ("int8",)))


def test_a_trace_keeps_its_bounds_and_depends_on_its_seed_alone() -> None:
    trace = make_trace(3, 10.0, 200.0)
    assert trace == make_trace(3, 10.0, 200.0) != make_trace(4, 10.0, 200.0)
    assert len(trace) == pytest.approx(2000, rel=0.1)
    assert [each.at_s for each in trace] == sorted(each.at_s for each in trace)
    prompts, completions = zip(*((each[1], each[2]) for each in trace), strict=True)
    assert 1 <= min(prompts) <= max(prompts) <= 400
    assert 1 <= min(completions) <= max(completions) <= 128
    assert np.mean(prompts) == pytest.approx(120, rel=0.1)
    assert np.mean(completions) == pytest.approx(48, rel=0.1)


def test_a_lone_request_takes_what_its_steps_take() -> None:
    one = Served(2.0, 0.0, 100, 11, 0, 0.0, 0.0, "int8", "r")
    steps = TRUE["int8"]
    times = simulate_pinned([one], {"int8": variant("int8", steps)}, ENGINE, NETWORK_S)
    ttft_s = 100 * steps.prefill_s_per_token + 2 * NETWORK_S
    assert times.ttft_s[0] == pytest.approx(ttft_s)
    assert times.e2e_s[0] == pytest.approx(ttft_s + 10 * steps.decode_s(1))


def test_the_fit_finds_the_steps_that_made_the_run() -> None:
    fitted = calibrate(real_run(1), SETUP)
    for name, steps in TRUE.items():
        found = fitted.steps[name]
        # Batch and context grow together, so that a step is better known than its parts.
        for batch in (1, 2, 4):
            want_s = steps.decode_s(batch, 144.0 * batch)
            assert found.decode_s(batch, 144.0 * batch) == pytest.approx(want_s, rel=0.05)
        assert found.prefill_s_per_token == pytest.approx(steps.prefill_s_per_token, rel=0.15)
        assert found.e0_j == steps.e0_j
    assert fitted.ttft_error < 0.06
    assert fitted.tpot_error < 0.06


def test_a_simulation_of_the_same_kind_meets_the_targets(result: dict[str, object]) -> None:
    assert result["met"] == dict.fromkeys(TARGETS, True)
    errors = result["errors_pinned"]
    assert isinstance(errors, dict)
    assert all(abs(error) < 0.05 for error in errors.values())


def test_a_cluster_that_became_slower_is_noticed(calibration_run: Run) -> None:
    found = analyse(LONE, calibration_run, real_run(2, ("int8",), slower=1.5))
    # At least as much as its steps: longer ones also have more requests in them.
    assert found["errors"]["tpot_p50_s"] < 1 / 1.5 - 1 + 0.03
    assert not found["met"]["ttft_p50_s"]
    assert not found["met"]["tpot_p50_s"]


def test_recorded_measurements_are_analysed_again(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    calibration_run: Run,
    result: dict[str, object],
) -> None:
    source, out = tmp_path / "recorded.json", tmp_path / "again.json"
    recorded = {"date": "d", **to_json(LONE, calibration_run, real_run(2, ("int8",)))}
    source.write_text(json.dumps(recorded))
    main(["--from-json", str(source), "--out", str(out)])
    again = json.loads(out.read_text())
    assert again["date"] == "d"
    assert again["calibration_run"] == json.loads(source.read_text())["calibration_run"]
    assert again["result"]["errors"] == pytest.approx(result["errors"])
    assert "ttft_p50_s" in capsys.readouterr().out


def test_a_run_that_lost_much_is_refused(calibration_run: Run) -> None:
    lost = replace(calibration_run, errors=("DeadlineError: late",) * 20)
    with pytest.raises(ComparisonError, match=r"20 of .* lost; DeadlineError"):
        analyse(LONE, calibration_run, lost)


def test_a_file_without_measurements_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(SystemExit, match="no recorded measurements"):
        main(["--from-json", str(path)])
