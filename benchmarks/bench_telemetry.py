"""CPU time of a gateway for each request, with export of traces and metrics against without.

Starts clusters of echo engines side by side, one that exports and two that do not, and gives
them the same load in turn. What counts is the time that the kernel has charged to the gateways'
processes, exporting threads included: it is not disturbed by who waits for whom. The medians of
the ratios of neighbouring blocks are printed; what the second without export differs by is
chance. Clusters that export only traces or only metrics join where asked for.

    python -m benchmarks.bench_telemetry [--rounds 10] [--requests 200] [--tokens 64]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from protos.jouleserve.client import AsyncClient
from tests.cluster.live_cluster import running
from tests.cluster.otlp_collector import OtlpCollector

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from tests.cluster.live_cluster import LiveCluster

CONFIG = """
models:
  - name: echo
    variants:
      - name: large
        engine: echo
        accelerator: cpu
        cpus_per_replica: 0.1
        max_context_tokens: 1024
        echo: {decode_step_s: 0.01, prefill_tokens_per_s: 100000}
planner: {autoscaler: queue_based}
"""
PROMPT = list(range(1000, 1064))
IDLE_S = 10.0
OFF, CONTROL = "off", "off again"


def environment(name: str, url: str) -> dict[str, str]:
    if name in {OFF, CONTROL}:
        return {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
    signals = ("traces", "metrics") if name == "on" else (name,)
    exporters = {
        f"OTEL_{each.upper()}_EXPORTER": "otlp" if each in signals else "none"
        for each in ("traces", "metrics")
    }
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, **exporters}


def cpu_s(pids: Sequence[int]) -> float:
    """Time that processes have run, all their threads; the scheduler counts it in nanoseconds."""
    tasks = (task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir())
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Way:
    """A cluster under test, and the processes of its gateways."""

    def __init__(self, name: str, cluster: LiveCluster, pids: list[int]) -> None:
        self.name = name
        self.costs_s: list[float] = []
        self.idle = 0.0
        self._cluster = cluster
        self._pids = pids

    async def rest(self) -> None:
        """Learn what its gateways use of a core when nothing comes."""
        before_s, began_s = cpu_s(self._pids), time.monotonic()
        await asyncio.sleep(IDLE_S)
        self.idle = (cpu_s(self._pids) - before_s) / (time.monotonic() - began_s)

    async def block(self, requests: int, streams: int, tokens: int) -> float:
        """Give CPU seconds for each request, less what would have been used without any."""
        left = iter(range(requests))
        async with AsyncClient(self._cluster.address, connections=2) as client:
            before_s, began_s = cpu_s(self._pids), time.monotonic()

            async def one_after_another() -> None:
                for _ in left:
                    reply = await client.complete(
                        "echo", prompt_token_ids=PROMPT, max_tokens=tokens
                    )
                    assert len(reply.token_ids) == tokens

            await asyncio.gather(*(one_after_another() for _ in range(streams)))
            idle_s = self.idle * (time.monotonic() - began_s)
            return (cpu_s(self._pids) - before_s - idle_s) / requests


async def compare(ways: Sequence[Way], options: argparse.Namespace) -> None:
    load = (options.requests, options.streams, options.tokens)
    await asyncio.gather(*(way.rest() for way in ways))
    for number in range(options.rounds + 1):
        for way in ways if number % 2 else reversed(ways):
            cost_s = await way.block(*load)
            if number:  # The first round warms up.
                way.costs_s.append(cost_s)
        if number and not number % 5:
            _tell(ways)


def _tell(ways: Sequence[Way]) -> None:
    off = next(way for way in ways if way.name == OFF)
    print(f"after {len(off.costs_s)} rounds:")
    for way in ways:
        ratios = [cost / base for cost, base in zip(way.costs_s, off.costs_s, strict=True)]
        quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        ratio = f"{statistics.median(ratios):.3f} ({quartiles[0]:.3f} to {quartiles[2]:.3f})"
        cost_us = statistics.median(way.costs_s) * 1e6
        print(
            f"{way.name:9} {cost_us:7.0f} us a request beside {way.idle:.1%} of a core,"
            f" ratio {ratio}",
            flush=True,
        )


async def measure(clusters: dict[str, LiveCluster], options: argparse.Namespace) -> None:
    ways = [
        Way(name, cluster, [each["pid"] for each in await cluster.gateways()])
        for name, cluster in clusters.items()
    ]
    await compare(ways, options)


def _cluster(place: Path, name: str, url: str) -> AbstractContextManager[LiveCluster]:
    place.mkdir()
    return running(place, CONFIG, environment(name, url))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--requests", type=int, default=50, help="of a block")
    parser.add_argument("--streams", type=int, default=16, help="at a time")
    parser.add_argument("--tokens", type=int, default=64, help="of a completion")
    parser.add_argument("--each", action="store_true", help="weigh traces and metrics alone, too")
    options = parser.parse_args()
    names = [OFF, CONTROL, "on", *(("traces", "metrics") if options.each else ())]
    with ExitStack() as stack:
        collector = stack.enter_context(OtlpCollector())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        started = [
            _cluster(directory / name.replace(" ", "-"), name, collector.url) for name in names
        ]
        with ThreadPoolExecutor(len(names)) as pool:
            clusters = dict(zip(names, pool.map(stack.enter_context, started), strict=True))
        asyncio.run(measure(clusters, options))
        spans = collector.count
        print(f"{spans} spans came to the collector")


if __name__ == "__main__":
    main()
