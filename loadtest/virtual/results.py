"""What a run amounts to: latency, objectives kept, joules, and how far from the bound.

Its own module because measures are defined once and every table, file and plot shows these.
All energy is that of the measured window; so are the tokens it is divided by. Latencies are
those of requests that arrived within the window.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from loadtest.virtual.outcomes import OutcomeTable, Status
from scheduler.bounds import lower_bounds
from scheduler.plans import Census, Demand, PlanInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from loadtest.virtual.descriptions import ClusterDescription, ServiceClass
    from loadtest.virtual.records import EnergyParts, RunRecord
    from loadtest.workloads import Workload

# Windows in which a bound may switch everything for nothing.
BOUND_WINDOW_S = 300.0


class Percentiles(NamedTuple):
    """Of a latency, in seconds; NaN without requests."""

    p50: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class ClassResult:
    """What requests of one service class met.

    Attributes:
        service_class: by name.
        requests: that arrived.
        slo_attainment: share that completed within both latency objectives.
        ttft_attainment: share that completed within that of TTFT.
        tpot_attainment: the same for TPOT.
        goodput_rps: requests/s that kept both.
        ttft_s: of those with a first token.
        tpot_s: of those that completed.
        e2e_latency_s: of those that completed.

    """

    service_class: str
    requests: int
    slo_attainment: float
    ttft_attainment: float
    tpot_attainment: float
    goodput_rps: float
    ttft_s: Percentiles
    tpot_s: Percentiles
    e2e_latency_s: Percentiles


@dataclass(frozen=True, slots=True)
class Result:
    """What a run amounts to.

    Attributes:
        policy: that routed.
        autoscaler: that scaled.
        fleet: by name.
        workload: by name.
        load: share of the fleet's highest rate.
        seed: of chance.
        requests: that arrived in the window.
        shed: of these.
        failed: of these.
        slo_attainment: share of all that completed within their objectives.
        goodput_rps: requests/s that did.
        output_tokens_per_s: generated.
        joules_per_token: all energy over all output tokens.
        joules_per_good_token: all energy over output tokens of requests within objectives.
        joules_per_request: all energy over completed requests.
        energy: by part.
        mean_power_w: over the window.
        peak_power_w: p99 of samples.
        mean_replicas: awake.
        replicas_started: during the run, those of its beginning included.
        prefix_hit_ratio: cached over all prompt tokens.
        preemptions: in all.
        e_over_lp: energy over that of the linear bound; NaN if it was not computed.
        e_over_milp: energy over that of the integer bound.
        classes: one by one.

    """

    policy: str
    autoscaler: str
    fleet: str
    workload: str
    load: float
    seed: int
    requests: int
    shed: int
    failed: int
    slo_attainment: float
    goodput_rps: float
    output_tokens_per_s: float
    joules_per_token: float
    joules_per_good_token: float
    joules_per_request: float
    energy: EnergyParts
    mean_power_w: float
    peak_power_w: float
    mean_replicas: float
    replicas_started: int
    prefix_hit_ratio: float
    preemptions: int
    e_over_lp: float
    e_over_milp: float
    classes: tuple[ClassResult, ...]


class Bound(NamedTuple):
    """The least energy that the same traffic could have been served with.

    Attributes:
        lp_j: with divisible replicas and nodes.
        milp_j: with whole ones.

    """

    lp_j: float = float("nan")
    milp_j: float = float("nan")


def measure(
    record: RunRecord, cluster: ClusterDescription, load: float, bound: Bound | None = None
) -> Result:
    """Take all measures of a run."""
    bound = bound or Bound()
    span_s = record.end.at_s - record.begin.at_s
    energy = record.end.energy.minus(record.begin.energy)
    tokens = record.end.completion_tokens - record.begin.completion_tokens
    table = _arrived(record)
    good = within_objectives(table, tuple(cluster.classes.values()))
    completed = table.status == Status.COMPLETED
    samples = [each for each in record.samples if record.begin.at_s < each.at_s <= record.end.at_s]
    # Tokens of good requests, as a share of those of the requests that arrived in the window.
    good_share = _ratio(
        float(table.completion_tokens[good].sum()), float(table.completion_tokens.sum())
    )
    return Result(
        policy=record.policy,
        autoscaler=record.autoscaler,
        fleet=cluster.name,
        workload=record.workload,
        load=load,
        seed=record.seed,
        requests=len(table.status),
        shed=int((table.status == Status.SHED).sum()),
        failed=int((table.status == Status.FAILED).sum()),
        slo_attainment=_ratio(float(good.sum()), len(good)),
        goodput_rps=float(good.sum()) / span_s,
        output_tokens_per_s=tokens / span_s,
        joules_per_token=_ratio(energy.total_j, tokens),
        joules_per_good_token=_ratio(energy.total_j, tokens * good_share),
        joules_per_request=_ratio(energy.total_j, float(completed.sum())),
        energy=energy,
        mean_power_w=energy.total_j / span_s,
        peak_power_w=_percentile(np.array([each.power_w for each in samples]), 99),
        mean_replicas=_mean([sum(each.awake.values()) for each in samples]),
        replicas_started=record.replicas_started,
        prefix_hit_ratio=_ratio(
            float(table.cached_tokens[completed].sum()), float(table.prompt_tokens[completed].sum())
        ),
        preemptions=int(table.preemptions.sum()),
        e_over_lp=energy.total_j / bound.lp_j,
        e_over_milp=energy.total_j / bound.milp_j,
        classes=tuple(
            _class_result(row, each, table, good, span_s)
            for row, each in enumerate(cluster.classes.values())
        ),
    )


def within_objectives(table: OutcomeTable, classes: Sequence[ServiceClass]) -> NDArray[np.bool_]:
    """Mark the requests that completed within both latency objectives of their class."""
    ttft_s = np.array([each.objective.ttft_s for each in classes])[table.service_class]
    tpot_s = np.array([each.objective.tpot_s for each in classes])[table.service_class]
    good: NDArray[np.bool_] = (
        (table.status == Status.COMPLETED) & (table.ttft_s <= ttft_s) & (table.tpot_s <= tpot_s)
    )
    return good


def bound_of(
    cluster: ClusterDescription, workload: Workload, begin_s: float, record: RunRecord
) -> Bound:
    """Bound the energy of a workload from below, window by window.

    Every window has the rates and mean lengths of the requests that came in it; the share
    of prompt tokens found in prefix caches is that of the run itself, for a bound cannot
    know it.
    """
    table = _arrived(record)
    cached = _ratio(float(table.cached_tokens.clip(0).sum()), float(table.prompt_tokens.sum()))
    windows = []
    at_s = np.array([request.at_s for request in workload.requests])
    edges = np.arange(begin_s, workload.duration_s + 1e-9, BOUND_WINDOW_S).tolist()
    if edges[-1] < workload.duration_s:
        edges.append(workload.duration_s)
    for low_s, high_s in itertools.pairwise(edges):
        first, last = np.searchsorted(at_s, [low_s, high_s])
        demands = _demands(cluster, workload, int(first), int(last), high_s - low_s, cached)
        windows.append(
            (
                high_s - low_s,
                PlanInput(
                    census=Census(low_s, {}),
                    variants=cluster.variants,
                    groups=cluster.groups,
                    placements=cluster.placements,
                    demands=demands,
                ),
            )
        )
    bounds = lower_bounds(windows)
    return Bound(bounds.e_lp_j, bounds.e_milp_j)


def as_json(result: Result) -> Mapping[str, object]:
    """Give a result as JSON values."""
    content = asdict(result)
    content["energy"] = result.energy._asdict()
    for mine, each in zip(content["classes"], result.classes, strict=True):
        for name in ("ttft_s", "tpot_s", "e2e_latency_s"):
            mine[name] = getattr(each, name)._asdict()
    return content


def _arrived(record: RunRecord) -> OutcomeTable:
    table = record.outcomes
    rows = (table.arrived_at_s >= record.begin.at_s) & (table.arrived_at_s < record.end.at_s)
    return table.select(rows)


def _demands(  # noqa: PLR0913, PLR0917 (a slice of a workload)
    cluster: ClusterDescription,
    workload: Workload,
    first: int,
    last: int,
    span_s: float,
    cached_share: float,
) -> tuple[Demand, ...]:
    demands = []
    requests = workload.requests[first:last]
    for each in cluster.classes.values():
        mine = [request for request in requests if request.service_class == each.name]
        if mine:
            demands.append(
                Demand(
                    model=cluster.model,
                    objective=each.objective,
                    requests_per_s=len(mine) / span_s,
                    prompt_tokens=sum(request.prompt_tokens for request in mine) / len(mine),
                    completion_tokens=sum(r.completion_tokens for r in mine) / len(mine),
                    cached_share=cached_share,
                )
            )
    return tuple(demands)


def _class_result(
    row: int,
    service_class: ServiceClass,
    table: OutcomeTable,
    good: NDArray[np.bool_],
    span_s: float,
) -> ClassResult:
    mine = table.service_class == row
    own, kept = table.select(mine), good[mine]
    completed = own.status == Status.COMPLETED
    objective, count = service_class.objective, len(own.status)
    return ClassResult(
        service_class=service_class.name,
        requests=count,
        slo_attainment=_ratio(float(kept.sum()), count),
        ttft_attainment=_ratio(float((completed & (own.ttft_s <= objective.ttft_s)).sum()), count),
        tpot_attainment=_ratio(float((completed & (own.tpot_s <= objective.tpot_s)).sum()), count),
        goodput_rps=float(kept.sum()) / span_s,
        ttft_s=_percentiles(own.ttft_s[completed]),
        # A completion of one token has no time between tokens.
        tpot_s=_percentiles(own.tpot_s[completed & (own.completion_tokens > 1)]),
        e2e_latency_s=_percentiles(own.e2e_latency_s[completed]),
    )


def _percentiles(values: NDArray[np.float64]) -> Percentiles:
    return Percentiles(*(_percentile(values, share) for share in (50, 90, 95, 99)))


def _percentile(values: NDArray[np.float64], share: float) -> float:
    return float(np.percentile(values, share)) if values.size else float("nan")


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
