"""The Kubernetes API: the few calls that are needed, with JSON in and out and a time limit each.

Its own module because it is all that this room knows of the client library, which is untyped
where it matters; nobody else imports it. Objects are taken as JSON, for the library's models
take several times as long to make and refuse what a newer API server adds.
"""

from __future__ import annotations

import json
import math
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import urllib3

from cluster.kubernetes.errors import (
    ApiConflictError,
    ApiError,
    ApiForbiddenError,
    ApiGoneError,
    ApiMissingError,
    ApiUnreachableError,
)
from cluster.kubernetes.objects import FIELD_MANAGER
from cluster.kubernetes.reading import one_line, workers_of
from cluster.nodes import NodesUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cluster.kubernetes.floors import Operation
    from cluster.kubernetes.settings import KubernetesSettings

_ERRORS = {
    401: ApiForbiddenError,
    403: ApiForbiddenError,
    404: ApiMissingError,
    409: ApiConflictError,
    410: ApiGoneError,
}
# As many as there are mirrors, and whoever asks beside them.
_CONNECTIONS = 8
_JSON_PATCH = "application/json-patch+json"


class Page(NamedTuple):
    """All objects of one kind, and the version that they were seen at."""

    items: Sequence[Mapping[str, Any]]
    version: str


class Change(NamedTuple):
    """What a watch says of an object: that it is "ADDED", "MODIFIED" or "DELETED".

    "OPENED" comes first and without an object; "BOOKMARK" brings a version and nothing else.
    """

    kind: str
    item: Mapping[str, Any]


class Feed(Protocol):
    """Objects of one kind, to be listed and watched."""

    def list(self) -> Page:
        """Give them all."""

    def watch(self, version: str) -> Iterator[Change]:
        """Give what changes after a version, until the server ends the watch at its time."""

    def cancel(self) -> None:
        """End a watch that another thread waits on."""


class KubernetesApi:
    """Calls an API server on behalf of one RayCluster."""

    def __init__(self, settings: KubernetesSettings) -> None:
        """Read the way into the cluster; nobody is called yet.

        Raises:
            NodesUnknownError: there is no such way.

        """
        from kubernetes import client

        self._settings = settings
        self._client: Any = client.ApiClient(_configuration(settings.kubeconfig))
        self._core = client.CoreV1Api(self._client)
        self._custom = client.CustomObjectsApi(self._client)
        self._raycluster = {
            "group": "ray.io",
            "version": "v1",
            "namespace": settings.namespace,
            "plural": "rayclusters",
        }

    def close(self) -> None:
        """Let go of every connection."""
        self._client.close()

    # ── feeds ───────────────────────────────────────────────────────────────

    def nodes(self) -> Feed:
        """Give all nodes of the cluster."""
        return _ApiFeed("nodes", self._core.list_node, {}, self._settings)

    def workers(self) -> Feed:
        """Give the RayCluster's pods."""
        query = {
            "namespace": self._settings.namespace,
            "label_selector": workers_of(self._settings.raycluster),
        }
        return _ApiFeed("pods", self._core.list_namespaced_pod, query, self._settings)

    def events(self) -> Feed:
        """Give what is told of the RayCluster."""
        name = self._settings.raycluster
        query = {
            "namespace": self._settings.namespace,
            "field_selector": f"involvedObject.kind=RayCluster,involvedObject.name={name}",
        }
        return _ApiFeed("events", self._core.list_namespaced_event, query, self._settings)

    def rayclusters(self) -> Feed:
        """Give the RayCluster alone; by its name, so that rights may be narrowed to it."""
        query = {**self._raycluster, "field_selector": f"metadata.name={self._settings.raycluster}"}
        listing = self._custom.list_namespaced_custom_object
        return _ApiFeed("rayclusters", listing, query, self._settings)

    # ── single objects ──────────────────────────────────────────────────────

    def node(self, name: str, limit_s: float) -> Mapping[str, Any]:
        """Read a node."""
        return _call(f"read node {name}", self._core.read_node, limit_s, name=name)

    def patch_node(self, name: str, operations: Sequence[Operation], limit_s: float) -> None:
        """Change a node."""
        what = f"change node {name}"
        _call(what, self._core.patch_node, limit_s, name=name, **_written(operations))

    def raycluster(self, limit_s: float) -> Mapping[str, Any]:
        """Read the RayCluster."""
        reading = self._custom.get_namespaced_custom_object
        what = f"read RayCluster {self._settings.owner}"
        return _call(what, reading, limit_s, **self._raycluster, name=self._settings.raycluster)

    def patch_raycluster(self, operations: Sequence[Operation], limit_s: float) -> None:
        """Change the RayCluster."""
        writing = self._custom.patch_namespaced_custom_object
        what = f"change RayCluster {self._settings.owner}"
        query = {**self._raycluster, "name": self._settings.raycluster, **_written(operations)}
        _call(what, writing, limit_s, **query)


