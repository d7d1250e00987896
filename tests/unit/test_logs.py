"""Log lines: where Ray Serve writes, with the ids of the trace that they belong to."""

from __future__ import annotations

import io
import json
import logging
from logging.handlers import MemoryHandler
from typing import TYPE_CHECKING

import pytest
from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext

from serve.logs import join_serve_log

if TYPE_CHECKING:
    from collections.abc import Iterator

SPAN = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False))
logger = logging.getLogger("jouleserve.serve")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Give what Ray Serve's handlers write, which are those of a replica."""
    written = io.StringIO()
    to_file = logging.StreamHandler(written)
    to_file.setFormatter(logging.Formatter("INFO replica %(message)s"))
    rays, ours = logging.getLogger("ray.serve"), logging.getLogger("jouleserve")
    before = rays.handlers, ours.handlers, ours.propagate, ours.level
    rays.handlers, ours.handlers = [MemoryHandler(1, target=to_file)], []
    yield written
    rays.handlers, ours.handlers, ours.propagate, ours.level = before


@pytest.fixture
def in_span() -> Iterator[None]:
    token = context.attach(trace.set_span_in_context(SPAN))
    yield
    context.detach(token)


def test_a_line_outside_a_span_has_no_ids(written: io.StringIO) -> None:
    join_serve_log({})
    logger.info("gateway %s is ready", "g")
    assert written.getvalue() == "INFO replica gateway g is ready\n"


def test_a_line_within_a_span_ends_with_its_ids(written: io.StringIO, in_span: None) -> None:
    join_serve_log({})
    logger.info("100 %s done", "% of g")
    ids = f"trace_id={0xABC:032x} span_id={0xDEF:016x}"
    assert written.getvalue() == f"INFO replica 100 % of g done {ids}\n"


def test_every_line_is_an_object_where_that_is_asked(written: io.StringIO, in_span: None) -> None:
    join_serve_log({"JOULESERVE_LOG_FORMAT": "JSON"})
    logger.error("request %s\nfailed", "r", exc_info=RuntimeError("broken"))
    logging.getLogger("ray.serve").warning("theirs")
    ours, theirs = [json.loads(line) for line in written.getvalue().splitlines()]
    assert (ours["message"], ours["level"]) == ("request r\nfailed", "ERROR")
    assert (ours["trace_id"], ours["span_id"]) == (f"{0xABC:032x}", f"{0xDEF:016x}")
    assert "RuntimeError: broken" in ours["exception"]
    assert (theirs["logger"], theirs["message"]) == ("ray.serve", "theirs")


def test_joining_again_writes_nothing_twice(written: io.StringIO) -> None:
    join_serve_log({})
    join_serve_log({})
    logger.info("once")
    assert written.getvalue().count("once") == 1


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="xml is not known; known are text, json"):
        join_serve_log({"JOULESERVE_LOG_FORMAT": "xml"})
