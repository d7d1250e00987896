"""What the next request would meet on each replica, as numbers ready to be added up.

Its own module because it moves work off the request path: an outlook depends on the
replica alone, so it is computed once for every report or lease, and a route over a
thousand replicas is then a dozen vector operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scheduler.steps import power_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scheduler.fleet import Fleet, ReplicaView, Variant
    from scheduler.prefixes import PrefixIndex
    from scheduler.requests import ModelName, ReplicaId
    from scheduler.steps import StepModel

FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]
IndexArray: TypeAlias = NDArray[np.intp]

# A measured step time moves a prediction at most this far: beyond it is a stall, not a speed.
CORRECTION_BOUNDS = (0.25, 8.0)
# Most of a replica's time that prefill is reckoned to take from its decoding.
PREFILL_SHARE_BOUND = 0.8
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
        tpot_s: step time once the request has joined, without its own context, and with
            the time that prefill takes from decoding at the present rate of prompts.
        context_s: step time that each token of its own context adds.
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

    """

    variants: tuple[Variant, ...]
    replicas: tuple[ReplicaId, ...]
    variant_rows: IndexArray
    matrix: FloatArray
    outlook: OutlookColumns
    cached_tokens: FloatArray | None = None
    prefix_rows: IndexArray | None = None

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
        )

    def renewed(self, matrix: FloatArray) -> ModelColumns:
        """Give the same replicas with new outlooks."""
        return ModelColumns(
            self.variants,
            self.replicas,
            self.variant_rows,
            matrix,
            OutlookColumns(*matrix),
            None,
            self.prefix_rows,
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
    correction = _correction(view, steps)
    backlog_tokens = report.pending_prefill_tokens + view.booked_prompt_tokens
    prefill_s = steps.prefill_s(CONTEXT_PROBE_TOKENS) / CONTEXT_PROBE_TOKENS * correction
    step_s = steps.decode_s(joined, context) * correction
    decoding = 1.0 - min(PREFILL_SHARE_BOUND, report.prefill_tokens_per_s * prefill_s)
    context_s, context_j = _context_slope(steps, batch)
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
        prefill_j=steps.prefill_j(CONTEXT_PROBE_TOKENS) / CONTEXT_PROBE_TOKENS,
        decode_j=decode_j,
        context_j=context_j,
        idle_prompt_j=idle_w * prefill_s,
        idle_completion_j=idle_w * step_s,
        solo_j=steps.decode_j(1),
        prefill_s=prefill_s,
        ttft_s=backlog_tokens * prefill_s + step_s,
        queue_s=waiting * step_s / variant.max_batch,
        tpot_s=step_s / decoding,
        context_s=context_s * correction / decoding,
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


def _context_slope(steps: StepModel, batch: int) -> tuple[float, float]:
    """Give the seconds and the marginal joules that a token of context adds to a step."""
    batch = max(batch, 1)
    base_s, base_j = steps.decode_s(batch), steps.decode_j(batch)
    slope_s = (steps.decode_s(batch, CONTEXT_PROBE_TOKENS) - base_s) / CONTEXT_PROBE_TOKENS
    slope_j = (steps.decode_j(batch, CONTEXT_PROBE_TOKENS) - base_j) / CONTEXT_PROBE_TOKENS
    # As for m: a longer step costs busy power that would have been drawn anyway.
    return slope_s, max(0.0, slope_j - slope_s * steps.decode_j(0) / steps.decode_s(0))


def _correction(view: ReplicaView, steps: StepModel) -> float:
    """Measured over predicted step time at the batch of the report; 1 where nothing tells."""
    report = view.report
    if report.step_time_s <= 0 or report.running_requests == 0:
        return 1.0
    # A step also computes the prompt tokens that came in while it ran.
    prefill_tokens = report.prefill_tokens_per_s * report.step_time_s
    predicted_s = steps.decode_s(report.running_requests, report.context_tokens)
    predicted_s += steps.prefill_s(prefill_tokens)
    low, high = CORRECTION_BOUNDS
    return min(high, max(low, report.step_time_s / predicted_s))


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
        )
        for model, pairs in rows.items()
    }


def outlooks(pairs: Sequence[tuple[ReplicaView, Outlook]]) -> FloatArray:
    """Stack outlooks into one matrix with a row for each field."""
    stacked = np.array([outlook for _, outlook in pairs], dtype=np.float64)
    return np.ascontiguousarray(stacked.reshape(len(pairs), len(Outlook._fields)).T)


def columns(
    variants: tuple[Variant, ...],
    views: Sequence[ReplicaView],
    matrix: FloatArray,
    prefixes: PrefixIndex | None = None,
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
    )


def _variants_of(fleet: Fleet, model: ModelName) -> tuple[Variant, ...]:
    return tuple(variant for variant in fleet.variants.values() if variant.model == model)
