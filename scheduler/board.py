"""The fleet kept up to date report by report and lease by lease.

Its own module because a snapshot of a thousand replicas must not be made anew for every
request: each event costs its own replica only, and a snapshot is a copy of arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduler.fleet import Fleet, ReplicaReport, ReplicaView, Variant
from scheduler.leases import LeaseBook, replica_view
from scheduler.outlook import (
    ModelColumns,
    OutlookColumns,
    columns,
    look_ahead,
    outlooks,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.outlook import FloatArray
    from scheduler.requests import ModelName, ReplicaId, VariantName


class _ModelRows:
    """The replicas of one model: a matrix with a column for each, and who they are."""

    def __init__(self, variants: tuple[Variant, ...]) -> None:
        self.variants = variants
        self.views: dict[ReplicaId, ReplicaView] = {}
        self.stale: set[ReplicaId] = set()
        self._rows: dict[ReplicaId, int] = {}
        self._matrix: FloatArray = outlooks([])
        self._columns: ModelColumns | None = None

    def snapshot(self, by_name: Mapping[VariantName, Variant]) -> ModelColumns:
        """Renew the columns of stale replicas, and freeze a copy."""
        if self._columns is None:
            pairs = [
                (view, look_ahead(view, by_name[view.variant])) for view in self.views.values()
            ]
            self._matrix = outlooks(pairs)
            self._rows = {replica: row for row, replica in enumerate(self.views)}
            self._columns = columns(self.variants, list(self.views.values()), self._matrix.copy())
        elif self.stale:
            for replica in self.stale:
                view = self.views[replica]
                self._matrix[:, self._rows[replica]] = look_ahead(view, by_name[view.variant])
            self._columns = ModelColumns(
                variants=self.variants,
                replicas=self._columns.replicas,
                variant_rows=self._columns.variant_rows,
                outlook=OutlookColumns(*self._matrix.copy()),
            )
        self.stale.clear()
        return self._columns

    def rearrange(self) -> None:
        """Make everything anew at the next snapshot: a replica came or went."""
        self._columns = None


class FleetBoard:
    """One gateway's view of every replica, as a value on demand."""

    def __init__(self, variants: Mapping[VariantName, Variant], leases: LeaseBook) -> None:
        """Know the variants, and no replica yet.

        Args:
            variants: that are configured, by name.
            leases: the gateway's book; its changes are taken up by the next snapshot. No
                one else may call its `take_changed`.

        """
        self._variants = dict(variants)
        self._leases = leases
        self._models: dict[ModelName, _ModelRows] = {}
        self._variant_of: dict[ReplicaId, VariantName] = {}
        for variant in self._variants.values():
            if variant.model not in self._models:
                model = variant.model
                siblings = tuple(v for v in self._variants.values() if v.model == model)
                self._models[model] = _ModelRows(siblings)

    def report(self, replica: ReplicaId, variant: VariantName, report: ReplicaReport) -> None:
        """Take a replica's newest report; an unknown replica joins, a draining one stays so."""
        rows = self._rows(variant)
        known = rows.views.get(replica)
        self._variant_of[replica] = variant
        self._put(rows, replica, report, draining=known is not None and known.draining)
        if known is None:
            rows.rearrange()

    def drain(self, replica: ReplicaId) -> None:
        """Give a replica no new work from now on; nothing if it is unknown."""
        if replica in self._variant_of:
            rows = self._rows(self._variant_of[replica])
            self._put(rows, replica, rows.views[replica].report, draining=True)

    def leave(self, replica: ReplicaId) -> None:
        """Forget a replica; nothing if it is unknown."""
        variant = self._variant_of.pop(replica, None)
        if variant is not None:
            rows = self._rows(variant)
            del rows.views[replica]
            rows.stale.discard(replica)
            rows.rearrange()

    def snapshot(self, now_s: float) -> Fleet:
        """Give the fleet at this instant."""
        for replica in self._leases.take_changed():
            if replica in self._variant_of:
                rows = self._rows(self._variant_of[replica])
                view = rows.views[replica]
                self._put(rows, replica, view.report, draining=view.draining)
        return Fleet(
            observed_at_s=now_s,
            variants=self._variants,
            replicas=tuple(view for rows in self._models.values() for view in rows.views.values()),
            columns={model: rows.snapshot(self._variants) for model, rows in self._models.items()},
        )

    def _rows(self, variant: VariantName) -> _ModelRows:
        return self._models[self._variants[variant].model]

    def _put(
        self, rows: _ModelRows, replica: ReplicaId, report: ReplicaReport, *, draining: bool
    ) -> None:
        variant = self._variant_of[replica]
        rows.views[replica] = replica_view(
            replica, variant, report, self._leases, draining=draining
        )
        rows.stale.add(replica)
