"""Read a recipe, and say of every mistake in it on which line it is.

Its own module because tests and the search make recipes without a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from serve.section_file import ConfigFileError, mistakes, parsed, read
from serve.variants.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path


def load(path: Path) -> Recipe:
    """Read a recipe file; relative paths in it are taken from its own directory.

    Raises:
        ConfigFileError: the file cannot be read, or holds mistakes.

    """
    return parse_recipe(read(path), file=str(path), directory=path.parent)


def parse_recipe(text: str, *, file: str, directory: Path) -> Recipe:
    """Do what `load` does with a text that was read already.

    Args:
        text: YAML.
        file: what to call it in messages.
        directory: relative paths start here.

    Raises:
        ConfigFileError: the text holds mistakes.

    """
    value, lines = parsed(text, file)
    _resolve(value, "base", "path", directory)
    _resolve(value, "calibration", "text", directory)
    try:
        return Recipe.model_validate(value)
    except ValidationError as error:
        raise ConfigFileError(file, mistakes(Recipe, error, lines)) from error


def _resolve(value: Any, section: str, key: str, directory: Path) -> None:  # noqa: ANN401
    """Make a relative path absolute, where the value has the expected shape."""
    inner = value.get(section) if isinstance(value, dict) else None
    if isinstance(inner, dict) and isinstance(inner.get(key), str):
        inner[key] = str((directory / inner[key]).expanduser().absolute())
