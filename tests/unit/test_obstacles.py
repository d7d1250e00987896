"""What keeps replicas from coming up: believed for a while, then tried again."""

from __future__ import annotations

import pytest

from scheduler.requests import VariantName
from serve.census import Deployed
from serve.obstacles import Obstacles

BIG, SMALL = VariantName("big"), VariantName("small")
PATIENCE_S, RETRY_S = 30.0, 300.0


def seeking(waited_s: float, awake: int = 0) -> Deployed:
    return Deployed(awake={BIG: awake}, starting={BIG: 1}, seekers={BIG: waited_s})


def failing(awake: int = 0) -> Deployed:
    return Deployed(awake={BIG: awake}, failures={BIG: "no such weights"})


@pytest.fixture
def obstacles() -> Obstacles:
    return Obstacles(PATIENCE_S, RETRY_S)


def test_before_anything_was_seen_nothing_is_in_the_way(obstacles: Obstacles) -> None:
    assert obstacles.reason(BIG) == ""


def test_a_replica_may_look_for_a_place_for_as_long_as_patience_lasts(
    obstacles: Obstacles,
) -> None:
    obstacles.note(seeking(PATIENCE_S - 1), {}, {}, 100.0)
    assert obstacles.reason(BIG) == ""
    obstacles.note(seeking(PATIENCE_S), {}, {}, 101.0)
    assert "30 s" in obstacles.reason(BIG)


def test_trouble_of_the_nodes_counts_at_once_and_is_the_reason(obstacles: Obstacles) -> None:
    obstacles.note(seeking(0.0), {BIG: "no machine left in the zone"}, {}, 100.0)
    assert obstacles.reason(BIG) == "no machine left in the zone"


def test_trouble_of_nodes_that_nobody_seeks_is_in_nobodys_way(obstacles: Obstacles) -> None:
    obstacles.note(Deployed(awake={BIG: 1}, starting={BIG: 1}), {BIG: "no machine left"}, {}, 100.0)
    assert obstacles.reason(BIG) == ""


def test_a_failure_counts_at_once(obstacles: Obstacles) -> None:
    obstacles.note(failing(), {}, {}, 100.0)
    assert obstacles.reason(BIG) == "no such weights"


def test_an_obstacle_is_in_the_way_of_its_own_variant_only(obstacles: Obstacles) -> None:
    obstacles.note(failing(), {}, {}, 100.0)
    assert obstacles.reason(SMALL) == ""


def test_it_is_believed_for_a_while_after_nothing_seeks_any_more(obstacles: Obstacles) -> None:
    obstacles.note(seeking(PATIENCE_S), {}, {}, 100.0)
    obstacles.note(Deployed(), {}, {}, 100.0 + PATIENCE_S - 1)
    assert obstacles.reason(BIG)
    obstacles.note(Deployed(), {}, {}, 100.0 + PATIENCE_S)
    assert obstacles.reason(BIG) == ""


def test_found_again_in_the_meantime_it_is_not_believed_for_longer(obstacles: Obstacles) -> None:
    obstacles.note(failing(), {}, {}, 100.0)
    obstacles.note(failing(), {}, {}, 120.0)
    obstacles.note(Deployed(), {}, {}, 100.0 + PATIENCE_S)
    assert obstacles.reason(BIG) == ""


def test_each_time_in_a_row_it_is_believed_for_twice_as_long_up_to_a_bound(
    obstacles: Obstacles,
) -> None:
    now_s, believed_s = 100.0, []
    for _ in range(6):
        obstacles.note(failing(), {}, {}, now_s)
        found_s = now_s
        while obstacles.reason(BIG):
            now_s += 1.0
            obstacles.note(Deployed(), {}, {}, now_s)
        believed_s.append(now_s - found_s)
    assert believed_s == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0]


