"""What became of each request, written down as it ends, column by column.

Its own module because the columns of `loadtest.run.Requests` are filled in several processes,
and names of errors and variants must come out with the same numbers for all.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from loadtest.run import Requests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Kinds of errors that are told apart; a server that puts a number into each must not fill memory.
MOST_ERRORS = 100
OTHER_ERRORS = "other errors"
_TYPE_CODES = "ddddbhhhhihiiiddddd"


class Row(NamedTuple):
    """One request, as `loadtest.run.Requests` has it, with names in the place of numbers."""

    scheduled_at_s: float
    sent_at_s: float
    first_token_at_s: float
    ended_at_s: float
    ending: int
    error: str
    service_class: int
    tenant: int
    variant: str
    session: int
    turn: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    longest_gap_s: float
    energy_j: float
    gco2e: float
    server_ttft_s: float
    server_e2e_s: float


_ERROR, _VARIANT = Row._fields.index("error"), Row._fields.index("variant")


@dataclass(frozen=True, slots=True)
class Pages:
    """A ledger that is closed.

    Attributes:
        columns: as `Row` has them; errors and variants as numbers.
        errors: in the order of their numbers.
        variants: the same.
        gaps: between messages (µs, three digits) and how often, by service class.
        energy_method: that replies named last.

    """

    columns: tuple[NDArray[Any], ...]
    errors: tuple[str, ...]
    variants: tuple[str, ...]
    gaps: tuple[dict[int, int], ...]
    energy_method: str


class Ledger:
    """Written by one sender.

    Args:
        classes: how many service classes there are.

    """

    def __init__(self, classes: int) -> None:
        self._columns: tuple[array[Any], ...] = tuple(array(code) for code in _TYPE_CODES)
        self._errors: dict[str, int] = {}
        self._error_texts: list[str] = []
        self._variants: dict[str, int] = {}
        self._counts: tuple[dict[int, int], ...] = tuple({} for _ in range(classes))
        self.gaps: tuple[array[float], ...] = tuple(array("d") for _ in range(classes))
        """Newest gaps between messages (s), by service class; `condense` makes room."""
        self.energy_method = ""

    def add(self, row: Row) -> None:
        """Write down a request that has ended."""
        error, variant = self._error(row.error), self._number(self._variants, row.variant)
        for column, value in zip(self._columns, row, strict=True):
            column.append(value if type(value) is not str else 0)
        self._columns[_ERROR][-1] = error
        self._columns[_VARIANT][-1] = variant

    def condense(self) -> None:
        """Count the newest gaps, and forget them."""
        for gaps, counts in zip(self.gaps, self._counts, strict=True):
            if not gaps:
                continue
            micros = np.maximum(1.0, np.array(gaps) * 1e6)
            digits = 10.0 ** np.maximum(0.0, np.floor(np.log10(micros)) - 2.0)
            rounded = (np.rint(micros / digits) * digits).astype(np.int64)
            for value, count in zip(*np.unique(rounded, return_counts=True), strict=True):
                counts[int(value)] = counts.get(int(value), 0) + int(count)
            del gaps[:]

    def close(self) -> Pages:
        """Give everything."""
        self.condense()
        return Pages(
            tuple(np.array(column) for column in self._columns),
            tuple(self._error_texts),
            tuple(self._variants),
            self._counts,
            self.energy_method,
        )

    def _error(self, text: str) -> int:
        """Number an error; those that differ in figures only are of one kind."""
        if not text:
            return -1
        kind = re.sub(r"\d+(\.\d+)?", "#", text)
        if kind not in self._errors and len(self._errors) >= MOST_ERRORS:
            kind = text = OTHER_ERRORS
        if kind not in self._errors:
            self._errors[kind] = len(self._errors)
            self._error_texts.append(text)
        return self._errors[kind]

    @staticmethod
    def _number(names: dict[str, int], name: str) -> int:
        return names.setdefault(name, len(names)) if name else -1


def merged(pages: Sequence[Pages]) -> tuple[Requests, tuple[str, ...], tuple[str, ...]]:
    """Put ledgers together, in the order of the schedule.

    Returns:
        requests, errors and variants.

    """
    errors: dict[str, int] = {}
    variants: dict[str, int] = {}
    tables = []
    names = Row._fields
    for page in pages:
        columns = dict(zip(names, page.columns, strict=True))
        columns["error"] = _renumbered(columns["error"], page.errors, errors)
        columns["variant"] = _renumbered(columns["variant"], page.variants, variants)
        tables.append(columns)
    whole = {name: np.concatenate([table[name] for table in tables]) for name in names}
    order = np.lexsort((whole["turn"], whole["session"], whole["scheduled_at_s"]))
    requests = Requests(**{name: column[order] for name, column in whole.items()})
    return requests, tuple(errors), tuple(variants)


def _renumbered(
    column: NDArray[np.int16], names: Sequence[str], common: dict[str, int]
) -> NDArray[np.int16]:
    numbers = [common.setdefault(name, len(common)) for name in names]
    # The last place is what −1 finds.
    return np.array([*numbers, -1], np.int16)[column]
