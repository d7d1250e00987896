"""Policies and autoscalers side by side, on the very same requests.

Its own module because a comparison is fair only if everything but the compared is equal:
here the cases are laid out, and each gets its own cluster and the same workload.
"""

from __future__ import annotations

import itertools
import math
import pickle
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np

from loadtest import arrivals
from loadtest.errors import LoadtestError
from loadtest.lengths import LogNormalLengths, TraceLengths
from loadtest.virtual.autoscalers import EverythingAwake, QueueBased, QueueSettings, StaticPeak
from loadtest.virtual.beliefs import mistaken
from loadtest.virtual.capacities import highest_rate
from loadtest.virtual.cluster import VirtualCluster
from loadtest.virtual.outcomes import Status
from loadtest.virtual.planned_autoscaler import Planned, PlannerOptions
from loadtest.virtual.results import Bound, Result, bound_of, measure
from loadtest.virtual.run import VirtualNames, run_of
from loadtest.workloads import replay, synthesize
from scheduler.plans import Demand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from loadtest.lengths import LengthSource
    from loadtest.run import Run
    from loadtest.traces import Trace
    from loadtest.virtual.autoscalers import Autoscaler
    from loadtest.virtual.descriptions import ClusterDescription
    from loadtest.virtual.records import Loss, RunRecord, Sample
    from loadtest.workloads import Workload
    from scheduler.fleet import Variant
    from scheduler.requests import VariantName

ArrivalKind: TypeAlias = Literal["trace", "constant", "poisson", "gamma", "diurnal", "flash_crowd"]

AUTOSCALERS = (
    "everything_awake",
    "static_peak",
    "queue_based",
    "planner",
    "planner_keeps_nodes",
    "planner_without_forecast",
)
# A flash crowd triples the load for a fifth of the run, from two fifths on.
CROWD_FACTOR = 3.0
# Static peak is sized for the mean load and this factor above it.
PEAK_FACTOR = 1.5
QUANTILES = 201


class Case(NamedTuple):
    """One run.

    Attributes:
        load: share of the fleet's highest rate.
        seed: of chance; cases of one seed get the same requests.
        policy: that routes.
        autoscaler: that scales.
        only: variants that are there; all if it is empty. What a load means stays the same.

    """

    load: float
    seed: int
    policy: str
    autoscaler: str
    only: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Policy and autoscaler, and the variants if they are not all there."""
        with_these = f" with {', '.join(self.only)}" if self.only else ""
        return f"{self.policy} + {self.autoscaler}{with_these}"


class Curves(NamedTuple):
    """What plots need of a run.

    Attributes:
        samples: over time.
        ttft_s: quantiles from 0 to 1.
        tpot_s: the same.

    """

    samples: tuple[Sample, ...]
    ttft_s: tuple[float, ...]
    tpot_s: tuple[float, ...]


class CaseRun(NamedTuple):
    """One run and what became of it.

    Attributes:
        case: that was run.
        result: its measures.
        curves: for plots.
        run: every request; only where the experiment keeps them.

    """

    case: Case
    result: Result
    curves: Curves
    run: Run | None = None


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that all cases share.

    Attributes:
        cluster: that they run on.
        trace: whose requests come; None for independent ones.
        arrivals: when requests come; "trace" is as in the trace.
        burstiness: of "gamma": coefficient of variation of the gaps.
        lengths: of requests where there is no trace.
        duration_s: over which requests come.
        warmup_s: of it, before measuring begins.
        belief_error: share by which the scheduler's profiles may be off.
        losses: what breaks, and when.
        bounded: compute the bounds.
        rate_at_full_load: requests/s that a load of 1 stands for; None to find it by trial.
        keeps_requests: leave the whole run in `CaseRun.run`.

    """

    cluster: ClusterDescription
    trace: Trace | None = None
    arrivals: ArrivalKind = "trace"
    burstiness: float = 2.0
    lengths: LogNormalLengths = field(default_factory=LogNormalLengths)
    duration_s: float = 3600.0
    warmup_s: float = 600.0
    belief_error: float = 0.0
    losses: tuple[Loss, ...] = ()
    bounded: bool = True
    rate_at_full_load: float | None = None
    keeps_requests: bool = False

    @property
    def length_source(self) -> LengthSource:
        """Where lengths come from when arrivals are not those of a trace."""
        return self.lengths if self.trace is None else TraceLengths(self.trace)

    @property
    def means(self) -> tuple[float, float]:
        """Mean tokens of prompts and completions."""
        if self.trace is None:
            return self.lengths.prompt_tokens, self.lengths.completion_tokens
        return self.trace.mean_prompt_tokens, self.trace.mean_completion_tokens


