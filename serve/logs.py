"""Our own log lines in Ray Serve's log of the process, each with the trace that it belongs to.

Its own module because every deployment does it once, and nothing else knows where logs go, or
how their lines look.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cluster.telemetry import current_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FORMAT_VARIABLE = "JOULESERVE_LOG_FORMAT"
_TEXT, _JSON = "text", "json"
_OURS, _SERVES = "jouleserve", "ray.serve"


def join_serve_log(environ: Mapping[str, str] = os.environ) -> None:
    """Write what our modules log where Ray Serve writes for this replica.

    With JOULESERVE_LOG_FORMAT=json every line there is a JSON object, Ray Serve's own included.

    Raises:
        ValueError: a format that does not exist.

    """
    as_json = _wants_json(environ)
    theirs = logging.getLogger(_SERVES).handlers
    ours = logging.getLogger(_OURS)
    ours.setLevel(logging.INFO)
    if as_json:
        for handler in theirs:
            # Ray's writes to a file through one that only buffers.
            for each in (handler, getattr(handler, "target", None)):
                if isinstance(each, logging.Handler):
                    each.setFormatter(JsonLines())
    if theirs:
        ours.handlers = [Lines(theirs, with_ids=not as_json)]
    # The root logger's handlers would write warnings a second time.
    ours.propagate = not ours.handlers


def _wants_json(environ: Mapping[str, str]) -> bool:
    wanted = environ.get(FORMAT_VARIABLE, "").strip().lower() or _TEXT
    if wanted not in {_TEXT, _JSON}:
        raise ValueError(f"{FORMAT_VARIABLE}={wanted} is not known; known are {_TEXT}, {_JSON}")
    return wanted == _JSON


class Lines(logging.Handler):
    """Hands records on to other handlers, with the ids of the trace that they belong to."""

    def __init__(self, handlers: Iterable[logging.Handler], *, with_ids: bool) -> None:
        """Hand on to these.

        Args:
            handlers: that write.
            with_ids: put the ids at the end of the message, for formats that have no place
                for them.

        """
        super().__init__()
        self._handlers = tuple(handlers)
        self._with_ids = with_ids

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one on."""
        ids = current_ids()
        if ids is not None:
            record.trace_id, record.span_id = ids
            if self._with_ids:
                record.msg = f"{record.getMessage()} trace_id={ids[0]} span_id={ids[1]}"
                record.args = None
        for handler in self._handlers:
            handler.handle(record)


class JsonLines(logging.Formatter):
    """Writes a record as one JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        ids = (getattr(record, "trace_id", None), getattr(record, "span_id", None))
        if all(ids):
            line["trace_id"], line["span_id"] = ids
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
