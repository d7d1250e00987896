"""Spans that are written once they are over, and the context that is handed on before that.

Its own module because a span is all that a request pays for tracing: one that is begun through
the SDK and then filled costs four times what a finished one does that is made at once (10 µs
without its export). Sampler, limits of the queue and exporter are the SDK's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

Value: TypeAlias = "str | bool | int | float | Sequence[str] | Sequence[float]"
Attributes: TypeAlias = "Mapping[str, Value]"
Kind = Literal["internal", "server", "client"]

TRACEPARENT = "traceparent"

_TRACE_CONTEXT = TraceContextTextMapPropagator()
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_KINDS = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
}
_UNSET = Status(StatusCode.UNSET)


class Opened(NamedTuple):
    """A span that has begun and is not written yet; others may be its children already.

    Attributes:
        context: its own ids.
        parent: whose child it is; None for the first of a trace.

    """

    context: SpanContext
    parent: SpanContext | None


class Fault(NamedTuple):
    """What went wrong while a span lasted.

    Attributes:
        kind: short name of the fault.
        message: for people; nothing of a prompt.
        ours: the span counts as failed; a fault of the client's does not fail the server's span.

    """

    kind: str
    message: str
    ours: bool = True


class Spans:
    """Writes the spans of a process."""

    def __init__(self, provider: TracerProvider, processor: SpanProcessor) -> None:
        """Write with these.

        Args:
            provider: whose sampler, ids and resource are used.
            processor: is given every finished span.

        """
        self._sampler = provider.sampler
        self._ids = provider.id_generator
        self._resource = provider.resource
        self._processor = processor
        self._scope = InstrumentationScope("jouleserve.serve")

    def begin(self, name: str, headers: Mapping[str, str]) -> Opened | None:
        """Begin what answers a call from outside, or a trace; None if the sampler wants none.

        Args:
            name: for the sampler.
            headers: the caller's, among which W3C's may be, in lower case.

        """
        parent = _remote(headers)
        trace_id = self._ids.generate_trace_id() if parent is None else parent.trace_id
        above = Context()
        if parent is not None:
            above = trace.set_span_in_context(trace.NonRecordingSpan(parent), above)
        verdict = self._sampler.should_sample(above, trace_id, name)
        if verdict.decision is not Decision.RECORD_AND_SAMPLE:
            return None
        own = SpanContext(
            trace_id,
            self._ids.generate_span_id(),
            is_remote=False,
            trace_flags=_SAMPLED,
            trace_state=verdict.trace_state,
        )
        return Opened(own, parent)

    def join(self, headers: Mapping[str, str]) -> Opened | None:
        """Begin what is part of another process's trace; None where that one is not sampled."""
        parent = _remote(headers)
        if parent is None or not parent.trace_flags.sampled:
            return None
        return self._under(parent)

    def child(self, parent: Opened) -> Opened:
        """Begin a part of a span."""
        return self._under(parent.context)

    def write(  # noqa: PLR0913 (a span's parts)
        self,
        span: Opened,
        name: str,
        start_ns: int,
        end_ns: int,
        attributes: Attributes,
        *,
        kind: Kind = "internal",
        fault: Fault | None = None,
    ) -> None:
        """Have a span exported, now that it is over.

        Args:
            span: as it was begun.
            name: of few different ones.
            start_ns: since the epoch.
            end_ns: since the epoch.
            attributes: that it keeps; not to be changed any more.
            kind: how it stands to other processes.
            fault: what went wrong, if anything did.

        """
        events: tuple[Event, ...] = ()
        status = _UNSET
        if fault is not None:
            detail = {"exception.type": fault.kind, "exception.message": fault.message}
            events = (Event("exception", detail, end_ns),)
            if fault.ours:
                status = Status(StatusCode.ERROR, fault.message)
        self._processor.on_end(
            ReadableSpan(
                name,
                span.context,
                span.parent,
                self._resource,
                attributes,
                events,
                kind=_KINDS[kind],
                status=status,
                start_time=start_ns,
                end_time=max(start_ns, end_ns),
                instrumentation_scope=self._scope,
            )
        )

    def part(
        self,
        parent: Opened,
        name: str,
        start_ns: int,
        end_ns: int,
        attributes: Attributes | None = None,
    ) -> None:
        """Have a part of a span exported that nothing else is part of."""
        self.write(self.child(parent), name, start_ns, end_ns, attributes or {})

    def _under(self, parent: SpanContext) -> Opened:
        own = SpanContext(
            parent.trace_id,
            self._ids.generate_span_id(),
            is_remote=False,
            trace_flags=_SAMPLED,
            trace_state=parent.trace_state,
        )
        return Opened(own, parent)


def headers_of(span: Opened) -> dict[str, str]:
    """Give W3C's headers, which make whoever reads them a part of this span."""
    own = span.context
    parent = f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"
    if not own.trace_state:
        return {TRACEPARENT: parent}
    return {TRACEPARENT: parent, "tracestate": own.trace_state.to_header()}


def make_current(span: Opened) -> None:
    """Let what the task does from here on know its span: log lines, and instrumented libraries."""
    context.attach(
        trace.set_span_in_context(trace.NonRecordingSpan(span.context), context.get_current())
    )


def _remote(headers: Mapping[str, str]) -> SpanContext | None:
    """Read a caller's context; None where there is none that can be read."""
    if TRACEPARENT not in headers:
        return None
    found = trace.get_current_span(_TRACE_CONTEXT.extract(headers, Context())).get_span_context()
    return found if found.is_valid else None
