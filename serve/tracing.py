"""What the paths of a request tell whoever traces it, and the one that nobody traces.

Its own module so that dispatcher and replica speak of a request's stages, and know neither
OpenTelemetry nor whether anyone listens; without tracing this is all that is loaded of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduler.requests import ReplicaId
    from scheduler.routing import Decision
    from serve.calls import Call, Journey
    from serve.engine import EngineFinish, EngineRequest
    from serve.frames import RequestEnergy


# Begins the trace of a call that has come to a gateway.
Tracer: TypeAlias = "Callable[[Call], CallTrace]"
# Begins the trace of a request that has come to a replica.
EngineTracer: TypeAlias = "Callable[[EngineRequest], EngineTrace]"


class CallTrace(Protocol):
    """The trace of one call in a gateway; all times are on the gateway's monotonic clock."""

    @property
    def recording(self) -> bool:
        """Whether somebody will read it: what it says may cost something."""

    def routes(self, now_s: float) -> None:
        """A replica is looked for."""

    def routed(self, decision: Decision, now_s: float) -> None:
        """One was found."""

    def begins(self, journey: Journey, now_s: float) -> dict[str, str]:
        """It is sent to a replica; gives the trace headers that go with it."""

    def left(self, replica: ReplicaId, error: Exception, now_s: float) -> None:
        """That replica was lost under it."""

    def ended(self, journey: Journey, now_s: float) -> None:
        """It is over."""


class EngineTrace(Protocol):
    """The trace of one request in a replica."""

    def request(self, request: EngineRequest) -> EngineRequest:
        """Give the request as the engine is to see it: its own spans belong to this one."""

    def finished(self, finish: EngineFinish, energy: RequestEnergy) -> None:
        """The engine has given its last token."""

    def failed(self, error: Exception) -> None:
        """It has failed."""

    def ended(self, tokens: int) -> None:
        """It is over, however it ended; so many tokens were generated here."""


class Untraced:
    """A call that nobody traces: what its client sent goes on to the engine."""

    recording = False

    def routes(self, now_s: float) -> None:
        """Say nothing."""

    def routed(self, decision: Decision, now_s: float) -> None:
        """Say nothing."""

    def begins(self, journey: Journey, now_s: float) -> dict[str, str]:
        """Pass on what the client sent."""
        return journey.call.trace_headers

    def left(self, replica: ReplicaId, error: Exception, now_s: float) -> None:
        """Say nothing."""

    def ended(self, journey: Journey, now_s: float) -> None:
        """Say nothing."""


class UntracedRequest:
    """A request of a replica that nobody traces."""

    def request(self, request: EngineRequest) -> EngineRequest:
        """Give it as it is."""
        return request

    def finished(self, finish: EngineFinish, energy: RequestEnergy) -> None:
        """Say nothing."""

    def failed(self, error: Exception) -> None:
        """Say nothing."""

    def ended(self, tokens: int) -> None:
        """Say nothing."""


UNTRACED = Untraced()
UNTRACED_REQUEST = UntracedRequest()


def nobody(_call: Call) -> CallTrace:
    """Trace no call."""
    return UNTRACED


def nobody_here(_request: EngineRequest) -> EngineTrace:
    """Trace no request of a replica."""
    return UNTRACED_REQUEST
