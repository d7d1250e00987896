"""A gRPC server under load: calls with ready-made bytes, and replies that are hardly looked at.

A message counts as tokens by its first byte; only the last one of a stream is parsed. That is a
third of what the typed client costs, and a sender on the same machine must not be what is slow.

Its own module because it alone of the generator knows gRPC.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Protocol

import grpc
from grpc import aio

from loadtest.live.exchanges import Failure, Served
from loadtest.live.grpc_bodies import varint
from loadtest.run import Ending
from protos.jouleserve import calls
from protos.jouleserve.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtest.live.exchanges import Reply
    from loadtest.live.targets import TargetSettings

_METHOD = "/jouleserve.v1.Inference/Generate"
_TOKENS = pb.GenerateResponse.TOKENS_FIELD_NUMBER << 3 | 2
# A proxy may hold back the streams of one connection beyond some number (HAProxy: 100).
STREAMS_PER_CONNECTION = 64
MAX_CONNECTIONS = 64

_GONE = {grpc.StatusCode.UNAVAILABLE}
_HOPELESS = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
}
_LONGEST_REASON = 160


class _Stream(Protocol):
    """A call whose messages are bytes; what is no bytes is the end."""

    async def read(self) -> object: ...
    def cancel(self) -> bool: ...


class _Connection:
    """A channel, and how many streams it has."""

    def __init__(self, settings: TargetSettings) -> None:
        options = calls.channel_options(retries=0)
        self.channel = (
            aio.secure_channel(settings.address, grpc.ssl_channel_credentials(), options)
            if settings.tls
            else aio.insecure_channel(settings.address, options)
        )
        # Without serializers both ways are bytes; its type says nothing of that.
        self.generate: Callable[..., _Stream] = self.channel.unary_stream(_METHOD)
        self.streams = 0


class GrpcTarget:
    """Implements `exchanges.Target`."""

    def __init__(self, settings: TargetSettings) -> None:
        self._settings = settings
        key = settings.api_key
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self._connections = [_Connection(settings)]
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, body: bytes, kind: int, deadline_s: float, reply: Reply) -> asyncio.Task[None]:
        """Send a request now; see `exchanges.Target`."""
        task = asyncio.create_task(self._call(self._connection(), body, deadline_s, reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def answer(self, reply: Reply) -> bytes | str:
        """Give the reply's token ids as varints, or its text."""
        messages = [pb.GenerateResponse.FromString(raw).tokens for raw in reply.raw or ()]
        if self._settings.form != "tokens":
            return "".join(message.text for message in messages)
        ids = [each for message in messages for each in message.token_ids]
        return b"".join(varint(each) for each in ids)

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(each.channel.close() for each in self._connections))

    def _connection(self) -> _Connection:
        """Choose the one with the fewest streams; open another where all are full."""
        best = min(self._connections, key=lambda each: each.streams)
        if best.streams >= STREAMS_PER_CONNECTION and len(self._connections) < MAX_CONNECTIONS:
            best = _Connection(self._settings)
            self._connections.append(best)
        return best

    async def _call(
        self, connection: _Connection, body: bytes, deadline_s: float, reply: Reply
    ) -> None:
        connection.streams += 1
        call = connection.generate(body, timeout=deadline_s, metadata=self._metadata)
        last = b""
        try:
            # The call begins in a task of its own, which has its turn first.
            await asyncio.sleep(0)
            reply.sent_at_s = time.monotonic()
            while isinstance(message := await call.read(), bytes):
                if message[0] == _TOKENS:
                    reply.tokens(time.monotonic(), message)
                else:
                    last = message
            ended_at_s = time.monotonic()
            if last:
                reply.end(reply.last_at_s if reply.messages else ended_at_s, None, _served(last))
            else:
                lost = Failure(Ending.FAILED, "the stream ended without its finish")
                reply.end(ended_at_s, lost)
        except aio.AioRpcError as error:
            reply.end(time.monotonic(), _failure(error))
        except asyncio.CancelledError:
            # gRPC raises it for a call that it has cancelled itself, too.
            reply.end(time.monotonic(), Failure(Ending.FAILED, "CANCELLED: the call was cancelled"))
        finally:
            connection.streams -= 1
            call.cancel()


def _served(message: bytes) -> Served:
    finish = pb.GenerateResponse.FromString(message).finish
    usage, energy = finish.usage, finish.usage.energy
    measured = bool(energy.method)
    return Served(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        variant=finish.variant,
        energy_j=energy.energy_j if measured else float("nan"),
        gco2e=energy.gco2e if energy.HasField("gco2e") else float("nan"),
        energy_method=energy.method,
        ttft_s=usage.latency.ttft_s,
        e2e_s=usage.latency.e2e_s,
    )


def _failure(error: aio.AioRpcError) -> Failure:
    code = error.code()
    details = re.sub(r"\s+", " ", error.details() or "")[:_LONGEST_REASON]
    shed = code is grpc.StatusCode.RESOURCE_EXHAUSTED
    return Failure(
        Ending.SHED if shed else Ending.FAILED,
        f"{code.name}: {details}" if details else code.name,
        gone=code in _GONE,
        hopeless=code in _HOPELESS,
    )
