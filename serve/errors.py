"""Everything that can go wrong between a client and an engine, each with its two statuses.

    JouleserveError
    ├── BadRequestError            INVALID_ARGUMENT    400   the request itself is at fault
    │   └── PromptTooLongError     INVALID_ARGUMENT    400
    ├── UnauthenticatedError       UNAUTHENTICATED     401   no key, or one that is not known
    ├── PromptTooLargeError        RESOURCE_EXHAUSTED  413   more bytes than a gateway reads
    ├── UnknownModelError          NOT_FOUND           404
    ├── UnattainableError          FAILED_PRECONDITION 422   no variant can ever satisfy it
    ├── OverloadedError            RESOURCE_EXHAUSTED  429   contended: try again later
    ├── NoReplicaError             UNAVAILABLE         503   nothing is awake to serve it
    ├── ReplicaLostError           UNAVAILABLE         503   the replica died under the stream
    ├── DeadlineError              DEADLINE_EXCEEDED   504
    └── EngineFailedError          INTERNAL            500

Its own module so that gRPC and HTTP say the same thing of the same fault.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")


class JouleserveError(Exception):
    """A fault that a client is told of; the message says what to change.

    Attributes:
        grpc_status: name of the gRPC status.
        http_status: HTTP status code.
        kind: machine-readable name in HTTP error bodies.

    """

    grpc_status: ClassVar[str] = "INTERNAL"
    http_status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal_error"


class BadRequestError(JouleserveError):
    """The request itself is at fault."""

    grpc_status = "INVALID_ARGUMENT"
    http_status = 400
    kind = "invalid_request_error"


class PromptTooLongError(BadRequestError):
    """The prompt leaves no room for a completion in the model's context."""


class UnauthenticatedError(JouleserveError):
    """Whoever calls has shown no key that is known here."""

    grpc_status = "UNAUTHENTICATED"
    http_status = 401
    kind = "unauthenticated"


class PromptTooLargeError(JouleserveError):
    """The request has more bytes than a gateway reads."""

    grpc_status = "RESOURCE_EXHAUSTED"
    http_status = 413
    kind = "request_too_large"


class UnknownModelError(JouleserveError):
    """No model of that name is served."""

    grpc_status = "NOT_FOUND"
    http_status = 404
    kind = "model_not_found"


class UnattainableError(JouleserveError):
    """No variant, awake or not, can ever satisfy the request."""

    grpc_status = "FAILED_PRECONDITION"
    http_status = 422
    kind = "unattainable"


class OverloadedError(JouleserveError):
    """Every replica that could serve it is full; try again later."""

    grpc_status = "RESOURCE_EXHAUSTED"
    http_status = 429
    kind = "overloaded"


class NoReplicaError(JouleserveError):
    """No replica that could serve it is awake."""

    grpc_status = "UNAVAILABLE"
    http_status = 503
    kind = "no_replica"


class ReplicaLostError(JouleserveError):
    """The replica died under the stream."""

    grpc_status = "UNAVAILABLE"
    http_status = 503
    kind = "replica_lost"


class DeadlineError(JouleserveError):
    """The client's deadline passed."""

    grpc_status = "DEADLINE_EXCEEDED"
    http_status = 504
    kind = "deadline_exceeded"


class EngineFailedError(JouleserveError):
    """The engine failed on a request that was not at fault."""


class EngineRejectedError(BadRequestError):
    """The engine refused the request."""


class EngineDeadError(ReplicaLostError):
    """The engine can serve no more."""


def known_model(name: str | None, models: Mapping[str, T]) -> T:
    """What is kept under a model's name.

    Raises:
        UnknownModelError: nothing.

    """
    if name is None or name not in models:
        served = ", ".join(sorted(models))
        raise UnknownModelError(f"model {name!r} is not served; served: {served}")
    return models[name]


def from_wire(name: str, message: str) -> JouleserveError:
    """The error that a replica named; EngineFailedError if the name is none of ours."""
    kind = globals().get(name)
    if isinstance(kind, type) and issubclass(kind, JouleserveError):
        return kind(message)
    return EngineFailedError(message)
