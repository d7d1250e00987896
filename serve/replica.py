"""An engine replica: takes requests of many gateways, answers each in frames of its own.

Its own module because this is the one place where engine, outboxes, load and energy
meet; each of them knows nothing of the others, and only the last class here knows Ray.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from protos.jouleserve import checksum
from serve.errors import EngineFailedError, JouleserveError
from serve.frames import Frame, RequestEnergy
from serve.outbox import Outbox
from serve.tracing import nobody_here

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from scheduler.fleet import ReplicaReport
    from serve.engine import (
        Engine,
        EngineDelta,
        EngineFinish,
        EngineRequest,
        EngineStep,
    )
    from serve.load import LoadMeter
    from serve.tracing import EngineTrace, EngineTracer

logger = logging.getLogger("jouleserve.serve")

# A gateway reads all the time. One that does not for this long is dead or cut off.
GATEWAY_GRACE_S = 2.0
# Its first call for frames may come late after its first request, on a machine that starts up.
GATEWAY_START_S = 10.0


class Ledger(Protocol):
    """Whoever attributes the engine's energy to requests."""

    @property
    def energy_j(self) -> float:
        """Used since the replica started, idle included."""

    @property
    def idle_j(self) -> float:
        """Of that, what belongs to no request."""

    @property
    def power_w(self) -> float:
        """Recent mean."""

    @property
    def method(self) -> str:
        """How it is known."""

    @property
    def boundary(self) -> str:
        """What is counted."""

    @property
    def devices(self) -> tuple[str, ...]:
        """What is read for it."""

    @property
    def trouble(self) -> str:
        """What is wrong with that; empty if nothing is."""

    @property
    def residual_j(self) -> float:
        """What is on no account, or on two; 0 unless the books are wrong."""

    def take_measured_j(self) -> float | None:
        """Give what a counter has lately seen steps use."""

    def admit(self, request_id: str, prompt_tokens: int, now_s: float) -> None:
        """Take note of a request before the engine gets it."""

    def step(self, step: EngineStep, now_s: float) -> None:
        """Attribute what a step used."""

    def first_token(self, request_id: str) -> None:
        """Count a request among those that decode."""

    def settle(
        self, request_id: str, cached_tokens: int, completion_tokens: int, now_s: float
    ) -> RequestEnergy:
        """Close the account of a request that finished."""

    def drop(self, request_id: str, now_s: float) -> RequestEnergy | None:
        """Close the account of a request that did not; None if it is closed."""

    def advance(self, now_s: float) -> None:
        """Bring the totals up to date."""


class ReplicaStatus(NamedTuple):
    """What a replica holds at one instant; all zero when nothing leaks and nothing runs.

    Attributes:
        replica: who says so.
        report: what gateways are told.
        unfinished_requests: by the engine's own record.
        open_streams: accepted and not ended, over all gateways.
        gateways: whose frames are open, or awaited.

    """

    replica: str
    report: ReplicaReport
    unfinished_requests: int
    open_streams: int
    gateways: list[str]


class Telemetry:
    """Feeds every engine step to load and energy, on one clock.

    Attributes:
        load: of the engine.
        ledger: of its energy.
        clock: monotonic seconds.
        latest: the newest report, which any thread may read.

    """

    def __init__(self, load: LoadMeter, ledger: Ledger, clock: Callable[[], float]) -> None:
        self.load = load
        self.ledger = ledger
        self.clock = clock
        self.latest = self.report()

    def begin(self, load: LoadMeter, ledger: Ledger) -> None:
        """Begin anew with other books; to be called before the first request."""
        self.load = load
        self.ledger = ledger
        self.latest = self.report()

    def observe(self, step: EngineStep) -> None:
        """Take a step that has just ended."""
        now_s = self.clock()
        self.load.step(step, now_s)
        self.ledger.step(step, now_s)

    def report(self) -> ReplicaReport:
        """Give the totals of this instant."""
        now_s, ledger = self.clock(), self.ledger
        ledger.advance(now_s)
        measured_j = ledger.take_measured_j()
        if measured_j is not None:
            self.load.measured(measured_j)
        self.latest = self.load.report(now_s, ledger.power_w, ledger.energy_j)._replace(
            idle_j=ledger.idle_j,
            residual_j=ledger.residual_j,
            energy_method=ledger.method,
            energy_boundary=ledger.boundary,
            devices=ledger.devices,
            meter_trouble=ledger.trouble,
        )
        return self.latest


