"""The spans of a call in its gateway: the call, and under it what it went through.

    chat MODEL              server: from arrival to end
    ├── admit               until it was found servable; tokenizing included
    ├── route               until a replica was found, waiting included; who was considered
    └── serve               client: on one replica, whose own spans are under this one
        or resume           the same, after tokens that were given before

Its own module because it is loaded only where traces are exported.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cluster import telemetry_attributes as names
from cluster.telemetry_spans import Fault, headers_of, make_current
from serve.errors import JouleserveError
from serve.objectives_met import serverside
from serve.placing import MOST_TRACED
from serve.tracing import UNTRACED

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.telemetry_spans import Attributes, Opened, Spans, Value
    from scheduler.requests import ReplicaId
    from scheduler.routing import Decision
    from serve.calls import Call, Journey
    from serve.tracing import CallTrace

MOST_MESSAGE = 256


class CallTracer:
    """Begins the traces of a gateway's calls."""

    def __init__(
        self, spans: Spans, models: frozenset[str], outcome: Callable[[Journey], str]
    ) -> None:
        """Trace with these.

        Args:
            spans: writes them.
            models: served ones: names of clients' own making name no span.
            outcome: says how a call has ended.

        """
        self._spans = spans
        self._models = models
        self._outcome = outcome

    def __call__(self, call: Call) -> CallTrace:
        """Begin the trace of a call; of none that the sampler does not want."""
        name = f"{call.operation} {call.model}" if call.model in self._models else call.operation
        root = self._spans.begin(name, call.trace_headers)
        if root is None:
            return UNTRACED
        make_current(root)
        return TracedCall(self._spans, root, name, self._outcome)


class TracedCall:
    """Implements `tracing.CallTrace`: each stage is written when it is over."""

    recording = True

    def __init__(
        self, spans: Spans, root: Opened, name: str, outcome: Callable[[Journey], str]
    ) -> None:
        self._spans = spans
        self._root = root
        self._name = name
        self._outcome = outcome
        self._shift_ns = time.time_ns() - time.monotonic_ns()
        self._routing_since_s = 0.0
        self._attempt: _Attempt | None = None

    def routes(self, now_s: float) -> None:
        """Remember since when a replica is looked for."""
        self._routing_since_s = now_s

    def routed(self, decision: Decision, now_s: float) -> None:
        """Write who was considered, and chosen."""
        self._part("route", self._routing_since_s, now_s, _routing(decision))
        self._routing_since_s = 0.0

    def begins(self, journey: Journey, now_s: float) -> dict[str, str]:
        """Make the replica's spans parts of this attempt."""
        span = self._spans.child(self._root)
        decision = journey.chosen()
        attributes: dict[str, Value] = {
            names.VARIANT: decision.variant,
            names.REPLICA: decision.replica,
        }
        if journey.tokens:
            attributes[names.REPLAYED_TOKENS] = journey.tokens + len(journey.call.prompt_token_ids)
        name = "resume" if journey.tokens else "serve"
        self._attempt = _Attempt(span, name, now_s, attributes)
        return headers_of(span)

    def left(self, replica: ReplicaId, error: Exception, now_s: float) -> None:
        """Write the attempt that was lost."""
        self._leave(replica, now_s, _fault(error))

    def ended(self, journey: Journey, now_s: float) -> None:
        """Write what is not written yet, and the call itself."""
        call, error, outcome = journey.call, journey.error, journey.outcome
        fault = _fault(error) if isinstance(error, Exception) else None
        if journey.admitted_s:
            self._part("admit", call.arrived_at_s, journey.admitted_s, {})
        if self._routing_since_s:
            span = self._spans.child(self._root)
            self._write(span, "route", self._routing_since_s, now_s, {}, fault=fault)
        self._leave(None if outcome is None else outcome.replica, now_s, fault)
        self._spans.write(
            self._root,
            self._name,
            self._ns(call.arrived_at_s),
            self._ns(now_s),
            _attributes(journey, self._outcome(journey), fault),
            kind="server",
            fault=fault,
        )

    def _leave(self, replica: ReplicaId | None, now_s: float, fault: Fault | None) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return
        if replica is not None:  # Another than the chosen one may have taken it.
            attempt.attributes[names.REPLICA] = replica
        self._spans.write(
            attempt.span,
            attempt.name,
            self._ns(attempt.began_s),
            self._ns(now_s),
            attempt.attributes,
            kind="client",
            fault=fault,
        )

    def _part(self, name: str, start_s: float, end_s: float, attributes: Attributes) -> None:
        self._write(self._spans.child(self._root), name, start_s, end_s, attributes)

    def _write(  # noqa: PLR0913, PLR0917 (a span's parts)
        self,
        span: Opened,
        name: str,
        start_s: float,
        end_s: float,
        attributes: Attributes,
        fault: Fault | None = None,
    ) -> None:
        start_ns, end_ns = self._ns(start_s), self._ns(end_s)
        self._spans.write(span, name, start_ns, end_ns, attributes, fault=fault)

    def _ns(self, monotonic_s: float) -> int:
        """Convert to the time of day, which spans are stamped with."""
        return round(monotonic_s * 1e9) + self._shift_ns


