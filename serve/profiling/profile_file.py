"""A profile as a file: what `jouleserve calibrate --write` makes and a configuration names.

Its own module because it is written by one command and read by every configuration that names
it, with its mistakes told by their lines as those of configurations are.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import yaml
from pydantic import ValidationError

from serve.profiling.errors import ProfilingError
from serve.section_file import ConfigFileError, mistakes, parsed, read
from serve.step_profiles import StepProfile

if TYPE_CHECKING:
    from pathlib import Path

_HEADER = """\
# What was measured of {variant!r}: {measured_on}.
# A configuration reads it by `profile_file: {name}` in that variant, or holds it as `profile:`.
"""


def check_place(path: Path) -> None:
    """Refuse a place where nothing can be written, before minutes are spent on what is to be.

    Raises:
        ProfilingError: its directory is not there, or not ours.

    """
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ProfilingError(
            f"--write: {path} cannot be written; give a file in a directory of yours"
        )


def write(profile: StepProfile, path: Path, variant: str) -> None:
    """Write a profile.

    Raises:
        OSError: the file cannot be written.

    """
    path.write_text(text(profile, variant, path.name), encoding="utf-8")


def text(profile: StepProfile, variant: str, name: str) -> str:
    """Give the text of a profile's file."""
    content = profile.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    header = _HEADER.format(variant=variant, measured_on=profile.measured_on, name=name)
    return header + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def load(path: Path) -> StepProfile:
    """Read a profile.

    Raises:
        ConfigFileError: it cannot be read, or is none; carries every mistake with its line.

    """
    value, lines = parsed(read(path), str(path))
    try:
        return StepProfile.model_validate(value)
    except ValidationError as error:
        raise ConfigFileError(str(path), mistakes(StepProfile, error, lines)) from error
