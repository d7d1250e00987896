"""What is written down is what is read, whoever wrote it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.live.clerk import Clerk
from loadtest.live.exchanges import Failure, Reply, Served
from loadtest.live.ledger import MOST_ERRORS, OTHER_ERRORS, Ledger, merged
from loadtest.run import Ending
from loadtest.scenario import Scenario
from loadtest.schedule import Session, Turn

SCENARIO = Scenario.model_validate(
    {
        "arrivals": {"open": {"rate_per_s": 1}},
        "requests": [{"prompt": {"tokens": 10}, "completion_tokens": 5}],
    }
)
ONE = Session(3, 0, (Turn(10, 5, 0.0, 0),))
INSTANTS = st.lists(st.floats(0.001, 50.0), min_size=1, max_size=30).map(sorted)


def written(ledger: Ledger, due_s: float, why: str = "", variant: str = "") -> None:
    reply = Reply(lambda *_: None, None, keep=False)
    failure = Failure(Ending.FAILED, why) if why else None
    served = Served(prompt_tokens=1, completion_tokens=2, variant=variant)
    Clerk(SCENARIO, ledger).ended(ONE, 0, due_s, reply, due_s + 1, failure, served)


@given(INSTANTS, st.floats(0.0, 5.0))
@settings(max_examples=100)
def test_latencies_are_those_of_the_instants_and_count_from_the_schedule(
    instants: list[float], sent_late_s: float
) -> None:
    ledger = Ledger(1)
    clerk = Clerk(SCENARIO, ledger)
    clerk.start_s = 100.0
    seen: list[Any] = []
    reply = Reply(lambda *given: seen.append(given), clerk.gaps(0), keep=False)
    reply.sent_at_s = 100.0 + sent_late_s
    for at_s in instants:
        reply.tokens(100.0 + sent_late_s + at_s, b"")
    reply.end(reply.last_at_s, None, Served(prompt_tokens=9, completion_tokens=len(instants)))
    _, now_s, failure, served = seen[0]
    clerk.ended(ONE, 0, 0.0, reply, now_s - 100.0, failure, served)
    requests, errors, _ = merged([ledger.close()])
    assert not errors
    assert requests.lateness_s[0] == pytest.approx(sent_late_s)
    assert requests.ttft_s[0] == pytest.approx(sent_late_s + instants[0])
    assert requests.e2e_latency_s[0] == pytest.approx(sent_late_s + instants[-1])
    if len(instants) > 1:
        mean_s = (instants[-1] - instants[0]) / (len(instants) - 1)
        assert requests.tpot_s[0] == pytest.approx(mean_s, abs=1e-9)
        assert requests.longest_gap_s[0] == pytest.approx(max(np.diff(instants)), abs=1e-9)
    else:
        assert math.isnan(requests.longest_gap_s[0])


@given(st.lists(st.floats(1e-6, 100.0), min_size=1, max_size=300))
@settings(max_examples=50)
def test_gaps_are_counted_to_a_half_percent(gaps_s: list[float]) -> None:
    ledger = Ledger(1)
    ledger.gaps[0].extend(gaps_s)
    ledger.condense()
    assert not ledger.gaps[0]
    counted = ledger.close().gaps[0]
    spread = sorted(np.repeat(list(counted), list(counted.values())).tolist())
    assert spread == pytest.approx(sorted(each * 1e6 for each in gaps_s), rel=0.006, abs=0.6)


def test_several_ledgers_become_one_in_the_order_of_the_schedule() -> None:
    one, other = Ledger(1), Ledger(1)
    written(one, 1.0, variant="b")
    written(one, 4.0, "gone")
    written(other, 2.0, "slow")
    written(other, 3.0, "gone", variant="a")
    written(other, 5.0, variant="b")
    requests, errors, variants = merged([one.close(), other.close()])
    assert requests.scheduled_at_s.tolist() == [1, 2, 3, 4, 5]
    told = [errors[each] if each >= 0 else "" for each in requests.error]
    assert told == ["", "slow", "gone", "gone", ""]
    served = [variants[each] if each >= 0 else "" for each in requests.variant]
    assert served == ["b", "", "a", "", "b"]


def test_errors_that_differ_in_figures_are_one_and_their_number_is_bounded() -> None:
    ledger = Ledger(1)
    written(ledger, 0.0, "port 1 refused after 2.5 s")
    written(ledger, 0.0, "port 9 refused after 3 s")
    assert ledger.close().errors == ("port 1 refused after 2.5 s",)
    for letter in range(2 * MOST_ERRORS):
        written(ledger, 0.0, "error " + chr(0x1000 + letter))
    assert len(ledger.close().errors) == MOST_ERRORS + 1
    assert ledger.close().errors[-1] == OTHER_ERRORS


def test_only_the_first_end_of_a_reply_counts() -> None:
    ends: list[object] = []
    reply = Reply(lambda *given: ends.append(given), None, keep=False)
    reply.end(1.0, None)
    reply.end(2.0, Failure(Ending.FAILED, "late"))
    assert len(ends) == 1


def test_an_empty_ledger_gives_empty_columns() -> None:
    requests, errors, variants = merged([Ledger(2).close()])
    assert not requests.scheduled_at_s.size
    assert not errors
    assert not variants
