"""Candidates in the planner: locked until they are admitted, and then planned like any other."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.adaptation import Phase
from scheduler.requests import VariantName
from tests.planner_fakes import BIG, SMALL, STANDARD, Shell, config, echo, traffic

NEW = VariantName("new")
CLOCK: dict[str, Any] = {"watch_s": 100, "probation_s": 100}


def shell(**adapt: Any) -> Shell:
    """Have a variant of an H100, and the same at a fifth of its step time."""
    slow = echo(BIG, "h100-sxm", echo={"decode_step_s": 0.05})
    fast = echo(NEW, "h100-sxm", candidate=True, echo={"decode_step_s": 0.01})
    return Shell(config(slow, fast, adapt={**CLOCK, **adapt}))


def serve(shell: Shell, turns: int, requests: int = 2000) -> None:
    """Let traffic come, and have what is planned."""
    for _ in range(turns):
        shell.hear(requests)
        shell.turn()
        shell.carry_out()


def phase(shell: Shell) -> Phase:
    return shell.planner.news(shell.now_s).candidates[NEW].phase


def test_a_candidate_is_not_planned_and_cannot_be_woken_before_it_is_admitted() -> None:
    there = shell()
    serve(there, 30)
    assert phase(there) is Phase.PROPOSED
    assert there.planner.targets()[NEW] == 0
    sleepers = [each.variant for each in there.planner.news(there.now_s).sleepers]
    assert NEW not in sleepers


def test_one_that_may_be_tried_is_woken_when_it_saves_and_kept() -> None:
    there = shell(mode="carry_out")
    serve(there, 12)
    assert phase(there) is Phase.PROBATION
    serve(there, 14)
    assert phase(there) is Phase.KEPT
    assert there.planner.targets()[NEW] > 0
    assert there.planner.targets()[BIG] == 0


def test_one_whose_requests_miss_their_objectives_is_withdrawn_and_sent_to_sleep() -> None:
    there = shell(mode="carry_out")
    serve(there, 12)
    assert phase(there) is Phase.PROBATION
    for _ in range(14):
        missing = traffic(2000)
        missing.missed = 500
        there.count({STANDARD: missing})
        there.turn()
        there.carry_out()
    assert phase(there) is Phase.WITHDRAWN
    serve(there, 3)
    assert there.planner.targets()[NEW] == 0
    assert there.planner.targets()[BIG] > 0


def test_an_operator_s_pin_goes_before_all_that() -> None:
    there = shell()
    pinned = config(
        *(entry.model_dump(exclude_unset=True) for _, entry in there.config.variants()),
        adapt=CLOCK,
        pinned={NEW: 1},
    )
    there = Shell(pinned)
    serve(there, 3)
    assert there.planner.targets()[NEW] == 1


def test_off_means_locked() -> None:
    there = shell(mode="off")
    serve(there, 30)
    assert there.planner.news(there.now_s).candidates == {}
    assert there.planner.targets()[NEW] == 0


def test_without_candidates_nothing_is_asked() -> None:
    there = Shell()
    assert there.planner.question(there.observed()) is None


@pytest.mark.parametrize(
    ("changes", "telling"),
    [
        ({"min_replicas": 1}, "a candidate sleeps until it is tried"),
        ({"accepted": ["nobody"]}, "no candidate 'nobody'; known: new"),
        ({"alone": True}, "all are candidates; one has to serve meanwhile"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict[str, Any], telling: str) -> None:
    bounds = {key: changes[key] for key in ("min_replicas",) if key in changes}
    new = echo(NEW, "h100-sxm", candidate=True, **bounds)
    others = () if "alone" in changes else (echo(SMALL, "l4"),)
    with pytest.raises(ValueError, match=telling):
        config(*others, new, adapt={"accepted": changes.get("accepted", [])})
