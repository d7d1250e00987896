"""The clients when their gateway is lost: they go on, within bounds, and say what has come."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from protos.jouleserve import client, replies, resuming
from protos.jouleserve.client import AsyncClient, Client
from protos.jouleserve.v1 import inference_pb2 as pb
from tests.client_fakes import Blocking, Servicer, endless, fail, finish, serving, tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

LOST = (grpc.StatusCode.UNAVAILABLE, "Socket closed")
ALL = (1, 2, 3, 4, 5)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "FIRST_PAUSE_S", 0.001)


@pytest.fixture
def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
def address(servicer: Servicer) -> Iterator[str]:
    with serving(servicer) as address:
        yield address


@pytest.fixture(params=["async", "sync"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Make clients of either kind; they are closed in the end."""
    made: list[Any] = []

    def make(address: str, **options: Any) -> Any:
        made.append(
            AsyncClient(address, **options)
            if request.param == "async"
            else Blocking(Client(address, **options))
        )
        return made[-1]

    yield make
    for each in made:
        await each.close()


def going_on(*cuts: int, lost: tuple[grpc.StatusCode, str] = LOST, told: bool = True) -> Any:
    """Serve the tokens of `ALL`, and lose each call after so many of its own, in turn."""
    left = list(cuts)

    def script(
        request: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateResponse]:
        done = len(request.resume.token_ids)
        assert tuple(request.resume.token_ids) == ALL[:done]
        cut = left.pop(0) if left else None
        for place, token_id in enumerate(ALL[done:]):
            if place == cut:
                context.abort(*lost)
            first = told and place == 0
            yield tokens(token_id, variant="int8" if first else "", last=token_id == ALL[-1])
        if cut is not None:
            context.abort(*lost)
        message = finish(len(ALL))
        message.finish.usage.resumes = request.resume.attempts
        yield message

    return script


def texts(*token_ids: int) -> str:
    return "".join(f"<{each}>" for each in token_ids)


# ----------------------------------------------------------------------------------------- goes on


@pytest.mark.parametrize("cuts", [(1,), (3,), (4,), (1, 1), (2, 1, 1), (1, 0, 2)])
async def test_a_stream_that_is_cut_goes_on_without_gap_or_repeat(
    connect: Any, address: str, servicer: Servicer, cuts: tuple[int, ...]
) -> None:
    servicer.script = going_on(*cuts)
    stream = connect(address).generate("m", "p", max_tokens=9, seed=7, request_id="r")
    received = [each async for each in stream]
    assert tuple(token for each in received for token in each.token_ids) == ALL
    completion = await stream.complete()
    assert completion.token_ids == ALL
    assert completion.text == texts(*ALL)
    assert completion.finish.usage.resumes == len(cuts)
    first, *others = servicer.requests
    assert not first.HasField("resume")
    for number, request in enumerate(others, 1):
        done, begun = sum(cuts[:number]), sum(cut > 0 for cut in cuts[:number])
        assert request.resume == pb.Resume(token_ids=ALL[:done], variant="int8", attempts=begun)
        request.ClearField("resume")
        assert request == first


async def test_before_the_first_token_it_begins_anew(
    connect: Any, address: str, servicer: Servicer
) -> None:
    servicer.script = going_on(0, 0)
    completion = await connect(address).complete("m", "p")
    assert completion.token_ids == ALL
    assert not any(request.HasField("resume") for request in servicer.requests)
    assert completion.finish.usage.resumes == 2


async def test_calls_that_gave_nothing_are_no_business_of_the_server(
    connect: Any, address: str, servicer: Servicer
) -> None:
    servicer.script = going_on(0, 2)
    completion = await connect(address).complete("m", "p")
    assert servicer.requests[-1].resume.attempts == 1
    assert completion.finish.usage.resumes == 2


@pytest.mark.parametrize(
    "lost",
    [
        (grpc.StatusCode.UNAVAILABLE, "Received http2 header with status: 502"),
        (grpc.StatusCode.CANCELLED, "Received RST_STREAM with error code 8"),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
        (grpc.StatusCode.UNKNOWN, "Stream removed"),
        (grpc.StatusCode.UNKNOWN, "Received http2 header with status: 500"),
        (grpc.StatusCode.UNKNOWN, "recvmsg:Connection reset by peer"),
    ],
)
async def test_every_way_to_lose_a_gateway_is_known(
    connect: Any, address: str, servicer: Servicer, lost: tuple[grpc.StatusCode, str]
) -> None:
    servicer.script = going_on(2, lost=lost)
    assert (await connect(address).complete("m", "p")).token_ids == ALL
    assert len(servicer.requests) == 2


async def test_an_end_without_a_finish_is_a_lost_gateway(
    connect: Any, address: str, servicer: Servicer
) -> None:
    cut = [iter([tokens(1, 2, variant="int8"), tokens(3, 4, 5, last=True)])]
    whole = going_on()
    servicer.script = lambda *asked: cut.pop() if cut else whole(*asked)
    stream = connect(address).generate("m", "p")
    assert [each.token_ids async for each in stream] == [(1, 2), (3,), (4,), (5,)]
    # The last tokens came without the finish: they were not passed on, and are made anew.
    assert list(servicer.requests[1].resume.token_ids) == [1, 2]


