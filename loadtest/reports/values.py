"""What a run of load amounts to, as values.

Its own module because tables, pages, files and comparisons all show these, and none of them
needs to know how they are measured.

A number that there is not is NaN here and `null` in JSON: no request had it, or nobody told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GroupKind = Literal["all", "class", "tenant", "variant"]
EnergySource = Literal["counter", "attributed", "none"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval; an end is NaN where too few requests bound it.

    Attributes:
        low: its lower end.
        high: its upper end.

    """

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Distribution:
    """A time that many requests, or gaps between messages, had.

    Attributes:
        count: that had it.
        mean_s: of them.
        p50_s: median.
        p90_s: 90th percentile.
        p95_s: 95th percentile.
        p99_s: 99th percentile.
        p999_s: 99.9th percentile; of fewer than a thousand it is nearly the longest.
        max_s: longest.
        p50_interval_s: where the median of such runs lies.
        p99_interval_s: where their 99th percentile lies.

    """

    count: int
    mean_s: float
    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float
    p999_s: float
    max_s: float
    p50_interval_s: Interval
    p99_interval_s: Interval


@dataclass(frozen=True, slots=True)
class Group:
    """What requests of one kind met, of those scheduled within the window.

    Attributes:
        kind: of group.
        name: of the class, tenant or variant; empty for all.
        requests: that were scheduled.
        completed: of these.
        shed: refused for want of room.
        failed: ended with an error.
        cut_off: still in flight when the run was over.
        unsent: never sent.
        requests_per_s: scheduled.
        completed_per_s: of those that completed.
        prompt_tokens_per_s: of those that completed.
        completion_tokens_per_s: generated for any of them.
        prefix_cache_hit_ratio: cached over all prompt tokens, where the server tells.
        judged: requests whose class has objectives; the following five are of these.
        goodput: requests/s that completed within every objective.
        slo_attainment: share that did.
        slo_attainment_interval: where that share of such runs lies.
        ttft_attainment: share that completed within the objective of TTFT.
        tpot_attainment: the same for TPOT.
        ttft_s: time to the first token, from the schedule.
        tpot_s: mean time per token after the first, one for each request.
        itl_s: every gap between two messages of a stream; no intervals.
        longest_gap_s: the longest of them, one for each request.
        e2e_latency_s: time to the last token, from the schedule.
        server_ttft_s: as the server measured it.
        server_e2e_s: as the server measured it.
        outside_ttft_s: from sending to the first token, less what the server measured:
            network, proxy and the client itself.
        outside_e2e_s: the same to the last token.
        attributed_j: joules that replies say.
        joules_per_token: of these, per output token of the same replies.
        joules_per_request: of these, per completed request that says them.
        gco2e_per_request: that replies say, per completed request that says it.

    """

    kind: GroupKind
    name: str
    requests: int
    completed: int
    shed: int
    failed: int
    cut_off: int
    unsent: int
    requests_per_s: float
    completed_per_s: float
    prompt_tokens_per_s: float
    completion_tokens_per_s: float
    prefix_cache_hit_ratio: float
    judged: int
    goodput: float
    slo_attainment: float
    slo_attainment_interval: Interval
    ttft_attainment: float
    tpot_attainment: float
    ttft_s: Distribution
    tpot_s: Distribution
    itl_s: Distribution
    longest_gap_s: Distribution
    e2e_latency_s: Distribution
    server_ttft_s: Distribution
    server_e2e_s: Distribution
    outside_ttft_s: Distribution
    outside_e2e_s: Distribution
    attributed_j: float
    joules_per_token: float
    joules_per_request: float
    gco2e_per_request: float


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules of the window, with the tokens that were generated in it.

    Tokens of a request are spread evenly from its first to its last; so both are of the very
    same seconds, and it does not matter that requests reach over their ends.

    Attributes:
        source: "counter": all energy by the server's counters, idle replicas included;
            "attributed": what replies say, without what nobody caused; "none".
        method: how the server knows its joules, in its own words.
        begin_s: of the seconds that are counted: the window, or what samples cover of it.
        end_s: the same.
        energy_j: in them.
        mean_power_w: over them.
        completion_tokens: generated in them.
        good_tokens: of these, of requests that completed within every objective.
        joules_per_token: energy over all tokens.
        joules_per_good_token: energy over good tokens.
        joules_per_request: energy over requests that were completed in these seconds.
        unattributed_share: of the energy, that no reply accounts for: idle replicas and
            whatever else was awake.
        gco2e: of that energy, at the mean intensity of the replies.
        gco2e_per_request: the same over requests completed.
        mean_awake_replicas: over samples.

    """

    source: EnergySource
    method: str
    begin_s: float
    end_s: float
    energy_j: float
    mean_power_w: float
    completion_tokens: float
    good_tokens: float
    joules_per_token: float
    joules_per_good_token: float
    joules_per_request: float
    unattributed_share: float
    gco2e: float
    gco2e_per_request: float
    mean_awake_replicas: float


@dataclass(frozen=True, slots=True)
class Sender:
    """Whether the load was what the schedule says.

    Attributes:
        workers: processes that sent; 0 for a virtual run.
        lateness_s: from the schedule to the sending, of all requests that were sent.
        unsent: of all, never sent.
        kept_schedule: it may be believed that the server saw the schedule.
        verdict: why, in one sentence.

    """

    workers: int
    lateness_s: Distribution
    unsent: int
    kept_schedule: bool
    verdict: str


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """Errors of one kind.

    Attributes:
        error: in words.
        ending: what they made of the request: "shed", "failed", "cut_off" or "unsent".
        count: of requests, in the whole run.
        first_at_s: when the first of these had been scheduled.

    """

    error: str
    ending: str
    count: int
    first_at_s: float


@dataclass(frozen=True, slots=True)
class ClassObjective:
    """What a service class asks for; NaN where there is no limit.

    Attributes:
        service_class: by name.
        ttft_s: longest time to the first token.
        tpot_s: longest mean time per token after it.

    """

    service_class: str
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """Whether the server kept up.

    Attributes:
        at_begin: requests in flight when the window began.
        at_end: when it ended.
        grows: by more than chance explains: the rate is above what the server can do.

    """

    at_begin: int
    at_end: int
    grows: bool


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is said of a run.

    Attributes:
        scenario: by name.
        source: where it ran.
        target: address and protocol, or the fleet with its policy and autoscaler.
        model: that was asked.
        seed: of chance.
        closed_loop: requests waited for their predecessors.
        started_at: UTC, ISO 8601; of a virtual run, when it was computed.
        host: machine and processor that sent.
        note: command and version.
        partial: why it did not run to its end; empty if it did.
        begin_s: of the window that is measured, from the start of the run.
        end_s: of the window.
        planned: requests of the whole run, in the window or not.
        objectives: of service classes that have any.
        overall: all requests.
        classes: one by one.
        tenants: the same; empty if there is one only.
        variants: those that served, by which did; empty if nobody tells.
        energy: of the window.
        sender: whether it kept its schedule.
        backlog: whether the server kept up.
        errors: of the whole run, most frequent first.
        warnings: what a reader must know before believing a figure.

    """

    scenario: str
    source: Literal["live", "virtual"]
    target: str
    model: str
    seed: int
    closed_loop: bool
    started_at: str
    host: str
    note: str
    partial: str
    begin_s: float
    end_s: float
    planned: int
    objectives: tuple[ClassObjective, ...]
    overall: Group
    classes: tuple[Group, ...]
    tenants: tuple[Group, ...]
    variants: tuple[Group, ...]
    energy: Energy
    sender: Sender
    backlog: Backlog
    errors: tuple[ErrorCount, ...]
    warnings: tuple[str, ...]
