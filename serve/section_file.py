"""A section read from a YAML file, and where in the file its mistakes are.

Its own module because the configuration and recipes are both sections, and people are told of
mistakes in either in the same words.
"""

from __future__ import annotations

import difflib
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from serve.config_section import FaultsError
from serve.yaml_lines import Location, YamlError, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from pydantic_core import ErrorDetails

    from serve.config_section import Section


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One thing to change in a configuration file.

    Attributes:
        line: counted from 1; 0 when the whole file is meant.
        key: spelt as people write it, e.g. models[0].variants[1].dtype.
        message: what is wrong and what to change.

    """

    line: int
    key: str
    message: str


class ConfigFileError(Exception):
    """A configuration file that cannot be used; carries every mistake found.

    Attributes:
        file: as the user named it.
        mistakes: in the order of their lines.

    """

    def __init__(self, file: str, mistakes: Iterable[Mistake]) -> None:
        self.file = file
        self.mistakes = tuple(sorted(set(mistakes)))
        super().__init__("\n".join(self._describe(mistake) for mistake in self.mistakes))

    def _describe(self, mistake: Mistake) -> str:
        place = f"{self.file}:{mistake.line}" if mistake.line else self.file
        return ": ".join(part for part in (place, mistake.key, mistake.message) if part)


def read(path: Path) -> str:
    """Read a file.

    Raises:
        ConfigFileError: it cannot be read.

    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigFileError(str(path), [Mistake(0, "", f"cannot be read: {reason}")]) from error


def parsed(text: str, file: str) -> tuple[Any, Mapping[Location, int]]:
    """Parse YAML; give its value, and the line of every location in it.

    Raises:
        ConfigFileError: it is no YAML, or names a key twice.

    """
    try:
        return parse(text)
    except YamlError as error:
        found = [Mistake(line, spell(at), message) for line, at, message in error.faults]
        raise ConfigFileError(file, found) from error


def spell(location: Location) -> str:
    """Spell a location as people write it, e.g. `models[0].variants[1].dtype`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


def mistakes(
    kind: type[Section], error: ValidationError, lines: Mapping[Location, int]
) -> Iterator[Mistake]:
    """Say of everything that is wrong with a value for `kind` on which line it is."""
    for details in error.errors(include_url=False):
        for location, message in _explain(kind, details):
            yield Mistake(line_of(lines, location), spell(location), message)


def line_of(lines: Mapping[Location, int], location: Location) -> int:
    """Give the line of a location, or of the nearest section that was written."""
    while location and location not in lines:
        location = location[:-1]
    return lines.get(location, 0)


def _explain(kind: type[Section], details: ErrorDetails) -> Iterator[tuple[Location, str]]:
    location: Location = details["loc"]
    match details["type"]:
        case "extra_forbidden":
            yield location, _unknown_key(kind, location)
        case "value_error" if isinstance(error := details["ctx"]["error"], FaultsError):
            for fault in error.faults:
                yield (*location, *_split(fault.key)), fault.message
        case "too_short" if details["input"]:
            return  # pydantic counts valid items only, and the others are reported themselves.
        case "missing":
            yield location, "must be given"
        case "model_type" | "dict_type":
            yield location, "must be a section of keys and values"
        case _:
            message = details["msg"]
            given = details["input"]
            shown = "" if isinstance(given, dict | list) else f", not {given!r}"
            yield location, f"{message[:1].lower()}{message[1:]}{shown}"


def _unknown_key(kind: type[Section], location: Location) -> str:
    key = str(location[-1])
    known = _known_keys(kind, location[:-1])
    close = difflib.get_close_matches(key, known, n=1)
    suggestion = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown key; {suggestion}Known: {', '.join(known)}"


def _split(key: str) -> Location:
    return tuple(int(part) if part.isdigit() else part for part in key.split(".") if part)


def _known_keys(kind: Any, location: Location) -> list[str]:  # noqa: ANN401
    """List the keys of the section at a location."""
    for part in location:
        kind = _inner(kind, part)
    section = next(_sections(kind), None)
    return list(section.model_fields) if section else []


def _inner(kind: Any, part: str | int) -> Any:  # noqa: ANN401 (an annotation can be anything)
    section = next(_sections(kind), None)
    if section is not None and not isinstance(part, int):
        field = section.model_fields.get(part)
        if field is not None:
            return field.annotation
    return kind


def _sections(kind: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401
    """Find the section in an annotation such as `tuple[Section, ...]` or `Section | None`."""
    if typing.get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for inner in typing.get_args(kind):
        yield from _sections(inner)
