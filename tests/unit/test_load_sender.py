"""A sender against a target without a network: who is sent when, and what becomes of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from loadtest.live.exchanges import Failure, Served
from loadtest.live.ledger import Ledger, merged
from loadtest.live.sender import FULL, Limits, Sender, Share
from loadtest.run import Ending, Requests
from loadtest.scenario import Scenario
from loadtest.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadtest.live.exchanges import Reply
    from loadtest.schedule import Session

WHOLE = Share(0, 1)
LIMITS = Limits(max_in_flight=1000, deadline_s=5.0, drain_s=2.0, give_up_after_s=0.1)


class Asked:
    """Implements `sender.Bodies`: a body says whose turn it is, and what it carries."""

    def __init__(self) -> None:
        self.carried: dict[bytes, tuple[bytes | str, ...]] = {}

    def body(self, session: Session, turn: int, answers: Sequence[bytes | str]) -> bytes:
        name = b"%d/%d" % (session.number, turn)
        self.carried[name] = tuple(answers)
        return name


class FakeTarget:
    """Implements `exchanges.Target`: answers after a time, or as it is told."""

    def __init__(
        self, answer_s: float = 0.02, fails: Callable[[int], Failure | None] | None = None
    ) -> None:
        self.bodies: list[bytes] = []
        self.highest = 0
        self.cancelled = 0
        self._answer_s = answer_s
        self._fails = fails or (lambda _: None)
        self._in_flight = 0

    def send(self, body: bytes, kind: int, deadline_s: float, reply: Reply) -> Any:
        self.bodies.append(body)
        self._in_flight += 1
        self.highest = max(self.highest, self._in_flight)
        reply.sent_at_s = time.monotonic()
        failure = self._fails(len(self.bodies))
        loop = asyncio.get_running_loop()
        return Cancel(self, loop.call_later(self._answer_s, self._answer, reply, failure))

    def _answer(self, reply: Reply, failure: Failure | None) -> None:
        self._in_flight -= 1
        now_s = time.monotonic()
        if failure is None:
            reply.tokens(now_s, b"said")
        reply.end(now_s, failure, Served(prompt_tokens=7, completion_tokens=1))

    def answer(self, reply: Reply) -> bytes | str:
        return b"".join(reply.raw or ())

    async def close(self) -> None:
        """Have nothing to close."""


class Cancel:
    def __init__(self, target: FakeTarget, handle: asyncio.TimerHandle) -> None:
        self._target = target
        self._handle = handle

    def cancel(self) -> None:
        self._target.cancelled += 1
        self._handle.cancel()


def scenario_of(arrivals: dict[str, Any], duration_s: float = 1.0, **kind: Any) -> Scenario:
    plain = {"prompt": {"tokens": 10}, "completion_tokens": 5}
    return Scenario.model_validate(
        {"arrivals": arrivals, "duration_s": duration_s, "requests": [plain | kind]}
    )


def constant(rate_per_s: float) -> dict[str, Any]:
    return {"open": {"process": "constant", "rate_per_s": rate_per_s}}


async def sent(
    scenario: Scenario,
    target: FakeTarget,
    limits: Limits = LIMITS,
    bodies: Asked | None = None,
    share: Share = WHOLE,
) -> tuple[Requests, tuple[str, ...], Sender]:
    ledger = Ledger(1)
    schedule = Schedule(scenario, seed=4)
    sender = Sender(scenario, schedule, share, target, bodies or Asked(), ledger, limits)
    await sender.run(time.monotonic() + 0.02)
    requests, errors, _ = merged([ledger.close()])
    return requests, errors, sender


async def test_an_open_loop_sends_its_schedule_however_slow_the_replies_are() -> None:
    scenario = scenario_of(constant(100))
    schedule = Schedule(scenario, seed=4).begin_s
    for answer_s in (0.001, 1.5):
        requests, _, sender = await sent(scenario, FakeTarget(answer_s))
        assert requests.scheduled_at_s.tolist() == pytest.approx(schedule.tolist())
        assert (requests.ending == Ending.COMPLETED).all()
        assert (requests.lateness_s >= -1e-3).all()
        assert (requests.e2e_latency_s >= answer_s - 1e-2).all()
        assert not sender.trouble


async def test_shares_of_a_schedule_are_the_schedule() -> None:
    scenario = scenario_of(constant(50))
    whole = Schedule(scenario, seed=4).begin_s
    parts = [
        (await sent(scenario, FakeTarget(0.001), share=Share(index, 3)))[0] for index in range(3)
    ]
    at_s = np.concatenate([part.scheduled_at_s for part in parts])
    assert sorted(at_s.tolist()) == pytest.approx(whole.tolist())


async def test_a_closed_loop_never_exceeds_its_users_and_nobody_idles() -> None:
    target = FakeTarget(0.01)
    requests, _, _ = await sent(scenario_of({"closed": {"users": 5}}), target)
    assert target.highest == 5
    assert len(requests.ending) > 5
    begun = np.stack([requests.scheduled_at_s, requests.ended_at_s])
    events = sorted([(at_s, 1) for at_s in begun[0]] + [(at_s, -1) for at_s in begun[1]])
    assert max(np.cumsum([step for _, step in events])) <= 5


async def test_turns_keep_their_order_and_carry_what_was_answered() -> None:
    bodies = Asked()
    scenario = scenario_of(constant(20), turns=3, think_time_s=0.05)
    target = FakeTarget(0.01)
    requests, _, _ = await sent(scenario, target, bodies=bodies)
    for number in range(5):
        turns = requests.select(requests.session == number)
        assert turns.turn.tolist() == [0, 1, 2]
        assert (turns.scheduled_at_s[1:] - turns.ended_at_s[:-1] >= 0.05 - 1e-9).all()
        for turn in range(3):
            assert bodies.carried[b"%d/%d" % (number, turn)] == (b"said",) * turn


async def test_a_turn_that_failed_ends_its_session() -> None:
    failure = Failure(Ending.SHED, "full")
    target = FakeTarget(0.01, lambda number: failure if number == 1 else None)
    requests, errors, _ = await sent(scenario_of(constant(10), turns=2), target)
    assert errors == ("full",)
    assert (requests.session == 0).sum() == 1
    assert requests.ending[requests.session == 0].tolist() == [Ending.SHED]
    assert (requests.session == 1).sum() == 2


async def test_what_does_not_fit_is_written_down_as_unsent_at_its_time() -> None:
    target = FakeTarget(10.0)
    scenario = scenario_of(constant(50))
    limits = Limits(max_in_flight=10, deadline_s=5.0, drain_s=0.2, give_up_after_s=9.0)
    requests, errors, sender = await sent(scenario, target, limits)
    assert len(requests.ending) == 50
    endings = Counter(requests.ending.tolist())
    assert endings == {Ending.CUT_OFF: 10, Ending.UNSENT: 40}
    assert errors == (FULL,)
    assert np.isnan(requests.sent_at_s[requests.ending == Ending.UNSENT]).all()
    assert target.cancelled == 10
    assert sender.progress.unsent == 40
    assert sender.progress.in_flight == 0


async def test_a_target_that_is_gone_is_given_up_and_the_rest_is_unsent() -> None:
    gone = Failure(Ending.FAILED, "connection refused", gone=True)
    target = FakeTarget(0.001, lambda number: gone if number > 10 else None)
    requests, errors, sender = await sent(scenario_of(constant(100), duration_s=30.0), target)
    assert "gone since" in sender.trouble
    assert "connection refused" in sender.trouble
    assert errors == ("connection refused",)
    endings = Counter(requests.ending.tolist())
    assert endings[Ending.COMPLETED] == 10
    assert sum(endings.values()) == 3000
    assert endings[Ending.UNSENT] > 1000


async def test_a_target_that_comes_back_in_time_is_not_given_up() -> None:
    gone = Failure(Ending.FAILED, "connection refused", gone=True)
    target = FakeTarget(0.001, lambda number: gone if 10 < number <= 30 else None)
    limits = Limits(max_in_flight=1000, deadline_s=5.0, drain_s=2.0, give_up_after_s=60.0)
    requests, _, sender = await sent(scenario_of(constant(100)), target, limits)
    assert not sender.trouble
    assert (requests.ending == Ending.COMPLETED).sum() == 80


async def test_a_target_that_refuses_for_good_is_given_up_at_once() -> None:
    refusal = Failure(Ending.FAILED, "wrong key", hopeless=True)
    target = FakeTarget(0.001, lambda _: refusal)
    requests, _, sender = await sent(scenario_of(constant(100), duration_s=30.0), target)
    assert sender.trouble == "the target refuses: wrong key"
    assert (requests.ending == Ending.FAILED).sum() < 1000


async def test_refusals_for_want_of_room_are_no_reason_to_give_up() -> None:
    full = Failure(Ending.SHED, "full")
    requests, _, sender = await sent(scenario_of(constant(100)), FakeTarget(0.001, lambda _: full))
    assert not sender.trouble
    assert (requests.ending == Ending.SHED).all()


async def test_a_user_who_was_refused_does_not_hammer() -> None:
    full = Failure(Ending.SHED, "full")
    target = FakeTarget(0.001, lambda _: full)
    await sent(scenario_of({"closed": {"users": 3}}), target)
    assert len(target.bodies) <= 6


async def test_who_stops_it_gets_what_there_is() -> None:
    scenario = scenario_of(constant(100), duration_s=60.0)
    ledger = Ledger(1)
    schedule = Schedule(scenario, seed=4)
    enough = asyncio.Event()
    target = FakeTarget(fails=lambda number: enough.set() if number > 20 else None)
    sender = Sender(scenario, schedule, WHOLE, target, Asked(), ledger, LIMITS)
    running = asyncio.create_task(sender.run(time.monotonic()))
    await enough.wait()
    sender.stop("interrupted")
    await asyncio.wait_for(running, 30)
    requests, _, _ = merged([ledger.close()])
    assert sender.trouble == "interrupted"
    assert len(requests.ending) == 6000
    assert np.isin(requests.ending[:20], [Ending.COMPLETED, Ending.CUT_OFF]).all()
