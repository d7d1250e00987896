"""What became of each request, column by column.

Its own module because a run may have a million of them: columns take a tenth of the
memory of objects, and measures are taken of whole columns.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Status(IntEnum):
    """How a request ended."""

    COMPLETED = 0
    SHED = 1
    FAILED = 2


@dataclass(frozen=True, slots=True)
class OutcomeTable:
    """Requests that have ended, in the order in which they did; arrays of equal length.

    Attributes:
        arrived_at_s: when they came.
        status: a `Status`.
        service_class: index into the names of classes.
        variant: index into the names of variants; −1 where none served.
        prompt_tokens: of the request.
        cached_tokens: of the prompt, found in a prefix cache.
        completion_tokens: generated.
        ttft_s: time to the first token; NaN without one.
        e2e_latency_s: time to the last token; NaN unless completed.
        energy_j: attributed to the request.
        preemptions: how often it had to begin anew.

    """

    arrived_at_s: NDArray[np.float64]
    status: NDArray[np.int8]
    service_class: NDArray[np.int16]
    variant: NDArray[np.int16]
    prompt_tokens: NDArray[np.int32]
    cached_tokens: NDArray[np.int32]
    completion_tokens: NDArray[np.int32]
    ttft_s: NDArray[np.float64]
    e2e_latency_s: NDArray[np.float64]
    energy_j: NDArray[np.float64]
    preemptions: NDArray[np.int32]

    @property
    def tpot_s(self) -> NDArray[np.float64]:
        """Mean time per token after the first; 0 for completions of a single one."""
        gaps = np.maximum(self.completion_tokens - 1, 1)
        tpot_s: NDArray[np.float64] = (self.e2e_latency_s - self.ttft_s) / gaps
        return tpot_s

    def select(self, rows: NDArray[np.bool_]) -> OutcomeTable:
        """Keep some rows."""
        return OutcomeTable(*(getattr(self, name)[rows] for name in self.__slots__))


class Outcomes:
    """Collects them."""

    def __init__(self) -> None:
        self._columns: tuple[array[Any], ...] = tuple(array(code) for code in "dbhhiiidddi")

    def __len__(self) -> int:
        return len(self._columns[0])

    def add(  # noqa: PLR0913, PLR0917 (a row; named and packed it would take twice as long)
        self,
        arrived_at_s: float,
        status: int,
        service_class: int,
        variant: int,
        prompt_tokens: int,
        cached_tokens: int,
        completion_tokens: int,
        ttft_s: float,
        e2e_latency_s: float,
        energy_j: float,
        preemptions: int,
    ) -> None:
        """Add a row; see `OutcomeTable` for its columns."""
        columns = self._columns
        columns[0].append(arrived_at_s)
        columns[1].append(status)
        columns[2].append(service_class)
        columns[3].append(variant)
        columns[4].append(prompt_tokens)
        columns[5].append(cached_tokens)
        columns[6].append(completion_tokens)
        columns[7].append(ttft_s)
        columns[8].append(e2e_latency_s)
        columns[9].append(energy_j)
        columns[10].append(preemptions)

    def table(self) -> OutcomeTable:
        """Give all rows so far."""
        return OutcomeTable(
            *map(np.array, self._columns)  # Arrays tell numpy their types.
        )
