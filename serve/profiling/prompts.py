"""Prompts that no cache has seen: tokens drawn anew each time.

Its own module because a prompt that is found in a prefix cache costs nothing, and would be
measured as if prompts did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from serve.profiling.errors import ProfilingError

if TYPE_CHECKING:
    from random import Random


class TokenRange(NamedTuple):
    """Token ids that are words of the model: from `low` up to but without `high`.

    By default, those that are words in every vocabulary of some size.
    """

    low: int = 1000
    high: int = 20_000

    @classmethod
    def parse(cls, text: str) -> TokenRange:
        """Read LOW:HIGH.

        Raises:
            ProfilingError: it is something else, or has too few ids to draw from.

        """
        low, _, high = text.partition(":")
        if not (low.isdecimal() and high.isdecimal() and int(low) + 100 <= int(high)):
            raise ProfilingError(
                f"token ids {text!r} are not LOW:HIGH with 100 ids at least, e.g. 1000:20000"
            )
        return cls(int(low), int(high))

    def draw(self, rng: Random, tokens: int) -> list[int]:
        """Draw a prompt."""
        return rng.choices(range(self.low, self.high), k=tokens)
