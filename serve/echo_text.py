"""What the echo engine writes for a token where its variant has a tokenizer.

Its own module because only it needs the library `tokenizers` (and that alone, so that an echo
stays light), and most echo engines have no text at all.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = "tokenizer.json"
# A token decoded alone may lose the blank before it; behind this one it keeps it.
_BEFORE = "a"


def token_texts(checkpoint: str, revision: str | None = None) -> Callable[[int], str]:
    """Read a tokenizer; give what turns one of its tokens into text, special ones included.

    Tokens that are part of a character only become U+FFFD, for the engine writes each by itself.

    Args:
        checkpoint: directory with tokenizer.json, or hub id.
        revision: of the hub's repository; by default its own default branch.

    """
    from tokenizers import Tokenizer

    file = Path(checkpoint, FILE)
    if file.is_file():
        tokenizer = Tokenizer.from_file(str(file))
    else:
        tokenizer = Tokenizer.from_pretrained(checkpoint, revision=revision or "main")
    before = tokenizer.encode(_BEFORE, add_special_tokens=False).ids
    prefix = tokenizer.decode(before, skip_special_tokens=False)

    @cache  # As many as the vocabulary has.
    def text(token_id: int) -> str:
        decoded = tokenizer.decode([*before, token_id], skip_special_tokens=False)
        return str(decoded).removeprefix(prefix)

    return text
