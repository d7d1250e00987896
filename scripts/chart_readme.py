"""The table of values in the chart's README, made from values.yaml and the schema.

Its own module because comments in YAML are read line by line, which nothing else here does.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import yaml

from scripts.document_configuration import bounds, markdown_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BEGIN = "<!-- Written by scripts/generate_chart.py from values.yaml and its schema. -->\n"
END = "<!-- Until here. -->\n"
# Explained elsewhere, or of people's own making.
_CLOSED = frozenset({"config"})
_WORDS = {
    "Annotations": "annotations",
    "Bytes": "bytes, e.g. `8Gi`",
    "Cores": "cores, e.g. `500m`",
    "Duration": "duration, e.g. `15s`",
    "Host": "host name",
    "Labels": "labels",
    "ObjectName": "name",
    "Amounts": "amounts by resource",
    "Worker": "section",
}
_KEY = re.compile(r"(?P<indent> *)(?P<key>[\w-]+):(?: |$)")
_COMMENT = re.compile(r" *# ?(?P<text>.*)")


def with_table(readme: str, values: str, schema: Mapping[str, Any]) -> str:
    """Give the README with its table made anew."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the chart's README lacks {BEGIN!r} or {END!r}")
    return f"{before}{BEGIN}\n{table(values, schema)}\n{END}{after}"


def table(values: str, schema: Mapping[str, Any]) -> str:
    """Give a row for every value, and for every section that says what it is."""
    tree = yaml.safe_load(values)
    rows = []
    for path, comment in commented(values):
        field = _field(schema, path)
        default = _at(tree, path)
        section = isinstance(default, dict) and bool(default) and path[0] not in _CLOSED
        if section and not comment and _kind(schema, field) == "section":
            continue
        shown = "see there" if path[0] in _CLOSED else "" if section else f"`{_flow(default)}`"
        rows.append((f"`{'.'.join(path)}`", _kind(schema, field), shown, comment))
    return markdown_table(("key", "type", "default", "meaning"), rows)


def commented(values: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Give every key of a values file in block style with the comment above it."""
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in values.splitlines():
        if found := _COMMENT.fullmatch(line):
            comment = _continued(comment, found["text"])
            continue
        key = _KEY.match(line)
        if key is not None:
            indent = len(key["indent"])
            path = [*((at, name) for at, name in path if at < indent), (indent, key["key"])]
            names = tuple(name for _, name in path)
            if len(names) == 1 or names[0] not in _CLOSED:
                yield names, " ".join(comment)
        comment = []


def _continued(comment: list[str], text: str) -> list[str]:
    """Add a line to a comment; only one that begins with -- is for readers."""
    if text.startswith("-- "):
        return [text.removeprefix("-- ")]
    return [*comment, text] if comment else []


def _at(tree: Any, path: tuple[str, ...]) -> Any:  # noqa: ANN401 - any value
    for key in path:
        tree = tree[key]
    return tree


def _flow(value: object) -> str:
    """Write a value on one line, as people would."""
    if isinstance(value, str):
        return json.dumps(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).partition("\n")[0]


def _field(schema: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    """Look up the schema of a value."""
    field: Mapping[str, Any] = schema
    for key in path:
        field = _resolved(schema, field)
        properties = field.get("properties", {})
        field = properties[key] if key in properties else field["additionalProperties"]
    return field


def _resolved(schema: Mapping[str, Any], field: Mapping[str, Any]) -> Mapping[str, Any]:
    while (name := _name(field)) is not None:
        field = schema["$defs"][name]
    return field


def _name(field: Mapping[str, Any]) -> str | None:
    """Give the definition that a field is, or is a kind of."""
    (field, *_) = field.get("allOf", [field])
    reference: str | None = field.get("$ref")
    return reference and reference.rpartition("/")[2]


def _kind(  # noqa: PLR0911 (one for each kind)
    schema: Mapping[str, Any], field: Mapping[str, Any]
) -> str:
    """Say what values a field takes."""
    name = _name(field)
    if name in _WORDS:
        return _WORDS[name]
    resolved = _resolved(schema, field)
    if name is not None and resolved.get("type") == ["object", "null"]:
        return f"Kubernetes’ {name}"
    match resolved:
        case {"enum": choices}:
            return ", ".join(f"`{json.dumps(choice)}`" for choice in choices)
        case {"type": "boolean"}:
            return "`true`, `false`"
        case {"type": "integer" | "number" as number}:
            return " ".join([number, *bounds(dict(resolved))])
        case {"type": "array", "items": items}:
            return f"list of {_kind(schema, items)}"
        case {"type": "string"}:
            return "text"
        case {"properties": _} | {"additionalProperties": {"$ref": _}}:
            return "section"
    return "mapping" if resolved.get("type") == "object" else "any"
