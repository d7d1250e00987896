"""A collector that keeps the spans it is sent over OTLP/HTTP.

Its own module because it must listen before the cluster starts that sends to it.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource
    from opentelemetry.proto.trace.v1.trace_pb2 import Span


SERVICE = "service.name"


class Received(NamedTuple):
    """A span, and the service whose process has sent it."""

    service: str
    span: Span


class OtlpCollector:
    """Listens on a free port of this machine while it is entered."""

    def __init__(self) -> None:
        self._spans: list[Received] = []
        self._lock = threading.Lock()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces":
                    collector.take(body)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def take(self, body: bytes) -> None:
        """Keep the spans of one export."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            self._spans += [
                Received(_service(resource.resource), span)
                for resource in request.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            ]

    @property
    def count(self) -> int:
        """How many spans have come so far."""
        with self._lock:
            return len(self._spans)

    def trace(self, trace_id: str) -> list[Received]:
        """Give the spans of a trace that have come so far."""
        with self._lock:
            return [each for each in self._spans if each.span.trace_id.hex() == trace_id]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _service(resource: Resource) -> str:
    (name,) = (each.value.string_value for each in resource.attributes if each.key == SERVICE)
    return name