def test_one_that_comes_up_ends_it_and_the_count(obstacles: Obstacles) -> None:
    obstacles.note(failing(), {}, {}, 100.0)
    obstacles.note(failing(), {}, {}, 100.0 + PATIENCE_S)
    obstacles.note(Deployed(awake={BIG: 1}), {}, {}, 131.0)
    assert obstacles.reason(BIG) == ""
    obstacles.note(failing(awake=1), {}, {}, 140.0)
    assert obstacles.reason(BIG)
    obstacles.note(Deployed(awake={BIG: 1}), {}, {}, 140.0 + PATIENCE_S)
    assert obstacles.reason(BIG) == ""


def test_those_that_were_awake_all_along_do_not_end_it(obstacles: Obstacles) -> None:
    obstacles.note(Deployed(awake={BIG: 2}), {}, {}, 99.0)
    obstacles.note(seeking(PATIENCE_S, awake=2), {}, {}, 100.0)
    assert obstacles.reason(BIG)
    obstacles.note(Deployed(awake={BIG: 1}), {}, {}, 105.0)
    assert obstacles.reason(BIG)


def test_one_of_another_variant_that_comes_up_does_not_end_it(obstacles: Obstacles) -> None:
    obstacles.note(failing(), {}, {}, 100.0)
    obstacles.note(Deployed(awake={SMALL: 1}), {}, {}, 110.0)
    assert obstacles.reason(BIG)


def test_an_obstacle_is_seen_at_the_first_look_too(obstacles: Obstacles) -> None:
    obstacles.note(seeking(PATIENCE_S, awake=1), {}, {}, 100.0)
    assert obstacles.reason(BIG)


def test_people_are_told_until_one_comes_up(obstacles: Obstacles) -> None:
    obstacles.note(failing(), {}, {}, 100.0)
    obstacles.note(Deployed(starting={BIG: 1}), {}, {}, 100.0 + PATIENCE_S)
    assert (obstacles.reason(BIG), obstacles.latest(BIG)) == ("", "no such weights")
    obstacles.note(Deployed(awake={BIG: 1}), {}, {}, 140.0)
    assert obstacles.latest(BIG) == ""


def test_people_are_told_no_longer_of_what_nobody_has_tried_for_long(
    obstacles: Obstacles,
) -> None:
    obstacles.note(failing(), {}, {}, 100.0)
    obstacles.note(Deployed(), {}, {}, 100.0 + PATIENCE_S + RETRY_S - 1)
    assert obstacles.latest(BIG)
    obstacles.note(Deployed(), {}, {}, 100.0 + PATIENCE_S + RETRY_S)
    assert obstacles.latest(BIG) == ""


def test_a_node_that_is_asked_for_may_boot_before_patience_begins(obstacles: Obstacles) -> None:
    obstacles.note(seeking(PATIENCE_S + 119.0), {}, {BIG: 120.0}, 300.0)
    assert obstacles.reason(BIG) == ""
    obstacles.note(seeking(PATIENCE_S + 120.0), {}, {BIG: 120.0}, 301.0)
    assert obstacles.reason(BIG)


def test_the_second_time_a_replica_may_look_for_twice_as_long(obstacles: Obstacles) -> None:
    obstacles.note(seeking(PATIENCE_S), {}, {}, 100.0)
    obstacles.note(seeking(2 * PATIENCE_S - 1), {}, {}, 300.0)
    assert obstacles.reason(BIG) == ""
    obstacles.note(seeking(2 * PATIENCE_S), {}, {}, 301.0)
    assert obstacles.reason(BIG)


def test_one_that_died_while_it_started_is_no_obstacle_unless_none_comes_after_it(
    obstacles: Obstacles,
) -> None:
    died = Deployed(starting={BIG: 1}, deaths={BIG: "the actor died"})
    obstacles.note(died, {}, {}, 100.0)
    obstacles.note(died, {}, {}, 100.0 + PATIENCE_S - 1)
    assert obstacles.reason(BIG) == ""
    obstacles.note(died, {}, {}, 100.0 + PATIENCE_S)
    assert obstacles.reason(BIG) == "the actor died"
