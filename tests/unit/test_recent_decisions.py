"""The newest routing decisions can be looked at; older ones make room."""

from __future__ import annotations

import asyncio

from serve import status
from serve.recent_decisions import RecentDecisions
from tests.gateway_fakes import LARGE, SMALL, Desk, settle


async def routed(desk: Desk, request_id: str, **changes: object) -> None:
    """Let a call be routed, and give it up."""
    stream = desk.dispatcher.serve(desk.call(request_id=request_id, **changes))
    task = asyncio.create_task(anext(stream))
    await settle()
    task.cancel()
    await settle()


async def test_a_decision_says_who_was_chosen_among_how_many_and_why() -> None:
    desk = Desk()
    await desk.wake({LARGE: ["a", "b"], SMALL: ["c"]})
    await routed(desk, "first")
    (made,) = desk.dispatcher.decisions.newest(10)
    assert (made.request_id, made.model, made.service_class) == ("first", "m", "standard")
    assert (made.candidates, made.eligible, made.policy) == (3, 3, "least_loaded")
    assert made.replica in {"a", "b", "c"}
    assert made.reason
    assert made.made_at_s == desk.clock.now_s
    desk.close()


async def test_those_that_could_not_have_served_are_no_eligible_ones() -> None:
    desk = Desk()
    await desk.wake({LARGE: ["a", "b"], SMALL: ["c"]})
    wishes = desk.call().wishes.__class__(min_quality=0.95)
    await routed(desk, "picky", wishes=wishes)
    (made,) = desk.dispatcher.decisions.newest(1)
    assert (made.variant, made.candidates, made.eligible) == ("large", 3, 2)
    desk.close()


async def test_the_newest_come_first_and_the_oldest_goes() -> None:
    desk = Desk()
    await desk.wake({LARGE: ["a"]})
    desk.dispatcher.decisions = RecentDecisions(capacity=2)
    for name in ("1", "2", "3"):
        await routed(desk, name)
    newest = desk.dispatcher.decisions.newest
    assert [each.request_id for each in newest(10)] == ["3", "2"]
    assert [each.request_id for each in newest(1)] == ["3"]
    assert newest(0) == []
    desk.close()


async def test_on_the_wire_a_decision_has_an_age() -> None:
    desk = Desk()
    await desk.wake({LARGE: ["a"]})
    await routed(desk, "r")
    newest = desk.dispatcher.decisions.newest(1)
    (told,) = status.decisions(newest, desk.clock.now_s + 2.5)
    assert (told.request_id, told.age_s, told.eligible) == ("r", 2.5, 1)
    desk.close()
