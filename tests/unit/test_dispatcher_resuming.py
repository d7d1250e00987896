"""A call whose gateway was lost, at the next one: it begins where it was, or is refused."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from protos.jouleserve.v1 import inference_pb2 as pb
from scheduler.fleet import ReplicaReport
from scheduler.requests import ReplicaId
from serve import grpc_api
from serve import link as link_module
from serve.calls import OpeningDelta, Outcome, Wishes
from serve.engine import EngineDelta
from serve.errors import BadRequestError, JouleserveError, ReplicaLostError
from serve.resuming import Resume
from tests.gateway_fakes import (
    LARGE,
    SMALL,
    Desk,
    cluster_config,
    delta,
    ending,
    settle,
    tokens,
)

if TYPE_CHECKING:
    from serve.calls import Call


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(link_module, "RECONNECT_S", (10.0,))
    desk = Desk()
    await desk.wake({LARGE: ["a"], SMALL: ["c"]})
    return desk


class Reading:
    """A client that reads one call to its end."""

    def __init__(self, desk: Desk, call: Call) -> None:
        self.items: list[EngineDelta | Outcome] = []
        self.task = asyncio.create_task(self._read(desk, call))

    async def _read(self, desk: Desk, call: Call) -> None:
        async with aclosing(desk.dispatcher.serve(call)) as items:
            async for item in items:
                self.items.append(item)

    @property
    def outcome(self) -> Outcome:
        outcome = self.items[-1]
        assert isinstance(outcome, Outcome)
        return outcome

    @property
    def token_ids(self) -> list[int]:
        deltas = (item for item in self.items if isinstance(item, EngineDelta))
        return [token for each in deltas for token in each.token_ids]


def resumed(desk: Desk, *token_ids: int, variant: str = SMALL, **changes: Any) -> Call:
    attempts = changes.pop("attempts", 1)
    return desk.call(resume=Resume(token_ids, variant, attempts), **changes)


# ── goes on ─────────────────────────────────────────────────────────────────


async def test_it_goes_on_as_if_its_replica_had_been_lost(desk: Desk) -> None:
    desk.send(SMALL, "c", report=ReplicaReport(0.0, running_requests=3))
    reading = Reading(desk, resumed(desk, 5, 6))
    await settle()
    submission = desk.submissions[1]
    assert submission.lease.replica == "c"  # Of the same variant, though another idles.
    assert submission.request.prompt_token_ids == [1, 2, 3, 4]
    assert submission.request.replayed_token_ids == [5, 6]
    assert submission.request.max_tokens == 8
    assert submission.request.sampling == b"8"
    assert submission.lease.prompt_tokens == 6
    assert submission.lease.completion_tokens <= 6
    desk.send(SMALL, "c", ending(1, [7], [5, 6, 7]), accepted=[1])
    await reading.task
    assert reading.token_ids == [7]
    outcome = reading.outcome
    assert outcome.finish.completion_tokens == 3
    assert (outcome.variant, outcome.resumes, outcome.replayed_tokens) == (SMALL, 1, 6)
    assert "a gateway was lost under it; 6 tokens were computed again" in outcome.reason
    assert desk.dispatcher.tally.completed == 1
    assert len(desk.engines.leases) == 0


async def test_another_variant_goes_on_where_its_own_does_not_run(desk: Desk) -> None:
    await desk.wake({SMALL: []})
    reading = Reading(desk, resumed(desk, 5))
    await settle()
    assert desk.submissions[1].lease.replica == "a"
    desk.send(LARGE, "a", tokens(1, 6), accepted=[1])
    await settle()
    opening = reading.items[0]
    assert isinstance(opening, OpeningDelta)
    assert opening.variant == LARGE
    reading.task.cancel()


async def test_a_variant_that_breaks_the_floor_does_not_go_on(desk: Desk) -> None:
    Reading(desk, resumed(desk, 5, wishes=Wishes(min_quality=1.0)))
    await settle()
    assert desk.submissions[1].lease.replica == "a"


async def test_a_demanded_variant_is_kept(desk: Desk) -> None:
    Reading(desk, resumed(desk, 5, wishes=Wishes(variant=LARGE)))
    await settle()
    assert desk.submissions[1].lease.replica == "a"


async def test_without_a_variant_the_scheduler_chooses(desk: Desk) -> None:
    desk.send(SMALL, "c", report=ReplicaReport(0.0, running_requests=3))
    Reading(desk, resumed(desk, 5, variant=""))
    await settle()
    assert desk.submissions[1].lease.replica == "a"


async def test_it_waits_for_a_replica_rather_than_be_refused() -> None:
    desk = Desk(cluster_config(max_waiting=0, hold_timeout_s=60.0))
    await desk.wake({SMALL: ["c"]})
    desk.send(SMALL, "c", report=ReplicaReport(0.0, running_requests=8))
    await settle()
    reading = Reading(desk, resumed(desk, 5))
    await settle()
    assert desk.submissions == {}
    desk.send(SMALL, "c", report=ReplicaReport(0.0))
    await settle()
    assert desk.submissions[1].request.replayed_token_ids == [5]
    reading.task.cancel()
    desk.close()


async def test_losses_of_gateways_and_replicas_are_one_account(desk: Desk) -> None:
    await desk.wake({SMALL: ["c", "d"]})
    reading = Reading(desk, resumed(desk, 5, attempts=2))
    await settle()
    first = desk.submissions[1].lease.replica
    desk.send(SMALL, first, tokens(1, 6), accepted=[1])
    await settle()
    desk.handles[SMALL].break_connection(first)
    await settle()
    second = desk.submissions[2]
    assert second.request.replayed_token_ids == [5, 6]
    desk.send(SMALL, second.lease.replica, ending(2, [7], [5, 6, 7]), accepted=[2])
    await reading.task
    outcome = reading.outcome
    assert (outcome.resumes, outcome.replayed_tokens) == (3, 5 + 6)
    assert "2 gateways and a replica were lost under it; 11 tokens" in outcome.reason


async def test_one_loss_too_many_says_what_is_right(desk: Desk) -> None:
    reading = Reading(desk, resumed(desk, 5, attempts=3))
    await settle()
    desk.send(SMALL, "c", accepted=[1])
    await settle()
    desk.handles[SMALL].break_connection(ReplicaId("c"))
    with pytest.raises(ReplicaLostError, match=r"3 gateways and a replica were.*The 1 tokens"):
        await reading.task
    assert len(desk.submissions) == 1


async def test_latencies_are_of_the_new_tokens(desk: Desk) -> None:
    call = resumed(desk, 5, 6, 7)
    reading = Reading(desk, call)
    await settle()
    for step_s, part in (
        (0.5, tokens(1, 8)),
        (2.0, tokens(1, 9)),
        (4.0, ending(1, [10], [5, 6, 7, 8, 9, 10])),
    ):
        desk.clock.now_s += step_s
        desk.send(SMALL, "c", part, accepted=[1])
        await settle()
    await reading.task
    latency = reading.outcome.latency
    assert (latency.ttft_s, latency.tpot_s, latency.e2e_s) == (0.5, 3.0, 6.5)


async def test_a_call_without_a_new_token_has_no_latency(desk: Desk) -> None:
    reading = Reading(desk, resumed(desk, 5))
    await settle()
    reading.task.cancel()
    await settle()
    (journey,) = desk.journeys
    assert journey.new_tokens == 0
    assert journey.latency() == (type(journey.latency()))(0.0, 0.0, 0.0)


async def test_nothing_is_learnt_from_it(desk: Desk) -> None:
    async def expected() -> int:
        reading = Reading(desk, desk.call(max_tokens=200))
        await settle()
        lease = desk.submissions[max(desk.submissions)].lease
        reading.task.cancel()
        await settle()
        return lease.completion_tokens

    before = await expected()
    for number in range(2, 22):
        reading = Reading(desk, resumed(desk, 5, max_tokens=200))
        await settle()
        desk.send(SMALL, "c", ending(number, [6], [5, 6]), accepted=[number])
        await reading.task
    assert await expected() == before
    assert all(traffic.requests == 2 for traffic in desk.traffic.totals().values())


async def test_requests_of_one_id_are_told_apart_over_gateways() -> None:
    ids = set()
    for name in ("g1", "g2"):
        desk = Desk()
        desk.engines.gateway = name
        await desk.wake({SMALL: ["c"]})
        reading = Reading(desk, resumed(desk, 5))
        await settle()
        ids |= {each.request.request_id for each in desk.submissions.values()}
        reading.task.cancel()
        desk.close()
    assert len(ids) == 2


# ── refused ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("resume", "error", "says"),
    [
        (Resume(()), BadRequestError, "no token_ids: give those that were delivered"),
        (Resume((5,) * 9), BadRequestError, "9 token_ids, and the completion may have 8: give"),
        (Resume((5,) * 8), BadRequestError, "all the 8 token_ids.*nothing to go on with"),
        (Resume((5,), "x"), BadRequestError, "'x' is none of the model's.*known: large, small"),
        (Resume((5, 6), "", 4), ReplicaLostError, "4 gateways were lost.*max_resumes is 3"),
        (Resume((5, 6), "", 4), ReplicaLostError, "The 2 tokens before are right"),
    ],
)
async def test_what_cannot_be_gone_on_with_is_refused_with_a_way_out(
    desk: Desk, resume: Resume, error: type[JouleserveError], says: str
) -> None:
    with pytest.raises(error, match=says):
        await Reading(desk, desk.call(resume=resume)).task
    assert desk.submissions == {}
    assert desk.dispatcher.tally.rejected == 1


async def test_what_the_context_leaves_bounds_it_too(desk: Desk) -> None:
    with pytest.raises(BadRequestError, match="all the 252 token_ids"):
        await Reading(desk, resumed(desk, *(5,) * 252, max_tokens=None)).task


async def test_a_gateway_may_be_told_not_to_resume() -> None:
    desk = Desk(cluster_config(max_resumes=0))
    await desk.wake({SMALL: ["c"]})
    with pytest.raises(ReplicaLostError, match=r"a gateway was lost.*max_resumes is 0"):
        await Reading(desk, resumed(desk, 5)).task
    desk.close()


# ── who writes ──────────────────────────────────────────────────────────────


async def test_the_first_message_says_who_writes_and_then_only_a_change(desk: Desk) -> None:
    reading = Reading(desk, desk.call(wishes=Wishes(min_quality=0.5)))
    await settle()
    first = desk.submissions[1].lease.replica
    name, other, replica = (LARGE, SMALL, "c") if first == "a" else (SMALL, LARGE, "a")
    desk.send(name, first, tokens(1, 5), accepted=[1])
    await settle()
    desk.send(name, first, tokens(1, 6))
    await settle()
    desk.handles[name].break_connection(first)
    await settle()
    desk.send(other, replica, tokens(2, 7), accepted=[2])
    await settle()
    desk.send(other, replica, ending(2, [8], [5, 6, 7, 8]))
    await reading.task
    deltas = [item for item in reading.items if isinstance(item, EngineDelta)]
    assert deltas[:3] == [delta(5), delta(6), delta(7)]
    messages = [grpc_api.tokens(each).tokens for each in deltas]
    assert [each.variant for each in messages] == [name, "", other, ""]
    assert [each.last for each in messages] == [False, False, False, True]


def test_a_message_says_what_earlier_calls_have_delivered() -> None:
    assert grpc_api.resume(pb.GenerateRequest()) is None
    given = pb.Resume(token_ids=[5, 6], variant="small", attempts=2)
    assert grpc_api.resume(pb.GenerateRequest(resume=given)) == Resume((5, 6), "small", 2)
    # Whoever does not count was called for the second time at least.
    assert grpc_api.resume(pb.GenerateRequest(resume=pb.Resume())) == Resume((), "", 1)
