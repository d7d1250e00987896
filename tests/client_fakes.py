"""A scripted server on a real socket, and both clients behind one face.

Its own module because everything that a client does is tried on both of them, against a server
that says exactly what a test tells it to.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import grpc

from protos.jouleserve import checksum, errors
from protos.jouleserve.v1 import cluster_pb2, cluster_pb2_grpc, inference_pb2_grpc
from protos.jouleserve.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from protos.jouleserve import client, replies, served, statuses


def tokens(*ids: int, variant: str = "", last: bool = False) -> pb.GenerateResponse:
    text = "".join(f"<{i}>" for i in ids)
    return pb.GenerateResponse(
        tokens=pb.Tokens(text=text, token_ids=ids, variant=variant, last=last)
    )


def finish(completion_tokens: int, crc32: int | None = None, **fields: Any) -> pb.GenerateResponse:
    """Give the end of a reply; unless said otherwise its tokens were 1, 2, 3 and so on."""
    counted = range(1, completion_tokens + 1)
    usage = pb.Usage(
        prompt_tokens=7,
        cached_tokens=3,
        completion_tokens=completion_tokens,
        completion_crc32=checksum.extend(0, counted) if crc32 is None else crc32,
        latency=pb.Latency(ttft_s=0.25, tpot_s=0.5, e2e_s=1.0),
        energy=pb.Energy(energy_j=3, prefill_j=1, decode_j=2, method="model", boundary="cpu"),
    )
    said = {"finish_reason": "stop", "variant": "int8", "replica": "r1", "reason": "cheapest"}
    return pb.GenerateResponse(finish=pb.Finish(usage=usage, **(said | fields)))


class Servicer(inference_pb2_grpc.InferenceServicer, cluster_pb2_grpc.ClusterServicer):
    """Answers as it is told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.script: Any = lambda _request, _context: iter([tokens(1, 2), tokens(3), finish(3)])
        self.requests: list[pb.GenerateRequest] = []
        self.metadata: list[dict[str, Any]] = []
        self.time_left_s: list[float] = []
        self.began = threading.Event()
        self.ended = threading.Event()

    def Generate(
        self, request: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateResponse]:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.time_left_s.append(context.time_remaining())
        context.add_callback(self.ended.set)
        self.began.set()
        yield from self.script(request, context)

    def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.ServicerContext
    ) -> pb.ListModelsResponse:
        objective = pb.Objective(ttft_s=0.5, min_quality=0.0)
        model = pb.Model(
            name="smollm2",
            max_context_tokens=2048,
            variants=[pb.Variant(name="int8", dtype="bfloat16", quality=0.5, awake_replicas=2)],
            service_classes=[pb.ServiceClass(name="interactive", objective=objective)],
            default_service_class="interactive",
        )
        return pb.ListModelsResponse(models=[model])

    def GetStatus(
        self, request: cluster_pb2.GetStatusRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.GetStatusResponse:
        return cluster_pb2.GetStatusResponse(
            gateway="g1",
            policy="energy",
            replicas=[cluster_pb2.Replica(replica="r1", state="awake", power_w=8.0, leases=4)],
            counters=cluster_pb2.Counters(accepted=5, completed=4, in_flight=1),
        )

    def GetPlan(
        self, request: cluster_pb2.GetPlanRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.GetPlanResponse:
        return cluster_pb2.GetPlanResponse()


def fail(status: grpc.StatusCode, message: str = "no", kind: str = "") -> Any:
    def script(_: object, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        if kind:
            context.set_trailing_metadata(((errors.KIND_KEY, kind),))
        context.abort(status, message)

    return script


def endless(_: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
    """One token at once, then one in a while, for as long as the call lives."""
    for token_id in range(1000):
        yield tokens(token_id)
        time.sleep(0.01)
        if not context.is_active():
            return


@contextmanager
def serving(servicer: Servicer) -> Iterator[str]:
    """Let a servicer answer; gives its address."""
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        inference_pb2_grpc.add_InferenceServicer_to_server(servicer, server)
        cluster_pb2_grpc.add_ClusterServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(0).wait()


class Blocking:
    """Lets one set of tests speak to both clients: the asyncio client's face on the other one."""

    def __init__(self, client: client.Client) -> None:
        self.client = client

    def generate(self, *args: Any, **options: Any) -> BlockingStream:
        return BlockingStream(self.client.generate(*args, **options))

    async def complete(self, *args: Any, **options: Any) -> replies.Completion:
        return await asyncio.to_thread(self.client.complete, *args, **options)

    async def models(self) -> tuple[served.Model, ...]:
        return await asyncio.to_thread(self.client.models)

    async def status(self) -> statuses.ClusterStatus:
        return await asyncio.to_thread(self.client.status)

    async def close(self) -> None:
        self.client.close()


class BlockingStream:
    def __init__(self, stream: client.Stream) -> None:
        self.stream = stream

    def __aiter__(self) -> BlockingStream:
        return self

    async def __anext__(self) -> replies.Tokens:
        received = await asyncio.to_thread(next, self.stream, None)
        if received is None:
            raise StopAsyncIteration
        return received

    async def __aenter__(self) -> Self:
        self.stream.__enter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.stream.__exit__(*error)

    @property
    def finish(self) -> replies.Finish:
        return self.stream.finish

    async def complete(self) -> replies.Completion:
        return await asyncio.to_thread(self.stream.complete)

    async def text(self) -> str:
        return await asyncio.to_thread(self.stream.text)

    def cancel(self) -> None:
        self.stream.cancel()
