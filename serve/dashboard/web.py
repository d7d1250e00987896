"""The dashboard over HTTP: the page's files, and the events that fill it.

Its own module because a gateway and `jouleserve dashboard` answer the very same.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import TYPE_CHECKING

from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.responses import Response

from serve.errors import OverloadedError
from serve.http_errors import error_response

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from serve.dashboard.broadcast import Broadcast

INDEX = "index.html"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# The page is this folder and this server's events: no other origin, no inline code.
SAFETY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# A listener that takes nothing for so long is gone.
SEND_LIMIT_S = 20.0


class Dashboard:
    """Answers requests for the page; who may see the events is the caller's to say."""

    def __init__(self, broadcast: Broadcast) -> None:
        """Read the page's files.

        Args:
            broadcast: what the events come from.

        """
        self._broadcast = broadcast
        self._files = {
            file.name: file.read_bytes()
            for file in resources.files("serve.dashboard").joinpath("page").iterdir()
            if file.name[file.name.rfind(".") :] in KINDS
        }
        self._tags = {
            name: f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            for name, content in self._files.items()
        }

    def file(self, name: str, headers: Mapping[str, str]) -> Response:
        """Give one of the page's files, or say that the browser has it already."""
        content = self._files.get(name)
        if content is None:
            return Response(f"the dashboard has no {name}\n", 404, SAFETY, "text/plain")
        known = {**SAFETY, "ETag": self._tags[name], "Cache-Control": "no-cache"}
        if headers.get("if-none-match") == self._tags[name]:
            return Response(status_code=304, headers=known)
        return Response(content, headers=known, media_type=KINDS[name[name.rfind(".") :]])

    def events(self) -> Response:
        """Stream what the page shows, as long as it is looked at."""
        try:
            self._broadcast.admit()
        except OverloadedError as error:
            return error_response(error)
        return EventSourceResponse(
            self._told(), headers={"Cache-Control": "no-store"}, sep="\n", send_timeout=SEND_LIMIT_S
        )

    def close(self) -> None:
        """Take no more snapshots."""
        self._broadcast.close()

    async def _told(self) -> AsyncGenerator[ServerSentEvent, None]:
        listening = self._broadcast.listen()
        try:
            async for event, data in listening:
                yield ServerSentEvent(data, event=event, sep="\n")
        finally:
            await listening.aclose()
