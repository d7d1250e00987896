"""What requests have met lately is counted within a window, each by its own objectives."""

from __future__ import annotations

import asyncio

import pytest

from scheduler.attainment import STEP_S, WINDOW_S, Met
from scheduler.requests import Objective, ReplicaId, VariantName
from scheduler.routing import Decision
from serve.calls import Call, Journey, Latency, Outcome, Wishes
from serve.engine import EngineFinish
from serve.errors import BadRequestError, DeadlineError, OverloadedError, UnattainableError
from serve.objectives_met import ObjectivesMet
from tests.gateway_fakes import ENERGY

NOW_S = 10_000.0


def journey(
    service_class: str = "standard", ttft_s: float | None = None, tpot_s: float = 0.0
) -> Journey:
    """Give a call of which 1 s and 0.1 s are asked; completed if it has a TTFT."""
    call = Call("r", "m", [1], 8, lambda _: b"", Wishes(), NOW_S)
    made = Journey(call)
    made.service_class = service_class
    made.objective = Objective(ttft_s=1.0, tpot_s=0.1)
    if ttft_s is not None:
        decision = Decision(ReplicaId("a"), VariantName("v"), "energy", "why")
        finish = EngineFinish("length", None, 1, 0, 8, 0)
        latency = Latency(ttft_s, tpot_s, ttft_s + 7 * tpot_s)
        made.outcome = Outcome(
            "r", decision.variant, decision.replica, decision, "why", finish, ENERGY, latency
        )
    return made


def failed(error: BaseException) -> Journey:
    made = journey()
    made.error = error
    return made


def test_each_objective_is_counted_for_itself() -> None:
    met = ObjectivesMet()
    for ttft_s, tpot_s in ((0.5, 0.05), (0.5, 0.2), (2.0, 0.05), (2.0, 0.2)):
        met.ended(journey(ttft_s=ttft_s, tpot_s=tpot_s), NOW_S)
    met.ended(journey("interactive", ttft_s=1.0, tpot_s=0.1), NOW_S)
    assert met.within_window(NOW_S) == {
        "interactive": Met(1, 1, 1, 1),
        "standard": Met(4, 2, 2, 1),
    }


@pytest.mark.parametrize("error", [OverloadedError("full"), DeadlineError("late"), KeyError("bug")])
def test_what_the_service_could_not_do_is_missed(error: Exception) -> None:
    met = ObjectivesMet()
    met.ended(failed(error), NOW_S)
    assert met.within_window(NOW_S) == {"standard": Met(requests=1)}


@pytest.mark.parametrize(
    "error",
    [BadRequestError("no"), UnattainableError("never"), asyncio.CancelledError(), GeneratorExit()],
)
def test_what_was_not_the_services_fault_says_nothing(error: BaseException) -> None:
    met = ObjectivesMet()
    met.ended(failed(error), NOW_S)
    assert met.within_window(NOW_S) == {}


def test_a_request_that_was_refused_before_it_had_a_class_says_nothing() -> None:
    met = ObjectivesMet()
    made = failed(OverloadedError("full"))
    made.service_class = ""
    met.ended(made, NOW_S)
    assert met.within_window(NOW_S) == {}


def test_counts_leave_the_window_after_its_length() -> None:
    met = ObjectivesMet()
    met.ended(journey(ttft_s=0.5), NOW_S)
    met.ended(journey(ttft_s=0.5), NOW_S + WINDOW_S / 2)
    assert met.within_window(NOW_S + WINDOW_S - STEP_S)["standard"].requests == 2
    assert met.within_window(NOW_S + WINDOW_S + STEP_S)["standard"].requests == 1
    assert met.within_window(NOW_S + 2 * WINDOW_S) == {}


def test_a_window_that_nobody_reads_forgets_as_it_goes() -> None:
    met = ObjectivesMet(window_s=2 * STEP_S)
    for step in range(1000):
        met.ended(journey(ttft_s=0.5), NOW_S + step * STEP_S)
    assert met.within_window(NOW_S + 999 * STEP_S)["standard"].requests <= 3