class _ApiFeed:
    """Implements `Feed` over one of the library's list methods."""

    def __init__(
        self,
        name: str,
        method: Callable[..., Any],
        query: Mapping[str, str],
        settings: KubernetesSettings,
    ) -> None:
        self._name = name
        self._method = method
        self._query = query
        self._settings = settings
        self._answer: Any = None

    def list(self) -> Page:
        """Give them all."""
        limit_s = self._settings.request_timeout_s
        what = f"list {self._name}"
        page = _call(what, self._method, limit_s, **self._query)
        with _told(what):
            return Page(page.get("items") or (), page["metadata"]["resourceVersion"])

    def watch(self, version: str) -> Iterator[Change]:
        """Give what changes after a version, until the server ends the watch at its time."""
        limit_s = self._settings.request_timeout_s
        with _told(f"watch {self._name}"):
            answer = self._method(
                **self._query,
                watch=True,
                allow_watch_bookmarks=True,
                resource_version=version,
                timeout_seconds=math.ceil(self._settings.watch_s),
                _preload_content=False,
                _request_timeout=(limit_s, self._settings.watch_s + limit_s),
            )
            self._answer = answer
            try:
                yield Change("OPENED", {})
                for line in _lines(answer):
                    yield _change(line, self._name)
            finally:
                self._answer = None
                answer.close()

    def cancel(self) -> None:
        """End a watch that another thread waits on; that one sees the connection end."""
        answer = self._answer
        if answer is not None:
            # The other thread may be letting go of it at this very moment.
            with suppress(Exception):
                answer.shutdown()


def _configuration(kubeconfig: str) -> Any:  # noqa: ANN401
    """Find the way into the cluster: a file, the pod's service account, or KUBECONFIG."""
    from kubernetes import client, config

    configuration = client.Configuration()
    ways: Any = config  # Its functions say nothing of their types.
    try:
        if kubeconfig:
            ways.load_kube_config(kubeconfig, client_configuration=configuration)
        else:
            try:
                ways.load_incluster_config(client_configuration=configuration)
            except config.ConfigException:
                ways.load_kube_config(client_configuration=configuration)
    except (config.ConfigException, OSError) as error:
        raise NodesUnknownError(f"no way into Kubernetes: {one_line(str(error))}") from error
    # Whoever calls knows better when to try again, and counts it against a deadline.
    configuration.retries = False
    configuration.connection_pool_maxsize = _CONNECTIONS
    return configuration


def _call(
    what: str, method: Callable[..., Any], limit_s: float, **query: object
) -> Mapping[str, Any]:
    with _told(what):
        answer = method(**query, _preload_content=False, _request_timeout=limit_s)
        return _mapping(answer.data)


def _written(operations: Sequence[Operation]) -> dict[str, object]:
    # The value of a removal is null, which nobody looks at.
    body = [each._asdict() for each in operations]
    return {"body": body, "field_manager": FIELD_MANAGER, "_content_type": _JSON_PATCH}


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell errors of a call as this room's; headers, which hold the token, are left out."""
    from kubernetes.client.exceptions import ApiException

    try:
        yield
    except ApiException as error:
        unknown = ApiError if error.status else ApiUnreachableError
        kind = _ERRORS.get(error.status or 0, unknown)
        raise kind(f"cannot {what}: {error.status} {_reason(error)}") from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise ApiUnreachableError(f"cannot {what}: {one_line(str(error))}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ApiError(f"cannot {what}: what came back is no such thing: {error!r}") from error


def _reason(error: Any) -> str:  # noqa: ANN401
    """Take the message out of the Status that comes with an error."""
    try:
        message = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        message = error.reason
    return one_line(str(message))


def _mapping(data: bytes) -> Mapping[str, Any]:
    parsed = json.loads(data)
    if not isinstance(parsed, dict):
        raise TypeError
    return parsed


def _lines(answer: Any) -> Iterator[bytes]:  # noqa: ANN401
    """Cut a stream into lines as they come."""
    rest = b""
    for chunk in answer.stream(amt=None, decode_content=True):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line for line in whole if line.strip())


def _change(line: bytes, name: str) -> Change:
    event = _mapping(line)
    item = event.get("object") or {}
    if event.get("type") == "ERROR":
        kind = _ERRORS.get(item.get("code") or 0, ApiError)
        raise kind(f"cannot go on watching {name}: {one_line(str(item.get('message')))}")
    return Change(str(event.get("type")), item)
