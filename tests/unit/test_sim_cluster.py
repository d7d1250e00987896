from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from loadtest.commands.simulate import app
from loadtest.lengths import LogNormalLengths
from loadtest.virtual.autoscalers import (
    EverythingAwake,
    Observation,
    QueueBased,
    QueueSettings,
)
from loadtest.virtual.capacities import highest_rate
from loadtest.virtual.cluster import VirtualCluster
from loadtest.virtual.comparisons import Experiment, cases_of, compare, workload_of
from loadtest.virtual.descriptions import fluid_rate
from loadtest.virtual.fleets import read_fleet
from loadtest.virtual.planned_autoscaler import Planned
from loadtest.virtual.records import Loss
from loadtest.virtual.results import bound_of, measure
from scheduler.plans import Census, Demand, Slot

FLEETS = Path(__file__).parents[2] / "examples" / "fleets"
CLUSTER = read_fleet(FLEETS / "8xh100.yaml")
EXPERIMENT = Experiment(
    CLUSTER, arrivals="poisson", duration_s=240.0, warmup_s=60.0, rate_at_full_load=90.0
)
SLOT = Slot(*(getattr(CLUSTER.placements[0], name) for name in ("variant", "group")))


def test_everything_awake_keeps_objectives_and_its_books() -> None:
    workload = workload_of(EXPERIMENT, 0.2, 3)
    record = VirtualCluster(CLUSTER, "power_of_two", EverythingAwake(CLUSTER), 3).run(workload, 60)
    result = measure(record, CLUSTER, 0.2, bound_of(CLUSTER, workload, 60, record))
    assert record.balance.completed == record.balance.injected == len(workload.requests)
    assert result.slo_attainment > 0.99
    assert result.mean_replicas == 8
    assert result.e_over_lp >= result.e_over_milp > 1
    assert result.mean_power_w * 180 == pytest.approx(result.energy.total_j)
    classes = result.classes[0]
    assert classes.ttft_s.p50 <= classes.ttft_s.p99 < classes.e2e_latency_s.p99
    assert classes.tpot_s.p50 >= CLUSTER.variants[SLOT.variant].steps.decode_s(1)


def test_the_planner_lets_go_what_it_does_not_need() -> None:
    workload = workload_of(EXPERIMENT, 0.1, 3)
    planner = Planned(CLUSTER)
    record = VirtualCluster(CLUSTER, "energy", planner, 3).run(workload, 60)
    assert record.balance.completed == record.balance.injected
    assert sum(record.samples[-1].awake.values()) < 8
    assert all(plan.actions is not None for plan in planner.plans)


def test_requests_before_their_first_token_survive_a_lost_node() -> None:
    workload = workload_of(EXPERIMENT, 0.2, 3)
    record = VirtualCluster(
        CLUSTER, "power_of_two", EverythingAwake(CLUSTER), 3, losses=[Loss(100.0)]
    ).run(workload, 60)
    balance = record.balance
    assert 0 < balance.failed < 100
    assert balance.completed + balance.failed + balance.shed == balance.injected
    # It is back after its start.
    assert sum(record.samples[-1].awake.values()) == 8


def seen(now_s: float, requests: int) -> Observation:
    return Observation(now_s, 5.0, Census(now_s, {SLOT: 8}), {SLOT: requests}, {}, {})


def test_a_queue_goes_up_after_half_a_minute_and_down_after_ten() -> None:
    demand = Demand(CLUSTER.model, CLUSTER.classes["chat"].objective, 1.0, 1155, 211)
    scaler = QueueBased(CLUSTER, (demand,), QueueSettings(target_requests=10))
    counts = {at: scaler.decide(seen(at, 20)).replicas[SLOT] for at in range(0, 700, 5)}
    assert counts[590] == 8
    assert counts[605] == 2
    counts = {at: scaler.decide(seen(at, 60)).replicas[SLOT] for at in range(700, 800, 5)}
    assert counts[720] == 2
    assert counts[770] == 6


def test_compared_cases_get_the_same_requests() -> None:
    experiment = Experiment(
        CLUSTER, arrivals="gamma", duration_s=60.0, warmup_s=10.0, rate_at_full_load=90.0
    )
    cases = cases_of([0.1], [1], ["power_of_two", "energy"], ["everything_awake"])
    one, two = compare(experiment, cases)
    assert one.result.requests == two.result.requests
    assert np.isfinite(one.result.e_over_milp)
    assert one.case.label == "power_of_two + everything_awake"


def test_the_command_writes_table_json_and_plots(tmp_path: Path) -> None:
    arguments = ["simulate", "--fleet", str(FLEETS / "8xh100.yaml"), "--out", str(tmp_path)]
    arguments += ["--duration", "60", "--warmup", "10", "--load", "0.05", "--load", "0.1"]
    arguments += ["--policy", "power_of_two", "--full-rate", "80"]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    results = json.loads((tmp_path / "results.json").read_text())
    assert [each["load"] for each in results] == [0.05, 0.05, 0.1, 0.1]
    assert "power_of_two" in (tmp_path / "comparison.txt").read_text()
    assert (tmp_path / "joules-per-token.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--policy", "best"], "no policy 'best'"),
        (["--autoscaler", "best"], "no autoscaler 'best'"),
        (["--autoscaler", "planner:0.5"], "no autoscaler 'planner:0.5'"),
        (["--autoscaler", "queue_based:2"], "'queue_based:2': the target is a share"),
        (["--arrivals", "never"], "no arrivals 'never'"),
        (["--trace", "none.csv"], "No such file"),
    ],
)
def test_the_command_names_what_is_wrong(tmp_path: Path, extra: list[str], words: str) -> None:
    fleet = str(FLEETS / "8xh100.yaml")
    outcome = CliRunner().invoke(
        app, ["simulate", "--fleet", fleet, "--out", str(tmp_path), *extra]
    )
    assert outcome.exit_code == 2
    assert words in outcome.output


def test_full_load_is_below_what_the_fluid_model_promises() -> None:
    cluster = read_fleet(FLEETS / "demo.yaml")
    lengths = LogNormalLengths(100, 40, most_tokens=400)
    rate = highest_rate(cluster, lengths, (100, 40))
    assert 0.2 < rate / fluid_rate(cluster, 100, 40) < 1.0
