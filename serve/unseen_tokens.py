"""Which tokens an engine held back while a character was incomplete, from the character itself.

Its own module because it is pure, and because byte-level vocabularies spell bytes in their own way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Vocabulary:
    """The tokens of a byte-level vocabulary, by the bytes that they stand for."""

    def __init__(self, pieces: Mapping[str, int]) -> None:
        """Read a vocabulary: ids by piece, in the spelling that byte-level BPE has."""
        spelling = _bytes_of_characters()
        self._bytes = {
            number: bytes(spelling[each] for each in piece)
            for piece, number in pieces.items()
            if all(each in spelling for each in piece)
        }
        self._ids = {content: number for number, content in self._bytes.items()}

    def text(self) -> int:
        """Give a token that is text by itself.

        Raises:
            ValueError: there is none.

        """
        try:
            return next(filter(self.is_text, self._bytes))
        except StopIteration:
            raise ValueError("no token of this vocabulary is a character or more") from None

    def is_text(self, number: int) -> bool:
        """Tell whether a token is whole characters."""
        try:
            return bool(self._bytes.get(number, b"").decode())
        except UnicodeDecodeError:
            return False

    def before(self, last: int, content: bytes, count: int) -> list[int]:
        """Find the tokens that came before the last one of a piece of text.

        Args:
            last: id of the last token.
            content: bytes of all of them, the last one's included.
            count: of those that came before.

        Raises:
            ValueError: no such tokens make this text.

        """
        ending = self._bytes.get(last, b"")
        if not content.endswith(ending):
            raise ValueError(f"token {last} does not end the text that was generated")
        rest = content[: len(content) - len(ending)]
        found = next(self._parted(rest, count), None)
        if found is None:
            raise ValueError(f"no {count} tokens make the {len(rest)} bytes that were held back")
        return found

    def _parted(self, content: bytes, count: int) -> Iterator[list[int]]:
        """Part bytes into so many tokens, longer ones first, as byte pairs are merged."""
        if count == 0:
            if not content:
                yield []
            return
        for length in range(len(content) - count + 1, 0, -1):
            number = self._ids.get(content[:length])
            if number is not None:
                for rest in self._parted(content[length:], count - 1):
                    yield [number, *rest]


def _bytes_of_characters() -> dict[str, int]:
    """Give the byte of each character in which GPT-2's tokenizer spells bytes.

    Printable bytes are themselves; the others, in order, are the characters from 256 on
    (Radford et al. 2019, encoder.py of gpt-2).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {chr(byte): byte for byte in printable}
    return spelled | {chr(256 + place): byte for place, byte in enumerate(others)}
