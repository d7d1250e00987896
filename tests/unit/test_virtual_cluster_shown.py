"""A virtual cluster that runs on and on says of itself what a gateway would."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from loadtest.errors import LoadtestError
from loadtest.virtual.fleets import read_fleet
from loadtest.virtual.paced_cluster import PacedCluster
from loadtest.virtual.service import served
from loadtest.virtual.status import VirtualStatus
from protos.jouleserve import statuses
from protos.jouleserve.client import Client, ClusterStatus, JouleserveClientError
from protos.jouleserve.v1.cluster_pb2 import CarbonIntensity

FLEETS = Path(__file__).parents[2] / "examples" / "fleets"
CALL_LIMIT_S = 30.0


def paced(fleet: str = "8xh100", **options: float) -> PacedCluster:
    return PacedCluster(read_fleet(FLEETS / f"{fleet}.yaml"), **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cluster() -> PacedCluster:
    """Give a cluster that has worked for some minutes."""
    cluster = paced(load=0.3)
    for _ in range(20):
        cluster.advance(10.0)
    return cluster


@pytest.fixture(scope="module")
def status(cluster: PacedCluster) -> ClusterStatus:
    return statuses.status(VirtualStatus(cluster).status(decisions=20))


def test_requests_keep_coming_and_every_one_is_accounted_for(status: ClusterStatus) -> None:
    counters = status.counters
    assert counters.completed > 100
    assert counters.accepted == counters.completed + counters.failed + counters.in_flight
    assert counters.leases == counters.in_flight
    assert sum(each.requests for each in status.accounts) == counters.completed


def test_each_accelerator_is_held_by_one_replica(status: ClusterStatus) -> None:
    held = [(each.node, device) for each in status.replicas for device in each.devices]
    assert held
    assert len(set(held)) == len(held)


def test_joules_are_conserved_on_every_replica(status: ClusterStatus) -> None:
    for each in status.replicas:
        assert each.residual_j == pytest.approx(0.0, abs=1e-6 * each.energy_j)


def test_power_is_the_rise_of_energy(cluster: PacedCluster) -> None:
    answers = VirtualStatus(cluster)
    before = statuses.status(answers.status(0))
    cluster.advance(5.0)
    after = {each.replica: each for each in statuses.status(answers.status(0)).replicas}
    for each in before.replicas:
        if (now := after.get(each.replica)) is not None:
            assert now.power_w == pytest.approx((now.energy_j - each.energy_j) / 5.0)


def test_decisions_come_with_reasons_newest_first(status: ClusterStatus) -> None:
    assert len(status.decisions) == 20
    ages = [each.age_s for each in status.decisions]
    assert ages == sorted(ages)
    assert all(each.reason and 0 < each.eligible <= each.candidates for each in status.decisions)


def test_what_is_kept_does_not_grow(cluster: PacedCluster) -> None:
    cluster.advance(60.0)
    assert len(cluster.watcher.decisions) <= 256
    assert set(cluster.watcher.reports) <= set(cluster.cluster.pool.replicas)
    assert len(cluster.planner.plans) <= 2
    assert len(cluster.outcomes) == 0


def test_emissions_follow_from_joules(cluster: PacedCluster) -> None:
    carbon = CarbonIntensity(gco2e_per_kwh=360.0, pue=1.5, source="constant")
    shown = statuses.status(VirtualStatus(cluster, carbon).status(0))
    assert shown.carbon is not None
    for each in shown.accounts:
        assert each.gco2e == pytest.approx(each.energy_j * 1.5 * 1e-4)


def test_a_fleet_that_keeps_no_objective_is_refused(tmp_path: Path) -> None:
    text = (FLEETS / "8xh100.yaml").read_text().replace("ttft_s: 1.0", "ttft_s: 1.0e-6")
    file = tmp_path / "fleet.yaml"
    file.write_text(text)
    with pytest.raises(LoadtestError, match="cannot keep its objectives"):
        PacedCluster(read_fleet(file))


def test_it_answers_by_grpc_while_it_runs() -> None:
    running = paced(load=0.2, speed=20.0)
    stopped = threading.Event()
    thread = threading.Thread(target=running.run, args=(stopped.is_set,))
    thread.start()
    try:
        with (
            served(running, "127.0.0.1:0") as port,
            Client(f"127.0.0.1:{port}", timeout_s=CALL_LIMIT_S) as client,
        ):
            first = client.status().counters.completed
            while client.status(decisions=5).counters.completed < first + 10:
                pass
            while not client.plan().planned:
                pass
            assert client.plan().bound_w > 0
            (model,) = client.models()
            assert {each.name for each in model.variants} == set(running.description.variants)
            with pytest.raises(JouleserveClientError, match="no engine"):
                client.complete(model.name, "hello")
            with (
                pytest.raises(LoadtestError, match="--listen"),
                served(running, f"127.0.0.1:{port}"),
            ):
                pass
    finally:
        stopped.set()
        thread.join()
