"""The planner as Ray Serve runs it: one replica that plans in a loop of its own.

Its own module because it is all of the planner that waits and knows Ray: it looks at the
cluster, runs what takes long in a thread, and has its wishes read by the autoscaling policy.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cluster import telemetry
from cluster.nodes import GroupState, NodeProvider, NodesUnknownError
from scheduler.mix import mixes
from scheduler.planning import plan
from scheduler.requests import VariantName
from scheduler.validation import validate
from serve import catalogue
from serve.census import deployed
from serve.config import Config
from serve.deployment import TARGET
from serve.logs import join_serve_log
from serve.node_provider import node_provider
from serve.plan_metrics import observe_plan
from serve.plan_news import PlanNews
from serve.planner import Observed, Planner
from serve.troubles import NODES, PLAN, Trouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from scheduler.plans import NodeGroupName
    from serve.plan_news import GatewayNews, Planned

logger = logging.getLogger("jouleserve.serve")

# Between two plans that are urgent: a solution takes up to a second.
URGENT_S = 1.0
# Ray's controller and the nodes' provider answer within this, or the plan waits for the next turn.
LOOK_LIMIT_S = 10.0


class PlannerDeployment:
    """Plans again and again; gateways call `exchange`, people `propose`."""

    def __init__(self) -> None:
        """Know nothing yet; Ray Serve calls `reconfigure` before anything else."""
        join_serve_log()
        self._planner: Planner | None = None
        self._config: Config | None = None
        self._nodes: NodeProvider | None = None
        self._known: Mapping[NodeGroupName, GroupState] = {}
        self._wake = asyncio.Event()
        self._faults: dict[str, str] = {}
        # For metrics, which another thread reads.
        self._latest = PlanNews()
        self._solving = asyncio.Lock()
        self._loop_task: asyncio.Task[None] | None = None
        self._exports = telemetry.configure("jouleserve-planner")

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Take a configuration, the first or another one."""
        parsed = Config.model_validate(config)
        variants = await asyncio.to_thread(catalogue.variants, parsed)
        nodes = await asyncio.to_thread(node_provider, parsed)
        if self._nodes is not None:
            await asyncio.to_thread(self._nodes.close)
        self._config, self._nodes = parsed, nodes
        if self._planner is None:
            self._planner = Planner(parsed, variants, time.time())
            observe_plan(lambda: self._latest)
            self._loop_task = asyncio.create_task(self._plan_forever(), name="planner")
        else:
            self._planner.configure(parsed, variants, time.time())
            self._wake.set()

    async def exchange(self, news: GatewayNews) -> PlanNews:
        """Take what a gateway saw, and say what is planned."""
        planner = self._known_planner()
        answer = planner.hear(news, time.time())
        if planner.urgent():
            self._wake.set()
        self._latest = self._with_faults(answer)
        return self._latest

    async def propose(self) -> Planned:
        """Make a plan for this instant, and do nothing about it."""
        planner = self._known_planner()
        draft = planner.draft(await self._look())
        began_s = time.monotonic()
        async with self._solving:
            made = await asyncio.to_thread(plan, draft.plan_input, previous=draft.previous)
        return planner.described(made, draft, time.monotonic() - began_s)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell Ray Serve's controller how many replicas are wanted (read by `autoscaling`)."""
        if self._planner is None:
            return {}
        return {TARGET + name: float(count) for name, count in self._planner.targets().items()}

    async def check_health(self) -> None:
        """Raise when nothing is planned any more."""
        if self._loop_task is not None and self._loop_task.done():
            raise RuntimeError("the planner's loop has ended")

    async def __del__(self) -> None:
        """End the loop; what is asked of nodes is withdrawn."""
        if self._loop_task is not None:
            self._loop_task.cancel()
        if self._nodes is not None:
            await asyncio.to_thread(self._nodes.close)
        await asyncio.to_thread(self._exports.shutdown)

    # ── loop ────────────────────────────────────────────────────────────────

    async def _plan_forever(self) -> None:
        """Plan every period, and sooner when requests wait for something to wake."""
        planner, due_s = self._known_planner(), time.monotonic()
        while True:
            await self._pause(due_s - time.monotonic())
            due = time.monotonic() >= due_s
            if due:
                due_s = time.monotonic() + self._known_config().planner.period_s
            try:
                await self._plan(planner, learn=due)
            except Exception as error:
                # Whatever is wrong, replicas stay as they are, and the next turn may do better.
                logger.exception("no plan could be made")
                kind = type(error).__name__
                self._faults[PLAN] = f"none could be made ({kind}); replicas stay as they are"
            else:
                self._faults.pop(PLAN, None)
            self._latest = self._with_faults(planner.news(time.time()))
            await asyncio.sleep(URGENT_S)

    async def _pause(self, limit_s: float) -> None:
        """Wait until the next plan is due, or something is urgent."""
        try:
            async with asyncio.timeout(max(0.0, limit_s)):
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            self._wake.clear()

    async def _plan(self, planner: Planner, *, learn: bool) -> None:
        """Look, plan, look again, carry out."""
        seen = await self._look()
        if learn:
            planner.observe(seen)
        planner.notice(seen)
        if learn:
            await self._adapt(planner, seen)
        draft = planner.draft(seen)
        began_s = time.monotonic()
        async with self._solving:
            made = await asyncio.to_thread(plan, draft.plan_input, previous=draft.previous)
            solve_s = time.monotonic() - began_s
            now = await self._look()
            planner.notice(now)
            fresh = planner.draft(now)
            verdict = await asyncio.to_thread(validate, made, fresh.plan_input)
        before = planner.targets()
        planned = planner.adopt(verdict, fresh, solve_s)
        if planned is not None and planner.targets() != before:
            _log(planned)
        if planned is not None and self._nodes is not None:
            await self._ask(self._nodes, planned.plan.nodes)

    async def _adapt(self, planner: Planner, seen: Observed) -> None:
        """Look at what serving takes with and without each candidate."""
        question = planner.question(seen)
        if question is None:
            return
        before = planner.news(seen.now_s).candidates
        async with self._solving:
            compared = await asyncio.to_thread(mixes, *question)
        planner.adapt(compared, seen)
        for name, case in planner.news(seen.now_s).candidates.items():
            if name not in before or case.phase is not before[name].phase:
                logger.info("candidate %s is %s: %s", name, case.phase, case.reason)

    async def _ask(self, nodes: NodeProvider, wanted: Mapping[NodeGroupName, int]) -> None:
        async with self._tolerant("nodes cannot be asked for"):
            await asyncio.to_thread(nodes.ask, dict(wanted))

    async def _look(self) -> Observed:
        """See what there is; of nodes that nobody answers for, what was known last."""
        config, nodes = self._known_config(), self._nodes
        names = [VariantName(entry.name) for _, entry in config.variants()]
        async with asyncio.timeout(LOOK_LIMIT_S):
            details = await asyncio.to_thread(_serve_details)
        if nodes is not None:
            async with self._tolerant("nodes are not known"):
                self._known = await asyncio.to_thread(nodes.observe)
        now_s = time.time()
        return Observed(now_s, deployed(details, names, now_s), self._known)

    @asynccontextmanager
    async def _tolerant(self, what: str) -> AsyncIterator[None]:
        """Bound what is asked of nodes; one that fails is a trouble until it goes well again."""
        try:
            async with asyncio.timeout(LOOK_LIMIT_S):
                yield
        except (NodesUnknownError, TimeoutError) as error:
            why = str(error) or f"no answer within {LOOK_LIMIT_S:g} s"
            logger.warning("%s: %s", what, why)
            self._faults[NODES] = f"{what}: {why}"
        else:
            if self._faults.get(NODES, "").startswith(what):
                del self._faults[NODES]

    def _with_faults(self, news: PlanNews) -> PlanNews:
        faults = (Trouble(subject, reason) for subject, reason in self._faults.items())
        return replace(news, troubles=(*faults, *news.troubles))

    def _known_planner(self) -> Planner:
        if self._planner is None:
            raise RuntimeError("the planner has no configuration yet")
        return self._planner

    def _known_config(self) -> Config:
        if self._config is None:
            raise RuntimeError("the planner has no configuration yet")
        return self._config


def _log(planned: Planned) -> None:
    """Say what is changed, and why."""
    for action in planned.plan.actions:
        what = action.variant or "nodes"
        logger.info(
            "%s %d %s on %s: %s", action.kind, action.count, what, action.group, action.reason
        )
    for slot, state in planned.slots.items():
        if state.trouble:
            logger.warning("no more %s on %s for now: %s", slot.variant, slot.group, state.trouble)


def _serve_details() -> Mapping[str, Any]:
    """Ask Ray Serve's controller what it has; blocks."""
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    if client is None:
        raise RuntimeError("Ray Serve's controller is not known")
    details: Mapping[str, Any] = client.get_serve_details()
    return details
