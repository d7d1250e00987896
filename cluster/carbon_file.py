"""Carbon intensities in a file: of one grid by time, of several by region, or both.

Its own module because it is a format of ours, and because whoever writes such a file wants
to be told which line is wrong.

CSV with a header line, or JSON lines with the same names:

    gco2e_per_kwh     grams; required
    time              since when it holds, ISO 8601 with a time zone
    region            of which grid, where there are several
"""

from __future__ import annotations

import asyncio
import csv
import io
import itertools
import json
import math
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.carbon import MOST_G_PER_KWH, CarbonError, Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

_VALUE, _TIME, _REGION = "gco2e_per_kwh", "time", "region"
_MORE = "..."
_KNOWN = frozenset({_VALUE, _TIME, _REGION})
# A file of a year by the minute for one grid has 25 MB.
MOST_BYTES = 64 << 20


class Entry(NamedTuple):
    """A line.

    Attributes:
        line: counted from 1.
        figure: what it says.
        region: of which grid; empty where there is one.

    """

    line: int
    figure: Figure
    region: str


class FileSource:
    """Says what a file says; reads it again when it has changed."""

    name = "file"

    def __init__(self, file: Path, region: str = "") -> None:
        """Read it.

        Args:
            file: CSV or JSON lines, by its suffix.
            region: of which grid; needed where the file has several.

        Raises:
            CarbonError: it cannot be read, or a line is wrong; the message names it.

        """
        self._file = file
        self._region = region
        self._state: tuple[int, int] | None = None
        self._entries = self._read()

    async def figure(self, now_s: float) -> Figure:
        """Say what holds now.

        Raises:
            CarbonError: the file has become wrong, or begins later.

        """
        self._entries = await asyncio.to_thread(self._read)
        found = None
        for entry in self._entries:
            if entry.figure.at_s is None or entry.figure.at_s <= now_s:
                found = entry.figure
        if found is None:
            raise CarbonError(f"{self._file} begins later than now")
        return found

    def _read(self) -> tuple[Entry, ...]:
        try:
            stat = self._file.stat()
            state = (stat.st_mtime_ns, stat.st_size)
            if state == self._state:
                return self._entries
            if stat.st_size > MOST_BYTES:
                raise CarbonError(f"{self._file} has more than {MOST_BYTES >> 20} MiB")
            text = self._file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CarbonError(f"{self._file} cannot be read: {error}") from error
        entries = parsed(str(self._file), text, self._region)
        self._state = state
        return entries


def parsed(file: str, text: str, region: str = "") -> tuple[Entry, ...]:
    """Read the lines of one grid, in the order of time.

    Raises:
        CarbonError: a line is wrong; the message names it.

    """
    read = _json_rows if Path(file).suffix in {".json", ".jsonl"} else _csv_rows
    rows = read(file, text)
    entries = [_entry(file, line, row) for line, row in rows]
    regions = sorted({entry.region for entry in entries} - {""})
    if region:
        entries = [entry for entry in entries if entry.region == region]
    elif regions:
        raise CarbonError(f"{file} has the regions {_some(regions)}: name one, carbon.region")
    if not entries:
        known = f"; it has {_some(regions)}" if regions else ""
        raise CarbonError(f"{file} has no figure" + (f" of {region!r}{known}" if region else ""))
    for earlier, later in itertools.pairwise(entries):
        before, after = earlier.figure.at_s, later.figure.at_s
        if before is None or after is None or after <= before:
            message = "is not later than the line before; sort by time, one line for each"
            raise _wrong(file, later.line, message)
    return tuple(entries)


def _csv_rows(file: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text), restkey=_MORE, strict=True)
    try:
        header = reader.fieldnames or ()
        if _VALUE not in header or not _KNOWN.issuperset(header):
            names = ", ".join(sorted(_KNOWN))
            raise _wrong(file, 1, f"is no header of {names}; {_VALUE} has to be there")
        for row in reader:
            if _MORE in row:
                raise _wrong(file, reader.line_num, "has more fields than the header")
            yield reader.line_num, row
    except csv.Error as error:
        raise _wrong(file, reader.line_num, f"is no CSV: {error}") from error


def _json_rows(file: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _wrong(file, number, f"is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise _wrong(file, number, "is no JSON object; write one on each line")
        yield number, row


def _entry(file: str, line: int, row: dict[str, Any]) -> Entry:
    unknown = sorted(str(name) for name in set(row) - _KNOWN)
    if unknown or None in row.values():
        named = f"has {unknown[0]!r}, which is not known" if unknown else "lacks a value"
        raise _wrong(file, line, f"{named}; the names are {', '.join(sorted(_KNOWN))}")
    value = row.get(_VALUE)
    try:
        grams = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError):
        grams = math.nan
    if not 0 <= grams <= MOST_G_PER_KWH:
        message = f"{_VALUE} is {value!r}; give 0 to {MOST_G_PER_KWH:g} grams"
        raise _wrong(file, line, message)
    at_s = _seconds(file, line, row[_TIME]) if _TIME in row else None
    return Entry(line, Figure(grams, at_s), str(row.get(_REGION, "")))


def _seconds(file: str, line: int, text: object) -> float:
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        message = f"time is {text!r}; give date, time and zone, e.g. 2026-11-28T12:00:00Z"
        raise _wrong(file, line, message)
    return time.timestamp()


def _wrong(file: str, line: int, message: str) -> CarbonError:
    return CarbonError(f"{file}:{line}: {message}")


def _some(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
