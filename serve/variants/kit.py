"""Where a pipeline keeps things, whom it tells, and how it makes anything once.

Its own module because all parts of the pipeline share it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serve.atomic_directory import CannotMakeError, made_once
from serve.variants.chain import digest
from serve.variants.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from serve.variants.recipe import Recipe

# Another process may be making the same.
WAIT_S = 4 * 3600.0
STEP_FILE = "step.json"
"""What a step says of itself, beside its result."""


@dataclass(frozen=True, slots=True)
class Kit:
    """Where things are kept, and whom to tell.

    Attributes:
        cache: of everything that is made.
        report: told, in a line, how far it is.

    """

    cache: Path
    report: Callable[[str], None]

    @property
    def steps(self) -> Path:
        """Of the results of steps."""
        return self.cache / "variants" / "steps"

    @property
    def measurements(self) -> Path:
        """Of what was measured."""
        return self.cache / "variants" / "measurements"


@dataclass(frozen=True, slots=True)
class Bench:
    """What one recipe is worked on with.

    Attributes:
        recipe: to be followed.
        base: directory of the checkpoint that it begins with.
        texts: files to calibrate on, to measure with, and the tasks.
        kit: where things are kept.

    """

    recipe: Recipe
    base: Path
    texts: Mapping[str, Path]
    kit: Kit

    @property
    def text_names(self) -> dict[str, str]:
        """Give the files as jobs are told of them."""
        return {name: str(file) for name, file in self.texts.items()}


def once(target: Path, make: Callable[[Path], None], kit: Kit) -> Path:
    """Make a directory, or find it made; complete or not at all.

    Raises:
        BuildError: it cannot be written, or another process holds it too long.

    """
    try:
        return made_once(
            target,
            make,
            deadline_s=WAIT_S,
            on_wait=lambda: kit.report(f"waiting for another process that makes {target.name}"),
        )
    except CannotMakeError as error:
        raise BuildError(str(error)) from error


def content_key(checkpoint: Path) -> str:
    """Identify a checkpoint by its content."""
    return digest(hashes(checkpoint))


def hashes(checkpoint: Path) -> dict[str, str]:
    """Give the SHA-256 of every file, by name."""
    files = sorted(each for each in checkpoint.iterdir() if each.is_file())
    return {file.name: _sha256(file) for file in files if file.name != STEP_FILE}


def file_key(file: Path) -> str:
    """Identify a file by its content."""
    return _sha256(file)[:16]


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
