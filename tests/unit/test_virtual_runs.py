"""Runs of the virtual cluster say in the common columns what the cluster's own measures say."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from loadtest.commands.loadtest import app
from loadtest.commands.simulate import app as cli
from loadtest.errors import LoadtestError
from loadtest.reports.differences import compare_runs
from loadtest.reports.measures import report_of
from loadtest.run import Ending
from loadtest.run_file import load_run
from loadtest.scenario import Scenario
from loadtest.virtual.comparisons import Case, Experiment, compare
from loadtest.virtual.fleets import read_fleet
from loadtest.virtual.scenario import VirtualOptions, run_virtual

FLEETS = Path(__file__).parents[2] / "examples" / "fleets"
OPTIONS = VirtualOptions(policy="least_loaded")


def scenario(**changes: object) -> Scenario:
    plain = {
        "name": "talk",
        "arrivals": {"open": {"rate_per_s": 1.0}},
        "duration_s": 60,
        "warmup_s": 10,
        "requests": [
            {
                "service_class": "interactive",
                "tenant": "acme",
                "prompt": {"tokens": 60, "shared_prefix_tokens": 64},
                "completion_tokens": 30,
                "turns": 3,
                "think_time_s": 2,
            }
        ],
    }
    return Scenario.model_validate({**plain, **changes})


def test_a_report_agrees_with_the_measures_of_the_virtual_cluster() -> None:
    experiment = Experiment(
        read_fleet(FLEETS / "mixed.yaml"),
        arrivals="poisson",
        duration_s=60.0,
        warmup_s=20.0,
        bounded=False,
        rate_at_full_load=60.0,
        keeps_requests=True,
    )
    (made,) = compare(experiment, [Case(0.4, 3, "least_loaded", "everything_awake")])
    assert made.run is not None
    report, result = report_of(made.run), made.result
    assert report.overall.requests == result.requests
    assert report.overall.slo_attainment == pytest.approx(result.slo_attainment)
    assert report.overall.goodput == pytest.approx(result.goodput_rps)
    assert report.energy.energy_j == pytest.approx(result.energy.total_j)
    assert report.energy.joules_per_token == pytest.approx(result.joules_per_token, rel=0.02)
    assert [each.name for each in report.classes] == [
        each.service_class for each in result.classes if each.requests
    ]
    for mine, theirs in zip(report.classes, result.classes, strict=True):
        assert mine.ttft_s.p99_s == pytest.approx(theirs.ttft_s.p99)
        assert mine.tpot_s.p50_s == pytest.approx(theirs.tpot_s.p50)


def test_turns_wait_for_answers_and_carry_what_was_said() -> None:
    run = run_virtual(scenario(), read_fleet(FLEETS / "demo.yaml"), OPTIONS)
    requests = run.requests
    assert run.tenants == ("acme",)
    assert (np.diff(requests.scheduled_at_s) >= 0).all()
    followed = 0
    for number in np.unique(requests.session):
        rows = np.flatnonzero(requests.session == number)
        assert requests.turn[rows].tolist() == list(range(rows.size))
        for before, after in pairwise(rows):
            gap_s = requests.scheduled_at_s[after] - requests.ended_at_s[before]
            assert gap_s == pytest.approx(2.0)
            said = requests.prompt_tokens[before] + requests.completion_tokens[before]
            assert requests.prompt_tokens[after] == said + 60
            followed += 1
    assert followed > 50
    # What was said before is found in the cache of the replica that has heard it.
    later = requests.turn > 0
    assert requests.cached_tokens[later].mean() > requests.cached_tokens[~later].mean()


def test_users_of_a_closed_loop_never_ask_two_at_a_time() -> None:
    run = run_virtual(
        scenario(arrivals={"closed": {"users": 4, "think_time_s": 0.5}}),
        read_fleet(FLEETS / "demo.yaml"),
        OPTIONS,
    )
    assert run.closed_loop
    begins, ends = np.sort(run.requests.sent_at_s), np.sort(run.requests.ended_at_s)
    in_flight = np.arange(1, begins.size + 1) - np.searchsorted(ends, begins, "right")
    assert in_flight.max() == 4


def test_the_same_scenario_on_two_policies_is_compared_pair_by_pair() -> None:
    fleet = read_fleet(FLEETS / "demo.yaml")
    one = run_virtual(scenario(), fleet, OPTIONS)
    two = run_virtual(scenario(), fleet, VirtualOptions(policy="energy"))
    (against,) = compare_runs([("one", one), ("two", two)]).against
    assert against.paired
    assert against.requests > 100


def test_shed_requests_are_rows_like_others() -> None:
    long_prompts = scenario(
        requests=[
            {"service_class": "interactive", "prompt": {"tokens": 5000}, "completion_tokens": 5},
            {"service_class": "interactive", "prompt": {"tokens": 50}, "completion_tokens": 5},
        ]
    )
    run = run_virtual(long_prompts, read_fleet(FLEETS / "demo.yaml"), OPTIONS)
    long = run.requests.prompt_tokens == 5000
    assert long.any()
    assert (run.requests.ending[long] == Ending.SHED).all()
    assert (run.requests.ending[~long] == Ending.COMPLETED).all()
    assert np.isnan(run.requests.first_token_at_s[long]).all()


def test_a_class_that_nobody_knows_is_refused_with_those_there_are() -> None:
    unknown = scenario(
        requests=[{"service_class": "vip", "prompt": {"tokens": 5}, "completion_tokens": 5}]
    )
    fleet = read_fleet(FLEETS / "demo.yaml")
    with pytest.raises(LoadtestError, match=r"no service class 'vip'.*interactive"):
        run_virtual(unknown, fleet, OPTIONS)
    promised = unknown.model_copy(
        update={"objectives": scenario(objectives={"vip": {"ttft_s": 1, "tpot_s": 1}}).objectives}
    )
    assert report_of(run_virtual(promised, fleet, OPTIONS)).overall.judged > 0


def test_simulate_leaves_a_run_and_a_report_for_each_case(tmp_path: Path) -> None:
    options = ["--duration", "20", "--warmup", "5", "--full-rate", "40", "--no-bound"]
    command = ["simulate", "--fleet", str(FLEETS / "8xh100.yaml"), "--out", str(tmp_path / "out")]
    kept = tmp_path / "kept"
    outcome = CliRunner().invoke(
        cli, [*command, *options, "--autoscaler", "everything_awake", "--report", str(kept)]
    )
    assert outcome.exit_code == 0, outcome.output
    folders = sorted(kept.iterdir())
    assert [each.name for each in folders] == [
        "load-0.2-seed-0-energy-everything_awake",
        "load-0.2-seed-0-power_of_two-everything_awake",
    ]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    for folder, result in zip(folders, reversed(results), strict=True):
        assert report_of(load_run(folder / "run.json.gz")).overall.requests == result["requests"]
        assert {each.name for each in folder.iterdir()} == {
            "run.json.gz",
            "report.json",
            "report.html",
            "report.txt",
        }
    compared = CliRunner().invoke(app, ["compare", *map(str, folders)])
    assert compared.exit_code == 0, compared.output
    assert "request by request" in " ".join(compared.output.split())


def test_a_scenario_is_simulated_from_the_command_line(tmp_path: Path) -> None:
    command = ["simulate", "chat", "--fleet", str(FLEETS / "demo.yaml"), "--duration", "20"]
    outcome = CliRunner().invoke(app, [*command, "--out", str(tmp_path)])
    assert outcome.exit_code == 0, outcome.output
    assert load_run(tmp_path / "run.json.gz").scenario == "chat"
    wrong = CliRunner().invoke(app, ["simulate", "chatt", "--fleet", str(FLEETS / "demo.yaml")])
    assert wrong.exit_code == 2
    assert "no scenario 'chatt'" in wrong.output
