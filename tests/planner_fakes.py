"""A small planned cluster of the echo engine, and a stand-in for the shell around its planner.

Its own module because the planner's examples and its laws take the same turns: look, learn,
plan, look again, carry out, with whatever a test lets there be.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cluster.nodes import GroupState
from scheduler.mix import mixes
from scheduler.planning import plan
from scheduler.plans import NodeGroupName
from scheduler.requests import ModelName, VariantName
from scheduler.traffic import Traffic
from scheduler.validation import validate
from serve import catalogue
from serve.census import Deployed, Started
from serve.config import Config
from serve.plan_news import GatewayNews, StreamKey
from serve.planner import Draft, Observed, Planner

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from serve.plan_news import Planned, PlanNews

MODEL = ModelName("m")
BIG, SMALL = VariantName("big"), VariantName("small")
H100, L4 = NodeGroupName("h100"), NodeGroupName("l4")
STANDARD, BATCH = StreamKey(MODEL, "standard"), StreamKey(MODEL, "batch")
EPOCH_S = 1_800_000_000.0
PROMPT_TOKENS, COMPLETION_TOKENS = 100, 20


def echo(name: str, accelerator: str, **changes: Any) -> dict[str, Any]:
    """Configure a variant that may sleep, and have two replicas at most."""
    bounds = {"min_replicas": 0, "max_replicas": 2}
    return {"name": name, "engine": "echo", "accelerator": accelerator, **bounds, **changes}


def nodes_of(name: str, accelerator: str, **changes: Any) -> dict[str, Any]:
    size = {"accelerators_per_node": 4, "max_nodes": 2}
    return {"name": name, "accelerator": accelerator, **size, **changes}


def config(
    *variants: Mapping[str, Any],
    node_groups: Iterable[Mapping[str, Any]] | None = None,
    **planner: Any,
) -> Config:
    """Configure one model; by default a large GPU for its best quality, a small one for less."""
    chosen = variants or (echo(BIG, "h100-sxm"), echo(SMALL, "l4", quality=0.9))
    groups = (nodes_of(H100, "h100-sxm"), nodes_of(L4, "l4"))
    return Config.model_validate(
        {
            "models": [{"name": MODEL, "variants": list(chosen)}],
            "node_groups": list(groups if node_groups is None else node_groups),
            "planner": planner,
        }
    )


def traffic(requests: int) -> Traffic:
    """Count requests that were all served, and found room."""
    return Traffic(
        requests=requests,
        prompt_tokens=requests * PROMPT_TOKENS,
        completions=requests,
        completion_tokens=requests * COMPLETION_TOKENS,
        completed_prompt_tokens=requests * PROMPT_TOKENS,
    )


class Shell:
    """Takes the planner's turns one by one, on replicas, nodes and a clock that a test sets.

    Attributes:
        planner: under test.
        now_s: seconds since the epoch.
        running: replicas that serve, with their variant and when they were asked for.
        starting: replicas that are asked for and do not serve, by variant.
        seekers: of these, seconds for which one has had no node.
        failures: what keeps replicas of a variant from coming up.
        nodes: by group; by default one of each is on.

    """

    def __init__(self, given: Config | None = None) -> None:
        self.config = given or config()
        self.now_s = EPOCH_S
        self.planner = Planner(self.config, catalogue.variants(self.config), self.now_s)
        self.running: dict[str, Started] = {}
        self.starting: dict[VariantName, int] = {}
        self.seekers: dict[VariantName, float] = {}
        self.failures: dict[VariantName, str] = {}
        self.nodes: dict[NodeGroupName, GroupState] = dict.fromkeys(
            (H100, L4), GroupState(ready=1, accelerators_per_node=4)
        )
        self._totals: dict[tuple[str, StreamKey], Traffic] = {}
        self._numbers = 0
        self._asked = 0

    # ── what gateways say ───────────────────────────────────────────────────

    def hear(
        self, requests: Mapping[StreamKey, int] | int = 0, gateway: str = "g", **news: Any
    ) -> PlanNews:
        """Let a gateway say that so many more requests have come; `news` are fields of its news."""
        new = {STANDARD: requests} if isinstance(requests, int) else requests
        return self.count({key: traffic(count) for key, count in new.items()}, gateway, **news)

    def count(self, new: Mapping[StreamKey, Traffic], gateway: str = "g", **news: Any) -> PlanNews:
        """Let a gateway say what it has counted since it last spoke."""
        for key, count in new.items():
            before = self._totals.get((gateway, key), Traffic())
            self._totals[gateway, key] = before.plus(count)
        totals = {key: total for (name, key), total in self._totals.items() if name == gateway}
        self._numbers += 1
        return self.planner.hear(GatewayNews(gateway, self._numbers, totals, **news), self.now_s)

    # ── what there is ───────────────────────────────────────────────────────

    def start(self, variant: VariantName, count: int = 1, *, asked_s_ago: float = 0.0) -> list[str]:
        """Let replicas serve that were asked for a while ago."""
        names = [f"{variant}-{self._asked + number}" for number in range(count)]
        self._asked += count
        for name in names:
            self.running[name] = Started(name, variant, self.now_s - asked_s_ago)
        return names

    def observed(self) -> Observed:
        awake: dict[VariantName, int] = {}
        for each in self.running.values():
            awake[each.variant] = awake.get(each.variant, 0) + 1
        there = Deployed(
            awake=awake,
            starting=dict(self.starting),
            seekers=dict(self.seekers),
            failures=dict(self.failures),
            running=tuple(self.running.values()),
        )
        return Observed(self.now_s, there, dict(self.nodes))

    # ── turns ───────────────────────────────────────────────────────────────

    def draft(self) -> Draft:
        seen = self.observed()
        self.planner.notice(seen)
        return self.planner.draft(seen)

    def turn(self, *, after_s: float = 10.0) -> Planned | None:
        """Let time pass, learn, plan, look again, and adopt the plan."""
        self.now_s += after_s
        self.planner.observe(self.observed())
        self.planner.notice(self.observed())
        question = self.planner.question(self.observed())
        if question is not None:
            self.planner.adapt(mixes(*question), self.observed())
        draft = self.draft()
        made = plan(draft.plan_input, previous=draft.previous)
        fresh = self.draft()
        return self.planner.adopt(validate(made, fresh.plan_input), fresh, 0.01)

    def carry_out(self) -> None:
        """Have exactly the replicas and nodes that are wanted."""
        for name, wanted in self.planner.targets().items():
            there = [each.replica for each in self.running.values() if each.variant == name]
            self.start(name, max(0, wanted - len(there)))
            for replica in there[wanted:]:
                del self.running[replica]
        planned = self.planner.news(self.now_s).planned
        for group, state in (planned.groups if planned else {}).items():
            self.nodes[group] = replace(self.nodes[group], ready=state.wanted)

    def wanted(self, **variants: int) -> bool:
        """Whether so many replicas are wanted, and none of the variants that are not named."""
        targets = {name: count for name, count in self.planner.targets().items() if count}
        return targets == variants
