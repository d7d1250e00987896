"""What stands in for Ray and for engine replicas in tests of a gateway's parts.

Its own module because links, engines and dispatcher are tested against the same seam:
replicas that say exactly what a test tells them to, on a clock that it sets.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from random import Random
from typing import TYPE_CHECKING, Any

from protos.jouleserve import checksum
from scheduler.fleet import ReplicaReport, Variant
from scheduler.leases import Lease
from scheduler.policies import make_policy
from scheduler.requests import ModelName, ReplicaId, RequestId, VariantName
from scheduler.steps import AffineSteps
from serve.calls import Call, Journey, Wishes
from serve.config import Config, GatewayConfig, SchedulerConfig
from serve.config_models import ModelConfig, VariantConfig
from serve.dispatcher import Dispatcher
from serve.engine import EngineDelta, EngineFinish, EngineRequest
from serve.engines import Engines
from serve.frames import Frame, RequestEnergy, StreamFrame
from serve.membership import Membership
from serve.tracing import Tracer, nobody
from serve.traffic_counts import TrafficCounts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterable, Mapping

    from cluster.carbon import Grid

MODEL = ModelName("m")
LARGE, SMALL = VariantName("large"), VariantName("small")
ENERGY = RequestEnergy(1.0, 2.0, "model", "cpu")
STEPS = AffineSteps(
    t0_s=0.01, t1_s=0.0, e0_j=1.0, e1_j=0.1, prefill_s_per_token=1e-4, prefill_j_per_token=0.01
)


def variant(name: VariantName, quality: float = 1.0) -> Variant:
    return Variant(
        name=name,
        model=MODEL,
        quality=quality,
        max_context_tokens=256,
        max_batch=8,
        kv_capacity_tokens=8 * 256,
        steps=STEPS,
        context_power_w=10.0,
    )


VARIANTS = {LARGE: variant(LARGE), SMALL: variant(SMALL, quality=0.9)}


class Clock:
    """Monotonic seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class FakeSubmission:
    """A request that a replica works on until the test, or its canceller, ends it.

    Attributes:
        cancelled: the gateway has given it up.
        ended: the replica has; a test that lets one end its streams says so here.

    """

    def __init__(self, request: EngineRequest, lease: Lease, fallback: list[ReplicaId]) -> None:
        self.request = request
        self.lease = lease
        self.fallback = fallback
        self.cancelled = False
        self.ended = False
        self._done: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    def __await__(self) -> Generator[object, None, object]:
        return self._done.__await__()

    def cancel(self) -> None:
        self.cancelled = True
        self._done.cancel()

    def fail(self, error: Exception) -> None:
        self.ended = True
        if not self._done.done():
            self._done.set_exception(error)


class FakeHandle:
    """Implements `engines.EngineHandle`: replicas send the frames that a test gives them."""

    def __init__(self) -> None:
        self.submissions: dict[int, FakeSubmission] = {}
        self.connections: dict[ReplicaId, int] = defaultdict(int)
        self._wires: dict[ReplicaId, asyncio.Queue[Frame | None]] = defaultdict(asyncio.Queue)

    async def frames(self, gateway: str, replica: ReplicaId) -> AsyncIterator[Frame]:
        self.connections[replica] += 1
        wire = self._wires[replica]
        while (frame := await wire.get()) is not None:
            yield frame

    def generate(
        self, request: EngineRequest, lease: Lease, gateway: str, fallback: list[ReplicaId]
    ) -> FakeSubmission:
        submission = FakeSubmission(request, lease, fallback)
        self.submissions[lease.lease_id] = submission
        return submission

    async def wake(self) -> None:
        return

    def send(self, replica: ReplicaId, frame: Frame) -> None:
        self._wires[replica].put_nowait(frame)

    def break_connection(self, replica: ReplicaId) -> None:
        self._wires[replica].put_nowait(None)


