"""A power budget holds, however many gateways there are and however late they hear of it."""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING

from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.accelerators import CATALOGUE
from cluster.nodes import GroupState
from scheduler.power import Draw, peak_w, workers
from scheduler.requests import ReplicaId, VariantName
from serve import catalogue
from serve.census import Deployed
from serve.plan_problem import Situation
from serve.power_budget import SETTLE_S, PowerBudget
from tests.plan_fakes import variants
from tests.planner_fakes import BIG, EPOCH_S, H100, L4, SMALL, config

if TYPE_CHECKING:
    from scheduler.fleet import Variant

TINY_W = 1e-6
# The longest that a gateway here does not hear of the planner; no longer than is reckoned with.
LATE_S = SETTLE_S - 0.5


@st.composite
def draws(draw: st.DrawFn) -> list[Draw]:
    """Some replicas of two variants, in any state."""
    idle_w = {VariantName(name): draw(st.floats(0.0, 100.0)) for name in "ab"}
    step_w = {name: draw(st.floats(1.0, 600.0)) for name in idle_w}
    names = draw(st.lists(st.sampled_from(list(idle_w)), max_size=8))
    return [
        Draw(
            replica=ReplicaId(f"r{index}"),
            variant=name,
            idle_w=idle_w[name],
            peak_w=idle_w[name] + step_w[name],
            busy=draw(st.booleans()),
            rests=draw(st.booleans()),
            heard=draw(st.booleans()),
        )
        for index, name in enumerate(names)
    ]


@given(draws(), st.floats(0.0, 5000.0), st.floats(0.0, 1000.0))
def test_nothing_is_begun_that_the_budget_does_not_bear_beside_what_may_run(
    replicas: list[Draw], budget_w: float, others_w: float
) -> None:
    working = workers(replicas, budget_w, others_w)
    begun = [each for each in replicas if each.replica in working and not each.counts]
    running_w = others_w + sum(each.peak_w if each.counts else each.idle_w for each in replicas)
    assert not begun or running_w + sum(each.step_w for each in begun) <= budget_w + TINY_W


@given(draws(), st.floats(0.0, 5000.0))
def test_those_that_may_work_fit_at_their_peak(replicas: list[Draw], budget_w: float) -> None:
    working = workers(replicas, budget_w)
    peak_w = sum(each.peak_w if each.replica in working else each.idle_w for each in replicas)
    assert not working or peak_w <= budget_w + TINY_W


@given(draws(), st.floats(0.0, 1000.0))
def test_nobody_rests_whom_the_budget_bears(replicas: list[Draw], spare_w: float) -> None:
    needed_w = sum(each.peak_w for each in replicas)
    assert len(workers(replicas, needed_w + spare_w + TINY_W)) == len(replicas)


@given(draws(), st.floats(0.0, 5000.0))
def test_once_all_is_quiet_as_much_works_as_the_budget_bears(
    replicas: list[Draw], budget_w: float
) -> None:
    quiet = [each._replace(busy=False, rests=True, heard=True) for each in replicas]
    working = workers(quiet, budget_w)
    drawn_w = sum(each.peak_w if each.replica in working else each.idle_w for each in quiet)
    rest = [each for each in quiet if each.replica not in working]
    assert all(drawn_w + each.step_w > budget_w - TINY_W for each in rest)


