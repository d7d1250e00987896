"""Ray Serve's own account of its replicas, read as what the planner counts."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest

from scheduler.requests import VariantName
from serve.census import Deployed, Started, deployed
from serve.deployment import APPLICATION, GATEWAY

BIG, SMALL = VariantName("big"), VariantName("small")
NOW_S = 1000.0


class Spelt(str, Enum):  # noqa: UP042 (a StrEnum would be read as its value)
    """As Ray spells its states: text that is an enumeration too."""

    RUNNING = "RUNNING"
    STARTING = "STARTING"
    STOPPING = "STOPPING"
    UNHEALTHY = "UNHEALTHY"


def replica(state: object, number: int = 0, **changes: Any) -> dict[str, Any]:
    fields = {"state": state, "replica_id": f"r{number}", "start_time_s": 900.0, "node_id": "n1"}
    return {**fields, **changes}


def deployment(
    *replicas: dict[str, Any], status: object = "HEALTHY", message: str | None = ""
) -> dict[str, Any]:
    return {"replicas": list(replicas), "status": status, "message": message}


def details(**deployments: dict[str, Any]) -> dict[str, Any]:
    return {"applications": {APPLICATION: {"deployments": deployments}}}


def read(**deployments: dict[str, Any]) -> Deployed:
    return deployed(details(**deployments), (BIG, SMALL), NOW_S)


@pytest.mark.parametrize(
    ("state", "column"),
    [
        ("RUNNING", "awake"),
        ("running", "awake"),
        (Spelt.RUNNING, "awake"),
        ("PENDING_MIGRATION", "awake"),
        ("STARTING", "starting"),
        (Spelt.STARTING, "starting"),
        ("updating", "starting"),
        ("RECOVERING", "starting"),
        ("STOPPING", "draining"),
        (Spelt.STOPPING, "draining"),
        ("stopped", "draining"),
    ],
)
def test_a_replica_counts_by_its_state_however_it_is_spelt(state: object, column: str) -> None:
    there = read(big=deployment(replica(state)))
    counts = {name: getattr(there, name) for name in ("awake", "starting", "draining")}
    assert {name: dict(each) for name, each in counts.items() if each} == {column: {BIG: 1}}


def test_replicas_of_each_variant_are_counted_apart() -> None:
    there = read(
        big=deployment(replica("RUNNING", 1), replica("RUNNING", 2), replica("STOPPING", 3)),
        small=deployment(replica("RUNNING", 4), replica("STARTING", 5)),
    )
    assert dict(there.awake) == {BIG: 2, SMALL: 1}
    assert dict(there.starting) == {SMALL: 1}
    assert dict(there.draining) == {BIG: 1}


@pytest.mark.parametrize(
    "account",
    [
        {},
        {"applications": {}},
        {"applications": {APPLICATION: None}},
        {"applications": {APPLICATION: {}}},
        {"applications": {"another": {"deployments": {"big": deployment(replica("RUNNING"))}}}},
    ],
)
def test_without_our_application_there_is_nothing(account: dict[str, Any]) -> None:
    assert deployed(account, (BIG, SMALL), NOW_S) == Deployed()


def test_a_variant_without_a_deployment_has_no_replicas() -> None:
    there = read(small=deployment(replica("RUNNING")))
    assert dict(there.awake) == {SMALL: 1}
    assert BIG not in there.nodes


def test_deployments_that_are_no_variant_do_not_count() -> None:
    there = deployed(details(**{GATEWAY: deployment(replica("RUNNING"))}), (BIG, SMALL), NOW_S)
    assert there == Deployed()


def test_those_that_serve_are_named_with_when_they_were_asked_for() -> None:
    there = read(
        big=deployment(replica("RUNNING", 1, start_time_s=910.0), replica("STARTING", 2)),
        small=deployment(replica("RUNNING", 3, start_time_s=920.0)),
    )
    assert there.running == (Started("r1", BIG, 910.0), Started("r3", SMALL, 920.0))


@pytest.mark.parametrize("nowhere", [{"node_id": None}, {"node_id": ""}])
def test_a_starting_replica_without_a_node_seeks_since_it_was_asked_for(
    nowhere: dict[str, Any],
) -> None:
    there = read(big=deployment(replica("STARTING", start_time_s=960.0, **nowhere)))
    assert there.seekers == {BIG: 40.0}


def test_a_replica_whose_node_is_not_even_mentioned_seeks_too() -> None:
    seeking = replica("STARTING", start_time_s=960.0)
    del seeking["node_id"]
    assert read(big=deployment(seeking)).seekers == {BIG: 40.0}


def test_of_several_seekers_the_one_that_waits_longest_tells() -> None:
    waits = [
        replica("STARTING", n, start_time_s=NOW_S - s, node_id=None)
        for n, s in enumerate((5.0, 50.0, 20.0))
    ]
    assert read(big=deployment(*waits)).seekers == {BIG: 50.0}


def test_a_seeker_from_the_future_of_another_clock_has_not_waited_yet() -> None:
    ahead = replica("STARTING", start_time_s=NOW_S + 3.0, node_id=None)
    assert read(big=deployment(ahead)).seekers == {BIG: 0.0}


def test_a_replica_that_starts_on_a_node_seeks_none() -> None:
    assert read(big=deployment(replica("STARTING"))).seekers == {}


def test_a_replica_that_drains_without_a_node_seeks_none() -> None:
    assert read(big=deployment(replica("STOPPING", node_id=None))).seekers == {}


def test_nodes_are_those_that_hold_a_replica_in_any_state() -> None:
    there = read(
        big=deployment(
            replica("RUNNING", 1, node_id="n1"),
            replica("STARTING", 2, node_id="n2"),
            replica("STOPPING", 3, node_id="n2"),
            replica("STARTING", 4, node_id=None),
        ),
        small=deployment(),
    )
    assert there.nodes == {BIG: {"n1", "n2"}, SMALL: frozenset()}


NEVER_UP = "The deployment failed to start 3 times in a row.\nRuntimeError: no such weights"


@pytest.mark.parametrize("status", ["UNHEALTHY", "unhealthy", Spelt.UNHEALTHY, "DEPLOY_FAILED"])
def test_what_never_came_up_is_a_failure_with_the_telling_line(status: object) -> None:
    there = read(big=deployment(status=status, message=NEVER_UP))
    assert there.failures == {BIG: "RuntimeError: no such weights"}


def test_one_whose_process_or_node_is_gone_while_it_starts_has_died() -> None:
    died = "A replica failed to start with exception.\nray.exceptions.ActorDiedError: it is dead"
    there = read(big=deployment(status="UNHEALTHY", message=died))
    assert there.failures == {}
    assert there.deaths == {BIG: "ray.exceptions.ActorDiedError: it is dead"}


@pytest.mark.parametrize("status", ["HEALTHY", "UPDATING", "UPSCALING", "DOWNSCALING"])
def test_a_deployment_that_is_not_said_to_fail_has_no_failure(status: str) -> None:
    assert read(big=deployment(status=status, message=NEVER_UP)).failures == {}


@pytest.mark.parametrize("message", ["", None, "A replica has died and is replaced."])
def test_unhealthy_for_a_replica_that_died_is_no_failure(message: str | None) -> None:
    assert read(big=deployment(status="UNHEALTHY", message=message)).failures == {}


def test_replicas_out_of_reach_are_not_awake_but_counted() -> None:
    there = read(
        big=deployment(replica("RUNNING", 1), replica("RUNNING", 2)),
        small=deployment(replica("RUNNING", 3)),
    ).without(frozenset({"r1", "r3", "unheard of"}))
    assert dict(there.awake) == {BIG: 1, SMALL: 0}
    assert dict(there.zombies) == {BIG: 1, SMALL: 1}
    assert [each.replica for each in there.running] == ["r2"]


def test_with_nobody_out_of_reach_nothing_changes() -> None:
    there = read(big=deployment(replica("RUNNING", 1), replica("STARTING", 2)))
    assert there.without(frozenset()) == there
