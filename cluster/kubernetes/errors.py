"""What can go wrong between this room and a Kubernetes API server.

    NodesUnknownError             (cluster.nodes: the caller goes on without)
    ├── NotManagedError           nobody has said that we may touch it
    └── ApiError                  the API server says no, or something unexpected
        ├── ApiUnreachableError   it does not answer
        ├── ApiForbiddenError     our service account may not
        ├── ApiMissingError       there is no such object
        ├── ApiConflictError      somebody else has written first
        └── ApiGoneError          the history that a watch asks for is forgotten

Its own module because the client raises them, and mirrors and provider act on each.
"""

from __future__ import annotations

from cluster.nodes import NodesUnknownError


class NotManagedError(NodesUnknownError):
    """The object does not carry the mark that lets us change it; says how to put it there."""


class ApiError(NodesUnknownError):
    """A call has failed; says which, and why."""


class ApiUnreachableError(ApiError):
    """The API server does not answer."""


class ApiForbiddenError(ApiError):
    """The service account lacks a right."""


class ApiMissingError(ApiError):
    """There is no such object."""


class ApiConflictError(ApiError):
    """The object is not what it was when it was read."""


class ApiGoneError(ApiError):
    """The API server has forgotten the version to go on from."""