def cases_of(
    loads: Sequence[float],
    seeds: Sequence[int],
    policies: Sequence[str],
    autoscalers: Sequence[str],
    only: Sequence[str] = (),
) -> list[Case]:
    """Lay out every combination; those of one workload stand together."""
    return [
        Case(*each, tuple(only)) for each in itertools.product(loads, seeds, policies, autoscalers)
    ]


def compare(
    experiment: Experiment, cases: Sequence[Case], jobs: int = 1, keep: Path | None = None
) -> Iterator[CaseRun]:
    """Run the cases, each as soon as there is a process for it; results in their order.

    Args:
        experiment: that all share.
        cases: those of one load and one seed stand together.
        jobs: processes.
        keep: folder where what has been run is kept, and taken from where it is there
            already; for the same experiment and code only.

    Raises:
        LoadtestError: a case cannot be run.

    """
    experiment = with_rate(experiment)
    groups = [
        tuple(group)
        for _, group in itertools.groupby(cases, key=lambda case: (case.load, case.seed))
    ]
    if jobs <= 1 and keep is None:
        for group in groups:
            yield from run_cases(experiment, group)
        return
    with ProcessPoolExecutor(jobs) as pool:
        same = itertools.repeat
        for runs in pool.map(_run_or_recall, same(experiment), groups, same(keep)):
            yield from runs


def run_cases(experiment: Experiment, cases: Sequence[Case]) -> Iterator[CaseRun]:
    """Run cases of one load and one seed, which share requests and bound."""
    if not cases:
        return
    load, seed = cases[0].load, cases[0].seed
    workload = workload_of(experiment, load, seed)
    whole = _suited(experiment.cluster, workload)
    bound: Bound | None = None
    for case in cases:
        cluster = whole.with_variants(case.only) if case.only else whole
        beliefs = _beliefs(experiment, cluster, seed)
        record = VirtualCluster(
            cluster,
            case.policy,
            make_autoscaler(case.autoscaler, experiment, cluster, load),
            seed,
            beliefs=beliefs,
            losses=experiment.losses,
        ).run(workload, experiment.warmup_s)
        if bound is None and experiment.bounded:
            bound = bound_of(whole, workload, experiment.warmup_s, record)
        result = measure(record, cluster, load, bound)
        yield CaseRun(case, result, _curves(record), _kept(experiment, cluster, workload, record))


def _kept(
    experiment: Experiment, cluster: ClusterDescription, workload: Workload, record: RunRecord
) -> Run | None:
    if not experiment.keeps_requests:
        return None
    return run_of(record, cluster, workload, VirtualNames(workload.name))


def _run_or_recall(
    experiment: Experiment, cases: Sequence[Case], keep: Path | None
) -> list[CaseRun]:
    """Run cases of one load and one seed, unless what came of them has been kept."""
    if keep is None:
        return list(run_cases(experiment, cases))
    kept = keep / f"load-{cases[0].load:g}-seed-{cases[0].seed}.pickle"
    if kept.exists():
        runs: list[CaseRun] = pickle.loads(kept.read_bytes())  # noqa: S301 (our own file)
        if [run.case for run in runs] == list(cases):
            return runs
    runs = list(run_cases(experiment, cases))
    keep.mkdir(parents=True, exist_ok=True)
    unfinished = kept.with_suffix(".part")
    unfinished.write_bytes(pickle.dumps(runs))
    unfinished.replace(kept)
    return runs


def with_rate(experiment: Experiment) -> Experiment:
    """Find out what a load of 1 stands for, if it is not known yet.

    Raises:
        LoadtestError: the fleet cannot keep the objectives at any rate.

    """
    if experiment.rate_at_full_load is not None:
        return experiment
    rate = highest_rate(experiment.cluster, experiment.length_source, experiment.means)
    if rate <= 0:
        name = experiment.cluster.name
        raise LoadtestError(f"fleet {name} cannot keep its objectives at any rate")
    return replace(experiment, rate_at_full_load=rate)


def workload_of(experiment: Experiment, load: float, seed: int) -> Workload:
    """Make the requests of a load and a seed.

    Raises:
        LoadtestError: the fleet cannot keep the objectives at any rate.

    """
    cluster, full = experiment.cluster, with_rate(experiment).rate_at_full_load or 0.0
    rate, rng = load * full, np.random.default_rng(seed)
    trace, duration_s = experiment.trace, experiment.duration_s
    if experiment.arrivals == "trace":
        if trace is None:
            raise LoadtestError("arrivals as in a trace need a trace")
        return replay(trace, rate, duration_s, cluster.shares, rng)
    times = _times(experiment, rate, rng)
    lengths = experiment.length_source
    name = experiment.arrivals if trace is None else f"{experiment.arrivals}-{trace.name}"
    blocks = {} if trace is None else {"block_tokens": trace.block_tokens}
    return synthesize(name, times, duration_s, lengths, cluster.shares, rng, **blocks)


