"""Which replicas may take new work, so that the cluster stays within its power budget.

Its own module because it remembers who was told to rest a moment ago: until every gateway has
heard it, such a replica may still be given work, and has to be counted as if it were.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from scheduler.power import Draw, peak_w, workers
from scheduler.requests import ReplicaId, VariantName
from serve.plan_problem import accelerators_of, groups, slot_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.fleet import Variant
    from serve.config import Config
    from serve.plan_problem import Situation

# A gateway that can hear the planner at all has heard a word of it after this time.
SETTLE_S = 3.0


class PowerBudget:
    """Says who may take new work.

    Attributes:
        workers: replicas that may; None where nobody has to rest.

    """

    def __init__(self) -> None:
        """Let everybody work."""
        self.workers: frozenset[ReplicaId] | None = None
        self._rested_at_s: dict[ReplicaId, float] = {}

    def keep(  # noqa: PLR0913 (what there is, and what is to be)
        self,
        config: Config,
        variants: Mapping[VariantName, Variant],
        situation: Situation,
        *,
        wanted: Mapping[VariantName, int],
        awake: Mapping[ReplicaId, VariantName],
        busy: frozenset[ReplicaId],
        now_s: float,
    ) -> None:
        """Weigh everybody anew.

        Args:
            config: whose budget counts; without one everybody works.
            variants: as they are believed now.
            situation: replicas and nodes, as they were seen last.
            wanted: replicas by variant; those that are not there yet count at their peak.
            awake: replicas that gateways have a line to.
            busy: of these, those that have work.
            now_s: the instant.

        """
        budget_w = config.planner.power_budget_w
        if budget_w is None:
            self.workers, self._rested_at_s = None, {}
            return
        power = _powers(config, variants, situation)
        draws = [
            Draw(
                replica=replica,
                variant=name,
                idle_w=power[name].idle_w,
                peak_w=power[name].peak_w,
                busy=replica in busy,
                rests=self.workers is not None and replica not in self.workers,
                heard=now_s - self._rested_at_s.get(replica, -SETTLE_S) >= SETTLE_S,
            )
            for replica, name in awake.items()
            if name in power
        ]
        there = Counter(awake.values())
        others_w = _nodes_w(config, situation) + sum(
            each.peak_w * _coming_and_going(situation, name, wanted.get(name, 0), there[name])
            for name, each in power.items()
        )
        before = self.workers
        self.workers = workers(draws, budget_w, others_w)
        # One that nobody knew yet rests from its beginning, and no gateway gives it work.
        let_go = awake.keys() if before is None else before
        self._rested_at_s = {
            replica: now_s if replica in let_go else self._rested_at_s[replica]
            for replica in awake
            if replica not in self.workers and (replica in let_go or replica in self._rested_at_s)
        }


class _Power(NamedTuple):
    """What a replica adds to its node."""

    idle_w: float
    peak_w: float


def _powers(
    config: Config, variants: Mapping[VariantName, Variant], situation: Situation
) -> dict[VariantName, _Power]:
    nodes, powers = groups(config, situation.nodes), {}
    for _, entry in config.variants():
        variant = variants[VariantName(entry.name)]
        bare_w = nodes[slot_of(config, entry).group].bare_power_w
        idle_w = max(0.0, variant.context_power_w - accelerators_of(config, entry) * bare_w)
        more_w = peak_w(variant) - variant.context_power_w
        powers[variant.name] = _Power(idle_w, idle_w + more_w)
    return powers


def _nodes_w(config: Config, situation: Situation) -> float:
    """Give what nodes draw that are on, their accelerators' bare power included."""
    return sum(
        (state.ready + state.booting)
        * (group.node_power_w + group.accelerators_per_node * group.bare_power_w)
        for name, group in groups(config, situation.nodes).items()
        if (state := situation.nodes.get(name)) is not None
    )


def _coming_and_going(situation: Situation, variant: VariantName, wanted: int, there: int) -> int:
    """Count replicas that drain, start, or are asked for, beside those that are there."""
    deployed = situation.deployed
    asked = max(0, wanted - there)
    starting = max(asked, deployed.starting.get(variant, 0))
    return starting + deployed.draining.get(variant, 0)
