"""The fleet kept up to date report by report and lease by lease.

Its own module because a snapshot of a thousand replicas must not be made anew for every
request: each event costs its own replica only, and a snapshot is not even a copy. It holds until
the next one is taken, which is as long as a decision needs it.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from scheduler.calibration import Calibration
from scheduler.fleet import Fleet, ReplicaReport, ReplicaView, Sleeper, Variant
from scheduler.leases import LeaseBook, replica_view
from scheduler.outlook import Outlook, columns, look_ahead, outlooks, ratio_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.outlook import FloatArray, ModelColumns
    from scheduler.prefixes import PrefixIndex
    from scheduler.requests import ModelName, ReplicaId, VariantName


OBSERVED_ROW = Outlook._fields.index("observed_at_s")


class _ModelRows:
    """The replicas of one model: a matrix with a column for each, and who they are."""

    def __init__(self, variants: tuple[Variant, ...], prefixes: PrefixIndex | None) -> None:
        self.variants = variants
        self._prefixes = prefixes
        self.views: dict[ReplicaId, ReplicaView] = {}
        self.stale: set[ReplicaId] = set()
        self._rows: dict[ReplicaId, int] = {}
        self._matrix: FloatArray = outlooks([])
        self._columns: ModelColumns | None = None
        # Replicas of which nothing is new but that they have reported, and when.
        self._seen: dict[ReplicaId, float] = {}
        self._prefill_tokens_per_s = self._decode_tokens_per_s = 0.0

    def put(self, view: ReplicaView) -> None:
        """Take another view of a replica."""
        before = self.views.get(view.replica)
        self.views[view.replica] = view
        if before is not None and _still_idle(before, view):
            self._seen[view.replica] = view.report.observed_at_s
            return
        if before is None or before.report is not view.report:
            self._count(view, 1)
            if before is not None:
                self._count(before, -1)
        self.stale.add(view.replica)

    def remove(self, replica: ReplicaId) -> None:
        """Forget a replica."""
        self._count(self.views.pop(replica), -1)
        self.stale.discard(replica)
        self._seen.pop(replica, None)
        self.rearrange()

    def snapshot(self, by_name: Mapping[VariantName, Variant]) -> ModelColumns:
        """Renew the columns of stale replicas; those given before change with them."""
        if self._columns is None:
            pairs = [
                (view, look_ahead(view, by_name[view.variant])) for view in self.views.values()
            ]
            self._matrix = outlooks(pairs)
            self._rows = {replica: row for row, replica in enumerate(self.views)}
            views = list(self.views.values())
            ratio = self._prefill_ratio()
            self._columns = columns(self.variants, views, self._matrix, self._prefixes, ratio)
        elif self.stale or self._seen:
            for replica, observed_at_s in self._seen.items():
                self._matrix[OBSERVED_ROW, self._rows[replica]] = observed_at_s
            for replica in self.stale:
                view = self.views[replica]
                self._matrix[:, self._rows[replica]] = look_ahead(view, by_name[view.variant])
            self._columns = self._columns.renewed(self._prefill_ratio())
        self.stale.clear()
        self._seen.clear()
        return self._columns

    def rearrange(self) -> None:
        """Make everything anew at the next snapshot: a replica came or went."""
        self._columns = None

    def _count(self, view: ReplicaView, sign: int) -> None:
        self._prefill_tokens_per_s += sign * view.report.prefill_tokens_per_s
        self._decode_tokens_per_s += sign * view.report.decode_tokens_per_s

    def _prefill_ratio(self) -> float:
        return ratio_of(self._prefill_tokens_per_s, self._decode_tokens_per_s)


class FleetBoard:
    """One gateway's view of every replica, as a value on demand.

    Attributes:
        sleepers: what could be woken, as whoever plans has last said.

    """

    def __init__(
        self,
        variants: Mapping[VariantName, Variant],
        leases: LeaseBook,
        *,
        prefixes: PrefixIndex | None = None,
        calibrated: bool = False,
    ) -> None:
        """Know the variants, and no replica yet.

        Args:
            variants: that are configured, by name.
            leases: the gateway's book; its changes are taken up by the next snapshot. No
                one else may call its `take_changed`.
            prefixes: told which replicas there are; whoever routes tells it what they hold.
            calibrated: correct the variants' step models by what replicas report.

        """
        self.sleepers: tuple[Sleeper, ...] = ()
        self._variants = dict(variants)
        self._leases = leases
        self._prefixes = prefixes
        self._calibrations = (
            {name: Calibration(each.steps, each.context_power_w) for name, each in variants.items()}
            if calibrated
            else {}
        )
        self._models: dict[ModelName, _ModelRows] = {
            variant.model: _ModelRows(self._siblings(variant.model), prefixes)
            for variant in self._variants.values()
        }
        self._variant_of: dict[ReplicaId, VariantName] = {}

    @property
    def variants(self) -> Mapping[VariantName, Variant]:
        """As they are believed now; a new mapping whenever a step model has changed."""
        return self._variants

    def report(self, replica: ReplicaId, variant: VariantName, report: ReplicaReport) -> None:
        """Take a replica's newest report; an unknown replica joins, a draining one stays so."""
        rows = self._rows(variant)
        known = rows.views.get(replica)
        self._variant_of[replica] = variant
        self._learn(replica, variant, report)
        self._put(rows, replica, report, draining=known is not None and known.draining)
        if known is None:
            self._join(replica, variant)
            rows.rearrange()

    def drain(self, replica: ReplicaId) -> None:
        """Give a replica no new work from now on; nothing if it is unknown."""
        self._set_draining(replica, draining=True)

    def resume(self, replica: ReplicaId) -> None:
        """Give a replica new work again; nothing if it is unknown."""
        self._set_draining(replica, draining=False)

    def leave(self, replica: ReplicaId) -> None:
        """Forget a replica; nothing if it is unknown."""
        variant = self._variant_of.pop(replica, None)
        if variant is not None:
            self._rows(variant).remove(replica)
            if self._prefixes is not None:
                self._prefixes.forget(replica)
            if variant in self._calibrations:
                self._calibrations[variant].forget(replica)

    def snapshot(self, now_s: float) -> Fleet:
        """Give the fleet at this instant; its columns hold until the next snapshot."""
        for replica in self._leases.take_changed():
            if replica in self._variant_of:
                rows = self._rows(self._variant_of[replica])
                view = rows.views[replica]
                self._put(rows, replica, view.report, draining=view.draining)
        models = tuple(self._models.values())
        return Fleet(
            observed_at_s=now_s,
            variants=self._variants,
            replicas=models[0].views.values()
            if len(models) == 1
            else tuple(chain.from_iterable(rows.views.values() for rows in models)),
            columns={model: rows.snapshot(self._variants) for model, rows in self._models.items()},
            prefixes=self._prefixes,
            sleepers=self.sleepers,
        )

    def _siblings(self, model: ModelName) -> tuple[Variant, ...]:
        return tuple(each for each in self._variants.values() if each.model == model)

    def _join(self, replica: ReplicaId, name: VariantName) -> None:
        """Give a new replica a place in the prefix index, if its engine has such a cache."""
        variant = self._variants[name]
        if self._prefixes is not None and variant.prefix_block_tokens:
            self._prefixes.join(replica, variant.kv_capacity_tokens // self._prefixes.block_tokens)

    def _learn(self, replica: ReplicaId, name: VariantName, report: ReplicaReport) -> None:
        """Correct the variant's step model by what a replica says of its steps."""
        calibration = self._calibrations.get(name)
        if calibration is None or not calibration.observe(replica, report.totals):
            return
        variant = replace(self._variants[name], steps=calibration.steps)
        self._variants = self._variants | {name: variant}
        rows = self._models[variant.model]
        rows.variants = self._siblings(variant.model)
        rows.rearrange()

    def _set_draining(self, replica: ReplicaId, *, draining: bool) -> None:
        if replica in self._variant_of:
            rows = self._rows(self._variant_of[replica])
            self._put(rows, replica, rows.views[replica].report, draining=draining)

    def _rows(self, variant: VariantName) -> _ModelRows:
        return self._models[self._variants[variant].model]

    def _put(
        self, rows: _ModelRows, replica: ReplicaId, report: ReplicaReport, *, draining: bool
    ) -> None:
        variant = self._variant_of[replica]
        pace = self._calibrations[variant].pace(replica) if self._calibrations else 1.0
        rows.put(replica_view(replica, variant, report, self._leases, draining=draining, pace=pace))


def _still_idle(before: ReplicaView, after: ReplicaView) -> bool:
    """Whether nothing of a replica has changed that a request would notice, but time."""
    if before.draining is not after.draining or before.pace != after.pace:
        return False
    return _idle(before) and _idle(after)


def _idle(view: ReplicaView) -> bool:
    report = view.report
    return not (
        view.booked_requests
        or report.running_requests
        or report.waiting_requests
        or report.kv_cache_usage
        or report.prefill_tokens_per_s
        or report.decode_tokens_per_s
    )