def make_autoscaler(
    name: str,
    experiment: Experiment,
    cluster: ClusterDescription,
    load: float,
) -> Autoscaler:
    """Make an autoscaler for one run.

    Raises:
        LoadtestError: there is none of that name.

    """
    makers: Mapping[str, Callable[[], Autoscaler]] = {
        "everything_awake": lambda: EverythingAwake(cluster),
        "static_peak": lambda: StaticPeak(cluster, PEAK_FACTOR * load),
        "queue_based": lambda: QueueBased(cluster, _demands(experiment), _queue_settings(name)),
        "planner": lambda: Planned(cluster),
        "planner_keeps_nodes": lambda: Planned(
            cluster, PlannerOptions("planner_keeps_nodes", halts_nodes=False)
        ),
        "planner_without_forecast": lambda: Planned(
            cluster, PlannerOptions("planner_without_forecast", forecasts=False)
        ),
    }
    check_autoscaler(name)
    return makers[name.partition(":")[0]]()


def check_autoscaler(name: str) -> None:
    """Look whether there is an autoscaler of that name.

    Raises:
        LoadtestError: there is none, or what stands after its name is not right.

    """
    kind, colon, _ = name.partition(":")
    if kind not in AUTOSCALERS or (colon and kind != "queue_based"):
        known = f"{', '.join(AUTOSCALERS)}, queue_based:SHARE"
        raise LoadtestError(f"no autoscaler {name!r}; known: {known}")
    _queue_settings(name)


def _queue_settings(name: str) -> QueueSettings:
    """Read the target that may stand after the name, as in `queue_based:0.3`."""
    _, colon, parameter = name.partition(":")
    if not colon:
        return QueueSettings()
    try:
        share = float(parameter)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise LoadtestError(
            f"{name!r}: the target is a share of the largest batch, above 0 and up to 1"
        )
    return QueueSettings(target_share=share)


def _times(experiment: Experiment, rate: float, rng: np.random.Generator) -> arrivals.Times:
    duration_s = experiment.duration_s
    match experiment.arrivals:
        case "constant":
            return arrivals.constant(rate, duration_s)
        case "gamma":
            return arrivals.gamma(rate, experiment.burstiness, duration_s, rng)
        case "diurnal":
            curve = arrivals.diurnal(rate, period_s=duration_s)
            return arrivals.thinned(curve, 2 * rate, duration_s, rng)
        case "flash_crowd":
            start_s, length_s = 0.4 * duration_s, 0.2 * duration_s
            base = rate / (1 + (CROWD_FACTOR - 1) * 0.2)
            crowd = arrivals.flash_crowd(base, CROWD_FACTOR, start_s, length_s)
            return arrivals.thinned(crowd, CROWD_FACTOR * base, duration_s, rng)
        case _:
            return arrivals.poisson(rate, duration_s, rng)


def _suited(cluster: ClusterDescription, workload: Workload) -> ClusterDescription:
    """KV blocks of the size that the workload's prefixes have."""
    hashed = any(request.hash_ids for request in workload.requests[:100])
    return cluster.with_block_tokens(workload.block_tokens) if hashed else cluster


def _beliefs(
    experiment: Experiment, cluster: ClusterDescription, seed: int
) -> dict[VariantName, Variant] | None:
    if not experiment.belief_error:
        return None
    return mistaken(cluster.variants, experiment.belief_error, random.Random(seed))


def _demands(experiment: Experiment) -> tuple[Demand, ...]:
    prompt_tokens, completion_tokens = experiment.means
    return tuple(
        Demand(experiment.cluster.model, each.objective, 1.0, prompt_tokens, completion_tokens)
        for each in experiment.cluster.classes.values()
    )


def _curves(record: RunRecord) -> Curves:
    table = record.outcomes
    done = (table.status == Status.COMPLETED) & (table.arrived_at_s >= record.begin.at_s)
    own = table.select(done)
    return Curves(
        record.samples, _quantiles(own.ttft_s), _quantiles(own.tpot_s[own.completion_tokens > 1])
    )


def _quantiles(values: NDArray[np.float64]) -> tuple[float, ...]:
    if not values.size:
        return ()
    quantiles: list[float] = np.quantile(values, np.linspace(0, 1, QUANTILES)).tolist()
    return tuple(quantiles)
