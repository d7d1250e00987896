"""What the dashboard costs with 200 replicas: the gateway's milliseconds, the page's frames.

Takes one status of a virtual fleet with all its 200 replicas at work, changes every figure of
every replica each second, and measures what a gateway computes for it and how fluid the page
stays in Chromium: gaps between frames, tasks of more than 50 ms, which a hand would notice, and
the CPU time of the page's thread, which depends less on what else the machine does.

    python benchmarks/bench_dashboard.py [--seconds 30] [--view map]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from loadtest.virtual.fleets import read_fleet
from loadtest.virtual.paced_cluster import PacedCluster
from loadtest.virtual.status import VirtualStatus
from protos.jouleserve import plans, served, statuses
from serve.dashboard.broadcast import Broadcast
from serve.dashboard.merge_patch import difference
from serve.dashboard.remote import application
from serve.dashboard.snapshot import DECISIONS, Snapshot, document
from serve.dashboard.web import Dashboard
from tests.chromium import Server, chromium, opened

if TYPE_CHECKING:
    from playwright.async_api import CDPSession

FLEET = Path(__file__).parents[1] / "examples/fleets/mixed200.yaml"
# Before the planner has let any replica go.
WARM_S = 14.0
PAUSE_S = 5.0
ROUNDS = 100

# All tasks; of these scripts, and what follows from them.
PARTS = ("TaskDuration", "ScriptDuration", "RecalcStyleDuration", "LayoutDuration")

WATCH = """() => {
    window.seen = { gaps: [], long: [] };
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) window.seen.long.push(entry.duration);
    }).observe({ entryTypes: ["longtask"] });
    let before = performance.now();
    const frame = (now) => {
        window.seen.gaps.push(now - before);
        before = now;
        requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
}"""


class Changing:
    """A status in which every figure changes each time it is taken."""

    def __init__(self) -> None:
        cluster = PacedCluster(read_fleet(FLEET), load=0.8)
        cluster.advance(WARM_S)
        answers = VirtualStatus(cluster)
        self.message = answers.status(DECISIONS)
        self._plan = plans.plan(answers.plan())
        self._models = served.models(answers.models())
        self._rng = random.Random(0)

    async def take(self) -> Snapshot:
        return self.taken()

    def taken(self) -> Snapshot:
        status = statuses.status(self.message)
        changed = tuple(
            replace(
                each,
                age_s=self._rng.uniform(0, 0.5),
                running_requests=self._rng.randrange(each.max_batch),
                waiting_requests=self._rng.randrange(4),
                kv_cache_usage=self._rng.random(),
                prefill_tokens_per_s=self._rng.uniform(0, 1e4),
                decode_tokens_per_s=self._rng.uniform(0, 5e3),
                step_time_s=self._rng.uniform(0.005, 0.05),
                power_w=self._rng.uniform(100, 700),
                energy_j=each.energy_j + self._rng.uniform(100, 700),
                leases=self._rng.randrange(200),
            )
            for each in status.replicas
        )
        return Snapshot(
            time.monotonic(), replace(status, replicas=changed), self._plan, self._models
        )


def gateway(source: Changing) -> None:
    """Time what a gateway does once a second while somebody looks."""
    whole, took_ms, patch = document(source.taken()), [], ""
    for _ in range(ROUNDS):
        snapshot = source.taken()
        began_s = time.perf_counter()
        statuses.status(source.message)
        written = document(snapshot)
        patch = json.dumps(difference(whole, written), separators=(",", ":"), ensure_ascii=False)
        took_ms.append(1e3 * (time.perf_counter() - began_s))
        whole = written
    size = len(json.dumps(whole, separators=(",", ":"), ensure_ascii=False))
    print(
        f"{len(source.message.replicas)} replicas, all figures changing: read, written and"
        f" compared in {statistics.median(took_ms):.1f} ms (median of {ROUNDS}); whole"
        f" {size / 1e3:.0f} kB, patch {len(patch) / 1e3:.0f} kB"
    )


async def page(source: Changing, seconds: float, view: str) -> None:
    """Watch the page's frames."""
    server = Server(application(Dashboard(Broadcast(source.take))))
    await server.start()
    async with chromium() as browser:
        window = await opened(browser, server.url, viewport={"width": 1440, "height": 900})
        await window.wait_for_selector(".replica")
        await window.check(f'#fleet-view input[value="{view}"]', force=True)
        await asyncio.sleep(PAUSE_S)
        await window.evaluate(WATCH)
        devtools = await window.context.new_cdp_session(window)
        await devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        before = await metrics(devtools)
        await asyncio.sleep(seconds)
        after = await metrics(devtools)
        seen = await window.evaluate("window.seen")
        tiles = await window.locator(".replica, #fleet-table tbody tr").count()
    await server.stop()
    gaps_ms = sorted(seen["gaps"])
    assert tiles >= len(source.message.replicas)
    print(
        f"{view}: {len(gaps_ms)} frames in {seconds:g} s; gap p50 {at(gaps_ms, 0.5):.1f} ms,"
        f" p95 {at(gaps_ms, 0.95):.1f} ms, p99 {at(gaps_ms, 0.99):.1f} ms,"
        f" longest {gaps_ms[-1]:.1f} ms; tasks over 50 ms: {len(seen['long'])}"
        + (f", longest {max(seen['long']):.0f} ms" if seen["long"] else "")
    )
    spent = {name: 1e3 * (after[name] - before[name]) / seconds for name in PARTS}
    parts = ", ".join(f"{name} {spent[name]:.1f} ms" for name in PARTS)
    print(f"{view}: CPU time of the page's thread in a second: {parts}")


async def metrics(devtools: CDPSession) -> dict[str, float]:
    told = await devtools.send("Performance.getMetrics")
    return {each["name"]: each["value"] for each in told["metrics"]}


def at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--view", choices=["map", "table"], default="map")
    given = parser.parse_args()
    source = Changing()
    gateway(source)
    asyncio.run(page(source, given.seconds, given.view))


if __name__ == "__main__":
    main()
