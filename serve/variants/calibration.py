"""Whether a text is enough for what a recipe's steps learn from it.

Its own module because it alone counts tokens before anything is loaded, with the base's own
tokenizer: a guess would be wrong for whoever writes Chinese, or code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve.variants.job import HELD_BACK, parted
from serve.variants.recipe import DistillStep
from serve.variants.shape import TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from serve.variants.recipe import Recipe

# A token is rarely shorter than this: for bases whose tokenizer is in another kind of file.
_BYTES_PER_TOKEN = 3


class TextError(Exception):
    """The text cannot be read; the message says what to change."""


def content_of(text: Path) -> str:
    """Read a calibration text.

    Raises:
        TextError: it is not there, or no text.

    """
    try:
        return text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(
            f"calibration.text: {text} cannot be read ({error}); give a file of UTF-8 text"
        ) from error


def find_text_faults(recipe: Recipe, base: Path, text: Path, context: int | None) -> Iterator[str]:
    """Say what is wrong with the calibration text, or asks too much of it.

    Args:
        recipe: to be followed.
        base: whose tokenizer reads it.
        text: to calibrate on.
        context: tokens that the base reads at once, where it says so.

    """
    try:
        content = content_of(text)
    except TextError as error:
        yield str(error)
        return
    lengths = {"calibration.tokens": recipe.calibration.tokens}
    taught = {
        f"steps[{place}].distill.tokens": step.settings.tokens
        for place, step in enumerate(recipe.steps)
        if isinstance(step.settings, DistillStep)
    }
    for key, length in (lengths | taught).items():
        if context is not None and length > context:
            yield f"{key}: the base reads {context} tokens at once; lower it from {length}"
            return
    needed = max([recipe.calibration.tokens, *(each / HELD_BACK for each in taught.values())])
    try:
        there = _counted(parted(content), base, int(needed) + 1)
    except ValueError as error:
        yield f"base: {error}"
        return
    if there < recipe.calibration.tokens:
        yield (
            f"calibration.text: {text} has {there} tokens ({len(content)} characters), too few for"
            f" one sample of {recipe.calibration.tokens}; give more text, or lower"
            " calibration.tokens"
        )
    for key, length in taught.items():
        if int(there * HELD_BACK) < length:
            yield (
                f"{key}: {length} are more than the tenth of calibration.text that is kept back,"
                f" {there * HELD_BACK:.0f} tokens of {text}; lower it, or give more text"
            )


def _counted(passages: Sequence[str], base: Path, most: int) -> int:
    """Count the tokens of a text, up to so many."""
    file = base / TOKENIZER
    if not file.is_file():
        return sum(len(passage) for passage in passages) // _BYTES_PER_TOKEN
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # That is all that it raises.
        raise ValueError(f"{file} cannot be read ({error}); fetch the checkpoint again") from error
    count = 0
    for passage in passages:
        count += len(tokenizer.encode(f"{passage}\n\n", add_special_tokens=False).ids)
        if count >= most:
            break
    return count
