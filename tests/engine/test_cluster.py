"""The main job on two real replicas: bf16 and int8 of one model, behind one gateway."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import openai
import pytest

from protos.jouleserve.client import AsyncClient, BadRequestError, Client, UnknownModelError
from tests.engine.conftest import MODEL, QUESTION, ROOT, Cluster, directly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cluster.otlp_collector import OtlpCollector

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

# A busy machine may take longer than the 0.6 s that a quiet one does.
RELEASE_S = 15.0
CHAT: list[Any] = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.grpc_address) as connected:
        yield connected


@pytest.fixture
def openai_client(cluster: Cluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{cluster.http_url}/v1", api_key="any", max_retries=0)


async def settled(client: AsyncClient) -> bool:
    """Tell whether nothing runs anywhere within the time that a release may take."""
    deadline_s = time.monotonic() + RELEASE_S
    while time.monotonic() < deadline_s:
        status = await client.status()
        work = [r.running_requests + r.waiting_requests + r.leases for r in status.replicas]
        if not any(work) and not status.counters.in_flight and not status.counters.leases:
            return True
        await asyncio.sleep(0.1)
    return False


# ------------------------------------------------------------------------------------------ tokens


async def test_64_streams_of_different_lengths_lose_nothing(cluster: Cluster) -> None:
    """The client compares count and checksum with what the engine recorded, or raises."""
    async with AsyncClient(cluster.grpc_address, connections=2) as client:
        replies = await asyncio.gather(
            *(
                client.complete(
                    MODEL,
                    f"Count upward from {i}:",
                    max_tokens=4 + i,
                    ignore_eos=True,
                    variant=("bf16", "int8")[i % 2],
                    seed=i,
                )
                for i in range(64)
            )
        )
        assert [len(reply.token_ids) for reply in replies] == [4 + i for i in range(64)]
        assert {reply.finish.variant for reply in replies} == {"bf16", "int8"}
        assert all(reply.finish.usage.energy.energy_j > 0 for reply in replies)
        assert await settled(client)


@pytest.mark.parametrize("variant", ["bf16", "int8"])
def test_a_request_alone_gives_the_tokens_of_a_direct_engine_call(
    client: Client, variant: str
) -> None:
    prompts = [[1, 4093, 198, 1780, 314, 260], [9690, 198, 2683, 359, 253]]
    replies = [
        client.complete(
            MODEL, prompt_token_ids=ids, max_tokens=48, temperature=0.0, variant=variant
        )
        for ids in prompts
    ]
    assert [list(reply.token_ids) for reply in replies] == directly(variant, prompts)


def test_the_same_seed_gives_the_same_tokens(client: Client) -> None:
    options: dict[str, Any] = {"temperature": 1.0, "seed": 7, "max_tokens": 24, "variant": "bf16"}
    first, second = (client.complete(MODEL, chat=CHAT, **options) for _ in range(2))
    assert first.token_ids == second.token_ids


def test_the_quality_floor_decides_the_variant(client: Client) -> None:
    reply = client.complete(
        MODEL, chat=CHAT, max_tokens=16, temperature=0.0, min_quality=1.0, explain=True
    )
    assert "Paris" in reply.text
    assert reply.finish.variant == "bf16"
    assert reply.finish.decision is not None
    (excluded,) = [each for each in reply.finish.decision.candidates if each.excluded]
    assert excluded.variant == "int8"
    assert "quality" in excluded.excluded


def test_a_stop_text_ends_the_reply_before_it(client: Client) -> None:
    reply = client.complete(MODEL, chat=CHAT, max_tokens=32, temperature=0.0, stop=[" Paris"])
    assert reply.finish.finish_reason == "stop"
    assert reply.text == "The capital of France is"


def test_log_probabilities_come_with_every_token(client: Client) -> None:
    reply = client.complete(MODEL, chat=CHAT, max_tokens=5, temperature=0.0, logprobs=2)
    assert len(reply.logprobs) == len(reply.token_ids)
    assert all(each.logprob <= 0 and len(each.top) >= 2 for each in reply.logprobs)


def test_a_repeated_prompt_is_found_in_the_prefix_cache(client: Client) -> None:
    story = "Once upon a time there was a small model that served many people. " * 12
    replies = [
        client.complete(MODEL, story, max_tokens=4, temperature=0.0, variant="int8")
        for _ in range(2)
    ]
    usage = replies[1].finish.usage
    assert usage.cached_tokens > usage.prompt_tokens / 2
    assert usage.energy.prefill_j < replies[0].finish.usage.energy.prefill_j


# ------------------------------------------------------------------------------- clients that leave


async def leave_early(client: AsyncClient) -> None:
    stream = client.generate(MODEL, "Tell me a long story.", max_tokens=500, ignore_eos=True)
    async for _ in stream:
        break
    stream.cancel()


async def time_out(client: AsyncClient) -> None:
    with pytest.raises(Exception, match=r"(?i)deadline"):
        await client.complete(
            MODEL, "Tell me a story.", max_tokens=900, ignore_eos=True, timeout_s=0.4
        )


@pytest.mark.parametrize("leave", [leave_early, time_out])
async def test_a_client_that_leaves_takes_its_request_along(
    cluster: Cluster, leave: Callable[[AsyncClient], Any]
) -> None:
    async with AsyncClient(cluster.grpc_address) as client:
        await leave(client)
        assert await settled(client)


async def test_200_cancellations_leave_nothing(cluster: Cluster) -> None:
    async with AsyncClient(cluster.grpc_address) as client:
        before = (await client.status()).counters
        for _ in range(10):
            await asyncio.gather(*(leave_early(client) for _ in range(20)))
        assert await settled(client)
        after = (await client.status()).counters
        assert after.cancelled - before.cancelled == 200
        assert after.failed == before.failed


async def test_a_client_that_vanishes_takes_its_request_along(cluster: Cluster) -> None:
    script = f"""
