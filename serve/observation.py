"""What of a call leaves the process as spans and metrics, once it has ended.

Its own module so that the request path knows nothing of OpenTelemetry; the path of a
token pays nothing for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cluster import telemetry
from serve.errors import JouleserveError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from serve.calls import Journey


class CallObserver:
    """Records every call that has ended; does next to nothing unless export is asked for."""

    def __init__(self, models: frozenset[str]) -> None:
        """Know the served models: other names would each begin a time series."""
        self._models = models
        self._instruments = telemetry.instruments()

    def __call__(self, journey: Journey) -> None:
        """Record one call."""
        self._instruments.record(self._record(journey))
        _trace(journey)

    def _record(self, journey: Journey) -> telemetry.RequestRecord:
        outcome, latency = journey.outcome, journey.latency()
        finish = outcome.finish if outcome else None
        energy = outcome.energy if outcome else None
        model = journey.call.model
        return telemetry.RequestRecord(
            outcome=_outcome(journey),
            model=model if model in self._models else "",
            variant=journey.decision.variant if journey.decision else "",
            service_class=journey.service_class,
            error=_error_kind(journey),
            prompt_tokens=len(journey.call.prompt_token_ids),
            cached_tokens=finish.cached_tokens if finish else 0,
            completion_tokens=journey.tokens,
            ttft_s=latency.ttft_s if journey.new_tokens else None,
            tpot_s=latency.tpot_s if journey.new_tokens > 1 else None,
            e2e_latency_s=latency.e2e_s if outcome else None,
            energy_j=energy.prefill_j + energy.decode_j if energy else None,
            energy_method=energy.method if energy else "",
        )


def _outcome(journey: Journey) -> Literal["completed", "cancelled", "failed", "rejected"]:
    if journey.error is None:
        return "completed"
    if journey.decision is None:
        return "rejected"
    return "failed" if isinstance(journey.error, Exception) else "cancelled"


def _error_kind(journey: Journey) -> str:
    error = journey.error
    if isinstance(error, JouleserveError):
        return error.kind
    return type(error).__name__ if isinstance(error, Exception) else ""


def _trace(journey: Journey) -> None:
    """One span for the call, and one each for what it went through, as far as it came."""
    call = journey.call
    root = telemetry.start_span(
        f"generate {call.model}",
        telemetry.extract(call.trace_headers),
        telemetry.epoch_ns(call.arrived_at_s),
        server=True,
    )
    if not root.is_recording():
        return
    root.set_attributes(_attributes(journey))
    _phase("admit", root, call.arrived_at_s, journey.admitted_s)
    _phase("route", root, journey.admitted_s, journey.routed_s, _routing(journey))
    _engine_phases(journey, root)
    if isinstance(journey.error, Exception):
        root.record_exception(journey.error)
        root.set_status(telemetry.ERROR)
    root.end()


def _engine_phases(journey: Journey, root: Span) -> None:
    """Queue, prefill and decode: the engine's own durations, anchored at the first token."""
    if not journey.tokens:
        return
    finish = journey.outcome.finish if journey.outcome else None
    prefill_s = finish.prefill_s if finish else 0.0
    computing_s = max(journey.routed_s, journey.first_token_s - prefill_s)
    _phase("queue", root, journey.routed_s, computing_s)
    _phase("prefill", root, computing_s, journey.first_token_s)
    _phase("decode", root, journey.first_token_s, journey.last_token_s)


def _phase(
    name: str,
    parent: Context | Span,
    start_s: float,
    end_s: float,
    attributes: telemetry.Attributes | None = None,
) -> None:
    if start_s and end_s:
        telemetry.record_span(
            name, parent, telemetry.epoch_ns(start_s), telemetry.epoch_ns(end_s), attributes
        )


def _routing(journey: Journey) -> dict[str, str | float]:
    decision = journey.decision
    if decision is None:
        return {}
    scores = {
        f"jouleserve.score.{candidate.replica}": candidate.score
        for candidate in decision.candidates
    }
    return {
        telemetry.VARIANT: decision.variant,
        telemetry.REPLICA: decision.replica,
        telemetry.REASON: decision.reason,
        **scores,
    }


def _attributes(journey: Journey) -> dict[str, str | int | float]:
    call, outcome = journey.call, journey.outcome
    attributes: dict[str, str | int | float] = {
        telemetry.MODEL: call.model,
        telemetry.OPERATION: "text_completion",
        telemetry.REQUEST_ID: call.request_id,
        telemetry.SERVICE_CLASS: journey.service_class,
        telemetry.OUTCOME: _outcome(journey),
        telemetry.INPUT_TOKENS: len(call.prompt_token_ids),
        telemetry.OUTPUT_TOKENS: journey.tokens,
    }
    if outcome is not None:
        attributes |= {
            telemetry.VARIANT: outcome.variant,
            telemetry.REPLICA: outcome.replica,
            telemetry.CACHED_TOKENS: outcome.finish.cached_tokens,
            telemetry.ENERGY_J: outcome.energy.prefill_j + outcome.energy.decode_j,
            telemetry.ENERGY_METHOD: outcome.energy.method,
        }
    return attributes