async def test_a_reply_that_is_whole_needs_no_status(
    connect: Any, address: str, servicer: Servicer
) -> None:
    def script(_: object, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        yield tokens(*ALL, variant="int8", last=True)
        yield finish(len(ALL))
        context.abort(*LOST)

    servicer.script = script
    completion = await connect(address).complete("m", "p")
    assert completion.token_ids == ALL
    assert len(servicer.requests) == 1


async def test_log_probabilities_go_on_too(connect: Any, address: str, servicer: Servicer) -> None:
    def scored(token_id: int, *, last: bool = False) -> pb.GenerateResponse:
        message = tokens(token_id, variant="int8", last=last)
        message.tokens.logprobs.add(logprob=-token_id)
        return message

    def script(
        request: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateResponse]:
        if not request.HasField("resume"):
            yield scored(1)
            context.abort(*LOST)
        yield scored(2, last=True)
        yield finish(2)

    servicer.script = script
    completion = await connect(address).complete("m", "p", logprobs=0)
    assert completion.logprobs == (replies.TokenLogprobs(-1.0), replies.TokenLogprobs(-2.0))


async def test_the_variant_that_wrote_last_is_named(
    connect: Any, address: str, servicer: Servicer
) -> None:
    cut = iter([tokens(1, variant="a"), tokens(2), tokens(3, variant="b"), tokens(4)])
    calls = [cut]
    whole = going_on()
    servicer.script = lambda *asked: calls.pop() if calls else whole(*asked)
    assert (await connect(address).complete("m", "p")).token_ids == ALL
    assert servicer.requests[1].resume == pb.Resume(token_ids=[1, 2, 3, 4], variant="b", attempts=1)


# ---------------------------------------------------------------------------------------- gives up


async def test_it_goes_on_no_more_often_than_it_may(
    connect: Any, address: str, servicer: Servicer
) -> None:
    for resumes, calls in ((0, 1), (2, 3)):
        servicer.requests.clear()
        servicer.script = going_on(1, 1, 1, 1)
        with pytest.raises(client.UnavailableError, match="Socket closed") as caught:
            await connect(address, resumes=resumes).complete("m", "p")
        assert len(servicer.requests) == calls
        assert caught.value.partial == client.Partial(texts(*ALL[:calls]), ALL[:calls])


async def test_after_it_gave_up_reading_on_gives_the_same_error(
    connect: Any, address: str, servicer: Servicer
) -> None:
    servicer.script = going_on(1, 1)
    stream = connect(address, resumes=1).generate("m", "p")
    for _ in range(2):
        with pytest.raises(client.UnavailableError) as caught:
            await stream.complete()
        assert caught.value.partial.token_ids == ALL[:2]
    assert len(servicer.requests) == 2


async def test_what_a_gateway_refuses_is_final(
    connect: Any, address: str, servicer: Servicer
) -> None:
    servicer.script = fail(*LOST, kind="replica_lost")
    with pytest.raises(client.UnavailableError):
        await connect(address).complete("m", "p")
    assert len(servicer.requests) == 1


async def test_a_resumed_call_may_be_refused(
    connect: Any, address: str, servicer: Servicer
) -> None:
    refuse = fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "overloaded")
    begin = going_on(2)
    servicer.script = lambda request, context: (refuse if request.HasField("resume") else begin)(
        request, context
    )
    with pytest.raises(client.OverloadedError, match="full") as caught:
        await connect(address).complete("m", "p")
    assert caught.value.partial.token_ids == ALL[:2]
    assert len(servicer.requests) == 2


@pytest.mark.parametrize(
    "fault",
    [
        (grpc.StatusCode.INTERNAL, "a bug"),
        (grpc.StatusCode.UNKNOWN, "a bug"),
        (grpc.StatusCode.CANCELLED, "CANCELLED"),
        (grpc.StatusCode.CANCELLED, "Stream removed (Channel closed!)"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "too slow"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "message larger than max"),
        (grpc.StatusCode.UNIMPLEMENTED, "no such method"),
    ],
)
async def test_other_faults_are_no_lost_gateway(
    connect: Any, address: str, servicer: Servicer, fault: tuple[grpc.StatusCode, str]
) -> None:
    servicer.script = going_on(2, lost=fault)
    with pytest.raises(client.JouleserveClientError) as caught:
        await connect(address).complete("m", "p")
    assert len(servicer.requests) == 1
    assert caught.value.partial == client.Partial(texts(1, 2), (1, 2))


async def test_a_cancel_of_its_own_is_final(connect: Any, address: str, servicer: Servicer) -> None:
    servicer.script = endless
    stream = connect(address).generate("m", "p")
    await anext(stream)
    stream.cancel()
    with pytest.raises(client.CallCancelledError) as caught:
        await stream.complete()
    assert caught.value.partial.token_ids[0] == 0
    assert len(servicer.requests) == 1