class _Gateway:
    """A gateway as the replica knows it: its outbox, its calls, and whether it reads."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.calls: set[asyncio.Task[Any]] = set()
        self.reader: object | None = None
        self.expiry: asyncio.TimerHandle | None = None


class Replica:
    """Serves requests from an engine; gateways read the outcome as frames."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        telemetry: Telemetry,
        report_period_s: float,
        trace: EngineTracer = nobody_here,
    ) -> None:
        """Put the parts together; the engine must have been started.

        Args:
            name: unique within the cluster.
            engine: calls `telemetry.observe` after every step.
            telemetry: load and energy of this replica.
            report_period_s: longest silence towards a gateway.
            trace: begins the trace of every request.

        """
        self.name = name
        self._trace = trace
        self._engine = engine
        self._telemetry = telemetry
        self._report_period_s = report_period_s
        self._gateways: dict[str, _Gateway] = {}

    async def frames(self, gateway: str, **_routing: object) -> AsyncGenerator[Frame, None]:
        """Stream everything that this replica has for a gateway, until the gateway closes it.

        The first frame comes at once and carries a report. If another stream is opened
        for the same gateway, that one takes over and this one ends. If none is open for
        `GATEWAY_GRACE_S`, all requests of the gateway are aborted.

        Args:
            gateway: unique within the cluster.
            _routing: read by the request router only.

        """
        peer = self._peer(gateway)
        reader = object()
        peer.reader = reader
        self._expect(gateway, peer, None)
        try:
            report_due_s = float("-inf")
            while True:
                frame = await self._next_frame(peer, report_due_s)
                if peer.reader is not reader:
                    return
                if frame.report is not None:
                    report_due_s = self._telemetry.clock() + self._report_period_s
                yield frame
        finally:
            if peer.reader is reader:
                peer.reader = None
                self._expect(gateway, peer, GATEWAY_GRACE_S)

    async def generate(
        self, request: EngineRequest, stream: int, gateway: str, **_routing: object
    ) -> int:
        """Run one request; its deltas travel in the gateway's frames.

        Cancelling this call aborts the request in the engine and forgets what was not
        sent. A failure travels in the frames too, and is not raised.

        Args:
            request: what to run.
            stream: the gateway's number for it, used once.
            gateway: who sent it.
            _routing: read by the request router only.

        Returns:
            tokens that the engine generated, after the last delta was put.

        Raises:
            ValueError: the stream's number is in use.

        """
        peer = self._peer(gateway)
        peer.outbox.accept(stream)
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        peer.calls.add(task)
        try:
            trace = self._trace(request)
            call = _Call(f"{gateway}/{stream}", stream, peer.outbox, self._telemetry, trace)
            return await call.run(self._engine, trace.request(request))
        finally:
            peer.calls.discard(task)

    async def ready(self) -> str:
        """Give the replica's name; the answer says that it takes requests."""
        return self.name

    async def check_health(self) -> None:
        """Raise EngineDeadError when the engine can serve no more."""
        await self._engine.check_health()

    async def status(self) -> ReplicaStatus:
        """Give what the replica holds, for operators and for tests of leaks."""
        return ReplicaStatus(
            replica=self.name,
            report=self._telemetry.report(),
            unfinished_requests=self._engine.unfinished_requests(),
            open_streams=sum(peer.outbox.open_streams for peer in self._gateways.values()),
            gateways=sorted(self._gateways),
        )

    async def stop(self) -> None:
        """Abort everything and end the engine."""
        for name, peer in list(self._gateways.items()):
            self._abandon(name, peer)
        await self._engine.stop()

    def _peer(self, gateway: str) -> _Gateway:
        peer = self._gateways.get(gateway)
        if peer is None:
            peer = self._gateways[gateway] = _Gateway()
            self._expect(gateway, peer, GATEWAY_START_S)
        return peer

    async def _next_frame(self, peer: _Gateway, report_due_s: float) -> Frame:
        clock = self._telemetry.clock
        taken = await peer.outbox.take(max(0.0, report_due_s - clock()))
        # No await from here on: the report counts exactly what was accepted up to this frame.
        counts_changed = taken.accepted or any(
            each.error is not None or (each.delta is not None and each.delta.finish is not None)
            for each in taken.streams
        )
        due = counts_changed or clock() >= report_due_s
        report = self._telemetry.report() if due else None
        return Frame(self.name, taken.accepted, taken.streams, report, taken.dropped)

    def _expect(self, gateway: str, peer: _Gateway, grace_s: float | None) -> None:
        """Give up the gateway unless it reads within this time; None: it reads."""
        if peer.expiry is not None:
            peer.expiry.cancel()
            peer.expiry = None
        if grace_s is not None:
            loop = asyncio.get_running_loop()
            peer.expiry = loop.call_later(grace_s, self._abandon, gateway, peer)

    def _abandon(self, gateway: str, peer: _Gateway) -> None:
        if peer.calls:
            logger.warning("gateway %s is gone; aborting %d requests", gateway, len(peer.calls))
        self._expect(gateway, peer, None)
        peer.reader = None
        del self._gateways[gateway]
        for task in peer.calls:
            task.cancel()


