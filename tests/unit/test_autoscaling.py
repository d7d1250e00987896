"""What Ray Serve's controller is told: the planner's numbers, and nothing else."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from serve.autoscaling import carry_out
from serve.deployment import GATEWAY, PLANNER, TARGET


class Id(NamedTuple):
    """As Ray Serve names deployments."""

    name: str
    app_name: str = "jouleserve"


class Point(NamedTuple):
    """A value in Ray Serve's series of a statistic."""

    timestamp: float
    value: float


class Context(NamedTuple):
    """What Ray Serve tells of a deployment, so far as it is read."""

    target_num_replicas: int
    raw_metrics: dict[str, dict[str, list[Point]]]


def context(there: int = 1, **said: list[Point]) -> Context:
    """Describe a deployment of which one replica has said something."""
    metrics = {TARGET + name: {"replica": series} for name, series in said.items()}
    return Context(there, metrics)


def told(**contexts: Context) -> dict[str, int]:
    given: dict[Any, Any] = {Id(name): each for name, each in contexts.items()}
    targets, state = carry_out(given)
    assert state == {}
    return {deployment.name: count for deployment, count in targets.items()}


def test_every_variant_gets_what_the_planner_wants() -> None:
    planner = context(big=[Point(1.0, 3.0)], small=[Point(1.0, 0.0)])
    wanted = told(**{PLANNER: planner, "big": context(1), "small": context(2)})
    assert wanted == {"big": 3, "small": 0}
    assert all(type(count) is int for count in wanted.values())


def test_a_deployment_that_has_the_right_number_is_left_alone() -> None:
    planner = context(big=[Point(1.0, 0.0)], small=[Point(1.0, 2.0)])
    assert told(**{PLANNER: planner, "big": context(0), "small": context(1)}) == {"small": 2}


def test_what_the_planner_does_not_name_stays_as_it_is() -> None:
    planner = context(big=[Point(1.0, 3.0)])
    contexts = {PLANNER: planner, GATEWAY: context(2), "big": context(3), "new": context(1)}
    assert told(**contexts) == {}


@pytest.mark.parametrize("planner", [{}, {PLANNER: context()}, {PLANNER: context(big=[])}])
def test_while_the_planner_says_nothing_all_stays_as_it_is(planner: dict[str, Context]) -> None:
    assert told(**planner, big=context(5)) == {}


def test_what_was_said_last_counts_in_whatever_order_it_comes() -> None:
    series = [Point(2.0, 4.0), Point(3.0, 5.0), Point(1.0, 9.0)]
    assert told(**{PLANNER: context(big=series), "big": context(1)}) == {"big": 5}


@pytest.mark.parametrize("replicas", [("old", "new"), ("new", "old")])
def test_of_two_planners_the_one_that_spoke_last_counts(replicas: tuple[str, str]) -> None:
    points = {"old": [Point(1.0, 2.0)], "new": [Point(2.0, 7.0)]}
    metrics = {TARGET + "big": {replica: points[replica] for replica in replicas}}
    assert told(**{PLANNER: Context(1, metrics), "big": context(1)}) == {"big": 7}


def test_statistics_of_others_are_not_taken_for_the_planners() -> None:
    assert told(big=context(1, big=[Point(1.0, 9.0)])) == {}
