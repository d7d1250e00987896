"""A server of Jouleserve's gRPC API under load: ready-made requests, and replies hardly looked at.

A message counts as tokens by its first byte; only the last one of a stream is parsed.

Its own module because it knows what the API's messages mean.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import grpc

from loadtest.live.exchanges import Failure, Served
from loadtest.live.grpc_bodies import varint
from loadtest.live.grpc_streams import Connections, endpoint
from loadtest.run import Ending
from protos.jouleserve.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from loadtest.live.exchanges import Reply
    from loadtest.live.grpc_call import Call
    from loadtest.live.targets import TargetSettings

_METHOD = "/jouleserve.v1.Inference/Generate"
_TOKENS = pb.GenerateResponse.TOKENS_FIELD_NUMBER << 3 | 2

_GONE = {grpc.StatusCode.UNAVAILABLE}
_HOPELESS = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
}
_LONGEST_REASON = 160


class GrpcTarget:
    """Implements `exchanges.Target`."""

    def __init__(self, settings: TargetSettings) -> None:
        self._settings = settings
        key = settings.api_key
        metadata = {"authorization": f"Bearer {key}"} if key else {}
        self._connections = Connections(
            endpoint(settings.address, _METHOD, metadata, tls=settings.tls)
        )

    def send(self, body: bytes, kind: int, deadline_s: float, reply: Reply) -> Call:
        """Send a request now; see `exchanges.Target`."""
        return self._connections.send(body, deadline_s, _Messages(reply))

    def answer(self, reply: Reply) -> bytes | str:
        """Give the reply's token ids as varints, or its text."""
        messages = [pb.GenerateResponse.FromString(raw).tokens for raw in reply.raw or ()]
        if self._settings.form != "tokens":
            return "".join(message.text for message in messages)
        ids = [each for message in messages for each in message.token_ids]
        return b"".join(varint(each) for each in ids)

    async def close(self) -> None:
        """Close all connections."""
        await self._connections.close()


class _Messages:
    """Implements `grpc_streams.Listener` for one reply."""

    __slots__ = ("_last", "_reply")

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._last = b""

    def sent(self, now_s: float) -> None:
        self._reply.sent_at_s = now_s

    def message(self, now_s: float, message: bytes) -> None:
        if message and message[0] == _TOKENS:
            self._reply.tokens(now_s, message)
        else:
            self._last = message

    def done(self, now_s: float, code: grpc.StatusCode, details: str) -> None:
        reply = self._reply
        if code is not grpc.StatusCode.OK:
            reply.end(now_s, _failure(code, details))
        elif self._last:
            reply.end(reply.last_at_s if reply.messages else now_s, None, _served(self._last))
        else:
            lost = Failure(Ending.FAILED, "the stream ended without its finish")
            reply.end(now_s, lost)


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


def _failure(code: grpc.StatusCode, details: str) -> Failure:
    said = re.sub(r"\s+", " ", details)[:_LONGEST_REASON]
    shed = code is grpc.StatusCode.RESOURCE_EXHAUSTED
    return Failure(
        Ending.SHED if shed else Ending.FAILED,
        f"{code.name}: {said}" if said else code.name,
        gone=code in _GONE,
        hopeless=code in _HOPELESS,
    )
