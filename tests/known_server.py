"""A server whose latencies are known: it answers when it is told to, over gRPC and HTTP.

`python tests/known_server.py SCRIPT` runs it in a process of its own, so that who measures it has
an event loop for itself; it prints its two ports. It writes down when it gave what.

Its own module because tests of the load generator and its benchmark measure the same server.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import math
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import grpc
import httptools
import uvloop
from grpc import aio

from loadtest.live.precise_timer import PreciseTimer
from protos.jouleserve.v1 import cluster_pb2
from protos.jouleserve.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

PROJECT = Path(__file__).parents[1]
MODEL = "known"
START_S = 60.0
CHUNK = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"known","choices":'
    b'[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n'
)
ROLE = CHUNK.replace(b'"content":" word"', b'"role":"assistant","content":""')
LAST = CHUNK.replace(b'"content":" word"},"finish_reason":null', b'},"finish_reason":"length"')


@dataclass(frozen=True, slots=True)
class Script:
    """What it does.

    Attributes:
        ttft_s: from a request to its first token.
        tpot_s: from a token to the next.
        spread: of both among requests: they are the medians of log-normals of this sigma.
        tokens: of every reply; 0 is as many as the request asks for.
        key: that must be shown; empty lets everybody in.
        stall_at_s: from the first request on, it does nothing from then ...
        stall_s: ... for so long; what is due meanwhile comes at the end of it.
        die_at_s: from the first request on, its process ends; 0 is never.
        shed_every: of so many requests, one is refused for want of room; 0 refuses none.
        truncate_every: of so many replies, one ends in the middle; 0 truncates none.

    """

    ttft_s: float = 0.05
    tpot_s: float = 0.01
    spread: float = 0.0
    tokens: int = 0
    key: str = ""
    stall_at_s: float = 0.0
    stall_s: float = 0.0
    die_at_s: float = 0.0
    shed_every: int = 0
    truncate_every: int = 0

    def latencies_of(self, number: int) -> tuple[float, float]:
        """Give the time to first token and the time per token of the n-th request.

        Any long enough run of requests has the percentiles of the distribution: the shares of it
        that they take are spread evenly (van der Corput's sequences, one for each latency).
        """
        if not self.spread:
            return self.ttft_s, self.tpot_s
        return (
            self.ttft_s * math.exp(self.spread * _even_normal(number, 2)),
            self.tpot_s * math.exp(self.spread * _even_normal(number, 3)),
        )


def _even_normal(number: int, base: int) -> float:
    """Give the n-th of numbers that are normally distributed, however many there are."""
    return NormalDist().inv_cdf(_even_share(number, base))


def _even_share(number: int, base: int) -> float:
    """Give the n-th of numbers in (0, 1) that fill it evenly, however many there are."""
    share, weight = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        weight /= base
        share += digit * weight
    return share


@dataclass(frozen=True, slots=True)
class KnownServer:
    """One that runs.

    Attributes:
        grpc_address: host and port.
        http_url: of its OpenAI API, without `/v1`.
        process: that it is.

    """

    grpc_address: str
    http_url: str
    process: subprocess.Popen[str]


@contextmanager
def known_server(script: Script) -> Iterator[KnownServer]:
    """Run one while the context lasts."""
    process = subprocess.Popen(
        [sys.executable, __file__, json.dumps(asdict(script))],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        ports = json.loads(process.stdout.readline())
        yield KnownServer(f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", process)
    finally:
        process.kill()
        process.communicate()


class Pacer:
    """Waits to some ten microseconds, where an event loop rounds to milliseconds."""

    def __init__(self) -> None:
        self._timer = PreciseTimer(self._wake)
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def until(self, due_s: float) -> asyncio.Future[None]:
        """Give what is done at an instant."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (due_s, next(self._order), future))
        if self._waiting[0][2] is future:
            self._timer.wake_at(due_s)
        return future

    def _wake(self) -> None:
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)
        if self._waiting:
            self._timer.wake_at(self._waiting[0][0])


