"""Energy of prompt tokens, from the step that computed them until their request says how many.

Its own module because engines tell how many tokens a step computed, and only at a request's end
how many were its own: until then they are one pool, handed out by number.
"""

from __future__ import annotations

from serve.shares import Portion

_NOTHING = Portion(0, 0)


class PrefillPool:
    """Tokens that were computed and not claimed yet.

    Attributes:
        tokens: in number.
        booked_nj: their energy.
        open_nj: weight, of which nobody knows yet what energy it stands for.

    """

    def __init__(self) -> None:
        self.tokens = 0
        self.booked_nj = 0
        self.open_nj = 0

    def add(self, tokens: int, weight_nj: int) -> None:
        """Put in what a step has computed."""
        self.tokens += tokens
        self.open_nj += weight_nj

    def take(self, tokens: int) -> Portion:
        """Take out so many tokens, or all that there are."""
        if tokens <= 0 or not self.tokens:
            return _NOTHING
        tokens = min(tokens, self.tokens)
        taken = Portion(
            self.booked_nj * tokens // self.tokens, self.open_nj * tokens // self.tokens
        )
        self.tokens -= tokens
        self.booked_nj -= taken.booked_nj
        self.open_nj -= taken.open_nj
        return taken

    def close(self, energy_nj: int) -> None:
        """Turn the open weight into energy."""
        self.booked_nj += energy_nj
        self.open_nj = 0
