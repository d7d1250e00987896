"""The request path: refused at the door, streamed, tried elsewhere, ended; nothing left behind."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from scheduler.fleet import ReplicaReport
from scheduler.policies import POLICIES
from scheduler.requests import ReplicaId
from serve import link as link_module
from serve.calls import Call, Outcome, Wishes
from serve.engine import EngineDelta
from serve.errors import (
    BadRequestError,
    DeadlineError,
    EngineFailedError,
    JouleserveError,
    NoReplicaError,
    OverloadedError,
    PromptTooLongError,
    ReplicaLostError,
    UnattainableError,
    UnknownModelError,
)
from serve.resuming import MOST_MISSES
from tests.gateway_fakes import (
    ENERGY,
    LARGE,
    SMALL,
    Desk,
    FakeSubmission,
    cluster_config,
    delta,
    ending,
    failure,
    settle,
    tokens,
)


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(link_module, "RECONNECT_S", (10.0,))
    desk = Desk()
    await desk.wake({LARGE: ["a"]})
    return desk


class Reading:
    """A client that reads one call to its end."""

    def __init__(self, desk: Desk, call: Call | None = None) -> None:
        self.items: list[EngineDelta | Outcome] = []
        self.task = asyncio.create_task(self._read(desk, call or desk.call()))

    async def _read(self, desk: Desk, call: Call) -> None:
        async with aclosing(desk.dispatcher.serve(call)) as items:
            async for item in items:
                self.items.append(item)

    @property
    def token_ids(self) -> list[int]:
        deltas = (item for item in self.items if isinstance(item, EngineDelta))
        return [token for each in deltas for token in each.token_ids]


async def submitted(desk: Desk, number: int = 1) -> FakeSubmission:
    await settle()
    return desk.submissions[number]


def assert_nothing_left(desk: Desk) -> None:
    tally = desk.dispatcher.tally
    assert tally.in_flight == 0
    assert len(desk.engines.leases) == 0


# ── served ──────────────────────────────────────────────────────────────────


async def test_a_call_streams_and_its_outcome_comes_last(desk: Desk) -> None:
    reading = Reading(desk)
    await submitted(desk)
    desk.send(LARGE, "a", tokens(1, 5), accepted=[1])
    await settle()
    desk.clock.now_s += 2.0
    desk.send(LARGE, "a", ending(1, [6, 7], [5, 6, 7]))
    await reading.task
    assert reading.token_ids == [5, 6, 7]
    outcome = reading.items[-1]
    assert isinstance(outcome, Outcome)
    assert (outcome.variant, outcome.replica) == (LARGE, "a")
    assert outcome.energy == ENERGY
    assert outcome.finish.completion_tokens == 3
    assert outcome.latency.ttft_s == 0.0
    assert outcome.latency.tpot_s == 1.0
    assert outcome.latency.e2e_s == 2.0
    assert outcome.decision.reason
    assert desk.dispatcher.tally.completed == 1
    assert_nothing_left(desk)


async def test_the_engine_gets_what_was_admitted(desk: Desk) -> None:
    reading = Reading(desk, desk.call(max_tokens=1000, trace_headers={"traceparent": "t"}))
    submission = await submitted(desk)
    request, lease = submission.request, submission.lease
    assert request.prompt_token_ids == [1, 2, 3, 4]
    assert request.max_tokens == 252  # What the prompt leaves of the context.
    assert request.sampling == b"252"
    assert request.trace_headers == {"traceparent": "t"}
    assert request.request_id.startswith("r")
    assert (lease.replica, lease.request_id, lease.prompt_tokens) == ("a", "r", 4)
    assert lease.expires_at_s > desk.clock.now_s + 600
    reading.task.cancel()


async def test_what_admission_changed_is_told_with_the_reason(desk: Desk) -> None:
    for max_tokens, told in ((8, False), (1000, True)):
        reading = Reading(desk, desk.call(max_tokens=max_tokens))
        await settle()
        number = max(desk.submissions)
        desk.send(LARGE, "a", ending(number, [5], [5]), accepted=[number])
        await reading.task
        outcome = reading.items[-1]
        assert isinstance(outcome, Outcome)
        assert outcome.reason.startswith(outcome.decision.reason)
        assert ("max_tokens lowered from 1000 to 252" in outcome.reason) == told


async def test_two_calls_of_one_id_are_told_apart(desk: Desk) -> None:
    readings = [Reading(desk), Reading(desk)]
    await settle()
    ids = {submission.request.request_id for submission in desk.submissions.values()}
    assert len(ids) == 2
    for reading in readings:
        reading.task.cancel()


async def test_a_variant_may_be_demanded(desk: Desk) -> None:
    await desk.wake({SMALL: ["b"]})
    reading = Reading(desk, desk.call(wishes=Wishes(variant=SMALL)))
    submission = await submitted(desk)
    assert submission.lease.replica == "b"
    reading.task.cancel()


async def test_candidates_come_when_asked_to_explain(desk: Desk) -> None:
    await desk.wake({SMALL: ["b"]})
    for explain in (False, True):
        reading = Reading(desk, desk.call(wishes=Wishes(variant=LARGE, explain=explain)))
        await settle()
        number = max(desk.submissions)
        desk.send(LARGE, "a", ending(number, [5], [5]), accepted=[number])
        await reading.task
        outcome = reading.items[-1]
        assert isinstance(outcome, Outcome)
        candidates = outcome.decision.candidates
        assert [each.replica for each in candidates] == (["a", "b"] if explain else [])
        assert all(each.excluded for each in candidates[1:])


async def test_the_observer_is_told_once_of_every_end(desk: Desk) -> None:
    whole = Reading(desk, desk.call(wishes=Wishes(service_class="batch")))
    await submitted(desk)
    desk.send(LARGE, "a", ending(1, [5], [5]), accepted=[1])
    await whole.task
    with pytest.raises(UnknownModelError):
        await Reading(desk, desk.call(model="x")).task
    completed, refused = desk.journeys
    assert completed.service_class == "batch"
    assert completed.outcome is not None
    assert completed.error is None
    assert refused.decision is None
    assert isinstance(refused.error, UnknownModelError)


# ── refused ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"model": "x"}, UnknownModelError, "served: m"),
        ({"prompt_token_ids": []}, BadRequestError, "empty"),
        ({"prompt_token_ids": [1] * 256}, PromptTooLongError, "shorten the prompt to 255"),
        ({"max_tokens": 0}, BadRequestError, "at least 1"),
        ({"max_tokens": -3}, BadRequestError, "max_tokens is -3"),
        ({"wishes": Wishes(service_class="x")}, BadRequestError, "known: batch, interactive"),
        ({"wishes": Wishes(variant="x")}, BadRequestError, "known: large, small"),
        (
            {"wishes": Wishes(min_quality=1.0, variant=SMALL)},
            UnattainableError,
            "ask for 0.9 or less",
        ),
    ],
)
async def test_what_nobody_could_serve_is_refused_with_a_way_out(
    desk: Desk, changes: dict[str, Any], error: type[JouleserveError], says: str
) -> None:
    with pytest.raises(error, match=says):
        await Reading(desk, desk.call(**changes)).task
    assert desk.submissions == {}
    assert desk.dispatcher.tally.rejected == 1
    assert desk.dispatcher.tally.accepted == 0


async def test_without_an_awake_replica_it_says_so(desk: Desk) -> None:
    with pytest.raises(NoReplicaError, match="no replica of small is awake"):
        await Reading(desk, desk.call(wishes=Wishes(variant=SMALL))).task
    assert desk.dispatcher.tally.rejected == 1


async def test_full_replicas_take_no_more() -> None:
    desk = Desk(cluster_config(max_waiting=0))
    await desk.wake({LARGE: ["a"]})
    desk.send(LARGE, "a", report=ReplicaReport(0.0, running_requests=8))
    await settle()
    with pytest.raises(OverloadedError, match="try again later"):
        await Reading(desk).task
    assert desk.dispatcher.tally.rejected == 1
    desk.close()


async def test_a_full_gateway_takes_no_more() -> None:
    desk = Desk(cluster_config(max_concurrent_requests=1))
    await desk.wake({LARGE: ["a"]})
    first = Reading(desk)
    await submitted(desk)
    with pytest.raises(OverloadedError, match="carries 1 requests"):
        await Reading(desk).task
    first.task.cancel()
    await settle()
    assert_nothing_left(desk)
    desk.close()


# ── tried elsewhere ─────────────────────────────────────────────────────────


async def test_before_the_first_token_another_replica_is_tried(desk: Desk) -> None:
    reading = Reading(desk)
    await submitted(desk)
    await desk.wake({SMALL: ["b"]})
    desk.handles[LARGE].break_connection(ReplicaId("a"))
    second = await submitted(desk, 2)
    assert second.lease.replica == "b"
    assert desk.submissions[1].cancelled
    desk.send(SMALL, "b", ending(2, [5], [5]), accepted=[2])
    await reading.task
    assert reading.token_ids == [5]
    assert desk.dispatcher.tally.accepted == desk.dispatcher.tally.completed == 1
    assert_nothing_left(desk)


async def test_after_the_first_token_another_replica_goes_on(desk: Desk) -> None:
    await desk.wake({LARGE: ["a", "b"], SMALL: ["c"]})
    desk.send(LARGE, "b", report=ReplicaReport(0.0, running_requests=3))
    reading = Reading(desk)
    await submitted(desk)
    desk.send(LARGE, "a", tokens(1, 5, 6), accepted=[1])
    await settle()
    desk.handles[LARGE].break_connection(ReplicaId("a"))
    second = await submitted(desk, 2)
    assert second.lease.replica == "b"  # Of the same variant, though another idles.
    assert second.request.prompt_token_ids == [1, 2, 3, 4]
    assert second.request.replayed_token_ids == [5, 6]
    assert second.request.max_tokens == 8
    assert second.lease.prompt_tokens == 6
    desk.send(LARGE, "a", tokens(1, 9))  # Too late: nobody reads it any more.
    desk.send(LARGE, "b", ending(2, [7], [5, 6, 7]), accepted=[2])
    await reading.task
    assert reading.token_ids == [5, 6, 7]
    outcome = reading.items[-1]
    assert isinstance(outcome, Outcome)
    assert (outcome.replica, outcome.resumes, outcome.replayed_tokens) == ("b", 1, 6)
    assert "a replica was lost under it; 6 tokens were computed again" in outcome.reason
    assert desk.dispatcher.tally.accepted == desk.dispatcher.tally.completed == 1
    assert_nothing_left(desk)


async def test_without_its_variant_it_goes_on_with_one_that_keeps_the_floor(desk: Desk) -> None:
    await desk.wake({SMALL: ["b"]})
    for min_quality, replica in ((0.5, "b"), (1.0, None)):
        await desk.wake({LARGE: [f"a-{min_quality}"]})
        wishes = Wishes(min_quality=min_quality)
        desk.send(SMALL, "b", report=ReplicaReport(0.0, running_requests=1))
        reading = Reading(desk, desk.call(wishes=wishes))
        await settle()
        number = max(desk.submissions)
        assert desk.submissions[number].lease.replica == f"a-{min_quality}"
        desk.send(LARGE, f"a-{min_quality}", tokens(number, 5), accepted=[number])
        await settle()
        desk.handles[LARGE].break_connection(ReplicaId(f"a-{min_quality}"))
        await settle()
        if replica is None:
            with pytest.raises(NoReplicaError, match="no replica of large is awake"):
                await reading.task
        else:
            desk.send(SMALL, "b", ending(number + 1, [6], [5, 6]), accepted=[number + 1])
            await reading.task
            outcome = reading.items[-1]
            assert isinstance(outcome, Outcome)
            assert outcome.variant == SMALL
        assert_nothing_left(desk)


async def test_a_dead_engine_gets_no_more_requests(desk: Desk) -> None:
    await desk.wake({LARGE: ["a", "b"]})
    desk.send(LARGE, "b", report=ReplicaReport(0.0, running_requests=3))
    reading = Reading(desk)
    await submitted(desk)
    desk.send(LARGE, "a", tokens(1, 5), accepted=[1])
    desk.send(LARGE, "a", failure(1, "EngineDeadError", "it has died"))
    second = await submitted(desk, 2)
    assert second.lease.replica == "b"
    desk.membership.publish(LARGE, {"a": "node", "b": "node"})  # Ray has not noticed yet.
    await settle()
    other = Reading(desk)
    assert (await submitted(desk, 3)).lease.replica == "b"
    for each in (reading, other):
        each.task.cancel()
    desk.membership.publish(LARGE, {"b": "node"})
    await settle()
    await desk.wake({LARGE: ["a", "b"]})
    assert {each.replica for each in desk.engines.fleet().replicas if not each.draining} == {
        "a",
        "b",
    }


async def test_a_call_that_lost_too_many_replicas_says_what_has_come() -> None:
    desk = Desk(cluster_config(max_resumes=1))
    await desk.wake({LARGE: ["a", "b", "c"]})
    reading = Reading(desk)
    for number in (1, 2):
        submission = await submitted(desk, number)
        replica = submission.lease.replica
        desk.send(LARGE, replica, tokens(number, number), accepted=[number])
        await settle()
        desk.handles[LARGE].break_connection(replica)
    with pytest.raises(ReplicaLostError, match=r"2 replicas were lost under.*The 2 tokens before"):
        await reading.task
    assert reading.token_ids == [1, 2]
    assert desk.dispatcher.tally.failed == 1
    assert_nothing_left(desk)
    desk.close()


# ── held ────────────────────────────────────────────────────────────────────


async def test_a_call_waits_for_the_replica_that_wakes() -> None:
    desk = Desk(cluster_config(hold_timeout_s=60.0))
    reading = Reading(desk)
    await settle()
    assert desk.submissions == {}
    await desk.wake({LARGE: ["a"]})
    await submitted(desk)
    desk.send(LARGE, "a", ending(1, [5], [5]), accepted=[1])
    await reading.task
    assert desk.dispatcher.tally.completed == 1
    assert_nothing_left(desk)
    desk.close()


async def test_a_call_waits_no_longer_than_it_may() -> None:
    desk = Desk(cluster_config(hold_timeout_s=0.05))
    with pytest.raises(NoReplicaError, match=r"none came within 0\.05 s"):
        await Reading(desk).task
    assert desk.dispatcher.tally.rejected == 1
    late = Desk(cluster_config(hold_timeout_s=60.0, request_timeout_s=0.05))
    with pytest.raises(DeadlineError):
        await Reading(late).task
    for each in (desk, late):
        each.close()


async def test_a_call_that_finds_all_full_waits_if_a_replica_is_coming() -> None:
    desk = Desk(cluster_config(max_waiting=0, hold_timeout_s=60.0))
    await desk.wake({LARGE: ["a"]})
    desk.send(LARGE, "a", report=ReplicaReport(0.0, running_requests=1000))
    await settle()
    with pytest.raises(OverloadedError):
        await Reading(desk).task
    desk.engines.coming = frozenset({SMALL})
    reading = Reading(desk)
    await settle()
    assert not reading.task.done()
    await desk.wake({SMALL: ["b"]})
    await submitted(desk)
    desk.send(SMALL, "b", ending(1, [5], [5]), accepted=[1])
    await reading.task
    desk.close()


async def test_no_more_calls_wait_than_may() -> None:
    desk = Desk(cluster_config(hold_timeout_s=60.0, max_held_requests=1))
    waiting = Reading(desk)
    await settle()
    with pytest.raises(OverloadedError, match="1 requests wait already"):
        await Reading(desk).task
    waiting.task.cancel()
    await settle()
    await desk.wake({LARGE: ["a"]})
    assert desk.submissions == {}
    desk.close()


async def test_a_call_that_has_begun_waits_for_its_replica_to_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "RECONNECT_S", (0.0,))
    desk = Desk(cluster_config(hold_timeout_s=60.0))
    await desk.wake({LARGE: ["a"]})
    reading = Reading(desk)
    await submitted(desk)
    desk.send(LARGE, "a", tokens(1, 5), accepted=[1])
    await settle()
    desk.handles[LARGE].break_connection(ReplicaId("a"))
    await settle()
    desk.send(LARGE, "a", report=ReplicaReport(0.0))
    second = await submitted(desk, 2)
    assert second.request.replayed_token_ids == [5]
    desk.send(LARGE, "a", ending(2, [6], [5, 6]), accepted=[2])
    await reading.task
    assert reading.token_ids == [5, 6]
    assert_nothing_left(desk)
    desk.close()


async def test_when_no_other_is_left_it_says_so(desk: Desk) -> None:
    reading = Reading(desk)
    await submitted(desk)
    desk.handles[LARGE].break_connection(ReplicaId("a"))
    with pytest.raises(NoReplicaError):
        await reading.task
    assert desk.dispatcher.tally.failed == 1
    assert_nothing_left(desk)


async def test_it_gives_up_after_a_few_losses(desk: Desk) -> None:
    await desk.wake({LARGE: ["a", "b", "c", "d", "e"]})
    reading = Reading(desk)
    for number in range(1, 6):
        await settle()
        if number in desk.submissions:
            replica = desk.submissions[number].lease.replica
            desk.send(LARGE, replica, accepted=[number])
            await settle()
            desk.submissions[number].fail(RuntimeError("out of reach"))
    with pytest.raises(ReplicaLostError, match="RuntimeError"):
        await reading.task
    assert 1 < len(desk.submissions) < 5
    assert_nothing_left(desk)


async def test_replicas_that_were_gone_already_do_not_count_but_have_a_bound(desk: Desk) -> None:
    await desk.wake({LARGE: [f"r{number}" for number in range(30)]})
    reading = Reading(desk)
    for number in range(1, 30):
        await settle()
        if number in desk.submissions:
            desk.submissions[number].fail(RuntimeError("out of reach"))
    with pytest.raises(ReplicaLostError, match="RuntimeError"):
        await reading.task
    assert len(desk.submissions) == MOST_MISSES + 1
    assert_nothing_left(desk)


async def test_a_second_attempt_goes_to_another_replica_even_if_the_first_looks_better(
    desk: Desk,
) -> None:
    await desk.wake({LARGE: ["a", "b"]})
    desk.send(LARGE, "b", report=ReplicaReport(0.0, running_requests=3))
    reading = Reading(desk)
    first = await submitted(desk)
    assert first.lease.replica == "a"
    first.fail(RuntimeError("out of reach"))  # Its link has not noticed yet.
    second = await submitted(desk, 2)
    reading.task.cancel()
    assert second.lease.replica == "b"


# ── ended ───────────────────────────────────────────────────────────────────


async def test_a_client_that_stops_reading_cancels(desk: Desk) -> None:
    serving = desk.dispatcher.serve(desk.call())
    first = asyncio.ensure_future(anext(serving))
    await submitted(desk)
    desk.send(LARGE, "a", tokens(1, 5), accepted=[1])
    assert await first == delta(5)
    await serving.aclose()
    assert desk.submissions[1].cancelled
    assert desk.dispatcher.tally.cancelled == 1
    assert_nothing_left(desk)


async def test_a_client_that_goes_while_it_waits_cancels(desk: Desk) -> None:
    reading = Reading(desk)
    await submitted(desk)
    reading.task.cancel()
    await asyncio.wait([reading.task])
    assert desk.submissions[1].cancelled
    assert desk.dispatcher.tally.cancelled == 1
    assert isinstance(desk.journeys[0].error, asyncio.CancelledError)
    assert_nothing_left(desk)


async def test_a_call_that_is_closed_before_it_began_leaves_no_trace(desk: Desk) -> None:
    await desk.dispatcher.serve(desk.call()).aclose()
    assert desk.dispatcher.tally.accepted == 0
    assert desk.submissions == {}


async def test_a_call_ends_at_the_deadline_with_the_tokens_that_came() -> None:
    desk = Desk(cluster_config(request_timeout_s=0.05))
    await desk.wake({LARGE: ["a"]})
    reading = Reading(desk)
    await submitted(desk)
    desk.send(LARGE, "a", tokens(1, 5), accepted=[1])
    with pytest.raises(DeadlineError, match=r"took longer than 0\.05 s"):
        await reading.task
    assert reading.token_ids == [5]
    assert desk.submissions[1].cancelled
    assert desk.dispatcher.tally.failed == 1
    assert_nothing_left(desk)
    desk.close()


async def test_an_engines_error_ends_the_call_and_is_not_tried_again(desk: Desk) -> None:
    await desk.wake({SMALL: ["b"]})
    reading = Reading(desk, desk.call(wishes=Wishes(variant=LARGE)))
    await submitted(desk)
    desk.send(LARGE, "a", failure(1, "EngineRejectedError", "bad pattern"), accepted=[1])
    with pytest.raises(BadRequestError, match="bad pattern"):
        await reading.task
    assert list(desk.submissions) == [1]
    assert desk.dispatcher.tally.failed == 1
    assert_nothing_left(desk)


@pytest.mark.parametrize("whole", [[5, 6, 7], [6, 5], [5]])
async def test_tokens_that_are_not_the_engines_fail_the_call(desk: Desk, whole: list[int]) -> None:
    reading = Reading(desk)
    await submitted(desk)
    desk.send(LARGE, "a", tokens(1, 5), accepted=[1])
    desk.send(LARGE, "a", ending(1, [6], whole))
    with pytest.raises(EngineFailedError, match="2 tokens arrived that are not"):
        await reading.task
    assert desk.dispatcher.tally.failed == 1
    assert_nothing_left(desk)


async def test_an_ending_without_energy_fails_the_call(desk: Desk) -> None:
    reading = Reading(desk)
    await submitted(desk)
    desk.send(LARGE, "a", ending(1, [5], [5])._replace(energy=None), accepted=[1])
    with pytest.raises(EngineFailedError):
        await reading.task
    assert_nothing_left(desk)


# ── policies ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("policy", sorted(POLICIES))
async def test_every_policy_serves_and_says_why(policy: str) -> None:
    desk = Desk(policy=policy)
    await desk.wake({LARGE: ["a", "b"], SMALL: ["c"]})
    readings = [Reading(desk, desk.call(wishes=Wishes(explain=True))) for _ in range(12)]
    await settle()
    chosen = {number: each.lease.replica for number, each in desk.submissions.items()}
    assert len(chosen) == 12
    for number, replica in chosen.items():
        name = SMALL if replica == "c" else LARGE
        desk.send(name, replica, ending(number, [5], [5]), accepted=[number])
    await asyncio.gather(*(reading.task for reading in readings))
    for reading in readings:
        outcome = reading.items[-1]
        assert isinstance(outcome, Outcome)
        assert outcome.decision.policy == policy
        assert outcome.decision.reason
        assert {each.replica for each in outcome.decision.candidates} == {"a", "b", "c"}
    assert_nothing_left(desk)
    desk.close()
