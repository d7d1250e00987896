"""Every joule is somebody's, to the nanojoule, whatever is asked and whatever a counter does.

settled + dropped + unfinished + unattributed + idle + pending = what was counted, or modelled.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cluster.counting_meter import CountersMeter
from cluster.meters import NJ, nanojoules
from cluster.recorded_counter import Recorded, RecordedCounter
from scheduler.steps import AffineSteps
from serve.attribution import Ledger
from serve.engine import EngineStep
from serve.shares import EqualShares

STEPS = AffineSteps(0.03, 0.003, 0.25, 0.03, 0.0015, 0.015, 1e-6, 2e-5, 12.0)
MOST_W = 1000.0
ids = st.sampled_from(list("abcdef"))


class Books(RuleBasedStateMachine):
    """Drives a ledger with any order of calls, sensible or not."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = self.books()
        self.open: dict[str, int] = {}
        self.told = (0.0, 0.0)
        self.now_s = 0.0
        self.ledger.advance(self.now_s)

    def books(self) -> Ledger:
        return Ledger(STEPS, 3.0, "model", "cpu")

    def passes(self, passed_s: float) -> None:
        self.now_s += passed_s

    @rule(request=ids, prompt=st.integers(1, 4000))
    def admit(self, request: str, prompt: int) -> None:
        if request not in self.open:
            self.ledger.admit(request, prompt, self.now_s)
            self.open[request] = prompt

    @rule(request=ids)
    def first_token(self, request: str) -> None:
        self.ledger.first_token(request)

    @rule(
        passed_s=st.floats(0, 3),
        prefill=st.integers(0, 3000),
        sequences=st.integers(0, 8),
    )
    def step(self, passed_s: float, prefill: int, sequences: int) -> None:
        self.passes(passed_s)
        self.ledger.step(
            EngineStep(passed_s, prefill, sequences, sequences, sequences, 0, 0.1), self.now_s
        )

    @rule(passed_s=st.floats(0, 30))
    def idle(self, passed_s: float) -> None:
        self.passes(passed_s)
        self.ledger.advance(self.now_s)

    @rule(request=ids, share=st.floats(0, 1), completion=st.integers(0, 100))
    def settle(self, request: str, share: float, completion: int) -> None:
        if request in self.open:
            cached = int(share * self.open.pop(request))
            before_nj = self.ledger.parts().settled_nj
            energy = self.ledger.settle(request, cached, completion, self.now_s)
            assert energy.prefill_j >= 0
            assert energy.decode_j >= 0
            assert 0 <= energy.share <= 1
            assert energy.mean_power_w >= 0
            gained_nj = nanojoules(energy.prefill_j) + nanojoules(energy.decode_j)
            assert self.ledger.parts().settled_nj - before_nj == gained_nj

    @rule(request=ids)
    def drop(self, request: str) -> None:
        self.open.pop(request, None)
        self.ledger.drop(request)
        self.ledger.drop(request)

    @invariant()
    def every_joule_is_somebodys(self) -> None:
        parts = self.ledger.parts()
        assert parts.residual_nj == 0
        accounts = parts[1:-1]
        assert all(part >= 0 for part in accounts)

    @invariant()
    def energy_and_idle_energy_never_fall(self) -> None:
        told = (self.ledger.energy_j, self.ledger.idle_j)
        assert told >= (0.0, 0.0)
        assert all(now >= before for now, before in zip(told, self.told, strict=True))
        self.told = told

    @invariant()
    def nothing_is_left_when_nobody_is(self) -> None:
        if not self.open:
            assert self.ledger.parts().unfinished_nj == 0


class ModelledBooks(Books):
    """Without a counter."""

    @invariant()
    def power_is_never_below_idle_power(self) -> None:
        assert self.ledger.energy_j >= 3.0 * self.now_s * (1 - 1e-9) - 1e-6

    @invariant()
    def nothing_is_pending_after_a_look(self) -> None:
        self.ledger.advance(self.now_s)
        assert self.ledger.parts().pending_nj == 0


