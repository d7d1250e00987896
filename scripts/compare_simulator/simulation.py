"""A run's requests again, in simulation: where they really were, or routed anew.

Its own module because a fit tries it many times, and a comparison twice.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from loadtest.traces import TraceRequest
from loadtest.virtual.autoscalers import EverythingAwake
from loadtest.virtual.cluster import VirtualCluster
from loadtest.virtual.descriptions import ClusterDescription, GatewaySettings, ServiceClass
from loadtest.virtual.events import EventQueue
from loadtest.virtual.outcomes import Status
from loadtest.virtual.sequences import Sequence
from loadtest.virtual.simulated_replica import EngineSettings, SimulatedReplica
from loadtest.workloads import Workload
from scheduler.plans import NodeGroup, NodeGroupName, Placement
from scheduler.requests import ReplicaId, VariantName
from scripts.compare_simulator.figures import Times, figures
from scripts.compare_simulator.runs import ComparisonError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Sequence as Many

    from numpy.typing import NDArray

    from scheduler.fleet import Variant
    from scheduler.steps import AffineSteps
    from scripts.compare_simulator.figures import Figures
    from scripts.compare_simulator.runs import Calibration, Run, Served, Setup

    Floats = NDArray[np.float64]

CLASS = "measured"


class _Ends:
    """Notes when sequences end."""

    def __init__(self, events: EventQueue, ends_s: Floats) -> None:
        self._events = events
        self._ends_s = ends_s

    def finished(self, replica: SimulatedReplica, sequences: list[Sequence]) -> None:
        """Note the instant."""
        for sequence in sequences:
            self._ends_s[sequence.number] = self._events.now_s

    def emptied(self, replica: SimulatedReplica) -> None:
        """Nothing follows from that."""


def simulate_pinned(
    served: Many[Served], variants: Mapping[str, Variant], engine: EngineSettings, network_s: float
) -> Times:
    """Give each request to a simulated replica in place of the one that really served it.

    Args:
        served: the requests.
        variants: by name, with the step models to be tried.
        engine: how engines schedule.
        network_s: between client and replica, one way.

    """
    events, ends_s = EventQueue(), np.full(len(served), np.nan)
    ends = _Ends(events, ends_s)
    replicas = {
        each.replica: SimulatedReplica(
            ReplicaId(each.replica), variants[each.variant], engine, events, ends
        )
        for each in served
    }
    sequences = []
    for number, each in enumerate(served):
        sequence = Sequence(number, each.prompt_tokens, each.completion_tokens)
        sequences.append(sequence)
        replica = replicas[each.replica]
        events.at(each.at_s + network_s, partial(_submit, replica, sequence))
    while len(events):
        events.run_until(events.now_s + 10.0)
    at_s = np.array([each.at_s for each in served])
    first_s = np.array([sequence.first_token_at_s for sequence in sequences])
    return Times(first_s + network_s - at_s, ends_s + network_s - at_s)


def _submit(replica: SimulatedReplica, sequence: Sequence) -> None:
    if not replica.submit(sequence):
        raise ComparisonError(f"{replica.replica} has no room for {sequence.context_tokens} tokens")


def simulate_cluster(
    run: Run, setup: Setup, calibration: Calibration, expected_completion_tokens: float, seed: int
) -> tuple[Figures, dict[str, int]]:
    """Serve a run's requests by the virtual cluster with everything awake.

    Args:
        run: whose requests come, when they really came.
        setup: what there is.
        calibration: what it does, and what the scheduler believes that it does.
        expected_completion_tokens: what the gateway has learned by the calibration trace.
        seed: of routing.

    Returns:
        the figures, and how many requests each variant served.

    """
    variants = calibrated(setup, calibration.steps)
    group = NodeGroupName("here")
    count = sum(setup.replicas.values())
    cluster = ClusterDescription(
        name="compared",
        model=next(iter(variants.values())).model,
        variants={VariantName(name): each for name, each in variants.items()},
        groups={group: NodeGroup(group, "cpu", count, 1, 0.0, 0.0, 0.0, 0.0)},
        placements=tuple(
            Placement(VariantName(name), group, 1, 0.0, 0.0, 0, replicas)
            for name, replicas in setup.replicas.items()
        ),
        classes={CLASS: ServiceClass(CLASS, setup.objective)},
        gateway=GatewaySettings(
            report_period_s=setup.report_period_s,
            network_s=calibration.network_s,
            expected_completion_tokens=expected_completion_tokens,
            max_tokens=1,  # Clients ask for exactly what they get.
        ),
        engine=EngineSettings(max_batched_tokens=setup.max_batched_tokens),
    )
    requests = tuple(
        TraceRequest(each.at_s, each.prompt_tokens, each.completion_tokens, (), CLASS)
        for each in sorted(run.served, key=lambda each: each.at_s)
    )
    workload = Workload("compared", requests, run.duration_s + 1.0)
    record = VirtualCluster(cluster, setup.policy, EverythingAwake(cluster), seed).run(workload)
    table = record.outcomes
    done = table.select(table.status == Status.COMPLETED)
    if done.status.size < len(requests):
        raise ComparisonError(f"{len(requests) - done.status.size} simulated requests were lost")
    names = list(variants)
    counts = Counter(names[row] for row in done.variant.tolist())
    found = figures(done.arrived_at_s, done.completion_tokens, done.ttft_s, done.e2e_latency_s)
    return found, dict(counts)


def calibrated(setup: Setup, steps: Mapping[str, AffineSteps]) -> dict[str, Variant]:
    """Give the variants their fitted step models."""
    return {
        name: replace(variant, steps=steps.get(name, variant.steps))
        for name, variant in setup.variants.items()
    }
