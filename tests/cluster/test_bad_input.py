"""What no server should choke on: a typed status, a message that says what to change, and on."""

from __future__ import annotations

import json
import math
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

import grpc
import pytest
from grpc import aio

from protos.jouleserve.client import (
    BadRequestError,
    InternalError,
    JouleserveClientError,
    RequestTooLargeError,
    UnattainableError,
    UnknownModelError,
)
from protos.jouleserve.errors import from_rpc
from protos.jouleserve.v1 import inference_pb2 as pb
from protos.jouleserve.v1.inference_pb2_grpc import InferenceStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.cluster.live_cluster import LiveCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

GENERATE = "/jouleserve.v1.Inference/Generate"
LIST_MODELS = "/jouleserve.v1.Inference/ListModels"
NO_METHOD = "/jouleserve.v1.Inference/Degenerate"


@pytest.fixture(autouse=True)
async def still_serves(cluster: LiveCluster) -> AsyncIterator[None]:
    """After each test nothing is held and a good request is served."""
    yield
    await cluster.assert_released()
    await cluster.assert_serves("echo")


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"model": "gpt-9"}, UnknownModelError, ["gpt-9", "served: echo, slow"]),
        ({"prompt": ""}, BadRequestError, ["empty", "give a prompt"]),
        ({"prompt": None, "chat": []}, BadRequestError, ["empty", "chat messages"]),
        ({"prompt": None, "prompt_token_ids": []}, BadRequestError, ["empty"]),
        (
            {"prompt": "x" * 1024},
            BadRequestError,
            ["1024 tokens", "shorten the prompt to 1023 tokens"],
        ),
        ({"max_tokens": 0}, BadRequestError, ["max_tokens is 0", "at least 1"]),
        ({"max_tokens": -5}, BadRequestError, ["max_tokens is -5", "at least 1"]),
        ({"min_quality": 2.0}, BadRequestError, ["min_quality is 2.0", "give 0 to 1"]),
        (
            {"model": "slow", "min_quality": 0.95},
            UnattainableError,
            ["0.95", "slow", "ask for 0.8 or less"],
        ),
        (
            {"variant": "small", "min_quality": 0.95},
            UnattainableError,
            ["small", "ask for 0.9 or less"],
        ),
        (
            {"service_class": "gold"},
            BadRequestError,
            ["gold", "known: batch, interactive, standard"],
        ),
        ({"variant": "huge"}, BadRequestError, ["huge", "known: large, small"]),
        ({"ttft_s": math.nan}, BadRequestError, ["ttft_s is nan", "seconds above 0"]),
        ({"ttft_s": -1.0}, BadRequestError, ["ttft_s is -1.0", "seconds above 0"]),
        ({"tpot_s": 0.0}, BadRequestError, ["tpot_s is 0.0", "seconds above 0"]),
        (
            {"prompt": "x" * 5_000_000},
            RequestTooLargeError,
            ["at most 1048576", "shorten the prompt", "gateway.max_request_bytes"],
        ),
        (
            {"prompt": None, "prompt_token_ids": [1 << 31] * 1_200_000},
            RequestTooLargeError,
            ["at most 1048576", "shorten the prompt"],
        ),
        ({"request_id": "r" * 200}, BadRequestError, ["200 characters", "at most 128"]),
    ],
)
async def test_a_bad_request_is_told_what_to_change(
    cluster: LiveCluster,
    changes: dict[str, Any],
    error: type[JouleserveClientError],
    says: list[str],
) -> None:
    options: dict[str, Any] = {"model": "echo", "prompt": "hello", "max_tokens": 4} | changes
    async with cluster.client() as client:
        with pytest.raises(error) as raised:
            await client.complete(**options)
    assert raised.value.kind
    for words in says:
        assert words in raised.value.message


async def test_no_input_at_all(cluster: LiveCluster) -> None:
    async with aio.insecure_channel(cluster.address) as channel:
        call = InferenceStub(channel).Generate(pb.GenerateRequest(model="echo"))
        with pytest.raises(aio.AioRpcError) as raised:
            await call.read()
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "give a prompt, chat messages or prompt_token_ids" in str(raised.value.details())


@pytest.mark.parametrize(
    "junk",
    [
        b"\xff\xff\xff\xff",
        b"hello",
        b"\x0a\xff\x01",  # A string that is longer than the message.
    ],
)
@pytest.mark.parametrize("method", [GENERATE, LIST_MODELS])
async def test_what_is_no_message_at_all(cluster: LiveCluster, method: str, junk: bytes) -> None:
    await assert_refused(cluster, method, junk)


async def test_a_prompt_that_is_not_utf8(cluster: LiveCluster) -> None:
    await assert_refused(cluster, GENERATE, b"\x12\x04\xff\xfe\xfd\xfc")


async def assert_refused(cluster: LiveCluster, method: str, junk: bytes) -> None:
    async with aio.insecure_channel(cluster.address) as channel:
        call = channel.unary_stream(method, bytes, bytes)
        with pytest.raises(aio.AioRpcError) as raised:
            await call(junk).read()
    error = from_rpc(raised.value)
    assert isinstance(error, InternalError | BadRequestError)
    assert "parsing message" in error.message


async def test_a_method_that_does_not_exist(cluster: LiveCluster) -> None:
    async with aio.insecure_channel(cluster.address) as channel:
        call = channel.unary_unary(NO_METHOD, bytes, bytes)
        with pytest.raises(aio.AioRpcError) as raised:
            await call(b"")
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


# ── HTTP ────────────────────────────────────────────────────────────────────


def ask(cluster: LiveCluster, path: str, body: bytes | None = None) -> tuple[int, Any]:
    """Send a body, or just look; give the status and the JSON that comes back."""
    request = urllib.request.Request(
        f"{cluster.http_url}{path}", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)


async def test_http_says_that_it_serves_and_what(cluster: LiveCluster) -> None:
    assert ask(cluster, "/health") == (200, {"serving": True})
    code, models = ask(cluster, "/v1/models")
    assert code == 200
    assert models["object"] == "list"
    assert [each["id"] for each in models["data"]] == ["echo", "slow"]
    assert [each["max_model_len"] for each in models["data"]] == [1024, 4096]
    assert models["data"][0]["variants"] == ["large", "small"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/embeddings", "/v1/models/echo/"])
async def test_http_of_an_unknown_path(cluster: LiveCluster, path: str) -> None:
    assert ask(cluster, path)[0] == 404


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize(
    "body", [b'{"model": "echo", "prompt": "x"}', b"{", b"", b"\xff\xfe", b"x" * 5_000_000]
)
async def test_http_without_a_tokenizer_says_what_to_use(
    cluster: LiveCluster, path: str, body: bytes
) -> None:
    code, answer = ask(cluster, path, body)
    assert code == 422
    assert answer["error"]["type"] == "unattainable"
    assert answer["error"]["code"] == 422
    assert "use gRPC" in answer["error"]["message"]


async def test_http_by_the_wrong_method(cluster: LiveCluster) -> None:
    assert ask(cluster, "/v1/chat/completions")[0] == 405
