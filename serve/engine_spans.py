"""The spans of a request in its replica: how long it queued, was read, and was written.

    engine VARIANT          server: from acceptance to end; a part of the gateway's `serve`
    ├── queue               by the engine's own record, as are the next two
    ├── prefill
    └── decode

Its own module because it is loaded only where traces are exported.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster import telemetry_attributes as names
from cluster.telemetry_spans import Fault, headers_of, make_current
from serve.errors import JouleserveError
from serve.objectives_met import serverside
from serve.tracing import UNTRACED_REQUEST

if TYPE_CHECKING:
    from cluster.telemetry_spans import Opened, Spans, Value
    from serve.engine import EngineFinish, EngineRequest
    from serve.frames import RequestEnergy
    from serve.tracing import EngineTrace


class RequestTracer:
    """Begins the traces of a replica's requests."""

    def __init__(self, spans: Spans, variant: str) -> None:
        self._spans = spans
        self._name = f"engine {variant}"

    def __call__(self, request: EngineRequest) -> EngineTrace:
        """Begin a part of the gateway's trace; of none that the gateway did not trace."""
        span = self._spans.join(request.trace_headers)
        if span is None:
            return UNTRACED_REQUEST
        make_current(span)
        return TracedRequest(self._spans, span, self._name, request)


class TracedRequest:
    """Implements `tracing.EngineTrace`."""

    def __init__(self, spans: Spans, span: Opened, name: str, request: EngineRequest) -> None:
        self._spans = spans
        self._span = span
        self._name = name
        self._began_ns = time.time_ns()
        self._outcome = "cancelled"
        self._fault: Fault | None = None
        self._attributes: dict[str, Value] = {names.REQUEST_ID: request.request_id}
        if request.replayed_token_ids:
            self._attributes[names.REPLAYED_TOKENS] = request.context_tokens

    def request(self, request: EngineRequest) -> EngineRequest:
        """Make whatever the engine traces by itself a part of this."""
        return replace(request, trace_headers=headers_of(self._span))

    def finished(self, finish: EngineFinish, energy: RequestEnergy) -> None:
        """Write what the engine did, one thing after the other."""
        self._outcome = "completed"
        self._attributes |= {
            names.INPUT_TOKENS: finish.prompt_tokens,
            names.CACHED_TOKENS: finish.cached_tokens,
            names.FINISH_REASONS: [finish.reason],
            names.ENERGY_J: energy.energy_j,
            names.ENERGY_METHOD: energy.method,
        }
        start_ns = self._began_ns
        for name, lasted_s in (
            ("queue", finish.queue_s),
            ("prefill", finish.prefill_s),
            ("decode", finish.decode_s),
        ):
            end_ns = start_ns + round(lasted_s * 1e9)
            self._spans.part(self._span, name, start_ns, end_ns)
            start_ns = end_ns

    def failed(self, error: Exception) -> None:
        """Note why; of faults that nobody foresaw not the message, which may quote anything."""
        self._outcome = "failed"
        known = isinstance(error, JouleserveError)
        kind = error.kind if isinstance(error, JouleserveError) else type(error).__name__
        self._fault = Fault(kind, str(error) if known else "", serverside(error))

    def ended(self, tokens: int) -> None:
        """Write the whole."""
        self._attributes |= {names.OUTCOME: self._outcome, names.OUTPUT_TOKENS: tokens}
        if self._fault is not None:
            self._attributes[names.ERROR_TYPE] = self._fault.kind
        self._spans.write(
            self._span,
            self._name,
            self._began_ns,
            time.time_ns(),
            self._attributes,
            kind="server",
            fault=self._fault,
        )
