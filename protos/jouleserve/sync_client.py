"""The blocking client.

Its own module because the asyncio client shares no waiting with it; what both share
lies in `calls`, `resuming`, `replies`, `transcript` and `errors`.
"""

from __future__ import annotations

import random
import threading
import time
from itertools import cycle
from typing import TYPE_CHECKING, Protocol, Self, TypeVar, Unpack

import grpc

from protos.jouleserve import calls, errors, plans, replies, resuming, served, statuses
from protos.jouleserve.transcript import Transcript
from protos.jouleserve.v1 import cluster_pb2, inference_pb2
from protos.jouleserve.v1.cluster_pb2_grpc import ClusterStub
from protos.jouleserve.v1.inference_pb2_grpc import InferenceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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

    def __init__(
        self,
        ask: Callable[[inference_pb2.GenerateRequest, float | None], _Call],
        request: inference_pb2.GenerateRequest,
        bounds: resuming.Bounds,
    ) -> None:
        """Make the first call.

        Args:
            ask: starts a call that may take so many seconds.
            request: of the first call.
            bounds: of all calls.

        """
        self._ask = ask
        self._request = request
        self._bounds = bounds
        self._transcript = Transcript()
        self._given_up = threading.Event()
        self._ended = False
        self._call = ask(request, bounds.left_s(time.monotonic()))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> replies.Tokens:
        """Wait for the next tokens.

        Raises:
            JouleserveClientError: the call failed, or it ended without a whole reply.

        """
        while True:
            try:
                tokens = self._read()
            except errors.JouleserveClientError as fault:
                fault.partial = self._transcript.partial()
                self._go_on(fault)
                continue
            if tokens is None:
                self._ended = True
                raise StopIteration
            return tokens

    def _read(self) -> replies.Tokens | None:
        """Wait for the next tokens of this call; None if it has ended with the whole reply."""
        try:
            with errors.typed():
                for message in self._call:
                    if (tokens := self._transcript.add(message)) is not None:
                        return tokens
        except errors.UnavailableError as fault:
            self._transcript.end(fault)
        else:
            self._transcript.end()
        return None

    def _go_on(self, fault: errors.JouleserveClientError) -> None:
        """Call again where the gateway was lost, else raise the fault."""
        progress, now_s = self._transcript.progress(fault), time.monotonic()
        step = resuming.next_call(self._request, progress, self._bounds, now_s, random.random())
        self._call.cancel()
        if step is None:
            raise fault
        if self._given_up.wait(step.pause_s):
            raise errors.given_up(fault.partial) from fault
        self._transcript.call_lost()
        try:
            self._call = self._ask(step.request, self._bounds.left_s(time.monotonic()))
        except ValueError:  # The client was closed.
            raise errors.given_up(fault.partial) from fault
        if self._given_up.is_set():
            self._call.cancel()

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
        self._given_up.set()
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()


class Client:
    """A blocking client of a gateway; threads may share it.

    Args:
        address: host and port of a gateway.
        timeout_s: for each reply, unless its request gives its own; None is no deadline.
        retries: 0 to 4; see `calls.channel_options`. Off by default, so that latency and energy
            are those of one call, and a load test sees every refusal.
        resumes: how often a stream goes on by itself when its gateway is lost: another goes on
            after the tokens that have come. 0 turns it off. What a gateway refuses is final.
        connections: to spread streams over; a proxy may hold the streams of one connection
            back beyond some number (HAProxy: 100).
        credentials: for TLS; None is plain text.
        metadata: sent with every call.
        api_key: that the gateway asks for; by default what JOULESERVE_API_KEY says.

    """

    def __init__(  # noqa: PLR0913 (settings, each by its name)
        self,
        address: str,
        *,
        timeout_s: float | None = None,
        retries: int = 0,
        resumes: int = 3,
        connections: int = 1,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Mapping[str, str] | None = None,
        api_key: str | None = None,
    ) -> None:
        options = calls.channel_options(retries=retries)
        self._timeout_s = timeout_s
        self._resumes = resuming.checked(resumes)
        self._metadata = calls.own_metadata(metadata, api_key)
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
        metadata = calls.metadata(self._metadata)
        timeout_s = calls.timeout_s(options, self._timeout_s)
        return Stream(
            lambda request, left_s: next(self._inference).Generate(
                request, timeout=left_s, metadata=metadata
            ),
            calls.request(model, prompt, options),
            resuming.Bounds.within(timeout_s, self._resumes, time.monotonic()),
        )

    def complete(
        self, model: str, prompt: str | None = None, **options: Unpack[calls.GenerateOptions]
    ) -> replies.Completion:
        """Make a request and wait for the whole reply; options and errors as `generate`."""
        with self.generate(model, prompt, **options) as stream:
            return stream.complete()

    def models(self) -> tuple[served.Model, ...]:
        """Ask which models are served."""
        ask = next(self._inference).ListModels
        return served.models(self._ask(ask, inference_pb2.ListModelsRequest()))

    def status(self, *, decisions: int = 0) -> statuses.ClusterStatus:
        """Ask what the cluster is doing, with up to so many of the newest routing decisions."""
        ask = self._cluster.GetStatus
        return statuses.status(self._ask(ask, cluster_pb2.GetStatusRequest(decisions=decisions)))

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
