"""Read a configuration file, and say of every mistake in it on which line it is.

Its own module because YAML, line numbers and spelling suggestions concern the file and
not the values: tests, Helm and `serve.application` make the same values without one.
"""

from __future__ import annotations

import difflib
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ValidationError

from serve import engine_options
from serve.checkpoints import CheckpointError, check
from serve.config import CheckpointConfig, Config
from serve.config_section import FaultsError
from serve.yaml_lines import Location, YamlError, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pydantic_core import ErrorDetails


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


def load(path: Path) -> Config:
    """Read a configuration file and check everything that can be checked before anything starts.

    Relative checkpoint paths are taken from the file's own directory.

    Raises:
        ConfigFileError: the file cannot be read, or holds mistakes.

    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigFileError(str(path), [Mistake(0, "", f"cannot be read: {reason}")]) from error
    return parse_config(text, file=str(path), directory=path.parent)


def parse_config(text: str, *, file: str, directory: Path) -> Config:
    """Do what `load` does with a text that was read already.

    Args:
        text: YAML.
        file: what to call it in messages.
        directory: relative checkpoint paths start here.

    Raises:
        ConfigFileError: the text holds mistakes.

    """
    try:
        value, lines = parse(text)
    except YamlError as error:
        mistakes = [Mistake(line, spell(at), message) for line, at, message in error.faults]
        raise ConfigFileError(file, mistakes) from error
    _resolve_paths(value, directory)
    outside = list(_outside_mistakes(value, lines))
    try:
        config = Config.model_validate(value)
    except ValidationError as error:
        raise ConfigFileError(file, [*_validation_mistakes(error, lines), *outside]) from error
    if outside:
        raise ConfigFileError(file, outside)
    return config


def schema() -> dict[str, Any]:
    """Give the JSON schema of a configuration file, for editors."""
    return Config.model_json_schema()


def dump(config: Config) -> str:
    """Write a configuration as YAML, every default spelt out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def spell(location: Location) -> str:
    """Spell a location as people write it, e.g. `models[0].variants[1].dtype`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


# ---------------------------------------------------------------------------------------- mistakes


def _validation_mistakes(
    error: ValidationError, lines: Mapping[Location, int]
) -> Iterator[Mistake]:
    for details in error.errors(include_url=False):
        for location, message in _explain(details):
            yield Mistake(_line(lines, location), spell(location), message)


def _explain(details: ErrorDetails) -> Iterator[tuple[Location, str]]:
    location: Location = details["loc"]
    match details["type"]:
        case "extra_forbidden":
            yield location, _unknown_key(location)
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


def _unknown_key(location: Location) -> str:
    key = str(location[-1])
    known = _known_keys(location[:-1])
    close = difflib.get_close_matches(key, known, n=1)
    suggestion = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown key; {suggestion}Known: {', '.join(known)}"


def _split(key: str) -> Location:
    return tuple(int(part) if part.isdigit() else part for part in key.split(".") if part)


def _line(lines: Mapping[Location, int], location: Location) -> int:
    """Give the line of a location, or of the nearest section that was written."""
    while location and location not in lines:
        location = location[:-1]
    return lines.get(location, 0)


def _known_keys(location: Location) -> list[str]:
    """List the keys of the section at a location."""
    kind: Any = Config
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


# ------------------------------------------------------------------------------- what is on disk


def _resolve_paths(value: object, directory: Path) -> None:
    """Make relative checkpoint paths absolute, wherever the value has the expected shape."""
    for _, variant in _variants(value):
        for checkpoint in _dicts([variant.get("checkpoint")]):
            path = checkpoint.get("path")
            if isinstance(path, str) and path:
                checkpoint["path"] = str((directory / Path(path).expanduser()).absolute())


def _outside_mistakes(value: object, lines: Mapping[Location, int]) -> Iterator[Mistake]:
    """Find what refers to something that is not installed: checkpoints, engine arguments."""
    for location, variant in _variants(value):
        for key, message in (*_checkpoint_faults(variant), *_option_faults(variant)):
            at = (*location, *key)
            yield Mistake(_line(lines, at), spell(at), message)


def _checkpoint_faults(variant: dict[str, Any]) -> Iterator[tuple[Location, str]]:
    try:
        checkpoint = CheckpointConfig.model_validate(variant.get("checkpoint"))
        check(checkpoint.source)
    except ValidationError:
        return  # It is absent, or reported with the line of its own key.
    except CheckpointError as error:
        yield ("checkpoint",), str(error)


def _option_faults(variant: dict[str, Any]) -> Iterator[tuple[Location, str]]:
    if variant.get("engine", "vllm") != "vllm":
        return
    for options in _dicts([variant.get("engine_options")]):
        for option in options:
            if fault := engine_options.find_fault(option):
                yield ("engine_options", option), fault


def _variants(value: object) -> Iterator[tuple[Location, dict[str, Any]]]:
    """Every variant in a value that was not validated yet, with its location."""
    models = value.get("models") if isinstance(value, dict) else None
    for i, model in _numbered_dicts(models):
        for j, variant in _numbered_dicts(model.get("variants")):
            yield ("models", i, "variants", j), variant


def _numbered_dicts(value: object) -> Iterator[tuple[int, dict[str, Any]]]:
    items = value if isinstance(value, list) else []
    return ((i, item) for i, item in enumerate(items) if isinstance(item, dict))


def _dicts(value: object) -> Iterator[dict[str, Any]]:
    return (item for _, item in _numbered_dicts(value))
