"""What 100 % load is: the highest rate at which a whole fleet keeps its objectives.

Its own module because every saving is stated at a load, and the load must mean the same for
every policy: it is settled once, by trial, before any of them runs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from loadtest import arrivals
from loadtest.virtual.autoscalers import EverythingAwake
from loadtest.virtual.cluster import VirtualCluster
from loadtest.virtual.descriptions import fluid_rate
from loadtest.virtual.results import measure
from loadtest.workloads import synthesize

if TYPE_CHECKING:
    from loadtest.lengths import LengthSource
    from loadtest.virtual.descriptions import ClusterDescription

# Of the requests that keep their objectives on a nearly empty cluster, the share that must. A
# prompt whose prefill alone takes longer than its TTFT objective says nothing about load.
ATTAINMENT = 0.99
NEARLY_EMPTY = 0.02
# A trial is this long, of which the first part fills the batches.
TRIAL_S = 240.0
WARMUP_S = 60.0
# Each halves what is left between the fluid rate and nothing: the last is within 1 %.
TRIALS = 7


def highest_rate(
    cluster: ClusterDescription, lengths: LengthSource, means: tuple[float, float]
) -> float:
    """Requests/s at which 99 % of those who can keep their objectives, everything awake.

    Tried with Poisson arrivals and least-loaded routing on one node of each group, and scaled
    to all nodes by what `fluid_rate` says of both; a larger fleet averages a little better.

    Args:
        cluster: the whole fleet.
        lengths: of its requests.
        means: of prompts and completions, in tokens.

    Returns:
        0 if none can, at any rate.

    """
    small = replace(
        cluster,
        groups={name: replace(group, max_nodes=1) for name, group in cluster.groups.items()},
    )
    most = fluid_rate(small, *means)
    if most <= 0:
        return 0.0
    wanted = ATTAINMENT * _attainment(small, lengths, NEARLY_EMPTY * most)
    if not wanted:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(TRIALS):
        share = (low + high) / 2
        if _attainment(small, lengths, share * most) >= wanted:
            low = share
        else:
            high = share
    return low * fluid_rate(cluster, *means)


def _attainment(cluster: ClusterDescription, lengths: LengthSource, rate: float) -> float:
    rng = np.random.default_rng(0)
    times = arrivals.poisson(rate, TRIAL_S, rng)
    workload = synthesize("trial", times, TRIAL_S, lengths, cluster.shares, rng)
    trial = VirtualCluster(cluster, "least_loaded", EverythingAwake(cluster), 0)
    return measure(trial.run(workload, WARMUP_S), cluster, 1.0).slo_attainment
