"""A scenario on a virtual fleet: the same schedule as live, and the same kind of run.

Its own module because it joins two worlds that know nothing of each other: what is sent is the
generator's business, what serves it the virtual cluster's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from loadtest.errors import LoadtestError
from loadtest.lengths import LogNormalLengths
from loadtest.schedule import Schedule
from loadtest.virtual.cluster import VirtualCluster
from loadtest.virtual.comparisons import Experiment, make_autoscaler
from loadtest.virtual.descriptions import ServiceClass, fluid_rate
from loadtest.virtual.run import Planned, VirtualNames, run_of
from loadtest.virtual.sessions import VirtualSessions
from loadtest.workloads import Workload
from scheduler.policies import make_policy

if TYPE_CHECKING:
    from loadtest.run import Run
    from loadtest.scenario import Scenario
    from loadtest.virtual.autoscalers import Autoscaler
    from loadtest.virtual.descriptions import ClusterDescription
    from loadtest.virtual.sessions import Asked

# Between two samples of the cluster, as live.
SAMPLE_S = 1.0


@dataclass(frozen=True, slots=True)
class VirtualOptions:
    """How a virtual cluster is run.

    Attributes:
        policy: that routes.
        autoscaler: that scales.
        seed: of everything that is left to chance.
        note: command, or whatever else helps to run it again.

    """

    policy: str = "energy"
    autoscaler: str = "everything_awake"
    seed: int = 0
    note: str = ""


def run_virtual(scenario: Scenario, cluster: ClusterDescription, options: VirtualOptions) -> Run:
    """Let a virtual cluster serve a scenario.

    Classes of the fleet keep its objectives; others need objectives in the scenario, and an
    unnamed class is the fleet's first.

    Args:
        scenario: that is sent.
        cluster: that serves.
        options: how.

    Raises:
        LoadtestError: the scenario names what the fleet does not have, or cannot be read.

    """
    try:
        make_policy(options.policy)
    except ValueError as error:
        raise LoadtestError(str(error)) from error
    cluster, names = _with_classes(scenario, cluster)
    schedule = Schedule(scenario, options.seed)
    sessions = VirtualSessions(scenario, schedule, names, options.seed)
    first = sessions.first()
    if any(request.hash_ids for request in first[:100]):
        cluster = cluster.with_block_tokens(sessions.block_tokens)
    workload = Workload(scenario.name, first, scenario.total_s, sessions.block_tokens)
    virtual = VirtualCluster(
        cluster,
        options.policy,
        _autoscaler(options.autoscaler, cluster, workload),
        options.seed,
        sample_s=SAMPLE_S,
        outcomes=sessions,
    )
    sessions.attach(virtual)
    record = virtual.run(workload, scenario.steady_begin_s)
    asked = sorted(sessions.asked, key=lambda each: each.request.at_s)
    came = replace(workload, requests=tuple(each.request for each in asked))
    run = run_of(
        record,
        cluster,
        came,
        VirtualNames(scenario.name, scenario.tenants, options.note),
        _planned(scenario, asked),
    )
    return replace(run, closed_loop=scenario.arrivals.closed is not None)


def _with_classes(
    scenario: Scenario, cluster: ClusterDescription
) -> tuple[ClusterDescription, list[str]]:
    """Add classes that only the scenario knows; name that of each kind of request."""
    classes = dict(cluster.classes)
    for name, promise in scenario.objectives.items():
        if name:
            classes.setdefault(name, ServiceClass(name, promise.objective()))
    names = []
    for kind in scenario.requests:
        name = kind.service_class or next(iter(cluster.classes))
        if name not in classes:
            raise LoadtestError(
                f"fleet {cluster.name} has no service class {name!r}, and the scenario gives it"
                f" no objectives; known: {', '.join(classes)}"
            )
        names.append(name)
    return replace(cluster, classes=classes), names


def _autoscaler(name: str, cluster: ClusterDescription, workload: Workload) -> Autoscaler:
    """Make it for the mean lengths and the mean rate of what comes."""
    prompt_tokens = float(np.mean([each.prompt_tokens for each in workload.requests]))
    completion_tokens = float(np.mean([each.completion_tokens for each in workload.requests]))
    most = fluid_rate(cluster, prompt_tokens, completion_tokens)
    # Only a static peak needs the load; what no fleet can carry is met by all there is.
    load = workload.requests_per_s / most if most > 0 else 1.0
    experiment = Experiment(cluster, lengths=LogNormalLengths(prompt_tokens, completion_tokens))
    return make_autoscaler(name, experiment, cluster, load)


def _planned(scenario: Scenario, asked: list[Asked]) -> Planned:
    tenants = [scenario.tenants.index(kind.tenant) for kind in scenario.requests]
    return Planned(
        tenant=np.array([tenants[each.session.kind] for each in asked], np.int16),
        session=np.array([each.session.number for each in asked], np.int32),
        turn=np.array([each.turn for each in asked], np.int16),
    )
