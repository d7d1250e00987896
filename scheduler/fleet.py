"""The fleet as one gateway sees it at one instant: variants, replicas, their newest reports.

Its own module because this snapshot is the only thing that policies and the planner
may look at; whoever builds it (live gateway, virtual cluster) decides how it is fed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from scheduler.outlook import ModelColumns
    from scheduler.prefixes import PrefixIndex
    from scheduler.requests import ModelName, ReplicaId, VariantName
    from scheduler.steps import StepModel


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to serve a model: checkpoint, precision, accelerator, parallelism.

    Attributes:
        name: unique within the cluster.
        model: the model name that clients use.
        quality: 1 is the unmodified model.
        max_context_tokens: prompt and completion together.
        max_batch: most sequences that a replica decodes together.
        kv_capacity_tokens: tokens that fit a replica's KV cache.
        steps: predicted time and energy of an engine step on a replica.
        context_power_w: drawn by an awake replica that does nothing.
        prefix_block_tokens: granularity in which its engine finds the beginning of a prompt
            in its prefix cache; 0 where it has none.

    """

    name: VariantName
    model: ModelName
    quality: float
    max_context_tokens: int
    max_batch: int
    kv_capacity_tokens: int
    steps: StepModel
    context_power_w: float
    prefix_block_tokens: int = 0


class StepTotals(NamedTuple):
    """Sums over all engine steps since a replica started.

    Time and energy of a step are linear in what they sum, so that the difference of two
    of them is all that a fit needs, however many steps lie between and whoever reads them.

    Attributes:
        steps: that have ended.
        decode_steps: of these, with a sequence that decoded; one in which sequences gained
            several tokens counts as so many.
        sequences: decoded, summed over these.
        context_tokens: of the decoding sequences, summed over these.
        prefill_tokens: prompt tokens computed.
        busy_s: time that steps took.
        busy_j: energy that a counter measured over them; 0 where only a model tells.

    """

    steps: int = 0
    decode_steps: float = 0
    sequences: float = 0
    context_tokens: float = 0
    prefill_tokens: int = 0
    busy_s: float = 0.0
    busy_j: float = 0.0

    def since(self, earlier: StepTotals) -> StepTotals:
        """Sums over the steps that have ended since those of `earlier`."""
        return StepTotals(
            self.steps - earlier.steps,
            self.decode_steps - earlier.decode_steps,
            self.sequences - earlier.sequences,
            self.context_tokens - earlier.context_tokens,
            self.prefill_tokens - earlier.prefill_tokens,
            self.busy_s - earlier.busy_s,
            self.busy_j - earlier.busy_j,
        )


NO_STEPS = StepTotals()


class ReplicaReport(NamedTuple):
    """What a replica says of itself: totals over all gateways, at one instant.

    Attributes:
        observed_at_s: when it reached the gateway, on the gateway's monotonic clock.
        running_requests: sequences in the engine's batch.
        waiting_requests: accepted but not yet in the batch.
        pending_prefill_tokens: accepted prompt tokens that are yet to be computed, those
            not counted that gateways expect in the prefix cache.
        context_tokens: tokens of running sequences, prompts and completions.
        kv_cache_usage: share of KV blocks in use, 0 to 1.
        prefill_tokens_per_s: recent rate.
        decode_tokens_per_s: recent rate.
        step_time_s: recent mean of a step; 0 before the first.
        power_w: recent mean.
        energy_j: since the replica started.
        totals: over its steps, for the fit of its step model.
        idle_j: of energy_j, what belongs to no request.
        residual_j: energy_j less everything that was attributed, idle included; 0 unless
            the books are wrong.
        energy_method: how energy_j is known: "model", "nvml" or "rapl".
        energy_boundary: what it counts: "gpu", "cpu" or "node".
        devices: that its meter reads, as the meter names them; none where it models.
        meter_trouble: what is wrong with the meter; empty if nothing is.

    """

    observed_at_s: float
    running_requests: int = 0
    waiting_requests: int = 0
    pending_prefill_tokens: int = 0
    context_tokens: int = 0
    kv_cache_usage: float = 0.0
    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0
    step_time_s: float = 0.0
    power_w: float = 0.0
    energy_j: float = 0.0
    totals: StepTotals = NO_STEPS
    idle_j: float = 0.0
    residual_j: float = 0.0
    energy_method: str = "model"
    energy_boundary: str = ""
    devices: tuple[str, ...] = ()
    meter_trouble: str = ""


class ReplicaView(NamedTuple):
    """A replica that can take work: its newest report, and what was booked since.

    Attributes:
        replica: unique within the cluster.
        variant: what it serves.
        report: the newest one.
        booked_requests: leases of this gateway that the report does not know yet.
        booked_prompt_tokens: prompt tokens of those leases.
        booked_completion_tokens: expected completion tokens of those leases.
        booked_cached_tokens: of those prompts, expected in the prefix cache.
        draining: it finishes its streams and takes no new work.
        pace: time that its steps lately took, over what the variant's step model says.

    """

    replica: ReplicaId
    variant: VariantName
    report: ReplicaReport
    booked_requests: int = 0
    booked_prompt_tokens: int = 0
    booked_completion_tokens: float = 0.0
    booked_cached_tokens: int = 0
    draining: bool = False
    pace: float = 1.0

    @property
    def requests(self) -> int:
        """Requests running, waiting or booked."""
        report = self.report
        return report.running_requests + report.waiting_requests + self.booked_requests


@dataclass(frozen=True, slots=True)
class Sleeper:
    """A variant of which one more replica can be woken.

    Attributes:
        variant: of the replica.
        start_s: until it would serve.
        start_j: energy of that.
        asleep_power_w: that it draws meanwhile: 0 with its process gone.

    """

    variant: VariantName
    start_s: float
    start_j: float
    asleep_power_w: float = 0.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """Every variant and every replica known at one instant.

    Attributes:
        observed_at_s: the instant, on the gateway's monotonic clock.
        variants: by name.
        replicas: in a stable order; of a board's snapshot, they hold as long as it does.
        columns: the same replicas arranged for routing, where whoever made the fleet keeps
            them up to date (`scheduler.board`); None leaves it to each decision.
        prefixes: which replica holds the beginning of which prompt, as known now; None
            where nobody keeps it. A decision reads it and never changes it.
        sleepers: what could be woken; a decision may advise it, and the planner acts.

    """

    observed_at_s: float
    variants: Mapping[VariantName, Variant]
    replicas: Collection[ReplicaView]
    columns: Mapping[ModelName, ModelColumns] | None = field(
        default=None, compare=False, repr=False
    )
    prefixes: PrefixIndex | None = field(default=None, compare=False, repr=False)
    sleepers: tuple[Sleeper, ...] = ()
