"""Candidates: proposed when they promise enough, tried when that is allowed, kept if it is true."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.adaptation import ADMITTED, Adaptation, Case, Phase, Terms
from scheduler.evidence import Look
from scheduler.mix import Mix, Mixes
from scheduler.requests import VariantName

A, B = VariantName("a"), VariantName("b")
TERMS = Terms(carry_out=True, watch_s=100.0, probation_s=100.0, retry_s=1000.0, least_saving=0.05)
PERIOD_S = 10.0
USUAL_W, METER_BIAS = 100.0, 1.3


class World:
    """A cluster that draws 100 W without candidates, by the model; meters show 1.3 times that.

    Attributes:
        believed: share that each candidate saves, by the model.
        true: share that it saves by the meters; by default what is believed.
        missing: requests/s that each would carry besides.
        silent: whether there are no meters.
        missed: of ten requests in a period.
        asleep: candidates that cannot be awake.
        troubles: why.

    """

    def __init__(self, terms: Terms = TERMS, **believed: float) -> None:
        self.believed = {VariantName(name): share for name, share in believed.items()}
        self.true: dict[VariantName, float] = {}
        self.missing: dict[VariantName, float] = {}
        self.silent = False
        self.missed = 0
        self.asleep: set[VariantName] = set()
        self.troubles: dict[VariantName, str] = {}
        self.now_s = 0.0
        self.load = 1.0
        self.adaptation = Adaptation(terms, self.believed, self.now_s)

    def case(self, name: VariantName = A) -> Case:
        return self.adaptation.cases[name]

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / PERIOD_S)):
            self.now_s += PERIOD_S
            self.adaptation.observe(self._look())

    def _look(self) -> Look:
        admitted = self.adaptation.admitted()
        serving = admitted - self.asleep
        true_w = self._watts(serving, {**self.believed, **self.true}) * METER_BIAS
        other = {
            name: Mix(
                self._watts(admitted ^ {name}, self.believed), self._missing(admitted ^ {name})
            )
            for name in self.believed
        }
        here = Mix(self._watts(admitted, self.believed), self._missing(admitted))
        return Look(
            self.now_s,
            Mixes(here, other),
            None if self.silent else true_w,
            completions=10,
            missed=self.missed,
            serving=serving,
            troubles=self.troubles,
        )

    def _watts(
        self, variants: frozenset[VariantName] | set[VariantName], shares: dict[VariantName, float]
    ) -> float:
        spared = max((shares[name] for name in variants), default=0.0)
        return USUAL_W * self.load * (1.0 - spared)

    def _missing(self, variants: frozenset[VariantName]) -> float:
        return 1.0 - max((self.missing.get(name, 0.0) for name in variants), default=0.0)


def test_what_keeps_its_promise_is_kept() -> None:
    world = World(a=0.2)
    world.pass_time(90)
    assert world.case().phase is Phase.WATCHED
    assert not world.adaptation.admitted()
    world.pass_time(20)
    assert world.case().phase is Phase.PROBATION
    assert world.adaptation.admitted() == {A}
    assert world.case().promised == pytest.approx(0.2)
    world.pass_time(110)
    assert world.case().phase is Phase.KEPT
    assert world.case().believed == pytest.approx(0.2)
    assert world.case().metered == pytest.approx(0.2)
    assert world.case().reason == "saves 20.0%, 20.0% was promised"
    world.pass_time(10_000)
    assert world.adaptation.admitted() == {A}


def test_traffic_that_has_changed_meanwhile_is_no_saving() -> None:
    world = World(a=0.2)
    world.true[A] = 0.0
    world.pass_time(110)
    world.load = 0.3  # Less power than before, and not by the candidate.
    world.pass_time(110)
    assert world.case().phase is Phase.WITHDRAWN
    assert world.case().metered == pytest.approx(0.0, abs=1e-9)
    assert world.case().reason == "saves 0.0% by the meters, where 20.0% was promised"


def test_what_its_own_steps_belie_is_withdrawn_though_no_meter_says_so() -> None:
    world = World(a=0.2)
    world.silent = True
    world.pass_time(110)
    world.believed[A] = -0.1
    world.pass_time(110)
    assert world.case().phase is Phase.WITHDRAWN
    assert world.case().metered is None
    assert "by its measured steps" in world.case().reason


def test_what_makes_requests_miss_their_objectives_is_withdrawn() -> None:
    world = World(a=0.2)
    world.pass_time(110)
    world.missed = 3
    world.pass_time(110)
    assert world.case().phase is Phase.WITHDRAWN
    assert world.case().reason == "30.0% of requests missed their objectives, 0.0% before"


def test_what_hurts_many_is_withdrawn_before_its_time() -> None:
    world = World(a=0.2)
    world.pass_time(110)
    world.missed = 9
    world.pass_time(20)
    assert world.case().phase is Phase.WITHDRAWN
    assert world.case().reason == "90.0% of requests missed their objectives, 0.0% before"


def test_misses_that_were_there_before_are_not_its_fault() -> None:
    world = World(a=0.2)
    world.missed = 3
    world.pass_time(220)
    assert world.case().phase is Phase.KEPT


def test_little_is_not_worth_a_change() -> None:
    world = World(a=0.04)
    world.pass_time(1000)
    assert world.case().phase is Phase.WATCHED
    assert world.case().reason == "would save 4.0%, and 5.0% is worth a change"


@pytest.mark.parametrize("accepted", [frozenset(), frozenset({A})])
def test_without_leave_it_is_proposed_only(accepted: frozenset[VariantName]) -> None:
    world = World(replace(TERMS, carry_out=False, accepted=accepted), a=0.2, b=0.3)
    world.pass_time(110)
    assert world.case(B).phase is Phase.PROPOSED
    assert world.case(B).reason == "would save 30.0% of the power"
    assert world.case(A).phase is (Phase.PROBATION if accepted else Phase.PROPOSED)


def test_the_best_is_tried_first_and_the_next_once_that_is_judged() -> None:
    world = World(a=0.2, b=0.3)
    world.true[B] = 0.0
    world.pass_time(110)
    assert world.adaptation.admitted() == {B}
    world.pass_time(110)
    assert world.case(B).phase is Phase.WITHDRAWN
    world.pass_time(110)
    assert world.adaptation.admitted() == {A}


def test_what_was_withdrawn_is_looked_at_again_much_later() -> None:
    world = World(a=0.2)
    world.true[A] = 0.0
    world.pass_time(220)
    assert world.case().phase is Phase.WITHDRAWN
    world.true[A] = 0.2
    world.pass_time(970)
    assert world.case().phase is Phase.WITHDRAWN
    world.pass_time(400)
    assert world.case().phase is Phase.KEPT


def test_what_carries_more_is_proposed_for_that_and_judged_by_its_misses_alone() -> None:
    world = World(a=-0.5)
    world.missing[A] = 0.4
    world.pass_time(90)
    assert world.case().reason.startswith("would carry 0.4 requests/s that nothing else can so far")
    world.pass_time(130)
    assert world.case().phase is Phase.KEPT
    assert world.case().reason == "carries 0.4 requests/s that nothing else can"


def test_what_cannot_come_up_is_withdrawn_at_once() -> None:
    world = World(a=0.2)
    world.asleep = {A}
    world.pass_time(110)
    assert world.case().phase is Phase.PROBATION
    world.troubles = {A: "no node has a place for it"}
    world.pass_time(10)
    assert world.case().phase is Phase.WITHDRAWN
    assert world.case().reason == "it did not come up: no node has a place for it"


def test_what_the_traffic_no_longer_needs_is_watched_again() -> None:
    world = World(a=0.2)
    world.asleep = {A}
    world.pass_time(110 + 4 * 100)
    assert world.case().phase is Phase.WATCHED
    assert not world.adaptation.admitted()


def test_time_that_nobody_watched_does_not_count() -> None:
    world = World(a=0.2)
    world.pass_time(50)
    world.now_s += 1000
    world.pass_time(40)
    assert world.case().phase is Phase.WATCHED


def test_candidates_that_stay_keep_their_cases() -> None:
    world = World(a=0.2, b=0.01)
    world.pass_time(220)
    before = world.case()
    world.adaptation.configure(TERMS, {A}, world.now_s)
    assert world.adaptation.cases == {A: before}
    world.adaptation.configure(replace(TERMS, watch_s=5.0), {A, B}, world.now_s)
    assert world.case() == before
    assert world.case(B) == Case(Phase.WATCHED, world.now_s)


shares = st.floats(min_value=-0.5, max_value=0.9)


@given(
    believed=st.fixed_dictionaries({"a": shares, "b": shares}),
    truths=st.lists(st.tuples(shares, shares, st.integers(0, 10)), min_size=1, max_size=20),
    carry_out=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_whatever_comes(
    believed: dict[str, float], truths: list[tuple[float, float, int]], *, carry_out: bool
) -> None:
    """At most one is on probation, none is admitted unasked, and what was withdrawn stays away."""
    world = World(replace(TERMS, carry_out=carry_out), **believed)
    withdrawn: dict[VariantName, float] = {}
    for one, other, missed in truths:
        world.true, world.missed = {A: one, B: other}, missed
        for _ in range(6):
            world.pass_time(PERIOD_S)
            cases = world.adaptation.cases
            phases = [case.phase for case in cases.values()]
            assert phases.count(Phase.PROBATION) <= 1
            assert carry_out or not ADMITTED.intersection(phases)
            for name, case in cases.items():
                if case.phase in ADMITTED:
                    assert case.promised >= TERMS.least_saving
                    assert world.now_s - withdrawn.get(name, -1e9) >= TERMS.retry_s
                if case.phase is Phase.WITHDRAWN:
                    withdrawn[name] = case.since_s
