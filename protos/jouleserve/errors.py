"""What a call can fail with on the client's side, one class for each thing to do about it.

    JouleserveClientError            any other status
    ├── BadRequestError              INVALID_ARGUMENT    change the request
    ├── UnauthenticatedError         UNAUTHENTICATED     show an API key of the cluster
    ├── RequestTooLargeError         RESOURCE_EXHAUSTED  send less
    ├── UnknownModelError            NOT_FOUND           ask `models()` what is served
    ├── UnattainableError            FAILED_PRECONDITION loosen the objectives
    ├── OverloadedError              RESOURCE_EXHAUSTED  try again later
    ├── UnavailableError             UNAVAILABLE         nothing serves it now, or it died
    ├── DeadlineExceededError        DEADLINE_EXCEEDED   give it more time
    ├── CallCancelledError           CANCELLED           this side gave up
    ├── InternalError                INTERNAL, UNKNOWN   a fault of the server
    └── IncompleteStreamError        –                   it ended well, yet something is missing

Its own module because both clients, and whoever catches what they raise, need it.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

# Trailing metadata in which a gateway may name the fault more closely than the status does.
KIND_KEY = "jouleserve-error"
# How a call ends, by gRPC's own words, whose connection breaks under it.
RESETS = (
    "rst_stream",
    "stream removed",
    "socket closed",
    "connection reset",
    "broken pipe",
    "recvmsg",
    "goaway",
    "no status received",
    # A proxy's answer in HTTP, where its gateway vanished before it had said anything.
    "http2 header with status: 500",
    "http2 header with status: 502",
    "http2 header with status: 503",
    "http2 header with status: 504",
)


@dataclass(frozen=True, slots=True)
class Partial:
    """What a stream has given before it failed.

    Attributes:
        text: all of it.
        token_ids: all of them, in order; they are right as far as they go.

    """

    text: str = ""
    token_ids: tuple[int, ...] = ()


class JouleserveClientError(Exception):
    """A call that failed.

    Attributes:
        status: name of the gRPC status.
        message: what the server (or gRPC itself) says of it.
        kind: the server's machine-readable name of the fault; empty when it gave none.
        partial: what the stream has given before, over all its calls.

    """

    partial = Partial()

    def __init__(self, message: str, *, status: str = "UNKNOWN", kind: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind

    def __str__(self) -> str:
        """Status and message in one line."""
        return f"{self.status}: {self.message}"


class BadRequestError(JouleserveClientError):
    """The request itself is at fault; the message says what to change."""


class UnauthenticatedError(JouleserveClientError):
    """The gateway asks for an API key: there was none, or it is not known there."""


class RequestTooLargeError(JouleserveClientError):
    """The request, or a reply, has more bytes than the other side reads."""


class UnknownModelError(JouleserveClientError):
    """No model of that name is served."""


class UnattainableError(JouleserveClientError):
    """No variant, awake or not, can ever satisfy the request."""


class OverloadedError(JouleserveClientError):
    """Every replica that could serve it is full; try again later."""


class UnavailableError(JouleserveClientError):
    """No gateway was reached, no replica is awake, or who gave the stream died."""


class DeadlineExceededError(JouleserveClientError):
    """`timeout_s` passed before the reply was complete."""


class CallCancelledError(JouleserveClientError):
    """The call was cancelled on this side, or its client was closed."""


class InternalError(JouleserveClientError):
    """The server failed on a request that was not at fault."""


class IncompleteStreamError(JouleserveClientError):
    """What arrived is not a whole reply, although the call did not fail."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status="OK")


_BY_STATUS: dict[grpc.StatusCode, type[JouleserveClientError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: BadRequestError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.NOT_FOUND: UnknownModelError,
    grpc.StatusCode.FAILED_PRECONDITION: UnattainableError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CallCancelledError,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNKNOWN: InternalError,
}

# What gRPC makes of that, other than UNAVAILABLE, and what then tells it from a fault of the
# server or a cancellation by this side: a proxy, too, cancels the streams of a gateway that died.
_RESET_STATUSES = {
    grpc.StatusCode.CANCELLED: ("rst_stream",),
    grpc.StatusCode.INTERNAL: RESETS,
    grpc.StatusCode.UNKNOWN: RESETS,
}


def from_rpc(error: grpc.RpcError) -> JouleserveClientError:
    """Give the typed error for a failed gRPC call."""
    status, message = error.code(), error.details() or ""
    # Absent where gRPC itself ended the call; its stubs know it neither as that nor as pairs.
    metadata: dict[str, Any] = dict(cast("Any", error.trailing_metadata()) or ())
    kind = str(metadata.get(KIND_KEY, ""))
    words = () if kind else _RESET_STATUSES.get(status, ())
    if any(each in message.lower() for each in words):
        status = grpc.StatusCode.UNAVAILABLE
    family = _BY_STATUS.get(status, JouleserveClientError)
    # RESOURCE_EXHAUSTED also stands for a message over gRPC's own limit, which no retry cures.
    if family is OverloadedError and (
        kind == "request_too_large" or "message larger than max" in message
    ):
        family = RequestTooLargeError
    return family(message, status=status.name, kind=kind)


def given_up(partial: Partial | None = None) -> CallCancelledError:
    """Give the error for a call that this side has ended after this much."""
    error = CallCancelledError("cancelled on this side", status="CANCELLED")
    error.partial = partial or error.partial
    return error


@contextmanager
def typed() -> Iterator[None]:
    """Turn what gRPC raises within the block into the typed error."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc(error) from error
