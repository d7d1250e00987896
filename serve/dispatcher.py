"""Serve one call: admit, route, lease, stream, release.

Its own module because it is the request path itself; every call of every protocol
takes it, and the lease it books is released here and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from scheduler.admission import ModelFacts, Occupancy, Rejected, RequestFacts, admit
from scheduler.blocks import block_hashes
from scheduler.leases import Lease
from scheduler.lengths import CompletionLengths
from scheduler.requests import ModelName, Objective, Request, RequestId, VariantName
from scheduler.routing import Latencies, Learner
from serve import resuming
from serve.calls import Journey, OpeningDelta, Outcome
from serve.energy_books import EnergyBooks
from serve.engine import EngineRequest
from serve.errors import (
    BadRequestError,
    DeadlineError,
    EngineFailedError,
    JouleserveError,
    OverloadedError,
    PromptTooLongError,
    ReplicaLostError,
    UnattainableError,
    known_model,
)
from serve.placing import Placer
from serve.recent_decisions import RecentDecisions
from serve.tally import Tally
from serve.tracing import nobody

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from random import Random

    from cluster.carbon import Grid
    from scheduler.fleet import Variant
    from scheduler.routing import Policy
    from serve.calls import Call, Wishes
    from serve.config import Config
    from serve.config_models import ModelConfig
    from serve.engine import EngineDelta, EngineFinish
    from serve.engines import Attempt, Engines
    from serve.frames import RequestEnergy
    from serve.tracing import Tracer
    from serve.traffic_counts import TrafficCounts

# A lease outlives the deadline by this, so that only a forgotten one expires.
LEASE_MARGIN_S = 30.0


class Dispatcher:
    """Serves calls on the engines that one gateway knows."""

    def __init__(  # noqa: PLR0913, PLR0917 (the parts of a gateway meet here)
        self,
        config: Config,
        variants: Mapping[VariantName, Variant],
        engines: Engines,
        policy: Policy,
        rng: Random,
        clock: Callable[[], float],
        observe: Callable[[Journey], None],
        traffic: TrafficCounts,
        hurry: Callable[[], None],
        trace: Tracer = nobody,
        grid: Grid | None = None,
    ) -> None:
        """Serve with these parts.

        Args:
            config: of the whole cluster.
            variants: as the scheduler sees them.
            engines: the gateway's books about replicas.
            policy: scores candidates.
            rng: breaks ties.
            clock: monotonic seconds.
            observe: told of every call that has ended.
            traffic: counts what comes, for the planner.
            hurry: tells the planner that a call waits for a replica.
            trace: begins the trace of every call.
            grid: whose electricity it is; None where nobody knows its intensity.

        """
        self.tally = Tally()
        self.decisions = RecentDecisions()
        self.books = EnergyBooks(config.energy.max_tenants)
        self._grid = grid
        engines.on_dropped = self._dropped
        self._config = config
        self._engines = engines
        self._placer = Placer(config, engines, policy, rng, traffic, hurry)
        self._learner = policy if isinstance(policy, Learner) else None
        self._clock = clock
        self._observe = observe
        self._trace = trace
        self._traffic = traffic
        self._models = {model.name: model for model in config.models}
        self._facts = {
            name: ModelFacts(
                ModelName(name), tuple(each for each in variants.values() if each.model == name)
            )
            for name in self._models
        }
        self._lengths = CompletionLengths(config.scheduler.expected_completion_tokens)
        self._numbers = itertools.count(1)

    async def serve(self, call: Call) -> AsyncGenerator[EngineDelta | Outcome, None]:
        """Stream the deltas of a call; its outcome is the last item.

        Raises:
            JouleserveError: it was refused, or it failed after what was yielded.

        """
        journey = Journey(call, self._trace(call))
        try:
            with self.tally.refusing():
                request = self._admit(journey)
                left = self._remainder(journey, request)
                await self._place(journey, left)
            with self.tally.counting():
                stream = self._stream(journey, request, left)
                async with contextlib.aclosing(stream):
                    async for delta in stream:
                        yield delta
                if journey.outcome is not None:
                    yield journey.outcome
        except BaseException as error:
            journey.error = error
            raise
        finally:
            self._traffic.ended(journey)
            journey.trace.ended(journey, self._clock())
            self._observe(journey)

    # ── admit ───────────────────────────────────────────────────────────────

    def _admit(self, journey: Journey) -> Request:
        """Refuse what nobody could serve; settle objectives and length of the rest."""
        call = journey.call
        model = known_model(call.model, self._models)
        journey.service_class, objective = self._objective(model, call.wishes)
        journey.objective = objective
        variant = VariantName(call.wishes.variant) if call.wishes.variant else None
        verdict = admit(
            RequestFacts(
                prompt_tokens=len(call.prompt_token_ids),
                max_tokens=call.max_tokens,
                min_quality=objective.min_quality,
                variant=variant,
            ),
            self._facts[call.model],
            Occupancy(self.tally.in_flight, self._config.gateway.max_concurrent_requests),
        )
        if isinstance(verdict, Rejected):
            raise _rejection(verdict)
        self._take_over(journey, verdict.max_tokens)
        journey.admitted_s = self._clock()
        journey.notice = verdict.notice
        name = ModelName(call.model)
        return Request(
            request_id=RequestId(call.request_id),
            model=name,
            prompt_tokens=len(call.prompt_token_ids),
            max_tokens=verdict.max_tokens,
            expected_completion_tokens=self._lengths.expected(
                name, journey.service_class, verdict.max_tokens
            ),
            objective=objective,
            arrived_at_s=call.arrived_at_s,
            variant=variant,
            prefix_blocks=self._prefix_blocks(call.model, call.prompt_token_ids),
        )

    def _take_over(self, journey: Journey, max_tokens: int) -> None:
        """Begin where a lost gateway has left the call, if one has."""
        call = journey.call
        if call.resume is None:
            return
        variants = [each.name for each in self._facts[call.model].variants]
        resuming.check(call.resume, max_tokens, variants, self._config.gateway.max_resumes)
        journey.decision = call.resume.decision()

    def _prefix_blocks(self, model: str, token_ids: list[int]) -> tuple[int, ...]:
        """Hash the prompt, where a replica could know its beginning."""
        if not any(each.prefix_block_tokens for each in self._facts[model].variants):
            return ()
        try:
            return block_hashes(token_ids, self._engines.prefixes.block_tokens)
        except (OverflowError, TypeError):
            return ()  # No token ids; the engine says so better than a hash could.

    def _objective(self, model: ModelConfig, wishes: Wishes) -> tuple[str, Objective]:
        """The service class by name, and its objectives as far as the wishes leave them."""
        name = wishes.service_class or model.default_service_class
        given = self._config.service_classes.get(name)
        if given is None:
            names = ", ".join(sorted(self._config.service_classes))
            raise BadRequestError(f"service class {name!r} is not configured; known: {names}")
        return name, Objective(
            ttft_s=given.ttft_s if wishes.ttft_s is None else wishes.ttft_s,
            tpot_s=given.tpot_s if wishes.tpot_s is None else wishes.tpot_s,
            min_quality=given.min_quality if wishes.min_quality is None else wishes.min_quality,
        )

    # ── stream ──────────────────────────────────────────────────────────────

    async def _stream(
        self, journey: Journey, request: Request, left: Request
    ) -> AsyncGenerator[EngineDelta, None]:
        """Relay the engine's deltas; go on elsewhere when its replica is lost.

        Args:
            journey: of the call.
            request: all of it.
            left: of that, what has not come yet.

        """
        writer: VariantName | None = None
        while True:
            chosen = journey.chosen().variant
            attempt = self._begin(journey, request, left)
            alarm = self._alarm(attempt, journey.call)
            try:
                while True:
                    delta = await attempt.stream.take()
                    journey.saw(delta.token_ids, self._clock())
                    if delta.finish is not None:
                        self._complete(journey, attempt, delta.finish)
                        self._learn(journey, request)
                    yield delta if writer == chosen else OpeningDelta.of(delta, chosen)
                    writer = chosen
                    if delta.finish is not None:
                        return
            except ReplicaLostError as error:
                # Its link may not have noticed yet; the books would still recommend it.
                journey.lost(attempt.lease.replica, attempt.replica, accepted=attempt.accepted)
                journey.trace.left(attempt.replica, error, self._clock())
                resuming.allow_another(journey, error, self._config.gateway.max_resumes)
            finally:
                alarm.cancel()
                self._engines.end(attempt)
                if attempt.replica != attempt.lease.replica:
                    self._engines.prefixes.stored(attempt.replica, request.prefix_blocks)
            left = self._remainder(journey, request)
            await self._place(journey, left)

    async def _place(self, journey: Journey, request: Request) -> None:
        """Choose a replica, within the time that the call has."""
        now_s = self._clock()
        journey.trace.routes(now_s)
        limit_s = max(0.0, self._deadline_s(journey.call) - now_s)
        try:
            async with asyncio.timeout(limit_s):
                journey.decision = await self._placer.place(journey, request)
        except TimeoutError as error:
            raise self._too_late(journey.call) from error
        journey.routed_s = self._clock()
        journey.trace.routed(journey.decision, journey.routed_s)
        self.decisions.made(journey, journey.routed_s)

    def _remainder(self, journey: Journey, request: Request) -> Request:
        """Say what is left to do of a request, some tokens of which have come."""
        done = journey.tokens
        if not done:
            return request
        return replace(
            request,
            prompt_tokens=request.prompt_tokens + done,
            max_tokens=max(1, request.max_tokens - done),
            expected_completion_tokens=max(1.0, request.expected_completion_tokens - done),
            prefix_blocks=self._prefix_blocks(
                journey.call.model, journey.call.prompt_token_ids + journey.token_ids
            ),
        )

    def _begin(self, journey: Journey, request: Request, left: Request) -> Attempt:
        """Book a lease for what is left on the chosen replica, and submit the request there."""
        decision, call = journey.chosen(), journey.call
        number = next(self._numbers)
        lease = Lease(
            lease_id=number,
            request_id=request.request_id,
            replica=decision.replica,
            prompt_tokens=left.prompt_tokens,
            completion_tokens=math.ceil(left.expected_completion_tokens),
            expires_at_s=self._deadline_s(call) + LEASE_MARGIN_S,
            cached_tokens=decision.cached_tokens,
        )
        engine_request = EngineRequest(
            # A lost gateway may have asked for the same before, and its count was like this one.
            request_id=f"{call.request_id}-{self._engines.gateway}-{number}",
            prompt_token_ids=call.prompt_token_ids,
            max_tokens=request.max_tokens,
            sampling=call.sampling(request.max_tokens),
            trace_headers=journey.trace.begins(journey, self._clock()),
            cached_tokens=decision.cached_tokens,
            replayed_token_ids=list(journey.token_ids),
        )
        self._engines.prefixes.stored(decision.replica, left.prefix_blocks)
        self.books.began(number, journey, decision.variant)
        return self._engines.begin(lease, decision.variant, engine_request, list(decision.ranking))

    def _deadline_s(self, call: Call) -> float:
        return call.arrived_at_s + self._config.gateway.request_timeout_s

    def _alarm(self, attempt: Attempt, call: Call) -> asyncio.TimerHandle:
        """End the attempt at the deadline: one timer a call, nothing a token."""
        return asyncio.get_running_loop().call_later(
            max(0.0, self._deadline_s(call) - self._clock()),
            attempt.stream.fail,
            self._too_late(call),
        )

    def _too_late(self, call: Call) -> DeadlineError:
        limit_s = self._config.gateway.request_timeout_s
        return DeadlineError(f"request {call.request_id} took longer than {limit_s:g} s")

    def _complete(self, journey: Journey, attempt: Attempt, finish: EngineFinish) -> None:
        """Close the books of a stream that has ended well.

        Raises:
            EngineFailedError: tokens were lost or repeated on the way.

        """
        energy = attempt.stream.energy
        expected = (finish.completion_tokens, finish.completion_crc32)
        if energy is None or (journey.tokens, journey.crc32) != expected:
            raise EngineFailedError(
                f"{journey.tokens} tokens arrived that are not the"
                f" {finish.completion_tokens} that the engine generated"
            )
        decision = journey.chosen()
        journey.outcome = Outcome(
            request_id=journey.call.request_id,
            variant=decision.variant,
            replica=attempt.replica,
            decision=decision,
            reason="; ".join(
                filter(None, (decision.reason, journey.notice, resuming.history(journey)))
            ),
            finish=finish,
            energy=energy,
            latency=journey.latency(),
            resumes=journey.resumes,
            replayed_tokens=journey.replayed_tokens,
            gco2e=self._gco2e(energy.energy_j),
        )
        self.books.finished(attempt.lease.lease_id, journey.outcome)

    def _dropped(self, number: int, energy: RequestEnergy) -> None:
        """Book what an attempt has used that did not finish."""
        self.books.dropped(number, energy.energy_j, self._gco2e(energy.energy_j))

    def _gco2e(self, energy_j: float) -> float | None:
        intensity = None if self._grid is None else self._grid.now()
        return None if intensity is None else intensity.gco2e(energy_j)

    def _learn(self, journey: Journey, request: Request) -> None:
        """Know better next time how long completions are, and how well latencies are predicted."""
        if journey.gateways_lost:
            return  # Of all completions it is the long ones that outlive a gateway.
        latency = journey.latency()
        self._lengths.observe(request.model, journey.service_class, journey.tokens)
        if self._learner is not None and not journey.losses + journey.misses:
            met = Latencies(latency.ttft_s, latency.tpot_s)
            self._learner.learn(request, journey.chosen().predicted, met)


def _rejection(verdict: Rejected) -> JouleserveError:
    match verdict.kind:
        case "bad_request":
            return BadRequestError(verdict.message)
        case "prompt_too_long":
            return PromptTooLongError(verdict.message)
        case "unattainable":
            return UnattainableError(verdict.message)
        case "overloaded":
            return OverloadedError(verdict.message)
        case _:
            assert_never(verdict.kind)
