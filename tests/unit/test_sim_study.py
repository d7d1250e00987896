"""The study: its parts can be laid out, and one command answers them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from loadtest.commands.simulate import app
from loadtest.errors import LoadtestError
from loadtest.virtual import study
from loadtest.virtual.comparisons import Case, Experiment, check_autoscaler, compare
from loadtest.virtual.fleets import read_fleet
from loadtest.virtual.study import PARTS, parts_named
from loadtest.virtual.tables import half_interval
from scheduler.policies import make_policy

FLEETS = Path(__file__).parents[2] / "examples" / "fleets"


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_part_names_what_there_is(part: study.Part) -> None:
    cluster = read_fleet(FLEETS / f"{part.fleet}.yaml")
    for case in part.cases(1):
        assert make_policy(case.policy).name == case.policy
        check_autoscaler(case.autoscaler)
        assert cluster.with_variants(case.only or list(cluster.variants)).placements
    assert len({part.name for part in PARTS}) == len(PARTS)


def test_cases_of_one_load_and_seed_stand_together() -> None:
    part = parts_named(["fleet64"])[0]
    cases = part.cases(5)
    assert len(cases) == len(part.rows) * len(part.loads) * 5
    pairs = [(case.load, case.seed) for case in cases[:: len(part.rows)]]
    assert len(set(pairs)) == len(pairs)


def test_one_command_answers_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = study.Part(
        "small",
        "Does it run?",
        "8xh100",
        (study.SPREAD, study.OURS),
        (0.05,),
        None,
        "poisson",
        duration_s=40.0,
        warmup_s=10.0,
        bounded=False,
    )
    absent = replace(small, name="absent", trace="nowhere.csv")
    monkeypatch.setattr(study, "PARTS", (small, absent))
    monkeypatch.setattr("loadtest.virtual.comparisons.highest_rate", lambda *_: 80.0)
    arguments = ["study", "--fleets", str(FLEETS), "--traces", str(tmp_path), "--seeds", "2"]
    outcome = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert outcome.exit_code == 0, outcome.output
    assert "absent: skipped" in outcome.output
    content = json.loads((tmp_path / "small.json").read_text())
    assert content["rate_at_full_load"] == 80.0
    assert [run["seed"] for run in content["runs"]] == [0, 0, 1, 1]
    table = (tmp_path / "small.md").read_text()
    assert "| energy | planner |" in table
    assert " ± " in table
    again = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path), "--resume"])
    assert "small: is there" in again.output


def test_an_unknown_part_is_named_with_those_there_are() -> None:
    with pytest.raises(LoadtestError, match=r"no part 'nope'.*fleet64"):
        parts_named(["nope"])


def test_a_fleet_can_be_left_with_one_precision() -> None:
    cluster = read_fleet(FLEETS / "8xh100.yaml")
    with pytest.raises(LoadtestError, match="no variant 'int2'"):
        cluster.with_variants(["int2"])
    mixed = read_fleet(FLEETS / "64xh100.yaml")
    experiment = Experiment(
        mixed, arrivals="poisson", duration_s=30.0, warmup_s=5.0, rate_at_full_load=400.0
    )
    (run,) = compare(
        replace(experiment, bounded=False),
        [Case(0.02, 0, "least_loaded", "everything_awake", ("fp8-h100",))],
    )
    assert run.result.mean_replicas == 64
    assert run.case.label == "least_loaded + everything_awake with fp8-h100"


def test_objectives_of_a_tier_are_all_multiplied() -> None:
    cluster = read_fleet(FLEETS / "mixed.yaml")
    relaxed = cluster.with_objectives(2.0)
    for name, each in cluster.classes.items():
        objective = relaxed.classes[name].objective
        assert objective.ttft_s == 2 * each.objective.ttft_s
        assert objective.tpot_s == 2 * each.objective.tpot_s
        assert objective.min_quality == each.objective.min_quality


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=10), st.floats(-1e6, 1e6))
def test_an_interval_does_not_care_where_zero_is(values: list[float], shift: float) -> None:
    moved = half_interval([value + shift for value in values])
    assert moved == pytest.approx(half_interval(values), rel=1e-6, abs=1e-3)
    assert half_interval([values[0]] * 3) == pytest.approx(0.0, abs=1e-3)


def test_what_has_been_run_is_not_run_again(tmp_path: Path) -> None:
    experiment = Experiment(
        read_fleet(FLEETS / "8xh100.yaml"),
        arrivals="poisson",
        duration_s=20.0,
        warmup_s=5.0,
        bounded=False,
        rate_at_full_load=50.0,
    )
    cases = [Case(0.1, 0, "power_of_two", "everything_awake")]
    (first,) = compare(experiment, cases, keep=tmp_path)
    (kept,) = tmp_path.iterdir()
    written_at = kept.stat().st_mtime_ns
    (second,) = compare(experiment, cases, keep=tmp_path)
    assert second.result.joules_per_token == first.result.joules_per_token
    assert kept.stat().st_mtime_ns == written_at
    (other,) = compare(experiment, [cases[0]._replace(policy="energy")], keep=tmp_path)
    assert other.case.policy == "energy"
