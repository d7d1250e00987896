"""What the virtual cluster leaves behind, as a run of load like any other.

Its own module because it is the bridge: from here on nothing distinguishes simulated
requests from live ones, and reports and comparisons take both.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from loadtest.run import Ending, Requests, Run, RunClass, ServerSample
from loadtest.virtual.outcomes import Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loadtest.virtual.descriptions import ClusterDescription
    from loadtest.virtual.outcomes import OutcomeTable
    from loadtest.virtual.records import RunRecord
    from loadtest.workloads import Workload

ENERGY_METHOD = "simulated: step models of the fleet description; nodes, idle and starts included"
ERRORS = ("shed: no replica had room", "failed: its replica was lost", "did not end in time")
_NO_ERROR, _SHED, _FAILED, _CUT_OFF = range(-1, 3)


class VirtualNames(NamedTuple):
    """What a run is called by.

    Attributes:
        scenario: by name.
        tenants: of requests; one of no name unless a scenario has several.
        note: command, or whatever else helps to run it again.

    """

    scenario: str
    tenants: tuple[str, ...] = ("",)
    note: str = ""


class Planned(NamedTuple):
    """What only a schedule knows of its requests, row by row.

    Attributes:
        tenant: index into the names of tenants.
        session: that each belongs to; −1 for none.
        turn: within it.

    """

    tenant: NDArray[np.int16]
    session: NDArray[np.int32]
    turn: NDArray[np.int16]


def run_of(
    record: RunRecord,
    cluster: ClusterDescription,
    workload: Workload,
    names: VirtualNames,
    planned: Planned | None = None,
) -> Run:
    """Turn a virtual cluster's record into a run.

    Args:
        record: of the whole run.
        cluster: that it ran on.
        workload: that it was given; its rows are those of the run.
        names: that it is called by.
        planned: what the record does not carry.

    """
    return Run(
        scenario=names.scenario,
        source="virtual",
        target=f"{cluster.name}: {record.policy}, {record.autoscaler}",
        model=cluster.model,
        seed=record.seed,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        steady_begin_s=record.begin.at_s,
        steady_end_s=record.end.at_s,
        ended_at_s=_ended_at_s(record),
        workers=0,
        closed_loop=False,
        classes=tuple(RunClass(each.name, each.objective) for each in cluster.classes.values()),
        tenants=names.tenants,
        variants=tuple(cluster.variants),
        errors=ERRORS,
        requests=_requests(record.outcomes, cluster, workload, planned),
        samples=_samples(record),
        energy_method=ENERGY_METHOD,
        host="simulated",
        note=names.note or f"jouleserve {version('jouleserve')}",
    )


def _requests(
    table: OutcomeTable,
    cluster: ClusterDescription,
    workload: Workload,
    planned: Planned | None,
) -> Requests:
    """Fill a row for each request of the workload; those without an outcome are cut off."""
    count = len(workload.requests)
    at_s = np.array([each.at_s for each in workload.requests], dtype=np.float64)
    prompts = np.array([each.prompt_tokens for each in workload.requests], dtype=np.int32)
    rows = _rows_of(table, at_s, prompts)

    def column(values: NDArray[Any], otherwise: float = np.nan) -> NDArray[np.float64]:
        """Put values where they belong."""
        placed = np.full(count, otherwise)
        placed[rows] = values
        return placed

    completed, shed = table.status == Status.COMPLETED, table.status == Status.SHED
    none = np.full(count, np.nan)
    return Requests(
        scheduled_at_s=at_s,
        sent_at_s=at_s,
        first_token_at_s=column(table.arrived_at_s + table.ttft_s),
        # When something was shed or lost is not recorded: at once.
        ended_at_s=column(
            np.where(completed, table.arrived_at_s + table.e2e_latency_s, table.arrived_at_s)
        ),
        ending=column(
            np.select([completed, shed], [Ending.COMPLETED, Ending.SHED], Ending.FAILED),
            Ending.CUT_OFF,
        ).astype(np.int8),
        error=column(np.select([completed, shed], [_NO_ERROR, _SHED], _FAILED), _CUT_OFF).astype(
            np.int16
        ),
        service_class=_classes(cluster, workload),
        tenant=np.zeros(count, np.int16) if planned is None else planned.tenant,
        variant=column(table.variant, -1).astype(np.int16),
        session=np.full(count, -1, np.int32) if planned is None else planned.session,
        turn=np.zeros(count, np.int16) if planned is None else planned.turn,
        prompt_tokens=prompts,
        cached_tokens=column(np.where(completed, table.cached_tokens, -1), -1).astype(np.int32),
        completion_tokens=column(table.completion_tokens, 0).astype(np.int32),
        longest_gap_s=none,
        energy_j=column(table.energy_j),
        gco2e=none,
        server_ttft_s=none,
        server_e2e_s=none,
    )


def _rows_of(
    table: OutcomeTable, at_s: NDArray[np.float64], prompts: NDArray[np.int32]
) -> NDArray[np.intp]:
    """Find the workload's row of each outcome, which are in the order in which they ended.

    Time of arrival and length of the prompt tell; whoever shares both is interchangeable.
    """
    # Complex numbers sort by their real, then their imaginary part.
    asked, came = at_s + 1j * prompts, table.arrived_at_s + 1j * table.prompt_tokens
    asked_order, came_order = np.argsort(asked, kind="stable"), np.argsort(came, kind="stable")
    asked, came = asked[asked_order], came[came_order]
    # Of several alike, the second takes the second row.
    turn = np.arange(len(came)) - np.searchsorted(came, came)
    rows = np.empty(len(came), np.intp)
    rows[came_order] = asked_order[np.searchsorted(asked, came) + turn]
    return rows


def _classes(cluster: ClusterDescription, workload: Workload) -> NDArray[np.int16]:
    rows = {name: row for row, name in enumerate(cluster.classes)}
    return np.array([rows[each.service_class] for each in workload.requests], dtype=np.int16)


def _samples(record: RunRecord) -> tuple[ServerSample, ...]:
    """Add up the power of the samples, with the exact totals at both ends of the window."""
    samples, energy_j, before_s = [], 0.0, 0.0
    for each in record.samples:
        energy_j += each.power_w * (each.at_s - before_s)
        before_s = each.at_s
        awake = sum(each.awake.values())
        samples.append(
            ServerSample(each.at_s, energy_j, each.power_w, awake, each.running, each.queued)
        )
    span_s = record.end.at_s - record.begin.at_s
    spent_j = record.end.energy.minus(record.begin.energy).total_j
    for mark in (record.begin, record.end):
        if samples and all(each.at_s != mark.at_s for each in samples):
            near = min(samples, key=lambda each: abs(each.at_s - mark.at_s))
            total_j, mean_w = mark.energy.total_j, spent_j / span_s if span_s else 0.0
            samples.append(replace(near, at_s=mark.at_s, energy_j=total_j, power_w=mean_w))
    return tuple(sorted(samples, key=lambda each: each.at_s))


def _ended_at_s(record: RunRecord) -> float:
    ends_s = (record.outcomes.arrived_at_s + record.outcomes.e2e_latency_s)[
        record.outcomes.status == Status.COMPLETED
    ]
    return max(record.end.at_s, float(ends_s.max(initial=0.0)))
