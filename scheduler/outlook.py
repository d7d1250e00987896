"""What the next request would meet on each replica, as numbers ready to be added up.

Its own module because it moves work off the request path: an outlook depends on the
replica alone, so it is computed once for every report or lease, and a route over a
thousand replicas is then a dozen vector operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scheduler.steps import power_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from scheduler.fleet import Fleet, ReplicaReport, ReplicaView, Variant
    from scheduler.prefixes import PrefixIndex
    from scheduler.requests import ModelName, ReplicaId
    from scheduler.steps import StepModel

FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]
IndexArray: TypeAlias = NDArray[np.intp]

# Rate of decoding that is assumed besides what is reported, so that a few prompts at the
# beginning do not look like a flood.
PRIOR_TOKENS_PER_S = 50.0
# Context over which a step model's slope is taken.
CONTEXT_PROBE_TOKENS = 1024.0


class Outlook(NamedTuple):
    """What the next request would meet on one replica.

    What a cached prompt token spares stands together: prefill_s, prefill_j, idle_prompt_j.

    Attributes:
        requests: running, waiting or booked there.
        waiting: of these, beyond its batch or not yet in it.
        max_batch: sequences that it decodes together.
        awake: 1 when it takes new work, 0 when it drains.
        observed_at_s: when its newest report came.
        kv_tokens: in its KV cache, or on their way there.
        kv_capacity_tokens: that fit.
        backlog_tokens: prompt tokens that it has yet to compute.
        held_tokens: prompts and completions of all its requests, as far as known.
        tokens_per_s: that it decodes with a full batch; a scale, not a forecast.
        prefill_s: time for each uncached prompt token.
        prefill_j: energy for each uncached prompt token.
        idle_prompt_j: for each prompt token, what keeping the replica busy costs: the power
            between its context power and its busy power, (P0 − P_ctx), over the time by
            which the request is expected to outlast all others there: 1/(n + 1) of its
            own, where n others run and all leave at random. For n = 0 it ends idleness;
            for large n the replica is busy anyway, which is why filling saves energy.
        decode_j: marginal energy for each completion token, whatever the context.
        context_j: marginal energy for each completion token and token of context.
        idle_completion_j: as idle_prompt_j, for each completion token.
        solo_j: energy of a completion token decoded alone; a scale, not a cost.
        ttft_s: time to the first token besides the own prefill and the queue.
        queue_s: wait for a place in the batch, for each token of a typical completion.
        tpot_s: step time once the request has joined, without its own context.
        context_s: step time that each token of its own context adds.
        crowd_s: time that decoding loses to each prompt token computed for each token decoded,
            while all who are there decode: whoever leaves is followed by another, with a
            prompt for which all others wait.
        backlog_s: time that decoding loses to prompts that are there already.
        disturbed_s: time that those who are there lose to each uncached prompt token of one
            who joins; 0 where nobody is.

    """

    requests: float
    waiting: float
    max_batch: float
    awake: float
    observed_at_s: float
    kv_tokens: float
    kv_capacity_tokens: float
    backlog_tokens: float
    held_tokens: float
    tokens_per_s: float
    prefill_s: float
    prefill_j: float
    idle_prompt_j: float
    decode_j: float
    context_j: float
    idle_completion_j: float
    solo_j: float
    ttft_s: float
    queue_s: float
    tpot_s: float
    context_s: float
    crowd_s: float
    backlog_s: float
    disturbed_s: float


class OutlookColumns(NamedTuple):
    """The outlooks of many replicas, field by field; see `Outlook`."""

    requests: FloatArray
    waiting: FloatArray
    max_batch: FloatArray
    awake: FloatArray
    observed_at_s: FloatArray
    kv_tokens: FloatArray
    kv_capacity_tokens: FloatArray
    backlog_tokens: FloatArray
    held_tokens: FloatArray
    tokens_per_s: FloatArray
    prefill_s: FloatArray
    prefill_j: FloatArray
    idle_prompt_j: FloatArray
    decode_j: FloatArray
    context_j: FloatArray
    idle_completion_j: FloatArray
    solo_j: FloatArray
    ttft_s: FloatArray
    queue_s: FloatArray
    tpot_s: FloatArray
    context_s: FloatArray
    crowd_s: FloatArray
    backlog_s: FloatArray
    disturbed_s: FloatArray


@dataclass(frozen=True, slots=True)
class ModelColumns:
    """Every replica that serves one model, in the fleet's order.

    Attributes:
        variants: every variant of the model, awake or not.
        replicas: by row.
        variant_rows: for each row, the index of its variant.
        matrix: the outlooks, a row for each field and a column for each replica.
        outlook: the same, field by field.
        cached_tokens: of the request at hand, found in each replica's prefix cache; None
            where no replica holds any of it.
        prefix_rows: for each row, its row in the fleet's prefix index, if there is one.
        prefill_ratio: prompt tokens computed for each token decoded, of late.

    """

    variants: tuple[Variant, ...]
    replicas: tuple[ReplicaId, ...]
    variant_rows: IndexArray
    matrix: FloatArray
    outlook: OutlookColumns
    cached_tokens: FloatArray | None = None
    prefix_rows: IndexArray | None = None
    prefill_ratio: float = 0.0

    @property
    def cached(self) -> FloatArray:
        """`cached_tokens` as an array in any case."""
        if self.cached_tokens is None:
            return np.zeros(len(self.replicas))
        return self.cached_tokens

    def variant(self, row: int) -> Variant:
        """The variant that a row serves."""
        return self.variants[int(self.variant_rows[row])]

    def with_cached(self, cached_tokens: FloatArray) -> ModelColumns:
        """Give the same for a request of which so much is cached."""
        return ModelColumns(
            self.variants,
            self.replicas,
            self.variant_rows,
            self.matrix,
            self.outlook,
            cached_tokens,
            self.prefix_rows,
            self.prefill_ratio,
        )

    def renewed(self, prefill_ratio: float) -> ModelColumns:
        """Give the same replicas, whose matrix has been brought up to date."""
        return ModelColumns(
            self.variants,
            self.replicas,
            self.variant_rows,
            self.matrix,
            self.outlook,
            None,
            self.prefix_rows,
            prefill_ratio,
        )


class Scores(NamedTuple):
    """What a policy thinks of every row; rows that cannot serve carry any number.

    Attributes:
        values: lower is better.
        terms: what the values add up, by name.
        strains: names of terms that are above zero where the request would strain a limit;
            None if the policy does not ask.
        figures: further ones, by name, for explanations.

    """

    values: FloatArray
    terms: Mapping[str, FloatArray]
    strains: tuple[str, ...] | None = None
    figures: Mapping[str, FloatArray] = MappingProxyType({})


def look_ahead(view: ReplicaView, variant: Variant) -> Outlook:
    """Say what the next request would meet on a replica."""
    report, steps = view.report, variant.steps
    requests = view.requests
    batch = min(requests, variant.max_batch)
    joined = min(requests + 1, variant.max_batch)
    waiting = requests + 1 - joined
    context = report.context_tokens + view.booked_prompt_tokens
    booked_tokens = view.booked_prompt_tokens - view.booked_cached_tokens
    backlog_tokens = report.pending_prefill_tokens + booked_tokens
    slopes = _slopes(steps, batch)
    prefill_s = slopes.prefill_s * view.pace
    step_s = steps.decode_s(joined, context) * view.pace
    decode_j, idle_w = _marginal(view, variant, batch)
    return Outlook(
        requests=requests,
        waiting=max(requests - report.running_requests, 0),
        max_batch=variant.max_batch,
        awake=0.0 if view.draining else 1.0,
        observed_at_s=report.observed_at_s,
        kv_tokens=report.kv_cache_usage * variant.kv_capacity_tokens
        + backlog_tokens
        + view.booked_completion_tokens,
        kv_capacity_tokens=variant.kv_capacity_tokens,
        backlog_tokens=backlog_tokens,
        held_tokens=report.context_tokens + backlog_tokens + view.booked_completion_tokens,
        tokens_per_s=variant.max_batch / steps.decode_s(variant.max_batch, context),
        prefill_j=slopes.prefill_j,
        decode_j=decode_j,
        context_j=slopes.context_j,
        idle_prompt_j=idle_w * prefill_s,
        idle_completion_j=idle_w * step_s,
        solo_j=slopes.solo_j,
        prefill_s=prefill_s,
        ttft_s=backlog_tokens * prefill_s + step_s,
        queue_s=waiting * step_s / variant.max_batch,
        tpot_s=step_s,
        context_s=slopes.context_s * view.pace,
        crowd_s=joined * prefill_s,
        backlog_s=backlog_tokens * prefill_s,
        disturbed_s=prefill_s if requests else 0.0,
    )


def _marginal(view: ReplicaView, variant: Variant, batch: int) -> tuple[float, float]:
    """Give the joules of a completion token, and the watts of keeping the replica busy."""
    steps, context = variant.steps, view.report.context_tokens
    if batch >= variant.max_batch:
        # It waits until others have left, and prolongs the busy time: the average counts.
        return steps.decode_j(batch, context) / batch, 0.0
    line = power_line(steps, batch, context)
    idle_w = max(0.0, line.p0_w - variant.context_power_w)
    return line.marginal_j, idle_w / (view.requests + 1)


class _Slopes(NamedTuple):
    """What a step model says of one more token, whatever the replica's context.

    Attributes:
        prefill_s: for each prompt token.
        prefill_j: for each prompt token.
        context_s: that a token of context adds to a decode step.
        context_j: the same, marginal joules.
        solo_j: of a decode step of one sequence.

    """

    prefill_s: float
    prefill_j: float
    context_s: float
    context_j: float
    solo_j: float


@lru_cache(maxsize=4096)
def _slopes(steps: StepModel, batch: int) -> _Slopes:
    """Look at a step model from one batch."""
    batch = max(batch, 1)
    base_s, base_j = steps.decode_s(batch), steps.decode_j(batch)
    slope_s = (steps.decode_s(batch, CONTEXT_PROBE_TOKENS) - base_s) / CONTEXT_PROBE_TOKENS
    slope_j = (steps.decode_j(batch, CONTEXT_PROBE_TOKENS) - base_j) / CONTEXT_PROBE_TOKENS
    return _Slopes(
        prefill_s=steps.prefill_s(CONTEXT_PROBE_TOKENS) / CONTEXT_PROBE_TOKENS,
        prefill_j=steps.prefill_j(CONTEXT_PROBE_TOKENS) / CONTEXT_PROBE_TOKENS,
        context_s=slope_s,
        # As for m: a longer step costs busy power that would have been drawn anyway.
        context_j=max(0.0, slope_j - slope_s * steps.decode_j(0) / steps.decode_s(0)),
        solo_j=steps.decode_j(1),
    )


def tabulate(fleet: Fleet) -> dict[ModelName, ModelColumns]:
    """Arrange a fleet's replicas by model."""
    rows: dict[ModelName, list[tuple[ReplicaView, Outlook]]] = {
        variant.model: [] for variant in fleet.variants.values()
    }
    for view in fleet.replicas:
        variant = fleet.variants[view.variant]
        rows[variant.model].append((view, look_ahead(view, variant)))
    return {
        model: columns(
            _variants_of(fleet, model),
            [view for view, _ in pairs],
            outlooks(pairs),
            fleet.prefixes,
            prefill_ratio([view.report for view, _ in pairs]),
        )
        for model, pairs in rows.items()
    }


