"""Recorded traffic, read from the formats in which it was published.

Its own module because formats come and go, and what is replayed stays the same: when a
request came, how long it was, and which prefix it shares with others.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from loadtest.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Tokens that a hash id of Mooncake's traces stands for.
MOONCAKE_BLOCK_TOKENS = 512
# vLLM's own block, for traces without prefixes.
PLAIN_BLOCK_TOKENS = 16

_AZURE_COLUMNS = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
# Azure's time stamps have seven decimals; Python reads six.
_AZURE_STAMP_LENGTH = 26


class TraceRequest(NamedTuple):
    """One request of a trace.

    Attributes:
        at_s: when it came, from the start of the trace.
        prompt_tokens: of it.
        completion_tokens: that were generated.
        hash_ids: of its prompt's blocks; equal prefixes have equal ids.
        service_class: by name; empty if the trace does not say.

    """

    at_s: float
    prompt_tokens: int
    completion_tokens: int
    hash_ids: tuple[int, ...] = ()
    service_class: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their arrival.

    Attributes:
        name: for reports.
        requests: at least one.
        block_tokens: that a hash id stands for; also the KV block that suits it.

    """

    name: str
    requests: tuple[TraceRequest, ...]
    block_tokens: int = PLAIN_BLOCK_TOKENS

    @property
    def duration_s(self) -> float:
        """From the start to the last request."""
        return self.requests[-1].at_s

    @property
    def mean_prompt_tokens(self) -> float:
        """Over all requests."""
        return sum(request.prompt_tokens for request in self.requests) / len(self.requests)

    @property
    def mean_completion_tokens(self) -> float:
        """Over all requests."""
        return sum(request.completion_tokens for request in self.requests) / len(self.requests)


def read_trace(path: Path) -> Trace:
    """Read a trace: Azure's LLM inference trace (.csv), or Mooncake's (.jsonl).

    Raises:
        TraceError: the file cannot be read, with the line at fault.

    """
    readers = {".csv": _read_azure, ".jsonl": _read_mooncake}
    reader = readers.get(path.suffix)
    if reader is None:
        raise TraceError(path, 0, f"unknown format; known: {', '.join(readers)}")
    try:
        requests = tuple(reader(path))
    except OSError as error:
        raise TraceError(path, 0, error.strerror or "cannot be read") from error
    except UnicodeDecodeError as error:
        raise TraceError(path, 0, "is not UTF-8 text") from error
    if not requests:
        raise TraceError(path, 0, "has no request")
    hashed = any(request.hash_ids for request in requests)
    block_tokens = MOONCAKE_BLOCK_TOKENS if hashed else PLAIN_BLOCK_TOKENS
    return Trace(path.stem, tuple(sorted(requests)), block_tokens)


def _read_azure(path: Path) -> Iterator[TraceRequest]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if header != _AZURE_COLUMNS:
            raise TraceError(path, 1, f"the columns must be {','.join(_AZURE_COLUMNS)}")
        start: datetime | None = None
        for row in rows:
            line = rows.line_num
            if len(row) != len(_AZURE_COLUMNS):
                raise TraceError(path, line, f"has {len(row)} columns, not {len(_AZURE_COLUMNS)}")
            try:
                stamp = datetime.fromisoformat(row[0][:_AZURE_STAMP_LENGTH])
                prompt, completion = int(row[1]), int(row[2])
            except ValueError as error:
                raise TraceError(path, line, str(error)) from error
            start = start or stamp
            at_s = (stamp - start).total_seconds()
            yield _checked(path, line, TraceRequest(at_s, prompt, completion))


def _read_mooncake(path: Path) -> Iterator[TraceRequest]:
    with path.open(encoding="utf-8") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                record = json.loads(text)
                request = TraceRequest(
                    at_s=float(record["timestamp"]) / 1e3,
                    prompt_tokens=int(record["input_length"]),
                    completion_tokens=int(record["output_length"]),
                    hash_ids=tuple(int(each) for each in record["hash_ids"]),
                )
            except KeyError as error:
                raise TraceError(path, line, f"lacks {error.args[0]!r}") from error
            except (ValueError, TypeError) as error:
                raise TraceError(path, line, f"is no request: {error}") from error
            yield _checked(path, line, request)


def _checked(path: Path, line: int, request: TraceRequest) -> TraceRequest:
    if request.at_s < 0:
        raise TraceError(path, line, "comes before the first request")
    if request.prompt_tokens < 1 or request.completion_tokens < 1:
        raise TraceError(path, line, "has no prompt or no completion")
    return request