@given(variants("v"), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_no_step_draws_more_than_the_peak(variant: Variant, fuller: float, longer: float) -> None:
    batch = 1.0 + fuller * (variant.max_batch - 1.0)
    context = 1.0 + longer * (variant.kv_capacity_tokens - 1.0)
    steps = variant.steps
    drawn_w = steps.decode_j(batch, context) / steps.decode_s(batch, context)
    assert drawn_w <= peak_w(variant) * (1 + TINY_W)
    assume(steps.prefill_s(1.0) > 0)
    assert steps.prefill_j(100.0) / steps.prefill_s(100.0) <= peak_w(variant) * (1 + TINY_W)


@given(st.integers(0, 4), st.floats(0.3, 1.2), st.integers(1, 4), st.integers(0, 2**32))
def test_the_draw_stays_within_the_budget_with_gateways_that_hear_late(
    small: int, share: float, gateways: int, seed: int
) -> None:
    """Replicas that come take the place of others, which some may still be given work for."""
    cluster = _Cluster(small, share, gateways, Random(seed))
    for turn in range(80):
        if turn == 20:
            cluster.want_small_ones()
        cluster.turn()
        assert cluster.drawn_w() <= cluster.budget_w + cluster.arrived_w() + TINY_W


class _Cluster:
    """Gateways that give work to whomever they believe may work, and hear within `LATE_S`."""

    def __init__(self, small: int, share: float, gateways: int, rng: Random) -> None:
        self.variants = catalogue.variants(config())
        self.names = {ReplicaId(f"{BIG}-{number}"): BIG for number in range(4)}
        self.to_come = {ReplicaId(f"{SMALL}-{number}"): SMALL for number in range(small)}
        every = (*self.names.values(), *self.to_come.values())
        # Of four accelerators on each node, those that no replica has draw their bare power.
        self.bare_w = {BIG: CATALOGUE["h100-sxm"].idle_w, SMALL: CATALOGUE["l4"].idle_w}
        least_w = 4 * sum(self.bare_w.values()) + sum(self.adds_w(name) for name in every)
        steps_w = sum(self.adds_w(name, busy=True) - self.adds_w(name) for name in every)
        self.budget_w = least_w + share * steps_w
        self.config = config(power_budget_w=self.budget_w)
        self.budget, self.rng, self.now_s = PowerBudget(), rng, EPOCH_S
        self.wanted, self.come_at_s = {BIG: 4}, math.inf
        self.heard_at_s = [EPOCH_S - LATE_S] * gateways
        self.heard = [frozenset[ReplicaId]()] * gateways
        self.told = [frozenset[ReplicaId]()] * gateways
        self.works: list[set[ReplicaId]] = [set() for _ in range(gateways)]

    def adds_w(self, name: VariantName, *, busy: bool = False) -> float:
        variant = self.variants[name]
        return (peak_w(variant) if busy else variant.context_power_w) - self.bare_w[name]

    def want_small_ones(self) -> None:
        """Ask for them; they take longer to start than gateways take to hear of it."""
        self.wanted = {BIG: 4, SMALL: len(self.to_come)}
        self.come_at_s = self.now_s + SETTLE_S

    def turn(self) -> None:
        self.now_s += self.rng.uniform(0.05, 0.4)
        if self.now_s >= self.come_at_s:
            self.names |= self.to_come
        for gateway, works in enumerate(self.works):
            if self.now_s - self.heard_at_s[gateway] >= LATE_S or self.rng.random() < 0.2:
                self._exchange(gateway)
            for replica in self.names:
                if replica in self.heard[gateway] and self.rng.random() < 0.3:
                    works.add(replica)
                elif self.rng.random() < 0.3:
                    works.discard(replica)

    def _exchange(self, gateway: int) -> None:
        self.told[gateway] = frozenset(self.works[gateway])
        nodes = {H100: GroupState(ready=1), L4: GroupState(ready=1)}
        self.budget.keep(
            self.config,
            self.variants,
            Situation(self.now_s, Deployed(), nodes),
            wanted=self.wanted,
            awake=self.names,
            busy=frozenset[ReplicaId]().union(*self.told),
            now_s=self.now_s,
        )
        self.heard[gateway] = self.budget.workers or frozenset()
        self.heard_at_s[gateway] = self.now_s

    def arrived_w(self) -> float:
        """What replicas draw, idle, that came while others still finished their work."""
        return sum(self.adds_w(name) for name in self.names.values() if name == SMALL)

    def drawn_w(self) -> float:
        busy = set[ReplicaId]().union(*self.works)
        return 4 * sum(self.bare_w.values()) + sum(
            self.adds_w(name, busy=each in busy) for each, name in self.names.items()
        )