class Server:
    """Both protocols."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.pacer = Pacer()
        self.began_at_s = 0.0
        self.requests = 0
        self.completed = 0

    def begin(self) -> int:
        """Count a request."""
        now_s = time.monotonic()
        if not self.requests:
            self.began_at_s = now_s
            if self.script.die_at_s:
                asyncio.get_running_loop().call_later(self.script.die_at_s, os._exit, 1)
        self.requests += 1
        return self.requests

    def due_s(self, arrived_at_s: float, number: int, token: int) -> float:
        """Give the instant of a token of a request."""
        script = self.script
        ttft_s, tpot_s = script.latencies_of(number)
        at_s = arrived_at_s + ttft_s + token * tpot_s
        begin_s = self.began_at_s + script.stall_at_s
        stalled = script.stall_s and begin_s <= at_s < begin_s + script.stall_s
        return begin_s + script.stall_s if stalled else at_s

    async def pace(self, arrived_at_s: float, number: int, token: int) -> None:
        """Wait until a token is due, never less."""
        due_s = self.due_s(arrived_at_s, number, token)
        if due_s > time.monotonic():
            await self.pacer.until(due_s)

    def sheds(self, number: int) -> bool:
        """Tell whether a request is refused."""
        return bool(self.script.shed_every) and number % self.script.shed_every == 0

    def truncates(self, number: int) -> bool:
        """Tell whether a reply ends in the middle."""
        return bool(self.script.truncate_every) and number % self.script.truncate_every == 0

    # ── gRPC ────────────────────────────────────────────────────────────────

    async def generate(self, raw: bytes, context: Any) -> AsyncIterator[bytes]:
        """Answer a request for text."""
        arrived_at_s = time.monotonic()
        await self._admit(context)
        number = self.begin()
        if self.sheds(number):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room")
        asked = pb.GenerateRequest() if self.script.tokens else pb.GenerateRequest.FromString(raw)
        count = self.script.tokens or asked.sampling.max_tokens
        for token in range(count):
            await self.pace(arrived_at_s, number, token)
            if token and self.truncates(number):
                return
            message = pb.Tokens(text=" word", token_ids=[300 + token])
            yield pb.GenerateResponse(tokens=message).SerializeToString()
        ttft_s, _ = self.script.latencies_of(number)
        usage = pb.Usage(
            prompt_tokens=len(asked.prompt_token_ids.ids) or 1,
            completion_tokens=count,
            latency=pb.Latency(ttft_s=ttft_s, e2e_s=time.monotonic() - arrived_at_s),
            energy=pb.Energy(energy_j=float(count), method="model", boundary="cpu"),
        )
        finish = pb.Finish(finish_reason="length", usage=usage, variant="only")
        yield pb.GenerateResponse(finish=finish).SerializeToString()
        self.completed += 1

    async def models(self, _: bytes, context: Any) -> bytes:
        """Answer a request for models."""
        await self._admit(context)
        classes = [
            pb.ServiceClass(name=name, objective=pb.Objective(ttft_s=2.0, tpot_s=0.1))
            for name in ("interactive", "standard", "batch")
        ]
        model = pb.Model(name=MODEL, service_classes=classes, default_service_class="standard")
        return pb.ListModelsResponse(models=[model]).SerializeToString()

    async def status(self, _: bytes, context: Any) -> bytes:
        """Answer a request for the status."""
        await self._admit(context)
        replica = cluster_pb2.Replica(
            model=MODEL, replica="r", state="awake", power_w=7.0, energy_j=7.0 * time.monotonic()
        )
        replica.energy_method = "model"
        counters = cluster_pb2.Counters(completed=self.completed)
        answer = cluster_pb2.GetStatusResponse(replicas=[replica], counters=counters)
        return answer.SerializeToString()

    async def _admit(self, context: Any) -> None:
        shown = dict(context.invocation_metadata()).get("authorization")
        if self.script.key and shown != f"Bearer {self.script.key}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "show an API key")

    async def serve_grpc(self) -> int:
        """Listen; give the port."""
        server = aio.server()
        inference: dict[str, Any] = {
            "Generate": grpc.unary_stream_rpc_method_handler(self.generate),
            "ListModels": grpc.unary_unary_rpc_method_handler(self.models),
        }
        cluster: dict[str, Any] = {"GetStatus": grpc.unary_unary_rpc_method_handler(self.status)}
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler("jouleserve.v1.Inference", inference),
                grpc.method_handlers_generic_handler("jouleserve.v1.Cluster", cluster),
            )
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._grpc = server
        return port

    async def serve_http(self) -> int:
        """Listen; give the port."""
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(lambda: HttpConnection(self), "127.0.0.1", 0)
        self._http = listener
        port: int = listener.sockets[0].getsockname()[1]
        return port


class HttpConnection(asyncio.Protocol):
    """One connection of an OpenAI client."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        for task in self._tasks:
            task.cancel()

    def on_message_begin(self) -> None:
        self._url = self._body = b""
        self._key = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            self._key = value

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        task = asyncio.create_task(self._answer(time.monotonic(), self._url, self._body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, arrived_at_s: float, url: bytes, body: bytes) -> None:
        server, script = self._server, self._server.script
        if script.key and self._key != b"Bearer " + script.key.encode():
            self._whole(b"401 Unauthorized", {"error": {"message": "show an API key"}})
            return
        if url == b"/v1/models":
            self._whole(b"200 OK", {"data": [{"id": MODEL, "owned_by": "vllm"}]})
            return
        number = server.begin()
        if server.sheds(number):
            self._whole(b"429 Too Many Requests", {"error": {"message": "no room"}})
            return
        count = script.tokens or int(json.loads(body)["max_tokens"])
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        self._chunk(ROLE)
        for token in range(count):
            await server.pace(arrived_at_s, number, token)
            if token and server.truncates(number):
                self._transport.close()
                return
            self._chunk(CHUNK)
        usage = {"prompt_tokens": 5, "completion_tokens": count}
        self._chunk(LAST)
        self._chunk(b"data: %s\n\n" % json.dumps({"choices": [], "usage": usage}).encode())
        self._transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        self._transport.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _whole(self, status: bytes, answer: object) -> None:
        body = json.dumps(answer).encode()
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % (status, len(body)) + body)


async def _main() -> None:
    server = Server(Script(**json.loads(sys.argv[1])))
    ports = [await server.serve_grpc(), await server.serve_http()]
    print(json.dumps(ports), flush=True)  # noqa: T201 (how it tells its ports)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_main())