class Rig:
    """The engines of one gateway, and the strings that move their replicas."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.handles = {name: FakeHandle() for name in VARIANTS}
        self.membership = Membership()
        self.engines = Engines("g", VARIANTS, self.handles, self.clock)
        self.engines.follow(self.membership, {name: name for name in VARIANTS})

    @property
    def submissions(self) -> dict[int, FakeSubmission]:
        """Of all variants, by lease."""
        both = (handle.submissions for handle in self.handles.values())
        return {number: each for submissions in both for number, each in submissions.items()}

    async def wake(self, replicas: Mapping[VariantName, Iterable[str]]) -> None:
        """Let exactly these replicas run, and report that they are idle."""
        for name, members in replicas.items():
            self.membership.publish(name, dict.fromkeys(members, "node"))
        await settle()
        for name, members in replicas.items():
            for replica in members:
                self.send(name, replica, report=idle_report())
        await settle()

    def send(
        self,
        name: VariantName,
        replica: str,
        *streams: StreamFrame,
        accepted: Iterable[int] = (),
        report: ReplicaReport | None = None,
        dropped: Iterable[tuple[int, RequestEnergy]] = (),
    ) -> None:
        """Let a replica send a frame."""
        frame = Frame(replica, list(accepted), list(streams), report, tuple(dropped))
        self.handles[name].send(ReplicaId(replica), frame)

    def close(self) -> None:
        self.engines.close()


class Desk(Rig):
    """The dispatcher of one gateway over such engines, and the journeys that it observed."""

    def __init__(
        self,
        config: Config | None = None,
        policy: str = "least_loaded",
        trace: Tracer = nobody,
        grid: Grid | None = None,
    ) -> None:
        super().__init__()
        self.journeys: list[Journey] = []
        self.traffic = TrafficCounts(VARIANTS)
        self.dispatcher = Dispatcher(
            config or cluster_config(),
            VARIANTS,
            self.engines,
            make_policy(policy),
            Random(0),
            self.clock,
            self.journeys.append,
            self.traffic,
            lambda: None,
            trace,
            grid,
        )

    def call(self, **changes: Any) -> Call:
        """Give a call that can be served; `changes` are fields of it."""
        fields: dict[str, Any] = {
            "request_id": "r",
            "model": MODEL,
            "prompt_token_ids": [1, 2, 3, 4],
            "max_tokens": 8,
            "sampling": lambda max_tokens: b"%d" % max_tokens,
            "wishes": Wishes(),
            "arrived_at_s": self.clock.now_s,
        }
        return Call(**(fields | changes))


def cluster_config(
    *, max_waiting: int = 64, hold_timeout_s: float = 0.0, **gateway: float
) -> Config:
    """Configure the model of which `VARIANTS` are the variants; nothing is held by default."""
    return Config(
        models=(
            ModelConfig(
                name=MODEL,
                variants=tuple(
                    VariantConfig(
                        name=each.name,
                        engine="echo",
                        accelerator="cpu",
                        quality=each.quality,
                        max_context_tokens=each.max_context_tokens,
                        max_batch=each.max_batch,
                    )
                    for each in VARIANTS.values()
                ),
            ),
        ),
        scheduler=SchedulerConfig(max_waiting_per_replica=max_waiting),
        gateway=GatewayConfig.model_validate({"hold_timeout_s": hold_timeout_s, **gateway}),
    )


async def settle() -> None:
    """Let everything run that can run without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


def idle_report() -> ReplicaReport:
    return ReplicaReport(observed_at_s=0.0)


def lease(number: int, replica: str, *, expires_at_s: float = 1e9) -> Lease:
    return Lease(
        lease_id=number,
        request_id=RequestId(f"r{number}"),
        replica=ReplicaId(replica),
        prompt_tokens=4,
        completion_tokens=8,
        expires_at_s=expires_at_s,
    )


def request(number: int) -> EngineRequest:
    return EngineRequest(f"r{number}", [1, 2, 3, 4], 8)


def tokens(stream: int, *token_ids: int) -> StreamFrame:
    """The part of a frame that brings these tokens."""
    return StreamFrame(stream, delta(*token_ids))


def delta(*token_ids: int, finish: EngineFinish | None = None) -> EngineDelta:
    text = "".join(f" {token}" for token in token_ids)
    return EngineDelta(list(token_ids), text, None, finish)


def ending(stream: int, last: Iterable[int], whole: Iterable[int]) -> StreamFrame:
    """The part of a frame that ends a stream: its last tokens, and the record of all.

    Those that were replayed are part of the whole.
    """
    token_ids = list(whole)
    finish = EngineFinish(
        reason="length",
        stop_reason=None,
        prompt_tokens=4,
        cached_tokens=0,
        completion_tokens=len(token_ids),
        completion_crc32=checksum.extend(0, token_ids),
    )
    return StreamFrame(stream, delta(*last, finish=finish), ENERGY)


def failure(stream: int, name: str = "EngineFailedError", message: str = "broken") -> StreamFrame:
    """The part of a frame that says a stream has failed in the engine."""
    return StreamFrame(stream, None, error=(name, message))
