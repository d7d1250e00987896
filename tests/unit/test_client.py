"""The clients against a scripted server on a real socket."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc import aio
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import context, trace

from protos.jouleserve import calls, checksum, client, errors, replies, served, statuses
from protos.jouleserve.client import AsyncClient, Client
from protos.jouleserve.transcript import Transcript
from protos.jouleserve.v1 import cluster_pb2
from protos.jouleserve.v1 import inference_pb2 as pb
from serve.errors import JouleserveError
from tests.client_fakes import Blocking, Servicer, endless, fail, finish, serving, tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from google.protobuf.message import Message

    from protos.jouleserve.errors import JouleserveClientError

# What only has to happen may take this long on a machine that is busy with other things.
PATIENCE_S = 30.0


# --------------------------------------------------------------------------------- scripted server


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


# ----------------------------------------------------------------------------------- whole replies


async def test_tokens_arrive_in_order_and_then_the_finish(connect: Any, address: str) -> None:
    stream = connect(address).generate("m", "hello")
    received = [each async for each in stream]
    assert received == [replies.Tokens("<1><2>", (1, 2)), replies.Tokens("<3>", (3,))]
    assert stream.finish == replies.Finish(
        request_id="",
        finish_reason="stop",
        usage=replies.Usage(
            prompt_tokens=7,
            cached_tokens=3,
            completion_tokens=3,
            completion_crc32=checksum.extend(0, (1, 2, 3)),
            latency=replies.Latency(ttft_s=0.25, tpot_s=0.5, e2e_s=1.0),
            energy=replies.Energy(3.0, 1.0, 2.0, method="model", boundary="cpu"),
        ),
        variant="int8",
        replica="r1",
        reason="cheapest",
    )


async def test_complete_and_text_give_all_of_it(connect: Any, address: str) -> None:
    one = connect(address)
    completion = await one.complete("m", "hello")
    assert completion.text == "<1><2><3>"
    assert completion.token_ids == (1, 2, 3)
    stream = one.generate("m", "hello")
    await anext(stream)
    assert await stream.text() == "<1><2><3>", "what was read before counts too"


async def test_logprobs_and_decision_are_read(
    connect: Any, address: str, servicer: Servicer
) -> None:
    top = [pb.TopLogprob(token_id=4, text="b", logprob=-1.5)]
    scored = pb.Tokens(text="a", token_ids=[3], logprobs=[pb.TokenLogprobs(logprob=-0.5, top=top)])
    candidate = pb.Candidate(variant="int8", replica="r1", score=2, terms={"energy_j": 2})
    decision = pb.Decision(policy="energy", variant="int8", replica="r1", candidates=[candidate])
    servicer.script = lambda *_: iter(
        [
            pb.GenerateResponse(tokens=scored),
            finish(1, checksum.extend(0, [3]), decision=decision),
        ]
    )
    completion = await connect(address).complete("m", "p", logprobs=1, explain=True)
    best = replies.TopLogprob(token_id=4, text="b", logprob=-1.5)
    assert completion.logprobs == (replies.TokenLogprobs(-0.5, (best,)),)
    assert completion.finish.decision == replies.Decision(
        policy="energy",
        variant="int8",
        replica="r1",
        reason="",
        candidates=(replies.Candidate("int8", "r1", 2.0, {"energy_j": 2.0}, ""),),
    )


async def test_a_reply_above_grpcs_own_limit_is_read(
    connect: Any, address: str, servicer: Servicer
) -> None:
    long = pb.GenerateResponse(tokens=pb.Tokens(text="x" * 5_000_000))
    servicer.script = lambda *_: iter([long, finish(0)])
    assert len((await connect(address).complete("m", "p")).text) == 5_000_000


async def test_models_and_status(connect: Any, address: str) -> None:
    one = connect(address)
    (model,) = await one.models()
    assert (model.name, model.max_context_tokens) == ("smollm2", 2048)
    assert model.variants == (served.Variant("int8", "bfloat16", "", "", 0.5, 2),)
    (service_class,) = model.service_classes
    assert service_class.objective == served.Objective(ttft_s=0.5, tpot_s=None, min_quality=0.0)
    status = await one.status()
    assert (status.gateway, status.policy) == ("g1", "energy")
    assert (status.replicas[0].state, status.replicas[0].leases) == ("awake", 4)
    assert status.counters.accepted == 5


async def test_connections_share_the_streams(
    connect: Any, address: str, servicer: Servicer
) -> None:
    peers: set[str] = set()

    def script(_: object, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        peers.add(context.peer())
        yield finish(0)

    servicer.script = script
    one = connect(address, connections=3)
    for _ in range(6):
        await one.complete("m", "p")
    assert len(peers) == 3


# --------------------------------------------------------------------------- nothing lost silently


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([tokens(1), tokens(2)], "no finish after 2 tokens"),
        ([], "no finish after 0 tokens"),
        ([tokens(1), finish(2)], "1 tokens of 2 arrived"),
        ([tokens(1, 2), finish(1)], "2 tokens of 1 arrived"),
        ([tokens(1), finish(1), tokens(2)], "not the last message"),
        ([finish(0), finish(0)], "not the last message"),
    ],
)
async def test_an_incomplete_stream_is_an_error(
    connect: Any, address: str, servicer: Servicer, script: list[Any], message: str
) -> None:
    servicer.script = lambda *_: iter(script)
    stream = connect(address).generate("m", "p")
    with pytest.raises(client.IncompleteStreamError, match=message):
        await stream.complete()
    with pytest.raises(client.IncompleteStreamError):
        _ = stream.finish


async def test_finish_is_not_there_before_the_end(connect: Any, address: str) -> None:
    async with connect(address).generate("m", "p") as stream:
        with pytest.raises(client.IncompleteStreamError, match="not been read to its end"):
            _ = stream.finish


@given(st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=4)), st.integers(0, 20))
def test_a_transcript_is_whole_if_and_only_if_the_counts_agree(
    messages: list[list[int]], counted: int
) -> None:
    transcript = Transcript()
    for ids in messages:
        assert transcript.add(tokens(*ids)) is not None
    sent = [token_id for ids in messages for token_id in ids]
    assert transcript.add(finish(counted, checksum.extend(0, sent))) is None
    if counted == len(sent):
        assert transcript.completion().token_ids == tuple(sent)
    else:
        with pytest.raises(client.IncompleteStreamError):
            transcript.finish()


def test_a_transcript_of_other_tokens_than_the_engine_generated_is_not_whole() -> None:
    transcript = Transcript()
    transcript.add(tokens(1, 3, 2))
    transcript.add(finish(3))
    with pytest.raises(client.IncompleteStreamError, match="other tokens"):
        transcript.finish()


def test_messages_of_a_later_version_are_passed_over() -> None:
    transcript = Transcript()
    assert transcript.add(pb.GenerateResponse()) is None
    transcript.add(finish(0))
    assert transcript.completion().token_ids == ()


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ((grpc.StatusCode.INVALID_ARGUMENT, ""), client.BadRequestError),
        ((grpc.StatusCode.NOT_FOUND, ""), client.UnknownModelError),
        ((grpc.StatusCode.FAILED_PRECONDITION, ""), client.UnattainableError),
        ((grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded"), client.OverloadedError),
        ((grpc.StatusCode.RESOURCE_EXHAUSTED, ""), client.OverloadedError),
        ((grpc.StatusCode.RESOURCE_EXHAUSTED, "request_too_large"), client.RequestTooLargeError),
        ((grpc.StatusCode.UNAVAILABLE, "no_replica"), client.UnavailableError),
        ((grpc.StatusCode.DEADLINE_EXCEEDED, ""), client.DeadlineExceededError),
        ((grpc.StatusCode.CANCELLED, ""), client.CallCancelledError),
        ((grpc.StatusCode.INTERNAL, ""), client.InternalError),
        ((grpc.StatusCode.UNKNOWN, ""), client.InternalError),
        ((grpc.StatusCode.PERMISSION_DENIED, ""), client.JouleserveClientError),
    ],
)
async def test_every_status_has_its_error(
    connect: Any,
    address: str,
    servicer: Servicer,
    fault: tuple[grpc.StatusCode, str],
    expected: type[JouleserveClientError],
) -> None:
    status, kind = fault
    servicer.script = fail(status, "say what to change", kind)
    with pytest.raises(client.JouleserveClientError) as caught:
        await connect(address).complete("m", "p")
    error = caught.value
    assert type(error) is expected
    assert (error.status, error.message, error.kind) == (status.name, "say what to change", kind)
    assert str(error) == f"{status.name}: say what to change"


async def test_an_error_after_tokens_is_raised_after_these(
    connect: Any, address: str, servicer: Servicer
) -> None:
    def script(_: object, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        yield tokens(1)
        context.abort(grpc.StatusCode.UNAVAILABLE, "replica r1 died")

    servicer.script = script
    stream = connect(address, retries=4).generate("m", "p")
    received = [await anext(stream)]
    with pytest.raises(client.UnavailableError, match="r1 died"):
        await anext(stream)
    assert [each.token_ids for each in received] == [(1,)]
    assert len(servicer.requests) == 1, "never retried once a message has come"
    with pytest.raises(client.UnavailableError):
        await anext(stream)


async def test_a_request_too_large_for_the_server_says_so(connect: Any, address: str) -> None:
    with pytest.raises(client.RequestTooLargeError):
        await connect(address).complete("m", "x" * 5_000_000)


async def test_nobody_listens(connect: Any) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        one = connect(f"127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(client.UnavailableError):
            await one.complete("m", "p")
        with pytest.raises(client.UnavailableError):
            await one.models()


# --------------------------------------------------------------------------------------- giving up


async def test_leaving_early_cancels_the_call(
    connect: Any, address: str, servicer: Servicer
) -> None:
    servicer.script = endless
    async with connect(address).generate("m", "p") as stream:
        async for _ in stream:
            break
    assert await asyncio.to_thread(servicer.ended.wait, PATIENCE_S)
    with pytest.raises(client.CallCancelledError):
        await stream.complete()


async def test_cancel_ends_the_stream_with_an_error(
    connect: Any, address: str, servicer: Servicer
) -> None:
    servicer.script = endless
    stream = connect(address).generate("m", "p")
    await anext(stream)
    stream.cancel()
    with pytest.raises(client.CallCancelledError):
        await stream.complete()
    assert await asyncio.to_thread(servicer.ended.wait, PATIENCE_S)


async def test_the_deadline_holds_for_the_whole_reply(
    connect: Any, address: str, servicer: Servicer
) -> None:
    servicer.script = endless
    with pytest.raises(client.DeadlineExceededError):
        await connect(address).complete("m", "p", timeout_s=0.1)


async def test_a_call_of_its_own_timeout_overrides_the_clients(
    connect: Any, address: str, servicer: Servicer
) -> None:
    one = connect(address, timeout_s=20)
    await one.complete("m", "p")
    await one.complete("m", "p", timeout_s=50)
    # The wire rounds a timeout up, by up to a hundredth.
    assert servicer.time_left_s == [pytest.approx(20, abs=5), pytest.approx(50, abs=5)]


def test_no_time_at_all_is_a_time() -> None:
    assert calls.timeout_s({"timeout_s": 0}, 5) == 0
    assert calls.timeout_s({"timeout_s": None}, 5) == 5
    assert calls.timeout_s({}, None) is None


async def test_closing_the_client_ends_its_streams_with_an_error(
    connect: Any, address: str, servicer: Servicer
) -> None:
    servicer.script = endless
    one = connect(address)
    stream = one.generate("m", "p")
    await anext(stream)
    reader = asyncio.create_task(stream.complete())
    await asyncio.sleep(0.05)
    await one.close()
    with pytest.raises(client.CallCancelledError):
        await reader


async def test_cancelling_the_reading_task_cancels_the_call(
    address: str, servicer: Servicer
) -> None:
    servicer.script = endless
    async with AsyncClient(address) as one:
        reader = asyncio.create_task(one.complete("m", "p"))
        assert await asyncio.to_thread(servicer.began.wait, PATIENCE_S)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert await asyncio.to_thread(servicer.ended.wait, PATIENCE_S)


async def test_asyncio_timeout_is_obeyed(address: str, servicer: Servicer) -> None:
    servicer.script = endless
    async with AsyncClient(address) as one:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await one.complete("m", "p")
        assert await asyncio.to_thread(servicer.ended.wait, PATIENCE_S)


def test_the_blocking_client_is_a_context_manager(address: str) -> None:
    with Client(address) as one, one.generate("m", "p") as stream:
        assert [each.text for each in stream] == ["<1><2>", "<3>"]
        assert stream.finish.variant == "int8"


# ----------------------------------------------------------------------------------------- retries


def refuse_first(count: int, servicer: Servicer) -> Any:
    """Refuse the first requests, then serve."""
    refuse = fail(grpc.StatusCode.UNAVAILABLE, "nothing awake", "no_replica")

    def script(request: Any, context: Any) -> Iterator[pb.GenerateResponse]:
        if len(servicer.requests) <= count:
            yield from refuse(request, context)
        yield tokens(1)
        yield finish(1)

    return script


async def test_retries_are_off_by_default(connect: Any, address: str, servicer: Servicer) -> None:
    servicer.script = refuse_first(1, servicer)
    with pytest.raises(client.UnavailableError, match="nothing awake"):
        await connect(address).complete("m", "p")
    assert len(servicer.requests) == 1


async def test_retries_are_bounded(connect: Any, address: str, servicer: Servicer) -> None:
    servicer.script = refuse_first(2, servicer)
    completion = await connect(address, retries=2).complete("m", "p")
    assert completion.token_ids == (1,)
    assert len(servicer.requests) == 3
    servicer.script = refuse_first(100, servicer)
    with pytest.raises(client.UnavailableError):
        await connect(address, retries=1).complete("m", "p")
    assert len(servicer.requests) == 5


async def test_retries_stay_within_the_deadline(
    connect: Any, address: str, servicer: Servicer
) -> None:
    servicer.script = refuse_first(100, servicer)
    began = time.monotonic()
    with pytest.raises((client.UnavailableError, client.DeadlineExceededError)):
        await connect(address, retries=4).complete("m", "p", timeout_s=0.3)
    assert time.monotonic() - began < 1


async def test_only_unavailable_is_retried(connect: Any, address: str, servicer: Servicer) -> None:
    servicer.script = fail(grpc.StatusCode.RESOURCE_EXHAUSTED)
    with pytest.raises(client.OverloadedError):
        await connect(address, retries=4).complete("m", "p")
    assert len(servicer.requests) == 1


@pytest.mark.parametrize("retries", [-1, 5])
async def test_impossible_retries_are_refused(connect: Any, retries: int) -> None:
    with pytest.raises(ValueError, match="from 0 to 4"):
        connect("127.0.0.1:1", retries=retries)


# ---------------------------------------------------------------------------------------- requests


async def test_the_request_and_metadata_arrive_as_they_were_given(
    connect: Any, address: str, servicer: Servicer
) -> None:
    one = connect(address, metadata={"application": "jouleserve"})
    chat = [{"role": "user", "content": "hello"}]
    await one.complete("m", chat=chat, max_tokens=5, ttft_s=0.5, service_class="batch")
    assert servicer.requests == [
        pb.GenerateRequest(
            model="m",
            chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="hello")]),
            sampling=pb.Sampling(max_tokens=5),
            objective=pb.Objective(ttft_s=0.5),
            service_class="batch",
        )
    ]
    assert servicer.metadata[0]["application"] == "jouleserve"
    assert "traceparent" not in servicer.metadata[0], "no span is active"


async def test_the_active_span_is_handed_on(address: str, servicer: Servicer) -> None:
    span = trace.SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=trace.TraceFlags(1))
    active = trace.set_span_in_context(trace.NonRecordingSpan(span))
    token = context.attach(active)
    try:
        async with AsyncClient(address) as one:
            await one.complete("m", "p")
    finally:
        context.detach(token)
    assert servicer.metadata[0]["traceparent"] == f"00-{0xABC:032x}-{0xDEF:016x}-01"


OPTIONS: dict[str, Any] = {
    "max_tokens": 5, "temperature": 0.5, "top_p": 0.5, "top_k": 3, "min_p": 0.25, "seed": -9,
    "stop": ["a", "b"], "stop_token_ids": [1, 2], "min_tokens": 1, "presence_penalty": 0.5,
    "frequency_penalty": 0.25, "repetition_penalty": 1.5, "logprobs": 0, "ignore_eos": True,
    "service_class": "batch", "ttft_s": 1.5, "tpot_s": 0.5, "min_quality": 0.0,
    "variant": "int8", "request_id": "r", "tenant": "lab", "explain": True,
}  # fmt: skip
ELSEWHERE = {"chat", "prompt_token_ids", "timeout_s"}


def test_every_option_is_tried_here() -> None:
    assert set(OPTIONS) | ELSEWHERE == set(calls.GenerateOptions.__annotations__)


@given(st.sets(st.sampled_from(sorted(OPTIONS))))
def test_what_is_given_is_set_and_nothing_else(names: set[str]) -> None:
    options: Any = {name: OPTIONS[name] for name in names}
    message = calls.request("m", "p", options)
    found = {
        field.name: list(value) if field.is_repeated else value
        for part in (message, message.sampling, message.objective)
        for field, value in part.ListFields()
        if field.name not in {"model", "prompt", "sampling", "objective"}
    }
    assert found == options


def test_none_is_as_if_not_given() -> None:
    nothing: Any = dict.fromkeys(calls.GenerateOptions.__annotations__)
    assert calls.request("m", "p", nothing) == pb.GenerateRequest(model="m", prompt="p")


def test_one_stop_text_is_one_text() -> None:
    assert calls.request("m", "p", {"stop": "END"}).sampling.stop == ["END"]


def test_an_empty_prompt_is_for_the_server_to_refuse() -> None:
    assert calls.request("m", "", {}).WhichOneof("input") == "prompt"
    assert calls.request("m", None, {"prompt_token_ids": []}).WhichOneof("input") is not None


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (None, {}, "exactly one of"),
        ("p", {"prompt_token_ids": [1]}, "exactly one of"),
        (None, {"prompt_token_ids": [1], "chat": []}, "exactly one of"),
        ("p", {"max_token": 1}, "unknown option max_token; known are chat"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_the_call(
    prompt: str | None, options: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        calls.request("m", prompt, options)


# --------------------------------------------------------------------------------- wire and values


# How a client goes on when its gateway is lost is no business of who uses it.
BETWEEN_CLIENT_AND_GATEWAY = {"Tokens.variant", "Tokens.last", "GenerateRequest.resume"}


def wire_fields(message: type[Message]) -> set[str]:
    names = set(message.DESCRIPTOR.fields_by_name)
    return {n for n in names if f"{message.DESCRIPTOR.name}.{n}" not in BETWEEN_CLIENT_AND_GATEWAY}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (replies.Tokens, pb.Tokens),
        (replies.TokenLogprobs, pb.TokenLogprobs),
        (replies.TopLogprob, pb.TopLogprob),
        (replies.Finish, pb.Finish),
        (replies.Usage, pb.Usage),
        (replies.Latency, pb.Latency),
        (replies.Energy, pb.Energy),
        (replies.Decision, pb.Decision),
        (replies.Candidate, pb.Candidate),
        (served.Model, pb.Model),
        (served.Variant, pb.Variant),
        (served.ServiceClass, pb.ServiceClass),
        (served.Objective, pb.Objective),
        (statuses.ClusterStatus, cluster_pb2.GetStatusResponse),
        (statuses.Replica, cluster_pb2.Replica),
        (statuses.Counters, cluster_pb2.Counters),
    ],
)
def test_values_hold_every_field_of_the_wire(value: Any, message: type[Message]) -> None:
    names = {field.name for field in dataclasses.fields(value)}
    assert names == wire_fields(message)


def test_options_hold_every_field_of_the_wire() -> None:
    wire = wire_fields(pb.GenerateRequest) - {"sampling", "objective"}
    wire |= set(pb.Sampling.DESCRIPTOR.fields_by_name) | set(pb.Objective.DESCRIPTOR.fields_by_name)
    options = set(calls.GenerateOptions.__annotations__) - {"timeout_s"}
    assert options | {"model", "prompt"} == wire


# ----------------------------------------------------------------------------------- documentation


def families(error: type[JouleserveError]) -> Iterator[type[JouleserveError]]:
    yield error
    for narrower in error.__subclasses__():
        yield from families(narrower)


def test_the_api_document_lists_exactly_the_servers_errors() -> None:
    document = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    section = document.partition("## Errors")[2].partition("##")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    listed = {tuple(cell.strip(" `") for cell in row[1:5]) for row in rows}
    assert listed == {
        (each.kind, each.grpc_status, str(each.http_status), client_error(each))
        for each in families(JouleserveError)
    }


def client_error(error: type[JouleserveError]) -> str:
    """The name of what the client makes of it."""
    metadata = aio.Metadata((errors.KIND_KEY, error.kind))
    status = grpc.StatusCode[error.grpc_status]
    return type(errors.from_rpc(aio.AioRpcError(status, aio.Metadata(), metadata))).__name__
