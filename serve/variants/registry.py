"""The variants that were made on this machine, by name.

Its own module because the pipeline writes it, and people and configurations read it.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import ValidationError

from serve.atomic_directory import full_disk
from serve.variants.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class UnknownVariantError(Exception):
    """No variant of that name was made here; the message names those that were."""


class CannotKeepError(Exception):
    """A manifest cannot be written; the message says what to change."""


class Registry:
    """Manifests in a directory, one file each."""

    def __init__(self, cache: Path) -> None:
        """Look into the cache directory; nothing is read yet."""
        self._directory = cache / "variants" / "made"
        self._steps = cache / "variants" / "steps"

    def save(self, manifest: Manifest) -> None:
        """Keep a manifest; one of that name is replaced at once or not at all.

        Raises:
            CannotKeepError: it cannot be written.

        """
        file = self._file(manifest.name)
        fresh = file.with_suffix(f".{os.getpid()}.new")
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with fresh.open("w", encoding="utf-8") as content:
                content.write(manifest.model_dump_json(indent=2) + "\n")
                content.flush()
                os.fsync(content.fileno())
            fresh.replace(file)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink()
            full = full_disk(self._directory, str(error))
            raise CannotKeepError(full or f"cannot write {file}: {error}") from error

    def load(self, name: str) -> Manifest:
        """Read the manifest of a variant.

        Raises:
            UnknownVariantError: there is none of that name, or it cannot be read.

        """
        try:
            return Manifest.model_validate_json(self._file(name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            known = ", ".join(self.names()) or "none"
            raise UnknownVariantError(
                f"no variant {name!r} was made here; made: {known}; jouleserve variants build"
                " makes one"
            ) from None
        except (OSError, ValidationError) as error:
            raise UnknownVariantError(
                f"the manifest {self._file(name)} cannot be read: {error}; build it again"
            ) from error

    def names(self) -> list[str]:
        """Name all that were made, in order."""
        return sorted(file.stem for file in self._directory.glob("*.json"))

    def all(self) -> Iterator[Manifest]:
        """Read all that can be read."""
        for name in self.names():
            try:
                yield self.load(name)
            except UnknownVariantError:
                continue

    def remove(self, name: str) -> list[Path]:
        """Forget a variant, and delete the steps that no other one is made of.

        Returns:
            the directories that were deleted.

        Raises:
            UnknownVariantError: there is none of that name.

        """
        gone = self.load(name)
        self._file(name).unlink()
        kept = {stage.key for manifest in self.all() for stage in manifest.stages}
        deleted = []
        for stage in gone.stages:
            directory = self._steps / f"{stage.kind}-{stage.key}"
            if stage.key not in kept and directory.is_dir():
                shutil.rmtree(directory)
                deleted.append(directory)
        return deleted

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.json"
