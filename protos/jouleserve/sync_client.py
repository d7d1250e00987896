"""The blocking client.

Its own module because the asyncio client shares no waiting with it; what both share
lies in `calls`, `replies`, `transcript` and `errors`.
"""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Protocol, Self, TypeVar, Unpack

import grpc

from protos.jouleserve import calls, errors, plans, replies
from protos.jouleserve.transcript import Transcript
from protos.jouleserve.v1 import cluster_pb2, inference_pb2
from protos.jouleserve.v1.cluster_pb2_grpc import ClusterStub
from protos.jouleserve.v1.inference_pb2_grpc import InferenceStub

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Q = TypeVar("Q")
A = TypeVar("A")


class _Call(Protocol):
    def __iter__(self) -> Iterator[inference_pb2.GenerateResponse]: ...
    def cancel(self) -> object: ...


class Stream:
    """A reply as it is written: `for tokens in stream`, then `stream.finish`.

    As a context manager it cancels the call when it is left before the end. Without, leaving the
    loop early lets the server go on until the stream is garbage. One thread reads; any may cancel.
    """

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._transcript = Transcript()
        self._ended = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> replies.Tokens:
        """Wait for the next tokens.

        Raises:
            JouleserveClientError: the call failed, or it ended without a whole reply.

        """
        try:
            for message in self._call:
                if (tokens := self._transcript.add(message)) is not None:
                    return tokens
        except grpc.RpcError as error:
            raise errors.from_rpc(error) from error
        self._transcript.finish()
        self._ended = True
        raise StopIteration

    @property
    def finish(self) -> replies.Finish:
        """How the reply ended; raises IncompleteStreamError before it has."""
        if not self._ended:
            raise errors.IncompleteStreamError("the stream has not been read to its end")
        return self._transcript.finish()

    def complete(self) -> replies.Completion:
        """Read to the end and give the whole reply, what was read before included."""
        for _ in self:
            pass
        return self._transcript.completion()

    def text(self) -> str:
        """Read to the end and give the whole text, what was read before included."""
        return self.complete().text

    def cancel(self) -> None:
        """Give up: the engine stops at once; reading on raises CallCancelledError."""
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._call.cancel()


class Client:
    """A blocking client of a gateway; threads may share it.

    Args:
        address: host and port of a gateway.
        timeout_s: for each call, unless the call gives its own; None is no deadline.
        retries: 0 to 4; see `calls.channel_options`. Off by default, so that latency and energy
            are those of one call, and a load test sees every refusal.
        connections: to spread streams over; a proxy may hold the streams of one connection
            back beyond some number (HAProxy: 100).
        credentials: for TLS; None is plain text.
        metadata: sent with every call.

    """

    def __init__(  # noqa: PLR0913 (settings, each by its name)
        self,
        address: str,
        *,
        timeout_s: float | None = None,
        retries: int = 0,
        connections: int = 1,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        options = calls.channel_options(retries=retries)
        self._timeout_s = timeout_s
        self._metadata = metadata
        self._channels = [
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
            for _ in range(connections)
        ]
        self._inference = cycle([InferenceStub(channel) for channel in self._channels])
        self._cluster = ClusterStub(self._channels[0])

    def generate(
        self, model: str, prompt: str | None = None, **options: Unpack[calls.GenerateOptions]
    ) -> Stream:
        """Start a request; `calls.GenerateOptions` explains the options.

        Raises:
            TypeError, ValueError: as `calls.request`. Everything else is raised by the stream.

        """
        call = next(self._inference).Generate(
            calls.request(model, prompt, options),
            timeout=calls.timeout_s(options, self._timeout_s),
            metadata=calls.metadata(self._metadata),
        )
        return Stream(call)

    def complete(
        self, model: str, prompt: str | None = None, **options: Unpack[calls.GenerateOptions]
    ) -> replies.Completion:
        """Make a request and wait for the whole reply; options and errors as `generate`."""
        with self.generate(model, prompt, **options) as stream:
            return stream.complete()

    def models(self) -> tuple[replies.Model, ...]:
        """Ask which models are served."""
        ask = next(self._inference).ListModels
        return replies.models(self._ask(ask, inference_pb2.ListModelsRequest()))

    def status(self) -> replies.ClusterStatus:
        """Ask what the cluster is doing."""
        ask = self._cluster.GetStatus
        return replies.status(self._ask(ask, cluster_pb2.GetStatusRequest()))

    def plan(self, *, dry_run: bool = False) -> plans.Plan:
        """Ask what is to be awake, and why; with `dry_run`, what would be planned now."""
        question = cluster_pb2.GetPlanRequest(dry_run=dry_run)
        return plans.plan(self._ask(self._cluster.GetPlan, question))

    def _ask(self, ask: grpc.UnaryUnaryMultiCallable[Q, A], question: Q) -> A:
        metadata = calls.metadata(self._metadata)
        with errors.typed():
            return ask(question, timeout=self._timeout_s, metadata=metadata)

    def close(self) -> None:
        """Close the connections; calls in flight end with CallCancelledError."""
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
