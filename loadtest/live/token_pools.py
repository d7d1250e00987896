"""Made-up prompts of a given length, by number: equal numbers give equal prompts, others differ.

A prompt is a cut from one long text that is made once, behind a head that spells its number.
So a prompt costs two slices, however long it is, and a sender can make it when it is due.

Its own module because what a made-up prompt consists of (token ids in two spellings, words) and
how it is cut are one matter, and what prompts a scenario wants is another (`prompts`).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, AnyStr, Generic

if TYPE_CHECKING:
    from collections.abc import Sequence

# Token ids that exist in the vocabulary of nearly every model and are no special tokens; as
# varints they take two bytes, as decimals five digits.
FIRST_TOKEN = 10_000
LAST_TOKEN = 16_383
POOL_UNITS = 1 << 16
# Heads of this many units tell any two numbers of 64 bits apart.
HEAD_UNITS = 8
# Knuth's multiplicative hash, for neighbours to begin far apart.
_SPREAD = 0x9E37_79B9_7F4A_7C15
_MASK = (1 << 64) - 1

# One token each, with the blank before it, in the vocabularies of common models.
WORDS = """
the of and to in is that for it was on are as with his they at be this from have or by one had not
but what all were when we there can an your which their said if do will each about how up out them
then she many some so these would other into has more her two like him see time could no make than
first been its who now people my made over did down only way find use may water long little very
after words called just where most know get through back much before go good new write our used me
man too any day same right look think also around another came come work three word must because
does part even place well such here take why things help put years different away again off went
old number great tell men say small every found still between name should home big give air line
set own under read last never us left end along while might next sound below saw something thought
both few those always looked show large often together asked house world going want school
important until form food keep children feet land side without boy once animals life enough took
sometimes four head above kind began almost live page got earth need far hand high year mother
light parts country father let night following picture being study second eyes soon times story
boys since white days ever paper hard near sentence better best across during today others however
sure means knew try told young miles sun ways thing whole hear example heard several change answer
room sea against top turned learn point city play toward five using himself usually
"""


class Pool(Generic[AnyStr]):
    """Units, joined into one text, of which any stretch can be cut.

    Args:
        units: at least some dozen, each unlike the others.
        empty: b"" or "".
        seed: of chance.

    """

    def __init__(self, units: Sequence[AnyStr], empty: AnyStr, seed: int) -> None:
        rng: random.Random = random.Random(seed)
        chosen: list[AnyStr] = list(units)
        chosen.extend(rng.choices(units, k=POOL_UNITS))
        self._text: AnyStr = empty.join(chosen)
        self._starts = [0]
        for unit in chosen:
            self._starts.append(self._starts[-1] + len(unit))
        self._alphabet = len(units)
        self.empty: AnyStr = empty
        """What nothing at all is."""

    def cut(self, number: int, count: int) -> AnyStr:
        """Give so many units that belong to a number.

        Args:
            number: of 64 bits; different ones give different texts, where there is room for a
                whole head.
            count: 0 or more.

        """
        pieces: list[AnyStr] = []
        rest = number
        for _ in range(min(HEAD_UNITS, count)):
            rest, digit = divmod(rest, self._alphabet)
            pieces.append(self._text[self._starts[digit] : self._starts[digit + 1]])
        count -= len(pieces)
        place = ((number + 1) * _SPREAD & _MASK) % POOL_UNITS
        while count > 0:
            taken = min(count, POOL_UNITS - place)
            begin = self._alphabet + place
            pieces.append(self._text[self._starts[begin] : self._starts[begin + taken]])
            count -= taken
            place = 0
        return self.empty.join(pieces)


def varints(seed: int) -> Pool[bytes]:
    """Make a pool of token ids as protobuf's packed fields hold them."""
    ids = range(FIRST_TOKEN, LAST_TOKEN + 1)
    return Pool([bytes((each & 0x7F | 0x80, each >> 7)) for each in ids], b"", seed)


def decimals(seed: int) -> Pool[str]:
    """Make a pool of token ids as a JSON list holds them, each with a comma behind it."""
    return Pool([f"{each}," for each in range(FIRST_TOKEN, LAST_TOKEN + 1)], "", seed)


def words(seed: int) -> Pool[str]:
    """Make a pool of words, each with a blank behind it; about a token each."""
    return Pool([f"{word} " for word in dict.fromkeys(WORDS.split())], "", seed)
