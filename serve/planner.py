"""The slow loop: hear what gateways saw, forecast, plan, look again, and say what is wanted.

Its own module because it is all that a planner remembers; what it is told, and who carries
out what it wants, are somebody else's. It knows nothing of Ray and never waits: what takes
long is a function of a draft, for whoever calls to run where nobody else waits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cluster.nodes import GroupState
from scheduler.fleet import Sleeper
from scheduler.requests import ModelName, VariantName
from scheduler.validation import Rejected
from serve import troubles
from serve.adapting import Adapting
from serve.expectations import Expectations
from serve.hearsay import Hearsay
from serve.obstacles import Obstacles
from serve.plan_news import (
    GroupNodes,
    Planned,
    PlanNews,
    SlotState,
    StreamKey,
)
from serve.plan_problem import Situation, bounds, group_of, problem, slot_of
from serve.power_budget import PowerBudget
from serve.start_times import StartTimes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.fleet import Variant
    from scheduler.mix import Mixes
    from scheduler.plans import Demand, NodeGroupName, Plan, PlanInput
    from serve.adapting import Question
    from serve.census import Deployed
    from serve.config import Config
    from serve.plan_news import GatewayNews

# What waits is worked off within this at the quickest, however fast a replica starts.
LEAST_CLEAR_S = 5.0


@dataclass(frozen=True, slots=True)
class Observed:
    """What can be seen from outside at one instant.

    Attributes:
        now_s: seconds since the epoch.
        deployed: replicas.
        nodes: by group; of those that nobody could ask about, the last known.

    """

    now_s: float
    deployed: Deployed
    nodes: Mapping[NodeGroupName, GroupState]


@dataclass(frozen=True, slots=True)
class Draft:
    """What a plan is made from, and what it is described with.

    Attributes:
        plan_input: for `scheduler.planning.plan`.
        previous: the plan before; None for the first.
        situation: that the input was made from.
        demands: by stream, in the input's order.

    """

    plan_input: PlanInput
    previous: Plan | None
    situation: Situation
    demands: Mapping[StreamKey, Demand]


class Planner:
    """Plans for one cluster."""

    def __init__(
        self, config: Config, variants: Mapping[VariantName, Variant], now_s: float
    ) -> None:
        """Know the configuration, and nothing of the traffic.

        Args:
            config: of the whole cluster.
            variants: as the scheduler sees them before any was measured.
            now_s: seconds since the epoch.

        """
        self._config = config
        self._given = dict(variants)
        self._variants = dict(variants)
        self._hearsay = Hearsay()
        self._expectations = Expectations(now_s)
        self._obstacles = Obstacles(config.planner.no_capacity_s, config.planner.retry_s)
        self._starts = StartTimes()
        self._zombies: Mapping[VariantName, int] = {}
        self._planned_without: frozenset[str] = frozenset()
        self._planned: Planned | None = None
        self._seen_last: Situation | None = None
        self._budget = PowerBudget()
        self._adapting = Adapting(config, now_s)

    def configure(
        self, config: Config, variants: Mapping[VariantName, Variant], now_s: float
    ) -> None:
        """Go on with another configuration, and with what was learnt of variants that stay."""
        learnt = {
            name: variant
            for name, variant in self._variants.items()
            if self._given[name] == variants.get(name)
        }
        self._config = config
        self._given = dict(variants)
        self._variants = {**variants, **learnt}
        self._obstacles.configure(config.planner.no_capacity_s, config.planner.retry_s)
        self._adapting.configure(config, now_s)

    # ── what gateways say ───────────────────────────────────────────────────

    def hear(self, news: GatewayNews, now_s: float) -> PlanNews:
        """Take a gateway's news and give it the planner's."""
        new = self._hearsay.hear(news, now_s)
        if new is None:
            return self.news(now_s)
        for key, traffic in new.items():
            self._expectations.count(key, traffic)
            self._adapting.count(traffic)
        self._adapting.meter(self._hearsay.power_w(), now_s)
        for name, steps in news.steps.items():
            if name in self._variants:
                self._variants[name] = replace(self._variants[name], steps=steps)
        self._keep_budget(now_s)
        return self.news(now_s)

    def news(self, now_s: float) -> PlanNews:
        """Say what is planned."""
        planned = self._planned
        age_s = now_s - planned.plan.made_at_s if planned else 0.0
        told = (
            *(troubles.of_plan(planned) if planned else ()),
            *((troubles.RESTING,) if self._somebody_rests() else ()),
        )
        return PlanNews(
            planned,
            age_s,
            self._sleepers(),
            self._hearsay.power_w(),
            told,
            self._budget.workers,
            self._adapting.cases(),
        )

    def urgent(self) -> bool:
        """Whether requests wait, or come, for which something should be awake that is not."""
        return self._hearsay.strained() or bool(self._hearsay.lost() - self._planned_without)

    # ── plan ────────────────────────────────────────────────────────────────

    def observe(self, observed: Observed) -> None:
        """Learn from the traffic since the last call, and from replicas that came up or did not."""
        self._hearsay.forget(observed.now_s)
        self._expectations.observe(observed.now_s)

    def question(self, observed: Observed) -> Question | None:
        """Say which mixes of variants are to be compared; None where there is no candidate."""
        everything = replace(self._situation(observed), locked=frozenset())
        demands = self._demands(observed.now_s)
        return self._adapting.question(problem(self._config, self._variants, everything, demands))

    def adapt(self, compared: Mixes, observed: Observed) -> None:
        """Admit candidates, or withdraw them, by an answer to the question."""
        self._adapting.learn(compared, observed, self._situation(observed).obstacles)

    def draft(self, observed: Observed) -> Draft:
        """Write down what there is and what is expected, and remember none of it."""
        situation, demands = self._situation(observed), self._demands(observed.now_s)
        plan_input = problem(self._config, self._variants, situation, demands)
        previous = self._planned.plan if self._planned else None
        return Draft(plan_input, previous, situation, demands)

    def adopt(self, verdict: Plan | Rejected, fresh: Draft, solve_s: float) -> Planned | None:
        """Have a plan carried out that still holds on what there is by now.

        Args:
            verdict: of `scheduler.validation.validate` on the plan.
            fresh: that it was looked at with.
            solve_s: time that the plan has taken.

        """
        if not isinstance(verdict, Rejected):
            self._planned = self.described(verdict, fresh, solve_s)
        elif self._planned is not None:
            self._planned = replace(self._planned, rejected=verdict.reason)
        return self._planned

    def targets(self) -> dict[VariantName, int]:
        """Say how many replicas of each variant are wanted; empty before the first plan."""
        if self._planned is None:
            return {}
        # Ray Serve counts what is out of reach among those it has; others take their place.
        wanted = dict(self._zombies)
        for slot, count in self._planned.plan.replicas.items():
            wanted[slot.variant] = wanted.get(slot.variant, 0) + count
        return wanted

    def notice(self, observed: Observed) -> None:
        """Learn from what is there: how long starts take, what is in their way, who is lost."""
        self._starts.observe(observed.deployed.running, observed.now_s)
        lost = self._hearsay.lost()
        there = observed.deployed.without(lost)
        self._zombies, self._planned_without = there.zombies, lost
        in_the_way, boots_s = {}, {}
        for _, entry in self._config.variants():
            name, group = VariantName(entry.name), group_of(self._config, entry.accelerator)
            state = observed.nodes.get(group, GroupState())
            if state.trouble:
                in_the_way[name] = state.trouble
            if state.ready < self._nodes_wanted(group):
                boots_s[name] = self._boot_s(group)
        self._obstacles.note(there, in_the_way, boots_s, observed.now_s)
        self._seen_last = self._situation(observed)

    def _situation(self, observed: Observed) -> Situation:
        obstacles = {
            name: reason for name in self._variants if (reason := self._obstacles.reason(name))
        }
        there = observed.deployed.without(self._hearsay.lost())
        starts_s = dict(self._starts.learnt_s)
        locked = self._adapting.locked
        return Situation(observed.now_s, there, observed.nodes, starts_s, obstacles, locked)

    def _keep_budget(self, now_s: float) -> None:
        """See who has to rest; before the first look nobody is known."""
        if self._seen_last is None:
            return
        self._budget.keep(
            self._config,
            self._variants,
            self._seen_last,
            wanted=self.targets(),
            awake=self._hearsay.awake(),
            busy=self._hearsay.busy(),
            now_s=now_s,
        )

    def _somebody_rests(self) -> bool:
        workers = self._budget.workers
        return workers is not None and not workers.issuperset(self._hearsay.awake())

    def _nodes_wanted(self, group: NodeGroupName) -> int:
        return self._planned.plan.nodes.get(group, 0) if self._planned else 0

    def _boot_s(self, group: NodeGroupName) -> float:
        return next((each.boot_s for each in self._config.node_groups if each.name == group), 0.0)

    def _demands(self, now_s: float) -> dict[StreamKey, Demand]:
        backlog = self._backlog_per_s(self._hearsay.waiting())
        return self._expectations.demands(self._config, now_s, self._hearsay.held(), backlog)

    def _backlog_per_s(self, waiting: Mapping[VariantName, int]) -> dict[ModelName, float]:
        """Say how quickly what waits in replicas is to be worked off: while one would start."""
        rates: dict[ModelName, float] = {}
        for model, entry in self._config.variants():
            name, group = VariantName(entry.name), ModelName(model.name)
            within_s = max(LEAST_CLEAR_S, self._starts.learnt_s.get(name, entry.start_s))
            rates[group] = rates.get(group, 0.0) + waiting.get(name, 0) / within_s
        return rates

    # ── describe ────────────────────────────────────────────────────────────

    def described(self, made: Plan, draft: Draft, solve_s: float) -> Planned:
        """Put a plan beside what there is, for whoever asks."""
        census, situation = draft.plan_input.census, draft.situation
        slots = {}
        for _, entry in self._config.variants():
            slot = slot_of(self._config, entry)
            slots[slot] = SlotState(
                wanted=made.replicas.get(slot, 0),
                awake=census.awake.get(slot, 0),
                starting=census.starting.get(slot, 0),
                draining=census.draining.get(slot, 0),
                pinned=entry.name in self._config.planner.pinned,
                trouble=self._obstacles.latest(slot.variant),
            )
        nodes = {}
        for name in draft.plan_input.groups:
            state = situation.nodes.get(name, GroupState())
            wanted = made.nodes.get(name, 0)
            nodes[name] = GroupNodes(wanted, state.ready, state.booting, state.trouble)
        budget_w = draft.plan_input.settings.power_budget_w
        return Planned(made, slots, nodes, draft.demands, budget_w, solve_s)

    def _sleepers(self) -> tuple[Sleeper, ...]:
        """Name the variants of which one more replica could be woken."""
        planned = self._planned
        if planned is None:
            return ()
        sleepers = []
        for _, entry in self._config.variants():
            state = planned.slots.get(slot_of(self._config, entry))
            _, most = bounds(self._config, entry, self._adapting.locked)
            name = VariantName(entry.name)
            if not entry.scalable or state is None or self._obstacles.reason(name):
                continue
            if state.awake + state.starting >= most:
                continue
            start_s = self._starts.learnt_s.get(name, entry.start_s)
            sleepers.append(Sleeper(name, start_s, start_s * self._variants[name].context_power_w))
        return tuple(sleepers)
