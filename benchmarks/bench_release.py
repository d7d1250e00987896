"""How long a request outlives a client that leaves: in the engine, and as a lease.

Needs a running cluster: `jouleserve up --detach`. Every client leaves after its first
token, by cancelling or by its deadline, one after the other; then 200 leave in crowds.

    python benchmarks/bench_release.py [--clients 20] [--crowd 200]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import time

from protos.jouleserve.client import AsyncClient, DeadlineExceededError
from serve import cluster_record

POLL_S = 0.02
LONG_TOKENS = 400
CROWD = 20


async def cancel(client: AsyncClient, model: str) -> None:
    stream = client.generate(model, "Tell me a story.", max_tokens=LONG_TOKENS, ignore_eos=True)
    async for _ in stream:
        break
    stream.cancel()


async def time_out(client: AsyncClient, model: str) -> None:
    with contextlib.suppress(DeadlineExceededError):
        await client.complete(
            model, "Tell me a story.", max_tokens=LONG_TOKENS, ignore_eos=True, timeout_s=0.5
        )


async def until_nothing_runs(client: AsyncClient) -> float:
    started = time.perf_counter()
    while True:
        status = await client.status()
        work = [r.running_requests + r.waiting_requests + r.leases for r in status.replicas]
        if not any(work) and not status.counters.in_flight:
            return time.perf_counter() - started
        await asyncio.sleep(POLL_S)


async def measure(address: str, clients: int, crowd: int) -> None:
    async with AsyncClient(address, connections=2) as client:
        model = (await client.models())[0].name
        for leave in (cancel, time_out):
            times_s = []
            for _ in range(clients):
                await leave(client, model)
                times_s.append(await until_nothing_runs(client))
            median_s, worst_s = statistics.median(times_s), max(times_s)
            print(f"{leave.__name__:8} x {clients}: median {median_s:.2f} s, worst {worst_s:.2f} s")
        for _ in range(crowd // CROWD):
            await asyncio.gather(*(cancel(client, model) for _ in range(CROWD)))
        print(f"cancel   x {crowd} in crowds of {CROWD}: {await until_nothing_runs(client):.2f} s")
        print((await client.status()).counters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--crowd", type=int, default=200)
    options = parser.parse_args()
    record = cluster_record.read()
    if record is None:
        sys.exit("no cluster runs; start one with: jouleserve up --detach")
    asyncio.run(measure(record.grpc_address, options.clients, options.crowd))


if __name__ == "__main__":
    main()
