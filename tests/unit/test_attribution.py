"""Shares of energy in cases that a reader can add up by hand."""

from __future__ import annotations

import pytest

from cluster.meters import NJ
from scheduler.steps import AffineSteps
from serve.attribution import Ledger
from serve.engine import EngineStep

# A decode step is 4 J and 1 J a sequence; a prompt token is 0.5 J; no time passes.
STEPS = AffineSteps(0.1, 0.0, 4.0, 1.0, 0.001, 0.5)


def ledger() -> Ledger:
    return Ledger(STEPS, 0.0, "model", "cpu")


def step(prefill: int = 0, sequences: int = 0) -> EngineStep:
    return EngineStep(0.1, prefill, sequences, sequences, sequences, 0, 0.0)


def test_a_request_alone_gets_everything() -> None:
    books = ledger()
    books.admit("a", 10)
    books.step(step(prefill=10), 0.0)
    books.first_token("a")
    books.step(step(sequences=1), 0.0)
    books.step(step(sequences=1), 0.0)
    energy = books.settle("a", 0, 3)
    assert energy[:5] == (5.0, 10.0, "model", "cpu", 1.0)
    assert books.parts().settled_nj == books.parts().energy_nj == 15 * NJ


def test_a_step_is_shared_by_those_that_decode_in_it() -> None:
    books = ledger()
    for name in "ab":
        books.admit(name, 10)
    books.step(step(prefill=10), 0.0)
    books.first_token("a")
    books.step(step(prefill=10, sequences=1), 0.0)  # 5 J of decoding, all a's.
    books.first_token("b")
    books.step(step(sequences=2), 0.0)  # 6 J of decoding, 3 J each.
    assert books.settle("a", 0, 3)[:2] == (5.0, 8.0)
    books.step(step(sequences=1), 0.0)
    assert books.settle("b", 0, 3)[:2] == (5.0, 8.0)
    assert books.parts().unfinished_nj == 0


def test_a_prefix_hit_is_credited_to_the_request_that_had_it() -> None:
    books = ledger()
    for name in "ab":
        books.admit(name, 100)
    books.step(step(prefill=110), 0.0)
    for name in "ab":
        books.first_token(name)
    assert books.settle("a", 90, 1).prefill_j == pytest.approx(5.0)
    assert books.settle("b", 0, 1).prefill_j == pytest.approx(50.0)


def test_an_aborted_request_keeps_its_energy_on_the_books() -> None:
    books = ledger()
    books.admit("a", 10)
    books.step(step(prefill=10), 0.0)
    books.first_token("a")
    books.step(step(sequences=1), 0.0)
    books.drop("a")
    books.drop("a")
    assert books.parts().dropped_nj == books.parts().energy_nj == 10 * NJ


def test_a_request_dropped_before_its_prefill_takes_nothing_from_others() -> None:
    books = ledger()
    books.admit("a", 10)
    books.admit("b", 10)
    books.step(step(prefill=10), 0.0)
    books.first_token("a")
    books.drop("b")
    assert books.parts().dropped_nj == 0
    assert books.settle("a", 0, 1).prefill_j == 5.0


def test_prompts_computed_twice_after_preemption_are_nobodys() -> None:
    books = ledger()
    books.admit("a", 10)
    books.step(step(prefill=10), 0.0)
    books.first_token("a")
    books.step(step(prefill=10), 0.0)
    assert books.settle("a", 0, 5).prefill_j == 5.0
    books.advance(0.0)
    assert books.parts().unattributed_nj == 5 * NJ


def test_steps_of_nobody_are_unattributed() -> None:
    books = ledger()
    books.step(step(prefill=4, sequences=1), 0.0)
    books.advance(0.0)
    assert books.parts().unattributed_nj == books.parts().energy_nj == 7 * NJ


def test_without_first_tokens_those_that_are_open_share() -> None:
    books = ledger()
    for name in "ab":
        books.admit(name, 10)
    books.step(step(prefill=20, sequences=2), 0.0)
    assert books.settle("a", 0, 1)[:2] == (5.0, 3.0)
    assert books.settle("b", 0, 1)[:2] == (5.0, 3.0)


def test_context_grows_with_what_is_decoded() -> None:
    books = Ledger(AffineSteps(0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0), 0.0, "model", "gpu")
    books.admit("a", 100)
    books.first_token("a")
    books.step(step(sequences=1), 0.0)
    books.admit("b", 1000)
    books.first_token("b")
    books.step(step(sequences=2), 0.0)
    assert books.energy_j == 100 + (101 + 1000)
    books.settle("b", 0, 1)
    books.step(step(sequences=1), 0.0)
    assert books.energy_j == 100 + (101 + 1000) + 102


def test_idle_time_is_counted_apart() -> None:
    books = Ledger(STEPS, 2.0, "model", "cpu")
    books.advance(0.0)
    books.advance(10.0)
    assert books.idle_j == books.energy_j == 20.0
    assert books.power_w == pytest.approx(2.0)


def test_at_rest_everything_is_idle_or_on_an_account_at_once() -> None:
    books = Ledger(STEPS, 2.0, "model", "cpu", window_s=1.0)
    books.advance(0.0)
    books.admit("a", 10)
    books.step(step(prefill=10), 0.1)
    books.first_token("a")
    books.settle("a", 0, 1)
    books.advance(0.6)
    assert books.idle_j == 0.0  # The window, in which a step was, is open.
    for now_s in (1.2, 1.5, 2.0):
        books.advance(now_s)
        assert books.energy_j == pytest.approx(5.0 + books.idle_j)
        assert books.parts().residual_nj == 0


def test_misuse_is_refused() -> None:
    books = ledger()
    books.admit("a", 10)
    with pytest.raises(ValueError, match="'a'"):
        books.admit("a", 10)
    with pytest.raises(KeyError):
        books.settle("b", 0, 0)
    books.first_token("b")
