"""YAML that remembers on which line each key stands, and refuses a key that is given twice.

Its own module because it knows YAML and nothing of what a configuration means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

Location = tuple[str | int, ...]


class YamlFault(NamedTuple):
    """One place that is no valid YAML, or whose meaning is ambiguous.

    Attributes:
        line: counted from 1.
        location: keys and indices that lead there.
        message: what is wrong.

    """

    line: int
    location: Location
    message: str


class YamlError(Exception):
    """A text that is no single, unambiguous YAML mapping."""

    def __init__(self, faults: Iterable[YamlFault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(fault.message for fault in self.faults))


def parse(text: str) -> tuple[Any, dict[Location, int]]:
    """Read one YAML document of mappings, sequences and scalars.

    Returns:
        the value, and the line of every key and item in it.

    Raises:
        YamlError: it is no YAML, or a key is given twice.

    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        raise YamlError([YamlFault(line, (), f"no valid YAML: {error.problem}")]) from error
    except yaml.YAMLError as error:
        raise YamlError([YamlFault(0, (), f"no valid YAML: {error}")]) from error
    finally:
        loader.dispose()
    reading = _Reading(loader)
    value = reading.value_of(node, ()) if node is not None else {}
    if reading.faults:
        raise YamlError(reading.faults)
    return value, reading.lines


class _Reading:
    """One pass over the nodes of a document."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self.lines: dict[Location, int] = {}
        self.faults: list[YamlFault] = []
        self._loader = loader
        self._open: set[int] = set()

    def value_of(self, node: yaml.Node, location: Location) -> Any:  # noqa: ANN401
        """Construct a node and everything below it."""
        self.lines.setdefault(location, node.start_mark.line + 1)
        if id(node) in self._open:
            self._fault(node, location, "an alias that contains itself")
            return None
        self._open.add(id(node))
        try:
            match node:
                case yaml.MappingNode():
                    return self._mapping(node, location)
                case yaml.SequenceNode():
                    return [
                        self.value_of(item, (*location, i)) for i, item in enumerate(node.value)
                    ]
                case _:
                    return self._scalar(node, location)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        self._refuse_duplicates(node, location)
        try:
            self._loader.flatten_mapping(node)
        except yaml.MarkedYAMLError as error:
            self._fault(node, location, str(error.problem))
            return {}
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            self.lines[*location, key] = key_node.start_mark.line + 1
            mapping[key] = self.value_of(value_node, (*location, key))
        return mapping

    def _refuse_duplicates(self, node: yaml.MappingNode, location: Location) -> None:
        first: dict[str, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._fault(key_node, location, "a key must be a plain word")
                continue
            line = key_node.start_mark.line + 1
            if key_node.value in first:
                message = f"given twice; first on line {first[key_node.value]}"
                self._fault(key_node, (*location, key_node.value), message)
            first.setdefault(key_node.value, line)

    def _scalar(self, node: yaml.Node, location: Location) -> Any:  # noqa: ANN401
        try:
            return self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            problem = getattr(error, "problem", None) or error
            self._fault(node, location, f"no valid value: {problem}")
            return None

    def _fault(self, node: yaml.Node, location: Location, message: str) -> None:
        self.faults.append(YamlFault(node.start_mark.line + 1, location, message))
