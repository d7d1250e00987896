"""How often the planner changes its mind on a day's traffic, against one that knows the future.

    python scripts/count_reconfigurations.py --fleet examples/fleets/8xh100.yaml --load 0.2

Both run the same planner on the same requests; the oracle is given the true mean rate over the
next horizon in place of a forecast, and the true lengths. A plan that wants other numbers of
replicas than the one before counts as one reconfiguration. A day takes `--seconds`: the shorter,
the more there is to change in an hour.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loadtest.virtual.cluster import VirtualCluster
from loadtest.virtual.comparisons import Experiment, with_rate, workload_of
from loadtest.virtual.fleets import read_fleet
from loadtest.virtual.planned_autoscaler import Planned
from loadtest.virtual.results import measure

if TYPE_CHECKING:
    from loadtest.virtual.descriptions import ClusterDescription
    from loadtest.workloads import Workload
    from scheduler.plans import Demand


class Oracle(Planned):
    """The planner, told what will come."""

    def __init__(self, cluster: ClusterDescription, workload: Workload) -> None:
        """Know every request that there will be."""
        super().__init__(cluster)
        self.name = "oracle"
        self._times = {
            name: np.array([r.at_s for r in workload.requests if r.service_class == name])
            for name in cluster.classes
        }

    def _demands(self, now_s: float) -> tuple[Demand, ...]:
        ahead_s = self._settings.horizon_s
        known = []
        for demand, times in zip(super()._demands(now_s), self._times.values(), strict=True):
            first, last = np.searchsorted(times, (now_s, now_s + ahead_s))
            rate = float(last - first) / ahead_s
            known.append(replace(demand, requests_per_s=rate, upper_requests_per_s=rate))
        return tuple(known)


def main() -> None:
    """Run both and print what they did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleet", type=Path, default=Path("examples/fleets/8xh100.yaml"))
    parser.add_argument("--load", type=float, default=0.2)
    parser.add_argument("--seconds", type=float, default=7200.0, help="of a day")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    cluster = read_fleet(given.fleet)
    experiment = with_rate(
        Experiment(
            cluster=cluster, arrivals="diurnal", duration_s=given.seconds, warmup_s=0.0, trace=None
        )
    )
    hours = given.seconds / 3600
    for seed in range(given.seeds):
        workload = workload_of(experiment, given.load, seed)
        for autoscaler in (Planned(cluster), Oracle(cluster, workload)):
            record = VirtualCluster(cluster, "energy", autoscaler, seed).run(workload)
            changed = sum(a.replicas != b.replicas for a, b in pairwise(autoscaler.plans))
            result = measure(record, cluster, given.load, None)
            print(
                f"seed {seed} {autoscaler.name}: {changed / hours:.1f} reconfigurations an hour,"
                f" {record.replicas_started} replicas started,"
                f" SLO {result.slo_attainment:.2%}, {result.joules_per_token:.4f} J/token"
            )


if __name__ == "__main__":
    main()
