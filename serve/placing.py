"""Find a replica for a call: now, or as soon as there is one.

Its own module because it is what stands between a request and a fleet that may be asleep,
full or dying: routing itself is a pure function that knows neither waiting nor the past.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from scheduler.eligibility import unfit_for
from scheduler.routing import Decision, Limits, NoReplica, route
from serve.errors import JouleserveError, NoReplicaError, OverloadedError, UnattainableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from scheduler.requests import Request
    from scheduler.routing import Policy
    from serve.calls import Journey
    from serve.config import Config
    from serve.engines import Engines
    from serve.traffic_counts import TrafficCounts


# Candidates of a decision that a trace shows; a fleet may have hundreds.
MOST_TRACED = 5


class Placer:
    """Routes the calls of one gateway, and holds those that nobody can take yet."""

    def __init__(  # noqa: PLR0913, PLR0917 (the parts that placing needs, each by its name)
        self,
        config: Config,
        engines: Engines,
        policy: Policy,
        rng: Random,
        traffic: TrafficCounts,
        hurry: Callable[[], None],
    ) -> None:
        """Route with these parts.

        Args:
            config: of the whole cluster.
            engines: the gateway's books about replicas.
            policy: scores candidates.
            rng: breaks ties.
            traffic: counts what comes and what waits.
            hurry: tells whoever wakes replicas that a call waits.

        """
        self._traffic = traffic
        self._hurry = hurry
        self._engines = engines
        self._policy = policy
        self._rng = rng
        self._hold_timeout_s = config.gateway.hold_timeout_s
        self._max_held = config.gateway.max_held_requests
        self._limits = Limits(
            max_waiting=config.scheduler.max_waiting_per_replica,
            stale_after_s=config.scheduler.stale_after_s,
        )

    async def place(self, journey: Journey, request: Request) -> Decision:
        """Choose a replica; wait for one while none is awake.

        A call that has lost its replica after its first token goes on with the same variant,
        and with another that keeps its quality floor if there is none of that.

        Raises:
            UnattainableError: no variant can ever serve it.
            OverloadedError: all that could are full, or too many wait already.
            NoReplicaError: none has come in time.

        """
        verdict = self._choose(journey, request)
        if not journey.losses + journey.misses:
            self._traffic.came(journey, request, verdict)
        if isinstance(verdict, NoReplica) and self._worth_waiting(journey, request, verdict):
            verdict = await self._hold(journey, request, verdict)
        if isinstance(verdict, NoReplica):
            raise _refusal(verdict)
        return verdict

    def _choose(
        self, journey: Journey, request: Request, *, again: bool = False
    ) -> Decision | NoReplica:
        if journey.tokens and journey.decision is not None and request.variant is None:
            same = replace(request, variant=journey.decision.variant)
            verdict = self._route(journey, same, again=again)
            if isinstance(verdict, Decision):
                return verdict
        return self._route(journey, request, again=again)

    def _route(self, journey: Journey, request: Request, *, again: bool) -> Decision | NoReplica:
        wanted = journey.call.wishes.explain
        return route(
            request,
            self._engines.fleet(),
            self._policy,
            self._rng,
            limits=self._limits,
            # One that was lost may be back under its name by the time that it is asked again.
            avoid=frozenset() if again else journey.failed,
            explain=wanted or journey.trace.recording,
            most_explained=None if wanted else MOST_TRACED,
        )

    def _worth_waiting(self, journey: Journey, request: Request, verdict: NoReplica) -> bool:
        """Whether time can help: a replica starts, or may wake; or tokens are at stake."""
        if not self._hold_timeout_s or verdict.kind == "unattainable":
            return False
        asleep = verdict.kind == "none_awake" or verdict.wake is not None
        return asleep or journey.tokens > 0 or self._one_is_coming(request)

    def _one_is_coming(self, request: Request) -> bool:
        known = self._engines.believed()
        coming = [known[name] for name in self._engines.coming if name in known]
        return any(each.model == request.model and not unfit_for(request, each) for each in coming)

    async def _hold(
        self, journey: Journey, request: Request, verdict: NoReplica
    ) -> Decision | NoReplica:
        """Try again whenever a replica has news, as long as a call may be held."""
        waiting = self._traffic.held.total()
        if waiting >= self._max_held:
            raise OverloadedError(
                f"{verdict.reason}, and {waiting} requests wait already: try again later"
            )
        try:
            with self._traffic.holding(journey, request):
                self._hurry()
                return await self._until_placed(journey, request, verdict)
        except TimeoutError:
            waited = f"none came within {self._hold_timeout_s:g} s"
            return replace(verdict, reason=f"{verdict.reason}, and {waited}")

    async def _until_placed(
        self, journey: Journey, request: Request, verdict: NoReplica
    ) -> Decision | NoReplica:
        found: Decision | NoReplica = verdict
        async with asyncio.timeout(self._hold_timeout_s):
            while isinstance(found, NoReplica) and found.kind != "unattainable":
                await self._engines.news()
                found = self._choose(journey, request, again=True)
        return found


def _refusal(verdict: NoReplica) -> JouleserveError:
    match verdict.kind:
        case "unattainable":
            return UnattainableError(verdict.reason)
        case "none_awake":
            return NoReplicaError(verdict.reason)
        case "full":
            return OverloadedError(f"{verdict.reason}: try again later")
        case _:
            assert_never(verdict.kind)
