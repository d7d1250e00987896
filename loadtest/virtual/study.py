"""The study: which comparisons are made, so that one command makes them all again.

Its own module because it is a list of questions. How a comparison is run and shown is
elsewhere; here is what is compared with what, on which fleet, under which traffic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loadtest.errors import LoadtestError
from loadtest.traces import read_trace
from loadtest.virtual.comparisons import Case, Experiment
from loadtest.virtual.fleets import read_fleet
from loadtest.virtual.records import Loss

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from loadtest.virtual.comparisons import ArrivalKind

CHAT = "AzureLLMInferenceTrace_conv.csv"
PREFIXES = "mooncake_conversation.jsonl"
LOADS = (0.05, 0.1, 0.2, 0.4, 0.7, 0.9)
SOME_LOADS = (0.1, 0.2, 0.7)
FEW_LOADS = (0.1, 0.2)

# What a row compares: policy, autoscaler and, unless all, the variants that are there.
Row = tuple[str, str] | tuple[str, str, tuple[str, ...]]

SPREAD: Row = ("power_of_two", "everything_awake")
# Of 0.15, 0.25, 0.35 and 0.5, the highest target with which 99 % of the objectives are kept on
# the fleet of 64 (at 10 and 40 % load), and there also the one that saves most.
QUEUE: Row = ("power_of_two", "queue_based:0.25")
OURS: Row = ("energy", "planner")


@dataclass(frozen=True, slots=True)
class Part:
    """One question.

    Attributes:
        name: of its files.
        question: in one line.
        fleet: by name; see examples/fleets.
        rows: what is compared; the first is what savings refer to.
        loads: shares of the fleet's highest rate.
        trace: file name; None for independent requests.
        arrivals: when requests come.
        duration_s: over which they come.
        warmup_s: of it, before measuring begins.
        seeds: at most; large fleets get fewer.
        objective_factor: of all latency objectives.
        belief_error: share by which the scheduler's profiles may be off.
        node_lost_at_s: a node breaks then; None for no such accident.
        bounded: compute the bounds.

    """

    name: str
    question: str
    fleet: str
    rows: tuple[Row, ...]
    loads: tuple[float, ...] = SOME_LOADS
    trace: str | None = CHAT
    arrivals: ArrivalKind = "trace"
    duration_s: float = 1500.0
    warmup_s: float = 600.0
    seeds: int = 5
    objective_factor: float = 1.0
    belief_error: float = 0.0
    node_lost_at_s: float | None = None
    bounded: bool = True

    def cases(self, seeds: int) -> list[Case]:
        """Lay out its cases; those of one load and seed, which share requests, together."""
        return [
            Case(load, seed, *row)
            for load in self.loads
            for seed in range(min(seeds, self.seeds))
            for row in self.rows
        ]

    def experiment(self, fleets: Path, traces: Path) -> Experiment:
        """Read what it needs.

        Raises:
            LoadtestError: the fleet or the trace cannot be read.

        """
        cluster = read_fleet(fleets / f"{self.fleet}.yaml")
        losses = () if self.node_lost_at_s is None else (Loss(self.node_lost_at_s, node=True),)
        return Experiment(
            cluster=cluster.with_objectives(self.objective_factor),
            trace=None if self.trace is None else read_trace(traces / self.trace),
            arrivals=self.arrivals,
            duration_s=self.duration_s,
            warmup_s=self.warmup_s,
            belief_error=self.belief_error,
            losses=losses,
            bounded=self.bounded,
        )


_FLEET64 = Part(
    "fleet64",
    "What are energy-aware routing and planning worth against what is usual, at each load?",
    "64xh100",
    (SPREAD, QUEUE, OURS),
    LOADS,
)
_POLICIES = Part(
    "policies",
    "How do routing policies differ when everything is awake, and what does scaling add?",
    "8xh100",
    (
        SPREAD,
        ("round_robin", "everything_awake"),
        ("least_loaded", "everything_awake"),
        ("least_tokens", "everything_awake"),
        ("queue_kv", "everything_awake"),
        ("kv_overlap", "everything_awake"),
        ("prefix_affinity", "everything_awake"),
        ("energy", "everything_awake"),
        ("power_of_two", "static_peak"),
        QUEUE,
        ("power_of_two", "planner"),
        OURS,
    ),
    LOADS,
    arrivals="poisson",
    duration_s=900.0,
    warmup_s=300.0,
)
_EIGHT_BIT = ("fp8-h100", "int8-a100", "fp8-l40s")
_MIXED = Part(
    "mixed",
    "Is a fleet of several precisions better than one of the best single precision?",
    "mixed",
    (
        ("energy", "planner", ("bf16-h100", "bf16-a100")),
        ("energy", "planner", _EIGHT_BIT),
        ("energy", "planner", ("int4-h100", "int4-a100", "int4-l40s")),
        OURS,
    ),
    LOADS,
)
_MOONCAKE = Part(
    "mooncake",
    "Does the energy policy keep what prefix caches are worth?",
    "8xh100",
    (
        ("prefix_affinity", "everything_awake"),
        ("kv_overlap", "everything_awake"),
        ("least_loaded", "everything_awake"),
        ("energy", "everything_awake"),
        OURS,
    ),
    (0.1, 0.2, 0.4, 0.7),
    PREFIXES,
    bounded=False,
)
_TRAFFIC = Part(
    "bursts",
    "What if requests come in bursts (Gamma, coefficient of variation 2)?",
    "8xh100",
    (SPREAD, QUEUE, OURS),
    arrivals="gamma",
    duration_s=900.0,
    warmup_s=300.0,
)
_TIERS = Part(
    "tier-strict",
    "What if latency objectives are a quarter tighter?",
    "8xh100",
    (SPREAD, QUEUE, OURS),
    arrivals="poisson",
    duration_s=900.0,
    warmup_s=300.0,
    objective_factor=0.75,
)
_BELIEFS = Part(
    "beliefs",
    "What if the scheduler's profiles are off by up to 30 %?",
    "64xh100",
    (SPREAD, OURS),
    FEW_LOADS,
    belief_error=0.3,
)
_ABLATIONS = Part(
    "ablations",
    "What does each part contribute?",
    "64xh100",
    (
        SPREAD,
        ("energy", "everything_awake"),
        ("energy", "planner_keeps_nodes"),
        ("energy", "planner_without_forecast"),
        OURS,
        ("energy", "planner", ("bf16-h100",)),
    ),
    FEW_LOADS,
)
_LARGE = Part(
    "fleet1024",
    "Does it hold on a thousand accelerators?",
    "1024xh100",
    (SPREAD, OURS),
    FEW_LOADS,
    arrivals="poisson",
    duration_s=420.0,
    warmup_s=180.0,
    seeds=2,
)
PARTS: tuple[Part, ...] = (
    _FLEET64,
    _POLICIES,
    _MIXED,
    _MOONCAKE,
    _TRAFFIC,
    replace(
        _TRAFFIC,
        name="day",
        question="What if the rate swings by 60 % around its mean within an hour?",
        arrivals="diurnal",
        duration_s=3600.0,
        warmup_s=600.0,
    ),
    replace(
        _TRAFFIC,
        name="crowd",
        question="What if the rate triples within seconds?",
        arrivals="flash_crowd",
    ),
    replace(
        _FLEET64,
        name="node-lost",
        question="What if a node breaks?",
        loads=FEW_LOADS,
        node_lost_at_s=900.0,
    ),
    _TIERS,
    replace(
        _TIERS,
        name="tier-relaxed",
        question="What if latency objectives are twice as wide?",
        objective_factor=2.0,
    ),
    _BELIEFS,
    _ABLATIONS,
    _LARGE,
)


def parts_named(names: Sequence[str]) -> tuple[Part, ...]:
    """Find parts by name, in the study's order; all of them without a name.

    Raises:
        LoadtestError: there is none of a name.

    """
    known = {part.name: part for part in PARTS}
    for name in names:
        if name not in known:
            raise LoadtestError(f"no part {name!r} in the study; known: {', '.join(known)}")
    return tuple(part for part in PARTS if not names or part.name in names)
