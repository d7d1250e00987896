"""Orders to a planner that runs."""

from __future__ import annotations

import copy
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from serve import deployment, local_cluster, orders
from serve.cluster_record import ClusterError, ClusterRecord
from serve.config import Config
from tests.planner_fakes import config

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD = ClusterRecord("127.0.0.1:1", "127.0.0.1", 2, 3)


def application(**planner: Any) -> dict[str, Any]:
    (made,) = json.loads(json.dumps(deployment.serve_config(config(**planner))))["applications"]
    return dict(made)


def planners(app: dict[str, Any]) -> Config:
    """Give the configuration that an application's planner runs with."""
    (found,) = [each for each in app["deployments"] if each["name"] == deployment.PLANNER]
    return Config.model_validate(found["user_config"])


def test_a_pin_changes_the_planners_configuration_and_nothing_else() -> None:
    before = application(period_s=7.0)
    after = orders.changed(before, orders.pin({"big": 2}))
    assert planners(after) == config(period_s=7.0, pinned={"big": 2})
    for app in (before, after):
        (planner,) = [each for each in app["deployments"] if each["name"] == deployment.PLANNER]
        del planner["user_config"]
    assert after == before


def test_what_is_given_is_left_as_it_was() -> None:
    given = application()
    before = copy.deepcopy(given)
    orders.changed(given, orders.pin({"big": 2}))
    assert given == before


@pytest.mark.parametrize("pinned", [{}, {"small": 1}])
def test_new_pins_replace_those_before(pinned: dict[str, int]) -> None:
    assert (
        planners(orders.changed(application(pinned={"big": 2}), orders.pin(pinned))).planner.pinned
        == pinned
    )


@pytest.mark.parametrize(
    ("pinned", "telling"),
    [({"nobody": 1}, "planner.pinned.nobody"), ({"big": 3}, "planner.pinned.big")],
)
def test_a_pin_that_cannot_be_is_refused_with_what_is_wrong(
    pinned: dict[str, int], telling: str
) -> None:
    with pytest.raises(ClusterError, match=telling) as refused:
        orders.changed(application(), orders.pin(pinned))
    assert "\n" not in str(refused.value)


def test_a_number_below_zero_is_refused() -> None:
    with pytest.raises(ClusterError, match="cannot be"):
        orders.changed(application(), orders.pin({"big": -1}))


def test_a_cluster_that_is_not_planned_has_no_pins() -> None:
    app = application()
    app["deployments"] = [each for each in app["deployments"] if each["name"] != deployment.PLANNER]
    with pytest.raises(ClusterError, match="not planned"):
        orders.changed(app, orders.pin({"big": 1}))


class Client:
    """Stands in for Ray Serve's client.

    Attributes:
        deployed: what it was told, once it was told anything.

    """

    def __init__(self, *applications: str) -> None:
        given = deployment.serve_config(config())
        self.deployed: Any = None
        self._details = {
            "applications": {name: {"deployed_app_config": application()} for name in applications},
            "proxy_location": given["proxy_location"],
            "http_options": given["http_options"],
            "grpc_options": given["grpc_options"],
        }

    def get_serve_details(self) -> dict[str, Any]:
        return self._details

    def deploy_apps(self, schema: Any) -> None:
        self.deployed = schema


def pin(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def serving(record: ClusterRecord) -> Iterator[Client]:
        yield client

    monkeypatch.setattr(local_cluster, "serving", serving)
    orders.give(RECORD, orders.pin({"big": 2}))


def test_the_application_that_runs_is_deployed_anew_with_its_pins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ray.serve.schema")
    client = Client(deployment.APPLICATION)
    pin(client, monkeypatch)
    (told,) = client.deployed.applications
    assert planners(told.model_dump(exclude_unset=True)).planner.pinned == {"big": 2}


def test_where_nothing_of_ours_runs_nothing_is_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("another")
    with pytest.raises(ClusterError, match=RECORD.ray_address):
        pin(client, monkeypatch)
    assert client.deployed is None
