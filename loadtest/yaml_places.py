"""YAML whose keys remember their lines.

Its own module because it knows YAML and nothing of what a file means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

Place = tuple[str | int, ...]


class NotYamlError(Exception):
    """A text that is no YAML mapping.

    Attributes:
        line: of the fault, counted from 1.

    """

    def __init__(self, line: int, fault: str) -> None:
        super().__init__(fault)
        self.line = line


def read(text: str) -> tuple[dict[str, Any], dict[Place, int]]:
    """Read one mapping; give it with the line of every key and item in it.

    Raises:
        NotYamlError: it is none, or names a key twice.

    """
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise NotYamlError(
            mark.line + 1 if mark else 1, f"no valid YAML: {error.problem}"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise NotYamlError(1, f"no valid YAML: {error}") from error
    if not isinstance(value, dict) or node is None:
        raise NotYamlError(1, "must be keys and values")
    return value, dict(_places(node, ()))


def line_of(lines: dict[Place, int], place: Place) -> int:
    """Give the line of a place, or of the nearest one around it that was written."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


def spell(place: Place) -> str:
    """Spell a place as people write it, such as `requests[0].prompt.tokens`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return "".join(parts).removeprefix(".")


def _places(node: yaml.Node, place: Place) -> Iterator[tuple[Place, int]]:
    match node:
        case yaml.MappingNode():
            seen: set[str] = set()
            for key, value in node.value:
                inner = (*place, str(key.value))
                line = key.start_mark.line + 1
                if key.value in seen:
                    raise NotYamlError(line, f"{spell(inner)}: given twice")
                seen.add(key.value)
                yield inner, line
                yield from _places(value, inner)
        case yaml.SequenceNode():
            for number, item in enumerate(node.value):
                inner = (*place, number)
                yield inner, item.start_mark.line + 1
                yield from _places(item, inner)
