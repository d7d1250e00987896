"""Candidates in the planner: what it asks about them, and what it tells of the live cluster.

Its own module because `scheduler.adaptation` decides from looks, and this gathers them: between
two plans gateways speak often, of watts and of requests that ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cluster.nodes import GroupState
from scheduler.adaptation import Adaptation, Phase, Terms
from scheduler.evidence import Look
from scheduler.requests import VariantName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.adaptation import Case
    from scheduler.mix import Mixes
    from scheduler.plans import PlanInput
    from scheduler.traffic import Traffic
    from serve.config import Config
    from serve.planner import Observed

_WATCHED = frozenset({Phase.WATCHED, Phase.PROPOSED})


class Question(NamedTuple):
    """What is to be compared; see `scheduler.mix.mixes`."""

    plan_input: PlanInput
    admitted: frozenset[VariantName]
    candidates: frozenset[VariantName]


class Adapting:
    """The candidates of one cluster."""

    def __init__(self, config: Config, now_s: float) -> None:
        """Know the candidates, and nothing of what they would save."""
        self._adaptation = Adaptation(_terms(config), (), now_s)
        self._metered = _Mean()
        self._completions = self._missed = 0
        self._asked: PlanInput | None = None
        self.configure(config, now_s)

    def configure(self, config: Config, now_s: float) -> None:
        """Go on with another configuration, and what is known of candidates that stay."""
        self._all = frozenset(VariantName(entry.name) for _, entry in config.variants())
        self._candidates = _candidates(config)
        self._pinned = frozenset(map(VariantName, config.planner.pinned))
        looked_at = config.planner.adapt.mode != "off" or config.planner.adapt.accepted
        watched = self._candidates if looked_at else frozenset()
        self._adaptation.configure(_terms(config), watched, now_s)

    @property
    def locked(self) -> frozenset[VariantName]:
        """Candidates that may not be awake; pins go before this."""
        return self._candidates - self._adaptation.admitted()

    def cases(self) -> Mapping[VariantName, Case]:
        """Say how it stands with each."""
        return dict(self._adaptation.cases)

    # ── what gateways say ───────────────────────────────────────────────────

    def count(self, traffic: Traffic) -> None:
        """Take what a gateway has counted since it last spoke."""
        self._completions += traffic.completions
        self._missed += traffic.missed

    def meter(self, power_w: float | None, now_s: float) -> None:
        """Take what replicas draw now."""
        if power_w is not None:
            self._metered.add(power_w, now_s)

    # ── look ────────────────────────────────────────────────────────────────

    def question(self, plan_input: PlanInput) -> Question | None:
        """Say what is to be compared; None where there is no candidate.

        Args:
            plan_input: in which nothing is locked.

        """
        self._asked = plan_input
        cases = self._adaptation.cases
        if not cases:
            return None
        tried = frozenset(n for n, case in cases.items() if case.phase is Phase.PROBATION)
        watched = frozenset(n for n, case in cases.items() if case.phase in _WATCHED)
        admitted = self._all - self.locked | self._pinned
        return Question(plan_input, admitted, tried or watched - self._pinned)

    def learn(
        self, compared: Mixes, observed: Observed, troubles: Mapping[VariantName, str]
    ) -> None:
        """Take an answer, with what has been seen since the one before.

        Args:
            compared: of `scheduler.mix.mixes` on the question.
            observed: what there is.
            troubles: why variants cannot have a replica.

        """
        replicas_w = self._metered.take()
        rest_w = 0.0 if self._asked is None else _rest_w(self._asked, observed)
        self._adaptation.observe(
            Look(
                now_s=observed.now_s,
                mixes=compared,
                metered_w=None if replicas_w is None else replicas_w + rest_w,
                completions=self._completions,
                missed=self._missed,
                serving=frozenset(name for name, count in observed.deployed.awake.items() if count),
                troubles=troubles,
            )
        )
        self._completions = self._missed = 0


def _rest_w(plan_input: PlanInput, observed: Observed) -> float:
    """Say what nodes that are on draw beside what replicas say of their accelerators."""
    total_w = 0.0
    for name, group in plan_input.groups.items():
        state = observed.nodes.get(name, GroupState())
        bare_w = group.accelerators_per_node * group.bare_power_w
        total_w += state.ready * (group.node_power_w + bare_w)
    for placement in plan_input.placements:
        awake = observed.deployed.awake.get(placement.variant, 0)
        bare_w = plan_input.groups[placement.group].bare_power_w
        total_w -= awake * placement.accelerators * bare_w
    return max(0.0, total_w)


class _Mean:
    """A mean over time of a quantity that is told now and then."""

    def __init__(self) -> None:
        self._sum = self._seconds = 0.0
        self._last: tuple[float, float] | None = None

    def add(self, value: float, now_s: float) -> None:
        if self._last is not None:
            before, then_s = self._last
            elapsed_s = max(0.0, now_s - then_s)
            self._sum += 0.5 * (before + value) * elapsed_s
            self._seconds += elapsed_s
        self._last = value, now_s

    def take(self) -> float | None:
        """Give the mean since it was last taken; None where nobody has said anything."""
        mean = self._sum / self._seconds if self._seconds > 0 else None
        self._sum = self._seconds = 0.0
        return mean


def _candidates(config: Config) -> frozenset[VariantName]:
    return frozenset(VariantName(entry.name) for _, entry in config.variants() if entry.candidate)


def _terms(config: Config) -> Terms:
    given = config.planner.adapt
    return Terms(
        carry_out=given.mode == "carry_out",
        accepted=frozenset(map(VariantName, given.accepted)),
        watch_s=given.watch_s,
        probation_s=given.probation_s,
        retry_s=given.retry_s,
        least_saving=given.least_saving,
    )
