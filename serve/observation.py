"""What of a call leaves the process, once it has ended: counted where metrics are exported.

Its own module because the request path knows nothing of what is exported; the path of a
token pays nothing for it, and a call that nobody counts nothing either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.telemetry_attributes import GATEWAY, TENANT
from cluster.telemetry_metrics import TENANT_EMISSIONS_G, TENANT_ENERGY_J, observe_all
from cluster.telemetry_requests import RequestRecord, Requests, requests
from serve.errors import JouleserveError
from serve.objectives_met import judged
from serve.tracing import nobody, nobody_here

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.telemetry import Exports
    from cluster.telemetry_metrics import Reading
    from cluster.telemetry_requests import Objectives, Outcome
    from serve.calls import Journey
    from serve.energy_books import Account, EnergyBooks
    from serve.tracing import EngineTracer, Tracer


class CallObserver:
    """Counts every call that has ended."""

    def __init__(self, models: frozenset[str], counts: Requests) -> None:
        """Count them.

        Args:
            models: the served ones: other names would each begin a time series.
            counts: of the process.

        """
        self._models = models
        self._counts = counts

    def __call__(self, journey: Journey) -> None:
        """Count one call."""
        outcome, latency = journey.outcome, journey.latency()
        finish = outcome.finish if outcome else None
        energy = outcome.energy if outcome else None
        model = journey.call.model
        self._counts.record(
            RequestRecord(
                outcome=outcome_of(journey),
                model=model if model in self._models else "",
                variant=journey.decision.variant if journey.decision else "",
                service_class=journey.service_class,
                operation=journey.call.operation,
                error=_error_kind(journey),
                objectives=_objectives(journey),
                prompt_tokens=len(journey.call.prompt_token_ids),
                cached_tokens=finish.cached_tokens if finish else 0,
                completion_tokens=journey.tokens,
                ttft_s=latency.ttft_s if journey.new_tokens else None,
                tpot_s=latency.tpot_s if journey.new_tokens > 1 else None,
                e2e_latency_s=latency.e2e_s if outcome else None,
                energy_j=energy.energy_j if energy else None,
                energy_method=energy.method if energy else "",
            )
        )


def observer(exports: Exports, models: frozenset[str]) -> CallObserver | None:
    """Give who counts calls; None where nobody is to be told."""
    return CallObserver(models, requests()) if exports.measures else None


def observe_books(books: EnergyBooks, gateway: str) -> None:
    """Have the accounts of tenants read whenever metrics are exported, in the exporter's thread."""

    def readings(value: Callable[[Account], float]) -> list[Reading]:
        totals: dict[str, float] = {}
        for key, account in tuple(books):
            totals[key.tenant] = totals.get(key.tenant, 0.0) + value(account)
        return [(total, {TENANT: name, GATEWAY: gateway}) for name, total in totals.items()]

    observe_all(TENANT_ENERGY_J, lambda: readings(lambda each: each.energy_j))
    observe_all(TENANT_EMISSIONS_G, lambda: readings(lambda each: each.gco2e))


def tracer(exports: Exports, models: frozenset[str]) -> Tracer:
    """Give who traces the calls of a gateway."""
    if exports.spans is None:
        return nobody
    from serve.call_spans import CallTracer

    return CallTracer(exports.spans, models, outcome_of)


def engine_tracer(exports: Exports, variant: str) -> EngineTracer:
    """Give who traces the requests of a replica."""
    if exports.spans is None:
        return nobody_here
    from serve.engine_spans import RequestTracer

    return RequestTracer(exports.spans, variant)


def outcome_of(journey: Journey) -> Outcome:
    """Say how a call has ended."""
    if journey.error is None:
        return "completed"
    if journey.decision is None:
        return "rejected"
    return "failed" if isinstance(journey.error, Exception) else "cancelled"


def _objectives(journey: Journey) -> Objectives:
    met = judged(journey)
    if met is None:
        return ""
    return "met" if met.within_both else "missed"


def _error_kind(journey: Journey) -> str:
    error = journey.error
    if isinstance(error, JouleserveError):
        return error.kind
    return type(error).__name__ if isinstance(error, Exception) else ""
