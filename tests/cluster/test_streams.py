"""Many streams at once: every token once and in order, and every reply says what it cost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from protos.jouleserve.client import AsyncClient, Completion, GenerateOptions
    from tests.cluster.live_cluster import LiveCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

STREAMS = 64
VARIANTS = ("", "large", "small")


def prompt(number: int) -> list[int]:
    """Give a prompt that no other stream has, and that repeats no token."""
    return [1000 * number + place for place in range(3 + 7 * number % 101)]


def length(number: int) -> int:
    return 1 + 37 * number % 400


def echo(number: int) -> list[int]:
    """Give what an echo engine answers: the prompt, over and over."""
    given = prompt(number)
    return [given[place % len(given)] for place in range(length(number))]


async def ask(client: AsyncClient, number: int) -> Completion:
    options: GenerateOptions = {
        "prompt_token_ids": prompt(number),
        "max_tokens": length(number),
        "variant": VARIANTS[number % len(VARIANTS)],
        "request_id": f"stream-{number}",
    }
    return await client.complete("echo", **options)


async def test_concurrent_streams_arrive_whole_and_in_order(cluster: LiveCluster) -> None:
    async with cluster.client() as client:
        replies = await asyncio.gather(*(ask(client, number) for number in range(STREAMS)))
    for number, reply in enumerate(replies):
        finish, usage = reply.finish, reply.finish.usage
        assert list(reply.token_ids) == echo(number)
        assert reply.text == "".join(f" {token}" for token in echo(number))
        assert finish.request_id == f"stream-{number}"
        assert finish.finish_reason == "length"
        assert finish.variant == VARIANTS[number % len(VARIANTS)] or finish.variant
        assert usage.prompt_tokens == len(prompt(number))
        assert usage.completion_tokens == length(number)
        assert 0 < usage.latency.ttft_s <= usage.latency.e2e_s
        assert usage.energy.energy_j > 0
        assert usage.energy.method == "model"
        assert usage.energy.boundary == "cpu"
    assert {reply.finish.variant for reply in replies} == {"large", "small"}


async def test_afterwards_the_books_are_balanced(cluster: LiveCluster) -> None:
    before = (await cluster.status()).counters
    async with cluster.client() as client:
        await asyncio.gather(*(ask(client, number) for number in range(8)))
    await cluster.assert_released()
    after = (await cluster.status()).counters
    assert after.accepted - before.accepted == after.completed - before.completed == 8
    assert after.accepted == after.completed + after.cancelled + after.failed


async def test_a_reader_that_lags_gets_every_token(cluster: LiveCluster) -> None:
    token_ids: list[int] = []
    async with (
        cluster.client() as client,
        client.generate("echo", prompt_token_ids=[1, 2, 3], max_tokens=600) as stream,
    ):
        async for tokens in stream:
            token_ids += tokens.token_ids
            if len(token_ids) < 100:
                await asyncio.sleep(0.01)
    assert token_ids == [1, 2, 3] * 200


async def test_text_and_chat_are_rendered(cluster: LiveCluster) -> None:
    async with cluster.client() as client:
        plain = await client.complete("echo", "hé", max_tokens=3)
        chat = await client.complete("echo", chat=[{"role": "user", "content": "x"}], max_tokens=5)
    assert list(plain.token_ids) == list("hé".encode())
    assert list(chat.token_ids) == list(b"user:")


async def test_without_a_bound_the_context_is_filled(cluster: LiveCluster) -> None:
    async with cluster.client() as client:
        reply = await client.complete("echo", prompt_token_ids=[5] * 1000)
    assert list(reply.token_ids) == [5] * 24


async def test_explain_gives_every_replica_with_its_score(cluster: LiveCluster) -> None:
    async with cluster.client() as client:
        plain = await client.complete("echo", "hello", max_tokens=1)
        told = await client.complete("echo", "hello", max_tokens=1, variant="small", explain=True)
    assert plain.finish.decision is None
    assert plain.finish.reason
    decision = told.finish.decision
    assert decision is not None
    assert decision.policy == "energy"
    assert (decision.variant, decision.replica) == ("small", told.finish.replica)
    assert [each.variant for each in decision.candidates] == ["small", "small", "large"]
    assert decision.candidates[0].replica == decision.replica
    assert decision.candidates[0].score <= decision.candidates[1].score
    assert decision.candidates[0].terms
    assert "pinned to small" in decision.candidates[2].excluded