@pytest.mark.parametrize("end", ["cancel", "close"])
async def test_giving_up_ends_the_pause_between_two_calls(
    connect: Any, address: str, servicer: Servicer, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    pause_s = 30.0 if end == "cancel" else 0.5
    monkeypatch.setattr(resuming, "FIRST_PAUSE_S", pause_s)
    monkeypatch.setattr(resuming, "LONGEST_PAUSE_S", pause_s)
    servicer.script = going_on(1)
    one = connect(address)
    stream = one.generate("m", "p")
    reader = asyncio.create_task(stream.complete())
    assert await asyncio.to_thread(servicer.ended.wait, 5)
    await asyncio.sleep(0.1)
    if end == "cancel":
        stream.cancel()
    else:
        await one.close()
    async with asyncio.timeout(5):
        with pytest.raises(client.CallCancelledError) as caught:
            await reader
    assert caught.value.partial.token_ids == (1,)
    assert len(servicer.requests) == 1


async def test_the_deadline_holds_for_all_calls_together(
    connect: Any, address: str, servicer: Servicer
) -> None:
    def script(_: object, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        gone = threading.Event()
        context.add_callback(gone.set)
        if len(servicer.requests) == 1:
            time.sleep(0.2)
            yield tokens(1, variant="int8")
            context.abort(*LOST)
        gone.wait(10)

    servicer.script = script
    began = time.monotonic()
    with pytest.raises(client.DeadlineExceededError) as caught:
        await connect(address).complete("m", "p", timeout_s=0.6)
    assert time.monotonic() - began < 3
    assert caught.value.partial.token_ids == (1,)
    first, second = servicer.time_left_s
    assert second < first - 0.1


async def test_without_time_for_another_call_there_is_none(
    connect: Any, address: str, servicer: Servicer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resuming, "FIRST_PAUSE_S", 60.0)
    monkeypatch.setattr(resuming, "LONGEST_PAUSE_S", 60.0)
    servicer.script = going_on(1)
    with pytest.raises(client.UnavailableError):
        await connect(address).complete("m", "p", timeout_s=20)
    assert len(servicer.requests) == 1


async def test_other_tokens_than_the_engine_generated_are_an_error_over_several_calls_too(
    connect: Any, address: str, servicer: Servicer
) -> None:
    def script(
        request: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateResponse]:
        if not request.HasField("resume"):
            yield tokens(1, variant="int8")
            context.abort(*LOST)
        yield tokens(3, variant="int8", last=True)
        yield finish(2)

    servicer.script = script
    with pytest.raises(client.IncompleteStreamError, match="other tokens") as caught:
        await connect(address).complete("m", "p")
    assert len(servicer.requests) == 2
    assert caught.value.partial.token_ids == (1, 3)


async def test_a_server_that_cannot_resume_is_not_asked_to(
    connect: Any, address: str, servicer: Servicer
) -> None:
    servicer.script = going_on(2, told=False)
    with pytest.raises(client.UnavailableError):
        await connect(address).complete("m", "p")
    assert len(servicer.requests) == 1


async def test_a_server_that_begins_anew_all_the_same_is_found_out(
    connect: Any, address: str, servicer: Servicer
) -> None:
    def script(
        request: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateResponse]:
        if not request.HasField("resume"):
            yield tokens(1, variant="int8")
            context.abort(*LOST)
        yield tokens(1)
        yield finish(1)

    servicer.script = script
    with pytest.raises(client.IncompleteStreamError, match="cannot resume") as caught:
        await connect(address).complete("m", "p")
    assert caught.value.partial.token_ids == (1,)


async def test_tokens_after_the_last_are_an_error(
    connect: Any, address: str, servicer: Servicer
) -> None:
    servicer.script = lambda *_: iter([tokens(1, variant="int8", last=True), tokens(2), finish(2)])
    with pytest.raises(client.IncompleteStreamError, match="were to be the last"):
        await connect(address).complete("m", "p")


@pytest.mark.parametrize("resumes", [-1, -3])
async def test_fewer_than_no_resumes_are_refused(connect: Any, resumes: int) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        connect("127.0.0.1:1", resumes=resumes)


# ------------------------------------------------------------------------------------- the decision


def decided(
    *, lost_calls: int = 0, left_s: float | None = None, draw: float = 0.0
) -> resuming.NextCall | None:
    progress = resuming.Progress(
        client.UnavailableError("gone"), (1,), "int8", lost_calls=lost_calls
    )
    bounds = resuming.Bounds.within(left_s, 100, now_s=50.0)
    return resuming.next_call(pb.GenerateRequest(), progress, bounds, 50.0, draw)


@pytest.fixture
def real_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "FIRST_PAUSE_S", 0.05)


def test_pauses_double_up_to_a_second(real_pause: None) -> None:
    steps = [decided(lost_calls=lost, draw=1.0) for lost in range(8)]
    pauses = [step.pause_s for step in steps if step is not None]
    assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0])
    least = decided(lost_calls=3, draw=0.0)
    assert least is not None
    assert least.pause_s == pytest.approx(0.2)


def test_a_pause_must_leave_time(real_pause: None) -> None:
    assert decided(left_s=0.02) is None
    assert decided(left_s=0.0) is None
    assert decided(left_s=0.03) is not None
