"""Scenarios as files: read, refused with the line at fault, found by name, and changed by options.

Its own module because it is the edge: behind it are frozen values only.
"""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from loadtest import yaml_places
from loadtest.errors import LoadtestError, ScenarioError
from loadtest.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic_core import ErrorDetails

    from loadtest.yaml_places import Place

FOLDER = "scenarios"
SUFFIX = ".yaml"


def named() -> dict[str, Path]:
    """List the scenarios that come with the program, by name."""
    folder = Path(str(files("loadtest"))) / FOLDER
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def load(name: str) -> Scenario:
    """Read a scenario by its name, or from a file.

    Raises:
        ScenarioError: the file cannot be used, with the line and the key at fault.
        LoadtestError: there is no such scenario.

    """
    known = named()
    if name in known:
        return read(known[name])
    if name.endswith((SUFFIX, ".yml")) or "/" in name:
        return read(Path(name))
    raise LoadtestError(
        f"no scenario {name!r}; known: {', '.join(known)}, or the path of a {SUFFIX} file"
    )


def read(path: Path) -> Scenario:
    """Read a file.

    Raises:
        ScenarioError: it cannot be used, with the line and the key at fault.

    """
    try:
        value, lines = yaml_places.read(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(path, 0, "", error.strerror or "cannot be read") from error
    except UnicodeDecodeError as error:
        raise ScenarioError(path, 0, "", "is not UTF-8 text") from error
    except yaml_places.NotYamlError as error:
        raise ScenarioError(path, error.line, "", str(error)) from error
    try:
        scenario = Scenario.model_validate(value)
    except ValidationError as error:
        place, fault = next(_faults(error))
        line = yaml_places.line_of(lines, place)
        raise ScenarioError(path, line, yaml_places.spell(place), fault) from error
    return _beside(path, scenario.model_copy(update={"name": scenario.name or path.stem}))


def adjusted(  # noqa: PLR0913 (options of a command)
    scenario: Scenario,
    *,
    rate_per_s: float | None = None,
    users: int | None = None,
    duration_s: float | None = None,
    warmup_s: float | None = None,
    ramp_s: float | None = None,
    speed: float | None = None,
) -> Scenario:
    """Change what options say, and nothing else; None leaves it.

    Args:
        scenario: to start from.
        rate_per_s: of its open loop or its trace. A closed loop becomes one of Poisson arrivals.
        users: of its closed loop. Any other scenario becomes a closed loop.
        duration_s: measured.
        warmup_s: before that.
        ramp_s: before that.
        speed: of its trace, times its own.

    Raises:
        LoadtestError: it cannot be both, or a number is out of range.

    """
    arrivals = _arrivals(scenario, rate_per_s, users, speed)
    times = {"duration_s": duration_s, "warmup_s": warmup_s, "ramp_s": ramp_s}
    changed = {
        **scenario.model_dump(exclude_none=True),
        "arrivals": arrivals,
        **{name: value for name, value in times.items() if value is not None},
    }
    try:
        return Scenario.model_validate(changed)
    except ValidationError as error:
        place, fault = next(_faults(error))
        raise LoadtestError(f"{yaml_places.spell(place)}: {fault}") from error


def _arrivals(
    scenario: Scenario, rate_per_s: float | None, users: int | None, speed: float | None
) -> dict[str, Any]:
    given: dict[str, Any] = scenario.arrivals.model_dump(exclude_none=True)
    if sum(each is not None for each in (rate_per_s, users, speed)) > 1:
        raise LoadtestError("give one of a rate (open loop), users (closed loop) and a speed")
    if speed is not None:
        if "trace" not in given:
            raise LoadtestError("only a trace has a speed; give a rate")
        return {"trace": {"file": given["trace"]["file"], "speed": speed}}
    if rate_per_s is not None:
        if "trace" in given:
            return {"trace": {"file": given["trace"]["file"], "rate_per_s": rate_per_s}}
        return {"open": {**given.get("open", {}), "rate_per_s": rate_per_s}}
    if users is not None:
        return {"closed": {**given.get("closed", {}), "users": users}}
    return given


def _beside(path: Path, scenario: Scenario) -> Scenario:
    """Find the files that it names beside its own."""
    value = scenario.model_dump(exclude_none=True)
    for kind in value["requests"]:
        for key in ("text_file", "trace"):
            if key in kind.get("prompt", {}):
                kind["prompt"][key] = path.parent / kind["prompt"][key]
    if "trace" in value["arrivals"]:
        value["arrivals"]["trace"]["file"] = path.parent / value["arrivals"]["trace"]["file"]
    return Scenario.model_validate(value)


def _faults(error: ValidationError) -> Iterator[tuple[Place, str]]:
    for details in error.errors(include_url=False):
        yield details["loc"], _fault(details)


def _fault(details: ErrorDetails) -> str:
    match details["type"]:
        case "extra_forbidden":
            known = _known_keys(Scenario, details["loc"][:-1])
            close = difflib.get_close_matches(str(details["loc"][-1]), known, n=1)
            suggestion = f"did you mean {close[0]!r}? " if close else ""
            return f"unknown key; {suggestion}Known: {', '.join(known)}"
        case "missing":
            return "must be given"
        case "model_type" | "dict_type":
            return "must be a section of keys and values"
        case "value_error":
            return str(details["ctx"]["error"])
        case _:
            given = details["input"]
            shown = "" if isinstance(given, dict | list) else f", not {given!r}"
            return f"{details['msg'][:1].lower()}{details['msg'][1:]}{shown}"


def _known_keys(kind: object, place: Place) -> list[str]:
    """List the keys of the section at a place."""
    for part in place:
        section = _section(kind)
        if section is not None and not isinstance(part, int) and part in section.model_fields:
            kind = section.model_fields[part].annotation
    section = _section(kind)
    return list(section.model_fields) if section else []


def _section(annotation: object) -> type[BaseModel] | None:
    """Find the section in an annotation such as `tuple[Section, ...]` or `Section | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_section(each) for each in getattr(annotation, "__args__", ()))
    return next((each for each in inner if each is not None), None)
