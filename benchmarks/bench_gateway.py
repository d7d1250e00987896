"""Tokens per second through the gateway against the same replicas driven directly.

Needs a running cluster with real replicas: `jouleserve up --detach`. Rounds of the two
ways alternate, so that a noisy machine disturbs both alike; the ratio of medians counts.

    python benchmarks/bench_gateway.py [--streams 16] [--tokens 128] [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from protos.jouleserve.client import AsyncClient
from serve import cluster_record
from serve.engine import EngineRequest
from serve.local_cluster import connect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

PROMPT = list(range(1000, 1032))


class Direct:
    """Drives each variant's deployment through its own handle, as a gateway would, and no more."""

    def __init__(self, variants: Sequence[str]) -> None:
        from ray import serve as ray_serve

        self._handles = {
            variant: ray_serve.get_deployment_handle(variant, app_name="jouleserve").options(
                _by_reference=False
            )
            for variant in variants
        }
        self._counts = dict.fromkeys(variants, 0)
        self._number = 0
        self._readers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for variant, handle in self._handles.items():
            self._readers.append(asyncio.create_task(self._read(variant, handle)))

    async def _read(self, variant: str, handle: Any) -> None:
        async for frame in handle.options(stream=True).frames.remote("bench"):
            for part in frame.streams:
                self._counts[variant] += len(part.delta.token_ids)

    async def round(self, variants: Sequence[str], tokens: int) -> int:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        from serve.sampling_vllm import encode

        sampling = encode(
            SamplingParams(
                temperature=0.0,
                max_tokens=tokens,
                ignore_eos=True,
                output_kind=RequestOutputKind.DELTA,
            )
        )
        before = sum(self._counts.values())
        calls = []
        for variant in variants:
            self._number += 1
            request = EngineRequest(
                f"bench-{self._number}", [*PROMPT, self._number], tokens, sampling
            )
            calls.append(self._handles[variant].generate.remote(request, self._number, "bench"))
        emitted = await asyncio.gather(*calls)
        while sum(self._counts.values()) - before < sum(emitted):  # noqa: ASYNC110
            await asyncio.sleep(0.001)  # A step takes twenty times as long.
        return sum(emitted)


async def through_gateway(
    client: AsyncClient, model: str, variants: Sequence[str], tokens: int
) -> int:
    replies = await asyncio.gather(
        *(
            client.complete(
                model,
                prompt_token_ids=[*PROMPT, 2000 + number],
                max_tokens=tokens,
                temperature=0.0,
                ignore_eos=True,
                variant=variant,
            )
            for number, variant in enumerate(variants)
        )
    )
    return sum(len(reply.token_ids) for reply in replies)


async def timed(work: Callable[[], Awaitable[int]]) -> float:
    started = time.perf_counter()
    tokens = await work()
    return tokens / (time.perf_counter() - started)


async def compare(address: str, streams: int, tokens: int, rounds: int) -> None:
    async with AsyncClient(address) as client:
        (model,) = await client.models()
        names = [variant.name for variant in model.variants]
        variants = [names[i % len(names)] for i in range(streams)]
        direct = Direct(names)
        direct.start()
        ways: dict[str, Callable[[], Awaitable[int]]] = {
            "direct": lambda: direct.round(variants, tokens),
            "gateway": lambda: through_gateway(client, model.name, variants, tokens),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name in sorted(ways, reverse=bool(number % 2)):
                rate = await timed(ways[name])
                if number:  # The first round warms up.
                    rates[name].append(rate)
                    print(f"round {number} {name:8} {rate:7.1f} tokens/s", flush=True)
    medians = {name: statistics.median(each) for name, each in rates.items()}
    print(
        f"{streams} streams of {tokens} tokens, median of {rounds}: "
        f"direct {medians['direct']:.1f}, gateway {medians['gateway']:.1f} tokens/s, "
        f"ratio {medians['gateway'] / medians['direct']:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    record = cluster_record.read()
    if record is None:
        sys.exit("no cluster runs; start one with: jouleserve up --detach")
    connect(record)
    asyncio.run(compare(record.grpc_address, options.streams, options.tokens, options.rounds))


if __name__ == "__main__":
    main()