def prefill_ratio(reports: Iterable[ReplicaReport]) -> float:
    """Prompt tokens computed for each token decoded, by the rates that replicas report."""
    rates = [(report.prefill_tokens_per_s, report.decode_tokens_per_s) for report in reports]
    return ratio_of(sum(rate for rate, _ in rates), sum(rate for _, rate in rates))


def ratio_of(prefill_tokens_per_s: float, decode_tokens_per_s: float) -> float:
    """Prompt tokens computed for each token decoded; some tokens/s that nobody reports count.

    A replica that has just begun has computed prompts and decoded nothing yet, which says
    little about what is to come.
    """
    return max(0.0, prefill_tokens_per_s) / (max(0.0, decode_tokens_per_s) + PRIOR_TOKENS_PER_S)


def outlooks(pairs: Sequence[tuple[ReplicaView, Outlook]]) -> FloatArray:
    """Stack outlooks into one matrix with a row for each field."""
    stacked = np.array([outlook for _, outlook in pairs], dtype=np.float64)
    return np.ascontiguousarray(stacked.reshape(len(pairs), len(Outlook._fields)).T)


def columns(
    variants: tuple[Variant, ...],
    views: Sequence[ReplicaView],
    matrix: FloatArray,
    prefixes: PrefixIndex | None = None,
    prefill_ratio: float = 0.0,
) -> ModelColumns:
    """Name the rows of such a matrix."""
    index = {variant.name: row for row, variant in enumerate(variants)}
    prefix_rows = None
    if prefixes is not None:
        rows = [prefixes.row(view.replica) for view in views]
        prefix_rows = np.array(rows, dtype=np.intp)
    return ModelColumns(
        variants=variants,
        replicas=tuple(view.replica for view in views),
        variant_rows=np.array([index[view.variant] for view in views], dtype=np.intp),
        matrix=matrix,
        outlook=OutlookColumns(*matrix),
        prefix_rows=prefix_rows,
        prefill_ratio=prefill_ratio,
    )


def _variants_of(fleet: Fleet, model: ModelName) -> tuple[Variant, ...]:
    return tuple(variant for variant in fleet.variants.values() if variant.model == model)
