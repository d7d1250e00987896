"""How many joules of a live cluster are on no account, after minutes of mixed load.

    jouleserve up --detach
    python scripts/measure_residual.py --minutes 10

Requests of three service classes and as many tenants come at random times, with prompts and
completions of all lengths; some of their clients lose patience and leave. Before and after,
once nothing runs, the replicas' counters are read and compared with the gateway's accounts:

    residual = energy − idle − accounts

What is on accounts is the sum of what replies said and of what was used for clients that had
left. The cluster must have one gateway, no other clients, and keep its replicas meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from protos.jouleserve.client import AsyncClient, JouleserveClientError

if TYPE_CHECKING:
    from protos.jouleserve.client import ClusterStatus

CLASSES = ("interactive", "standard", "batch")
TENANTS = ("blue", "green", "")
WORDS = ("how", "much", "energy", "does", "an", "answer", "take", "and", "who", "pays", "for", "it")
# Longer than any request here; what runs by then has failed.
REQUEST_S = 120.0
REST_S = 180.0
# Replicas share out what they used once a second, and report twice.
SETTLED_S = 3.0
SAMPLE_S = 5.0


@dataclass(slots=True)
class Tally:
    """What clients have seen.

    Attributes:
        completed: in number.
        cancelled: left by their client.
        failed: with an error.
        skipped: not sent, for too many were in flight.
        replies_j: what replies said.
        worst_residual_j: that a replica has reported.
        faults: what failed, each once.

    """

    completed: int = 0
    cancelled: int = 0
    failed: int = 0
    skipped: int = 0
    replies_j: float = 0.0
    worst_residual_j: float = 0.0
    faults: set[str] = field(default_factory=set)


async def ask(client: AsyncClient, model: str, rng: Random, cancelled: bool, tally: Tally) -> None:  # noqa: FBT001 (drawn)
    """Send one request, and leave it if it was drawn to be left."""
    prompt = " ".join(rng.choices(WORDS, k=rng.randint(3, 200)))
    call = client.complete(
        model,
        prompt,
        max_tokens=rng.randint(4, 160),
        service_class=rng.choice(CLASSES),
        tenant=rng.choice(TENANTS),
        temperature=0.8,
        timeout_s=REQUEST_S,
    )
    patience_s = rng.uniform(0.05, 6.0) if cancelled else REQUEST_S
    try:
        done = await asyncio.wait_for(call, patience_s)
    except TimeoutError:
        tally.cancelled += 1
    except JouleserveClientError as error:
        tally.failed += 1
        tally.faults.add(f"{type(error).__name__}: {error}"[:200])
    else:
        tally.completed += 1
        tally.replies_j += done.finish.usage.energy.energy_j


async def load(client: AsyncClient, given: argparse.Namespace, tally: Tally) -> None:
    """Send requests at random times, for so many minutes."""
    rng = Random(given.seed)
    running: set[asyncio.Task[None]] = set()
    due_s = time.monotonic()
    end_s = due_s + 60.0 * given.minutes
    while due_s < end_s:
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        due_s += rng.expovariate(given.rate)
        if len(running) >= given.most_in_flight:
            tally.skipped += 1
            continue
        cancelled = rng.random() < given.cancelled
        own = Random(rng.random())
        task = asyncio.create_task(ask(client, given.model, own, cancelled, tally))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running, timeout=REQUEST_S)


async def watch(client: AsyncClient, tally: Tally) -> None:
    """Look for a residual that a replica reports itself."""
    while True:
        await asyncio.sleep(SAMPLE_S)
        for replica in (await client.status()).replicas:
            tally.worst_residual_j = max(tally.worst_residual_j, abs(replica.residual_j))


async def at_rest(client: AsyncClient) -> ClusterStatus:
    """Give the status once nothing runs and everything is shared out."""
    deadline_s = time.monotonic() + REST_S
    while time.monotonic() < deadline_s:
        status = await client.status()
        if not any(each.running_requests + each.waiting_requests for each in status.replicas):
            await asyncio.sleep(SETTLED_S)
            return await client.status()
        await asyncio.sleep(1.0)
    raise SystemExit(f"replicas still work after {REST_S:g} s: are there other clients?")


def summary(before: ClusterStatus, after: ClusterStatus, tally: Tally) -> dict[str, object]:
    """Compare the replicas' counters with the gateway's accounts."""
    if {each.replica for each in before.replicas} != {each.replica for each in after.replicas}:
        raise SystemExit("replicas came or went meanwhile: pin their number, and measure again")
    known = {each.replica: each for each in before.replicas}
    energy_j = sum(each.energy_j - known[each.replica].energy_j for each in after.replicas)
    idle_j = sum(each.idle_j - known[each.replica].idle_j for each in after.replicas)
    accounts_j = sum(each.energy_j for each in after.accounts)
    accounts_j -= sum(each.energy_j for each in before.accounts)
    residual_j = energy_j - idle_j - accounts_j
    return {
        "method": sorted({each.energy_method for each in after.replicas}),
        "completed": tally.completed,
        "cancelled": tally.cancelled,
        "failed": tally.failed,
        "skipped": tally.skipped,
        "energy_j": round(energy_j, 3),
        "idle_j": round(idle_j, 3),
        "accounts_j": round(accounts_j, 3),
        "of_that_replies_j": round(tally.replies_j, 3),
        "residual_j": round(residual_j, 6),
        "residual_percent": round(100 * residual_j / energy_j, 5) if energy_j else None,
        "worst_own_residual_j": tally.worst_residual_j,
        "faults": sorted(tally.faults),
    }


async def measure(given: argparse.Namespace) -> dict[str, object]:
    """Load the cluster, and say what is on no account."""
    tally = Tally()
    async with AsyncClient(given.address, timeout_s=REQUEST_S) as client:
        before = await at_rest(client)
        watching = asyncio.create_task(watch(client, tally))
        try:
            await load(client, given, tally)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        after = await at_rest(client)
    return summary(before, after, tally)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:9000")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=1.0, help="requests a second, on average")
    parser.add_argument("--cancelled", type=float, default=0.2, help="share that is left")
    parser.add_argument("--most-in-flight", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if not (0 < given.minutes <= 24 * 60 and given.rate > 0 and 0 <= given.cancelled <= 1):
        parser.error("give minutes above 0, a rate above 0 and a share of 0 to 1")
    print(json.dumps(asyncio.run(measure(given)), indent=2))


if __name__ == "__main__":
    main()