class _Call:
    """One request on its way through the engine, and all the books that it is in."""

    def __init__(
        self, name: str, stream: int, outbox: Outbox, telemetry: Telemetry, trace: EngineTrace
    ) -> None:
        self._name = name
        self._trace = trace
        self._stream = stream
        self._outbox = outbox
        self._load = telemetry.load
        self._ledger = telemetry.ledger
        self._clock = telemetry.clock
        self._emitted_tokens = 0
        self._crc32 = 0

    async def run(self, engine: Engine, request: EngineRequest) -> int:
        """Run to the end; whatever the end is, no book keeps the request."""
        self._load.accepted(self._name, request.context_tokens, request.cached_tokens)
        self._ledger.admit(self._name, request.context_tokens, self._clock())
        self._crc32 = checksum.extend(0, request.replayed_token_ids)
        try:
            await self._relay(engine, request)
        except JouleserveError as error:
            self._fail(error)
        except Exception as error:
            logger.exception("request %s failed in the engine", request.request_id)
            self._fail(EngineFailedError(f"{type(error).__name__} in the engine"))
        finally:
            self._load.finished(self._name)
            energy = self._ledger.drop(self._name, self._clock())
            self._outbox.drop(self._stream)
            if energy is not None:
                self._outbox.spent(self._stream, energy)
            self._trace.ended(self._emitted_tokens)
        return self._emitted_tokens

    async def _relay(self, engine: Engine, request: EngineRequest) -> None:
        deltas = cast("AsyncGenerator[EngineDelta, None]", engine.generate(request))
        async with aclosing(deltas):
            async for delta in deltas:
                self._count(delta.token_ids)
                if delta.finish is None:
                    self._outbox.put(self._stream, delta)
                else:
                    energy = self._finish(delta.finish)
                    cached_tokens = min(delta.finish.cached_tokens, delta.finish.prompt_tokens)
                    finish = delta.finish._replace(
                        completion_crc32=self._crc32, cached_tokens=cached_tokens
                    )
                    self._trace.finished(finish, energy)
                    self._outbox.put(self._stream, delta._replace(finish=finish), energy)

    def _count(self, token_ids: list[int]) -> None:
        if token_ids and not self._emitted_tokens:
            self._ledger.first_token(self._name)
        self._emitted_tokens += len(token_ids)
        self._crc32 = checksum.extend(self._crc32, token_ids)
        self._load.produced(self._name, len(token_ids))

    def _finish(self, finish: EngineFinish) -> RequestEnergy:
        # Before the outbox has the last delta: the report that travels with it counts it no more.
        self._load.finished(self._name)
        return self._ledger.settle(
            self._name, finish.cached_tokens, self._emitted_tokens, self._clock()
        )

    def _fail(self, error: JouleserveError) -> None:
        self._trace.failed(error)
        self._load.finished(self._name)
        self._outbox.fail(self._stream, (type(error).__name__, str(error)))
