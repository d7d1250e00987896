"""Values of this package as JSON, and the JSON Schema of each.

Its own module because both follow from the classes alone: a field that is added there is in
the file, and in the schema with its meaning and unit, without anybody writing it twice.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Mapping

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# "name: what it means", and lines further in that go on with it.
_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {8,}\S.*)*)", re.MULTILINE)
_PLAIN: Mapping[Any, dict[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    # NaN and infinity are no numbers of JSON.
    float: {"type": ["number", "null"]},
}


def written(value: Any, form: str) -> str:  # noqa: ANN401 (any value of this package)
    """Write a value as a JSON document.

    Args:
        value: a frozen dataclass.
        form: what its `format` says, such as "jouleserve-report/1".

    """
    return json.dumps({"format": form, **as_json(value)}, indent=2, allow_nan=False) + "\n"


def as_json(value: Any) -> Any:  # noqa: ANN401 (JSON has no type of its own)
    """Turn a value into what `json` writes; a number that is not finite becomes None."""
    if is_dataclass(value):
        return {each.name: as_json(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple | list):
        return [as_json(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def schema_of(kind: type, form: str) -> dict[str, Any]:
    """Make the JSON Schema of the documents that `written` makes of a class."""
    parts: dict[str, Any] = {}
    whole = _object(kind, parts)
    whole["properties"] = {"format": {"const": form}, **whole["properties"]}
    whole["required"] = ["format", *whole["required"]]
    return {"$schema": DIALECT, "title": form, **whole, "$defs": dict(sorted(parts.items()))}


def meanings(kind: type) -> dict[str, str]:
    """Read what the docstring of a class says of its attributes."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:")[2]
    return {name: " ".join(words.split()) for name, words in _ATTRIBUTE.findall(text)}


def _object(kind: type, parts: dict[str, Any]) -> dict[str, Any]:
    hints, said = get_type_hints(kind), meanings(kind)
    names = [each.name for each in fields(kind)]
    properties = {
        name: {**_schema(hints[name], parts), "description": said[name]} for name in names
    }
    return {
        "type": "object",
        "description": inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].replace("\n", " "),
        "properties": properties,
        "required": names,
        "additionalProperties": False,
    }


def _schema(hint: Any, parts: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 (a type)
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0], parts)}
    if origin in {Union, UnionType}:
        return {
            "anyOf": [
                {"type": "null"} if each is type(None) else _schema(each, parts)
                for each in arguments
            ]
        }
    if hint.__name__ not in parts:
        parts[hint.__name__] = {}
        parts[hint.__name__] = _object(hint, parts)
    return {"$ref": f"#/$defs/{hint.__name__}"}