class _Attempt:
    __slots__ = ("attributes", "began_s", "name", "span")

    def __init__(
        self, span: Opened, name: str, began_s: float, attributes: dict[str, Value]
    ) -> None:
        self.span = span
        self.name = name
        self.began_s = began_s
        self.attributes = attributes


def _fault(error: Exception) -> Fault:
    """Name a fault; of those that nobody foresaw not the message, which may quote anything."""
    if isinstance(error, JouleserveError):
        return Fault(error.kind, str(error)[:MOST_MESSAGE], serverside(error))
    return Fault(type(error).__name__, "")


def _routing(decision: Decision) -> dict[str, Value]:
    attributes: dict[str, Value] = {
        names.VARIANT: decision.variant,
        names.REPLICA: decision.replica,
        names.REASON: decision.reason,
    }
    shown = [each for each in decision.candidates[:MOST_TRACED] if not each.excluded]
    if shown:
        attributes |= {
            names.CANDIDATE_REPLICAS: [each.replica for each in shown],
            names.CANDIDATE_VARIANTS: [each.variant for each in shown],
            names.CANDIDATE_SCORES: [each.score for each in shown],
            names.CANDIDATES_EXCLUDED: decision.considered - decision.eligible,
        }
    return attributes


def _attributes(journey: Journey, ended: str, fault: Fault | None) -> dict[str, Value]:
    call, outcome = journey.call, journey.outcome
    attributes: dict[str, Value] = {
        names.OPERATION: call.operation,
        names.PROVIDER: names.PROVIDER_NAME,
        names.MODEL: call.model,
        names.REQUEST_ID: call.request_id,
        names.OUTCOME: ended,
        names.INPUT_TOKENS: len(call.prompt_token_ids),
        names.OUTPUT_TOKENS: journey.tokens,
    }
    if journey.service_class:
        attributes[names.SERVICE_CLASS] = journey.service_class
    if fault is not None:
        attributes[names.ERROR_TYPE] = fault.kind
    if journey.resumes:
        attributes[names.RESUMES] = journey.resumes
        attributes[names.REPLAYED_TOKENS] = journey.replayed_tokens
    if outcome is not None:
        attributes |= {
            names.RESPONSE_MODEL: outcome.variant,
            names.FINISH_REASONS: [outcome.finish.reason],
            names.CACHED_TOKENS: outcome.finish.cached_tokens,
            names.TTFT_S: outcome.latency.ttft_s,
            names.TPOT_S: outcome.latency.tpot_s,
            names.ENERGY_J: outcome.energy.energy_j,
            names.ENERGY_METHOD: outcome.energy.method,
        }
    return attributes