class CountedBooks(Books):
    """With a counter that rises in its own ways, wraps, and is read when somebody does."""

    def books(self) -> Ledger:
        self.begin(1.0, None)
        return self.ledger

    @initialize(
        window_s=st.sampled_from([0.0, 0.5, 2.0]), wrap_nj=st.sampled_from([None, 20_000 * NJ])
    )
    def begin(self, window_s: float, wrap_nj: int | None) -> None:
        self.used_nj = 0
        self.counter = RecordedCounter([Recorded(0.0, 0)], wrap_nj, MOST_W)
        self.meter = CountersMeter("rapl", "cpu", [self.counter])
        self.meter.sample(0.0)
        self.ledger = Ledger(STEPS, 3.0, "model", "cpu", self.meter, window_s=window_s)
        self.ledger.advance(0.0)
        self.told = (0.0, 0.0)

    def show(self) -> None:
        wrap_nj = self.counter.wrap_nj
        shown_nj = self.used_nj if wrap_nj is None else self.used_nj % wrap_nj
        self.counter.record(Recorded(self.now_s, shown_nj))
        self.meter.sample(self.now_s)

    def passes(self, passed_s: float) -> None:
        # Not longer at once than a counter takes to wrap, and read every second.
        while passed_s > 0:
            part_s = min(passed_s, 1.0)
            passed_s -= part_s
            super().passes(part_s)
            self.used_nj += nanojoules(self.power_w * part_s)
            self.show()

    power_w = 5.0

    @rule(power_w=st.floats(0.01, 900))
    def draw(self, power_w: float) -> None:
        self.power_w = power_w

    @invariant()
    def what_was_counted_is_what_there_is(self) -> None:
        assert self.ledger.parts().energy_nj == self.used_nj
        assert self.ledger.trouble == ""


class FaultyBooks(CountedBooks):
    """With a counter that is reset, jumps, falls back and goes away."""

    @rule(to_nj=st.integers(0, 10**15))
    def jumps(self, to_nj: int) -> None:
        self.used_nj = to_nj
        self.show()

    @rule()
    def goes_away(self) -> None:
        self.counter.record(Recorded(self.now_s, None))
        self.meter.sample(self.now_s)

    @rule(silent_s=st.floats(0, 20))
    def is_not_read(self, silent_s: float) -> None:
        self.now_s += silent_s
        self.ledger.advance(self.now_s)

    @invariant()
    def what_was_counted_is_what_there_is(self) -> None:
        """Not here: where there are faults, there are gaps, and they are modelled."""


TestModelledBooks = ModelledBooks.TestCase
TestCountedBooks = CountedBooks.TestCase
TestFaultyBooks = FaultyBooks.TestCase


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("join"), st.integers(0, 5)),
            st.tuples(st.just("leave"), st.integers(0, 5)),
            st.tuples(st.just("accrue"), st.integers(0, 10**12)),
            st.tuples(st.just("close"), st.integers(0, 10**12)),
        )
    )
)
def test_equal_shares_give_out_what_they_get(events: list[tuple[str, int]]) -> None:
    shares, given_nj, got_nj = EqualShares(), 0, 0
    inside: set[int] = set()
    for kind, number in events:
        match kind:
            case "join" if number not in inside:
                shares.join(str(number))
                inside.add(number)
            case "leave" if number in inside:
                got_nj += shares.leave(str(number)).booked_nj
                inside.remove(number)
            case "accrue" if inside:
                shares.accrue(number)
            case "close":
                left_nj = shares.close(number)
                assert left_nj <= max(len(inside), number)
                given_nj += number - left_nj
            case _:
                continue
        assert shares.booked_nj + got_nj == given_nj
        assert shares.weight_nj >= 0


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=20), st.integers(1, 10**12))
def test_who_is_in_for_longer_has_more(weights: list[int], energy_nj: int) -> None:
    shares = EqualShares()
    for name, weight in enumerate(weights):
        shares.join(str(name))
        shares.accrue(weight)
    shares.close(energy_nj)
    had = [shares.leave(str(name)).booked_nj for name in range(len(weights))]
    assert all(earlier >= later for earlier, later in pairwise(had))


def test_a_counter_beyond_the_model_is_the_works_and_below_it_is_everybodys() -> None:
    for power_w, worked_j in ((23.0, 20.0), (6.5, 5.0)):
        counter = RecordedCounter([Recorded(0.0, 0), Recorded(1.0, nanojoules(power_w))])
        meter = CountersMeter("nvml", "gpu", [counter])
        meter.sample(0.0)
        steps = AffineSteps(0.5, 0.0, 5.0, 0.0, 0.001, 0.0)
        books = Ledger(steps, 6.0, "model", "gpu", meter)
        books.advance(0.0)
        books.admit("a", 10, 0.0)
        books.first_token("a")
        books.step(EngineStep(0.5, 0, 1, 1, 1, 0, 0.0), 0.5)
        meter.sample(1.0)
        books.advance(1.0)
        energy = books.settle("a", 0, 2)
        assert energy.method == "nvml"
        assert energy.decode_j == pytest.approx(worked_j * power_w / 8.0 if power_w < 8 else 20.0)
        assert books.parts().residual_nj == books.parts().pending_nj == 0