from protos.jouleserve.client import Client
stream = Client("{cluster.grpc_address}").generate("{MODEL}", "Talk.", max_tokens=900,
                                                   ignore_eos=True)
next(iter(stream))
print("streaming", flush=True)
for _ in stream: pass
"""
    with subprocess.Popen(  # noqa: ASYNC220 (starting it takes milliseconds)
        [sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT
    ) as vanishing:
        assert vanishing.stdout is not None
        assert await asyncio.to_thread(vanishing.stdout.readline) == b"streaming\n"
        vanishing.kill()
    async with AsyncClient(cluster.grpc_address) as client:
        assert await settled(client)


async def test_an_http_client_that_leaves_takes_its_request_along(cluster: Cluster) -> None:
    url, options = f"{cluster.http_url}/v1", {"ignore_eos": True}
    async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as http:
        stream = await http.completions.create(
            model=MODEL, prompt="Talk.", max_tokens=900, stream=True, extra_body=options
        )
        async for _ in stream:
            break
        await stream.close()
    async with AsyncClient(cluster.grpc_address) as client:
        assert await settled(client)


async def test_an_http_client_that_leaves_before_the_answer_takes_its_request_along(
    cluster: Cluster,
) -> None:
    url, options = f"{cluster.http_url}/v1", {"ignore_eos": True}
    for _ in range(3):
        async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as http:
            with pytest.raises(openai.APITimeoutError):
                await http.completions.create(
                    model=MODEL, prompt="Talk.", max_tokens=900, extra_body=options, timeout=0.5
                )
        async with AsyncClient(cluster.grpc_address) as client:
            assert await settled(client)


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": ""}, "prompt"),
        ({"chat": [{"role": "user", "content": "word " * 3000}]}, "maximum context length"),
        ({"prompt": "word " * 3000}, "shorten the prompt"),
        ({"prompt": "x", "max_tokens": -3}, "max_tokens is -3"),
        ({"prompt": "x", "temperature": -1.0}, "temperature"),
        ({"prompt": "x", "top_p": 3.0}, "top_p"),
        ({"prompt_token_ids": [999_999_999]}, "out of vocabulary"),
        ({"prompt": "x", "variant": "int3"}, "known: bf16, int8"),
        ({"prompt": "x", "service_class": "gold"}, "interactive"),
    ],
)
def test_bad_input_is_refused_with_what_to_change(
    client: Client, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadRequestError, match=words):
        client.complete(MODEL, **options)
    assert client.complete(MODEL, "Hello", max_tokens=1).token_ids


def test_an_unknown_model_is_named_with_those_there_are(client: Client) -> None:
    with pytest.raises(UnknownModelError, match=MODEL):
        client.complete("gpt-17", "Hello")


# ------------------------------------------------------------------------------------------ OpenAI


def test_openai_chat(openai_client: openai.OpenAI) -> None:
    assert [model.id for model in openai_client.models.list()] == [MODEL]
    reply = openai_client.chat.completions.create(
        model=MODEL, messages=CHAT, max_tokens=16, temperature=0.0
    )
    assert reply.choices[0].message.content == "The capital of France is Paris."
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 8
    assert reply.model_extra is not None
    assert reply.model_extra["jouleserve"]["energy"]["method"] == "model"


@pytest.mark.parametrize("include_usage", [False, True])
def test_openai_chat_streaming_tells_what_it_cost(
    openai_client: openai.OpenAI, *, include_usage: bool
) -> None:
    chunks = list(
        openai_client.chat.completions.create(
            model=MODEL,
            messages=CHAT,
            max_tokens=16,
            temperature=0.0,
            stream=True,
            stream_options={"include_usage": include_usage},
            extra_body={"service_class": "batch", "explain": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "The capital of France is Paris."
    assert chunks[-1].model_extra is not None
    told = chunks[-1].model_extra["jouleserve"]
    assert told["energy"]["energy_j"] > 0
    assert {each["variant"] for each in told["decision"]["candidates"]} == {"bf16", "int8"}


def test_openai_completions_with_several_choices(openai_client: openai.OpenAI) -> None:
    reply = openai_client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=10, n=2, seed=3, logprobs=1
    )
    assert len({choice.text for choice in reply.choices}) == 2
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 20
    assert reply.model_extra is not None
    assert len(reply.model_extra["jouleserve"]["parts"]) == 2


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"model": "gpt-17"}, 404),
        ({"messages": []}, 400),
        ({"max_tokens": -4}, 400),
        ({"temperature": -1}, 400),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, 400),
        ({"messages": [{"role": "user", "content": "x" * 5_000_000}]}, 413),
        ({"extra_body": {"min_quality": 3}}, 400),
        ({"extra_body": {"service_class": "gold"}, "stream": True}, 400),
    ],
)
def test_openai_bad_input_has_a_status_and_a_message(
    openai_client: openai.OpenAI, options: dict[str, Any], status: int
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        openai_client.chat.completions.create(**({"model": MODEL, "messages": CHAT} | options))
    assert refused.value.status_code == status
    body = refused.value.body
    assert isinstance(body, dict)
    assert body["message"]


def test_malformed_json_is_refused(openai_client: openai.OpenAI) -> None:
    http = openai_client._client  # noqa: SLF001 (the HTTP client that openai was given)
    reply = http.post("chat/completions", content=b"{", headers={"content-type": "text/json"})
    assert reply.status_code == 400
    assert "not JSON" in reply.json()["error"]["message"]


# ----------------------------------------------------------------------------------------- traces


@pytest.mark.parametrize("stream", [False, True])
def test_an_http_request_is_one_trace_from_its_client_to_the_engine(
    openai_client: openai.OpenAI, collector: OtlpCollector, *, stream: bool
) -> None:
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    reply: Any = openai_client.chat.completions.create(
        model=MODEL,
        messages=CHAT,
        max_tokens=5,
        stream=stream,
        extra_headers={"traceparent": f"00-{trace_id}-{span_id}-01"},
    )
    if stream:
        assert list(reply)
    root_name = f"chat {MODEL}"
    stages, phases = {"admit", "route", "serve"}, {"queue", "prefill", "decode"}
    deadline_s = time.monotonic() + RELEASE_S
    while time.monotonic() < deadline_s:
        spans = {each.span.name: each for each in collector.trace(trace_id)}
        if len(spans) == len({root_name, "engine"} | stages | phases):
            break
        time.sleep(0.1)
    assert set(spans) - {"engine bf16", "engine int8"} == {root_name} | stages | phases
    root = spans[root_name]
    assert root.span.parent_span_id.hex() == span_id
    (engine,) = (each for name, each in spans.items() if name.startswith("engine "))
    assert engine.span.parent_span_id == spans["serve"].span.span_id
    assert {spans[name].span.parent_span_id for name in phases} == {engine.span.span_id}
    assert {each.service for each in spans.values()} == {"jouleserve-gateway", "jouleserve-replica"}
    attributes = {each.key: each.value for each in root.span.attributes}
    assert attributes["gen_ai.operation.name"].string_value == "chat"
    assert attributes["gen_ai.usage.output_tokens"].int_value == 5
    assert attributes["jouleserve.energy_j"].double_value > 0


def test_no_log_tells_what_was_asked_or_answered(
    cluster: Cluster, client: Client, openai_client: openai.OpenAI
) -> None:
    canary = "Zyzzyva"
    asked = f"Repeat after me: {canary} {canary}"
    openai_client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": asked}], max_tokens=8
    )
    client.complete(MODEL, asked, max_tokens=8)
    with pytest.raises(openai.APIStatusError):
        openai_client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": asked * 2000}]
        )
    logs = [each for each in cluster.logs.rglob("*") if each.is_file()]
    assert logs
    assert not [each for each in logs if canary in each.read_text(errors="replace")]
