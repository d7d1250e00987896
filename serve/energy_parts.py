"""Whose a replica's energy is, all of it, at one instant.

Its own module because it is the law of the books in one value: whoever keeps them, reports them
or tests them speaks of these parts and of nothing else.
"""

from __future__ import annotations

from typing import NamedTuple


class EnergyParts(NamedTuple):
    """A replica's energy since it started, and whose it is; nanojoules.

    Attributes:
        energy_nj: all of it.
        settled_nj: of requests that finished: the sum of what replies say.
        dropped_nj: of requests that were aborted or failed.
        unfinished_nj: shared out so far to requests that are open.
        unattributed_nj: of steps with no request on record, and of prompt tokens that had to
            be computed twice.
        idle_nj: that no step used.
        pending_nj: counted and not shared out yet; below 0 while a counter is behind.

    """

    energy_nj: int
    settled_nj: int
    dropped_nj: int
    unfinished_nj: int
    unattributed_nj: int
    idle_nj: int
    pending_nj: int

    @property
    def residual_nj(self) -> int:
        """What is on no account, or on two; 0 unless the books are wrong."""
        return self.energy_nj - sum(self[1:])
