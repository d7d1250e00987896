"""Energy shared equally among those who are in, however they come and go: exact, at once.

Its own module because its laws hold for anything that is shared so. A share is the difference
of a running integral, energy for each member, between coming and going. What an engine step
should have used is known at once, what it has used only later; so the integral has an open
end in modelled energy, a weight, which `close` turns into the energy that it stands for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Portion(NamedTuple):
    """What one has had.

    Attributes:
        booked_nj: energy.
        open_nj: weight, of which nobody knows yet what it stands for.

    """

    booked_nj: int
    open_nj: int


@dataclass(slots=True)
class _Mark:
    """Where the integral stood when a member came."""

    booked_nj: int
    open_nj: int


class EqualShares:
    """Who is in, and what each has had since it came."""

    def __init__(self) -> None:
        self._members: dict[str, _Mark] = {}
        self._booked_nj = 0  # The integral, for each member.
        self._open_nj = 0
        self._late: set[str] = set()  # Came after the last close.
        self._late_marks_nj = 0

    def __len__(self) -> int:
        """Count those who are in."""
        return len(self._members)

    def __contains__(self, name: str) -> bool:
        """Whether somebody is in."""
        return name in self._members

    @property
    def weight_nj(self) -> int:
        """The open weight of all who are in."""
        return len(self._members) * self._open_nj - self._late_marks_nj

    @property
    def booked_nj(self) -> int:
        """The energy of all who are in; takes time for each of them."""
        marks = sum(mark.booked_nj for mark in self._members.values())
        return len(self._members) * self._booked_nj - marks

    def join(self, name: str) -> None:
        """Let somebody in who is not."""
        self._members[name] = _Mark(self._booked_nj, self._open_nj)
        self._late.add(name)
        self._late_marks_nj += self._open_nj

    def leave(self, name: str) -> Portion:
        """Let somebody go; gives what they have had.

        Raises:
            KeyError: they are not in.

        """
        mark = self._members.pop(name)
        if name in self._late:
            self._late.remove(name)
            self._late_marks_nj -= mark.open_nj
        return Portion(self._booked_nj - mark.booked_nj, self._open_nj - mark.open_nj)

    def accrue(self, weight_nj: int) -> None:
        """Share a weight among all who are in; there must be one."""
        self._open_nj += weight_nj // len(self._members)

    def close(self, energy_nj: int) -> int:
        """Turn the open weights into energy, by their proportion; gives what is left of it.

        Less than a nanojoule a member is left, or all of it where there is no weight.
        """
        weight_nj = self.weight_nj
        given_nj = 0
        if weight_nj:
            common_nj = energy_nj * self._open_nj // weight_nj
            for name in self._late:
                mark = self._members[name]
                own_nj = energy_nj * (self._open_nj - mark.open_nj) // weight_nj
                mark.booked_nj += common_nj - own_nj
                given_nj += own_nj
            self._booked_nj += common_nj
            given_nj += common_nj * (len(self._members) - len(self._late))
        for name in self._late:
            self._members[name].open_nj = 0
        self._late.clear()
        self._late_marks_nj = 0
        self._open_nj = 0
        return energy_nj - given_nj
