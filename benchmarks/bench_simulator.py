"""How fast the virtual cluster is: `python benchmarks/bench_simulator.py [minutes] [policy …]`.

The bar is 1,024 replicas, an hour and a million requests in under 3 minutes on one core. It
runs with everything awake, the most that there is to simulate: every replica reports every
2 s, and every route looks at all of them. CPU time counts, so that others on the machine
disturb little; a fixed sum is timed beside it to tell how fast the machine is just now.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from loadtest import arrivals
from loadtest.lengths import LogNormalLengths
from loadtest.virtual.autoscalers import EverythingAwake
from loadtest.virtual.cluster import VirtualCluster
from loadtest.virtual.fleets import read_fleet
from loadtest.workloads import synthesize

FLEET = Path(__file__).parents[1] / "examples" / "fleets" / "1024xh100.yaml"
REQUESTS_PER_S = 1e6 / 3600


def speed_ms() -> float:
    """Milliseconds for a fixed sum: 33 on the machine of the published figures."""
    start = time.process_time()
    sum(i * i for i in range(1_000_000))
    return 1e3 * (time.process_time() - start)


def main(minutes: float, policies: list[str]) -> None:
    cluster, rng = read_fleet(FLEET), np.random.default_rng(0)
    duration_s = 60 * minutes
    times = arrivals.poisson(REQUESTS_PER_S, duration_s, rng)
    workload = synthesize("bench", times, duration_s, LogNormalLengths(), cluster.shares, rng)
    for policy in policies:
        simulated = VirtualCluster(cluster, policy, EverythingAwake(cluster), 0)
        before_ms, start_s = speed_ms(), time.process_time()
        record = simulated.run(workload)
        cpu_s = time.process_time() - start_s
        count = record.balance.injected
        assert record.balance.completed + record.balance.shed == count
        print(
            f"{policy}: {minutes:g} min, {count} requests on {record.replicas_started} replicas"
            f" in {cpu_s:.1f} s CPU; {cpu_s / count * 1e6:.0f} s a million"
            f" (fixed sum {before_ms:.0f} and {speed_ms():.0f} ms)"
        )


if __name__ == "__main__":
    main(
        float(sys.argv[1]) if len(sys.argv) > 1 else 60.0,
        sys.argv[2:] or ["power_of_two", "energy"],
    )
