"""Laws of going on: however a stream is cut into calls, its client gets what it would uncut."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

import grpc
import pytest
from grpc import aio
from hypothesis import given
from hypothesis import strategies as st

from protos.jouleserve import checksum, resuming
from protos.jouleserve.async_client import AsyncStream
from protos.jouleserve.sync_client import Stream
from protos.jouleserve.v1 import inference_pb2 as pb
from serve import grpc_api
from serve import link as link_module
from serve.calls import Outcome
from tests.gateway_fakes import LARGE, SMALL, Desk, cluster_config, ending, idle_report, settle
from tests.gateway_fakes import tokens as sent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from protos.jouleserve.replies import Completion
    from scheduler.requests import VariantName

CLOSED = (grpc.StatusCode.UNAVAILABLE, "Socket closed")
WAYS = [
    CLOSED,
    (grpc.StatusCode.CANCELLED, "Received RST_STREAM with error code 8"),
    (grpc.StatusCode.UNKNOWN, "Stream removed"),
    None,  # It just ends.
]


@pytest.fixture(autouse=True, scope="module")
def at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resuming, "FIRST_PAUSE_S", 0.0)
        patch.setattr(link_module, "RECONNECT_S", (0.0,))
        yield


def bounds(resumes: int) -> resuming.Bounds:
    return resuming.Bounds.within(60.0, resumes, time.monotonic())


def lost(code: grpc.StatusCode, details: str) -> aio.AioRpcError:
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), details)


# ── any server that keeps to the wire ───────────────────────────────────────


class Cut(NamedTuple):
    """How a call ends: after so many messages, and in which way."""

    messages: int
    way: tuple[grpc.StatusCode, str] | None


class Reply(NamedTuple):
    """A whole reply, how its tokens fall into messages, and how its calls are cut."""

    token_ids: list[int]
    sizes: list[int]
    cuts: list[Cut]

    def text(self, begin: int, end: int) -> str:
        """What these tokens add: nothing at some, as within a character."""
        return "".join(f"<{each}>" if each % 3 else "" for each in self.token_ids[begin:end])

    def messages(self, request: pb.GenerateRequest) -> list[pb.GenerateResponse]:
        """What an uncut call gives that is asked so."""
        messages: list[pb.GenerateResponse] = []
        done, whole = len(request.resume.token_ids), len(self.token_ids)
        assert list(request.resume.token_ids) == self.token_ids[:done]
        if request.HasField("resume"):
            assert 0 < done < whole, "a gateway refuses to go on with nothing, or after the end"
        while done < whole or not messages:
            begin, done = done, min(whole, done + self.sizes[len(messages) % len(self.sizes)])
            part = pb.Tokens(
                text=self.text(begin, done),
                token_ids=self.token_ids[begin:done],
                variant="" if messages else "int8",
                last=done == whole,
            )
            messages.append(pb.GenerateResponse(tokens=part))
        crc32 = checksum.extend(0, self.token_ids)
        usage = pb.Usage(
            completion_tokens=whole, completion_crc32=crc32, resumes=request.resume.attempts
        )
        return [*messages, pb.GenerateResponse(finish=pb.Finish(usage=usage))]


class Server:
    """Gives a reply over calls that are cut, to clients of either kind."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.calls = 0

    def ask(self, request: pb.GenerateRequest, left_s: float | None) -> Wire:
        cut = self.reply.cuts[self.calls] if self.calls < len(self.reply.cuts) else None
        self.calls += 1
        return Wire(self.reply.messages(request), cut)


class Wire:
    """A call, as both kinds of client read it."""

    def __init__(self, messages: list[pb.GenerateResponse], cut: Cut | None) -> None:
        self._messages = iter(messages if cut is None else messages[: cut.messages])
        self._way = None if cut is None else cut.way

    def __iter__(self) -> Wire:
        return self

    def __next__(self) -> pb.GenerateResponse:
        message = next(self._messages, None)
        if message is not None:
            return message
        if self._way is not None:
            raise lost(*self._way)
        raise StopIteration

    async def read(self) -> object:
        return next(self, aio.EOF)

    def cancel(self) -> None:
        return


replies = st.builds(
    Reply,
    st.lists(st.integers(0, 2**32 - 1), max_size=12),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.lists(st.builds(Cut, st.integers(0, 8), st.sampled_from(WAYS)), max_size=5),
)


async def read(stream: AsyncStream) -> tuple[list[int], Completion]:
    token_ids = [token async for tokens in stream for token in tokens.token_ids]
    return token_ids, await stream.complete()


