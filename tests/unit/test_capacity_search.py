"""A capacity that is known is found, and what stands in the way is told."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from loadtest import arrivals
from loadtest.capacity_search import CapacitySearch, SearchSettings
from loadtest.commands.loadtest import app
from loadtest.errors import LoadtestError
from loadtest.reports import forms
from loadtest.run import RunClass
from loadtest.virtual.descriptions import fluid_rate
from loadtest.virtual.fleets import read_fleet
from tests.run_fakes import DURATION_S, one_at_a_time, plain_requests, plain_run

if TYPE_CHECKING:
    from loadtest.reports.capacity_values import Capacity, Trial
    from loadtest.run import Run

FLEETS = Path(__file__).parents[2] / "examples" / "fleets"


class Server:
    """Serves one request after the other, each in the same time: its capacity is known."""

    def __init__(self, per_s: float) -> None:
        self.per_s = per_s
        self.rates: list[float] = []

    def __call__(self, rate_per_s: float, seed: int) -> Run:
        self.rates.append(rate_per_s)
        at_s = arrivals.constant(rate_per_s, DURATION_S)
        first_s = one_at_a_time(at_s, np.full(at_s.size, 1 / self.per_s))
        return plain_run(plain_requests(at_s, first_token_at_s=first_s), seed=seed)


def search(make: Server, **settings_: float) -> Capacity:
    ticks = itertools.count()
    wanted = SearchSettings(**{"start_per_s": 5.0, **settings_})  # type: ignore[arg-type]
    return CapacitySearch(make, wanted, lambda: float(next(ticks))).run()


@given(st.floats(2.5, 60.0), st.floats(2.0, 80.0))
@settings(deadline=None, max_examples=6)
def test_the_capacity_of_a_server_is_found_within_the_resolution(
    per_s: float, start_per_s: float
) -> None:
    # Evenly spaced requests wait for nobody below it and pile up above; at most a request's time
    # within half a second is lost in a window of a hundred.
    found = search(Server(per_s), start_per_s=start_per_s, resolution=0.05, repeats=1)
    assert found.outcome == "found"
    assert found.resolution <= 0.05
    assert found.rate_per_s <= per_s * 1.02
    assert found.missed_per_s >= per_s * 0.98
    assert found.verdict.count("/s") == 2


def test_the_majority_of_trials_decides_and_all_of_them_are_told() -> None:
    told: list[Trial] = []
    server = Server(20.0)
    found = CapacitySearch(server, SearchSettings(5.0), lambda: 0.0, told.append).run()
    assert tuple(told) == found.trials
    assert [each.rate_per_s for each in told] == server.rates
    at_each = {rate: server.rates.count(rate) for rate in server.rates}
    assert set(at_each.values()) == {2}
    assert {each.seed for each in told} == {0, 1}
    assert found.kept is not None
    assert found.kept.trials == found.kept.kept == 2


def test_trials_and_time_are_bounded_and_the_end_is_told() -> None:
    found = search(Server(37.0), most_trials=3)
    assert len(found.trials) == 3
    assert found.outcome == "not settled"
    assert "3 trials were made" in found.verdict
    late = search(Server(37.0), time_limit_s=4.0)
    assert len(late.trials) < 6
    assert "4 s have passed" in late.verdict


def test_a_server_above_or_below_all_that_is_tried_is_said_to_be() -> None:
    above = search(Server(1000.0), highest_per_s=20.0)
    assert above.outcome == "above the highest tried"
    assert above.rate_per_s == 20.0
    below = search(Server(0.5), lowest_per_s=2.0)
    assert below.outcome == "below the lowest tried"
    assert below.rate_per_s == 0.0


def test_a_sender_that_is_late_is_not_taken_for_a_slow_server() -> None:
    def make(rate_per_s: float, seed: int) -> Run:
        run = Server(1000.0)(rate_per_s, seed)
        late_s = 0.1 if rate_per_s > 50 else 0.0
        return replace(
            run, requests=replace(run.requests, sent_at_s=run.requests.scheduled_at_s + late_s)
        )

    found = CapacitySearch(make, SearchSettings(10.0), lambda: 0.0).run()
    assert found.limited_by_sender
    assert not found.sure
    assert "the sender was the limit" in found.verdict


def test_a_server_that_goes_away_ends_the_search() -> None:
    def make(rate_per_s: float, seed: int) -> Run:
        return replace(Server(100.0)(rate_per_s, seed), partial="the server is gone")

    found = CapacitySearch(make, SearchSettings(10.0), lambda: 0.0).run()
    assert len(found.trials) == 1
    assert found.outcome == "not settled"
    assert "the server is gone" in found.verdict


def test_without_objectives_there_is_nothing_to_look_for() -> None:
    def make(rate_per_s: float, seed: int) -> Run:
        return replace(Server(100.0)(rate_per_s, seed), classes=(RunClass("interactive"),))

    with pytest.raises(LoadtestError, match="no objectives are known"):
        CapacitySearch(make, SearchSettings(10.0), lambda: 0.0).run()


def test_a_virtual_fleet_is_searched_from_the_command_line(tmp_path: Path) -> None:
    scenario = tmp_path / "short.yaml"
    scenario.write_text(
        "arrivals: {open: {rate_per_s: 2}}\n"
        "duration_s: 60\n"
        "warmup_s: 5\n"
        "requests:\n"
        "  - {service_class: interactive, prompt: {tokens: 50}, completion_tokens: 40}\n"
    )
    command = ["capacity", str(scenario), "--fleet", str(FLEETS / "demo.yaml")]
    options = ["--resolution", "0.3", "--repeats", "1", "--out", str(tmp_path / "out")]
    outcome = CliRunner().invoke(app, [*command, *options])
    assert outcome.exit_code == 0, outcome.output
    document = json.loads((tmp_path / "out" / "capacity.json").read_text())
    jsonschema.validate(document, json.loads(forms.shipped("capacity")))
    assert document["outcome"] == "found"
    # Requests that are all alike, evenly spaced and never waiting, would get this rate.
    most = fluid_rate(read_fleet(FLEETS / "demo.yaml"), 50, 40)
    assert most / 3 < document["rate_per_s"] < most
    assert "Capacity for short on demo" in (tmp_path / "out" / "capacity.html").read_text()
    wrong = CliRunner().invoke(app, [*command, "--target", "127.0.0.1:1"])
    assert wrong.exit_code == 2
    assert "give either" in wrong.output
