"""What the echo engine writes for a token where its variant has a tokenizer.

Its own module because only it needs `transformers`, and most echo engines have no text at all.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# A token decoded alone may lose the blank before it; behind this one it keeps it.
_BEFORE = "a"


def token_texts(checkpoint: str) -> Callable[[int], str]:
    """Read a tokenizer; give what turns one of its tokens into text, special ones included.

    Tokens that are part of a character only become U+FFFD, for the engine writes each by itself.

    Args:
        checkpoint: directory or hub id.

    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    before = tokenizer.encode(_BEFORE, add_special_tokens=False)
    prefix = tokenizer.decode(before)

    @cache  # As many as the vocabulary has.
    def text(token_id: int) -> str:
        return str(tokenizer.decode([*before, token_id])).removeprefix(prefix)

    return text