@given(replies)
def test_however_a_stream_is_cut_the_client_delivers_that_of_the_uncut_one(reply: Reply) -> None:
    resumes = len(reply.cuts)

    async def read_async(server: Server) -> tuple[list[int], Completion]:
        return await read(AsyncStream(server.ask, pb.GenerateRequest(), bounds(resumes)))

    def read_sync(server: Server) -> tuple[list[int], Completion]:
        stream = Stream(server.ask, pb.GenerateRequest(), bounds(resumes))
        token_ids = [token for tokens in stream for token in tokens.token_ids]
        return token_ids, stream.complete()

    def reading(server: Server) -> tuple[list[int], Completion]:
        return asyncio.run(read_async(server))

    for kind in (reading, read_sync):
        server = Server(reply)
        delivered, completion = kind(server)
        assert delivered == list(completion.token_ids) == reply.token_ids
        assert completion.text == reply.text(0, len(reply.token_ids))
        assert completion.finish.usage.resumes == server.calls - 1


# ── our own gateways, whose replicas are lost too ───────────────────────────

REPLICAS: dict[str, VariantName] = {"a": LARGE, "b": LARGE, "c": SMALL}

moves = st.lists(st.sampled_from(["tokens", "tokens", "several", "lose", "kill"]), max_size=25)


class Cluster:
    """Two gateways that take turns; they and their replicas do what the moves say, then finish."""

    def __init__(self, desks: list[Desk], whole: list[int], moves: list[str]) -> None:
        self.desks = desks
        self.whole = whole
        self.moves = iter(moves)
        self.kills = self.calls = 0

    def ask(self, request: pb.GenerateRequest, left_s: float | None) -> GatewayCall:
        self.calls += 1
        return GatewayCall(self, self.desks[self.calls % len(self.desks)], request)


class GatewayCall:
    """A call of a gateway that may be killed under it."""

    def __init__(self, cluster: Cluster, desk: Desk, request: pb.GenerateRequest) -> None:
        self._cluster = cluster
        self._desk = desk
        self._sent: dict[int, int] = {}
        call = desk.call(max_tokens=len(cluster.whole), resume=grpc_api.resume(request))
        self._items = desk.dispatcher.serve(call)

    async def read(self) -> object:
        step = asyncio.ensure_future(anext(self._items, None))
        await settle()
        while not step.done():
            if not await self._move():
                step.cancel()
            await settle()
        if step.cancelled():
            await self._items.aclose()
            raise lost(*CLOSED)
        item = step.result()
        if item is None:
            return aio.EOF
        if isinstance(item, Outcome):
            return grpc_api.finish(item, explain=False)
        return grpc_api.tokens(item)

    def cancel(self) -> None:
        return

    async def _move(self) -> bool:
        """Let something happen; tells whether the gateway lives on."""
        kind = next(self._cluster.moves, "finish")
        number = max(self._desk.submissions)
        submission = self._desk.submissions[number]
        replica = submission.lease.replica
        done = len(submission.request.replayed_token_ids) + self._sent.get(number, 0)
        count = {"tokens": 1, "several": 3}.get(kind, len(self._cluster.whole))
        part = self._cluster.whole[done : done + count]
        match kind:
            case "kill":
                self._cluster.kills += 1
                return False
            case "lose":
                self._desk.handles[REPLICAS[replica]].break_connection(replica)
                await settle()
                self._desk.send(REPLICAS[replica], replica, report=idle_report())
            case _ if done + len(part) == len(self._cluster.whole):
                last = ending(number, part, self._cluster.whole)
                self._desk.send(REPLICAS[replica], replica, last, accepted=[number])
            case _:
                self._sent[number] = self._sent.get(number, 0) + len(part)
                self._desk.send(REPLICAS[replica], replica, sent(number, *part), accepted=[number])
        return True


@given(st.integers(1, 12), moves)
def test_whatever_dies_between_client_and_engine_the_stream_is_whole(
    length: int, moves: list[str]
) -> None:
    async def run() -> None:
        config = cluster_config(max_resumes=100, hold_timeout_s=60.0)
        desks = [Desk(config), Desk(config)]
        for desk in desks:
            await desk.wake({LARGE: ["a", "b"], SMALL: ["c"]})
        whole = list(range(100, 100 + length))
        cluster = Cluster(desks, whole, moves)
        stream = AsyncStream(cluster.ask, pb.GenerateRequest(), bounds(len(moves)))
        delivered, completion = await read(stream)
        assert delivered == list(completion.token_ids) == whole
        assert completion.text == "".join(f" {token}" for token in whole)
        assert completion.finish.usage.completion_tokens == length
        assert completion.finish.usage.resumes >= cluster.kills == cluster.calls - 1
        for desk in desks:
            assert desk.dispatcher.tally.in_flight == len(desk.engines.leases) == 0
            desk.close()

    asyncio.run(run())
