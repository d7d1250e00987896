"""Writes docs/configuration.md from the configuration's JSON schema and the catalogues.

    python scripts/document_configuration.py [--check]

With `--check` nothing is written: exit code 1 says that the file is not what would be written.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.accelerators import CATALOGUE
from scheduler.policies import POLICIES
from serve.config import Config, ServiceClassConfig
from serve.config_file import schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cluster.accelerators import Accelerator

TARGET = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
COMMAND = "python scripts/document_configuration.py"

INTRODUCTION = """\
<!-- Written by scripts/document_configuration.py; change serve/config*.py, then run it again. -->

# Configuration

One YAML file decides everything. A key that is not listed here is refused, and so is a value that \
cannot be: every mistake is reported with its line, before anything starts.

```sh
jouleserve config check examples/echo.yaml          # what is wrong with it, if anything
jouleserve config check examples/echo.yaml --show   # the same file with every default spelt out
jouleserve config schema                            # JSON schema, for an editor
```

The smallest file names one model with one variant:

```yaml
models:
  - name: echo
    variants:
      - {name: only, engine: echo, accelerator: cpu}
```

[`examples/`](../examples) holds longer ones. Without `--config`, `jouleserve up` uses an embedded \
configuration, [`serve/default.yaml`](../serve/default.yaml) or, where there is an NVIDIA GPU, \
[`serve/default-cuda.yaml`](../serve/default-cuda.yaml).

`[]` in a heading stands for each entry of a list, `.NAME` for each entry of a mapping. A suffix \
is a unit: `_s` seconds, `_j` joules, `_gib` 2³⁰ bytes. Relative checkpoint paths start at the file.
"""


def main(arguments: list[str]) -> int:
    """Write the file, or compare it; gives the exit code."""
    text = document()
    if arguments == ["--check"]:
        if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
            return 0
        print(f"docs/{TARGET.name} is not what the configuration says; run: {COMMAND}")
        return 1
    if arguments:
        print(__doc__)
        return 2
    TARGET.write_text(text, encoding="utf-8")
    return 0


def document() -> str:
    """Give the whole page."""
    tree = schema()
    sections = [section(tree, at, name) for at, name in walk(tree, "", None)]
    return "\n".join([INTRODUCTION, *sections, policies(), accelerators()])


# ----------------------------------------------------------------------------------------- sections


def walk(tree: dict[str, Any], at: str, name: str | None) -> Iterator[tuple[str, str | None]]:
    """Give every section with the place it has in a file, outer ones first."""
    yield at, name
    for key, field in definition(tree, name)["properties"].items():
        for suffix, inner in inner_sections(tree, field):
            yield from walk(tree, f"{at}.{key}{suffix}".removeprefix("."), inner)


def definition(tree: dict[str, Any], name: str | None) -> dict[str, Any]:
    """Look up a section's schema; None is the whole file's."""
    found: dict[str, Any] = tree if name is None else tree["$defs"][name]
    return found


def inner_sections(tree: dict[str, Any], field: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Give the sections that a field holds, each with what its key is followed by."""
    holders = {"": [field, *field.get("anyOf", [])]}
    holders["[]"] = [field["items"]] if "items" in field else []
    others = field.get("additionalProperties")
    holders[".NAME"] = [others] if isinstance(others, dict) else []
    for suffix, holder in holders.items():
        for each in holder:
            name = each.get("$ref", "").rpartition("/")[2]
            if name and "properties" in tree["$defs"][name]:
                yield suffix, name


def section(tree: dict[str, Any], at: str, name: str | None) -> str:
    """Give the table of one section."""
    part = definition(tree, name)
    required = set(part.get("required", ()))
    rows = [
        (
            f"`{key}`",
            kind(tree, field),
            default(field, required=key in required),
            meaning(tree, field),
        )
        for key, field in part["properties"].items()
    ]
    heading = f"## `{at}`" if at else "## The file"
    table = markdown_table(("key", "type", "default", "meaning"), rows)
    after = default_classes() if name == ServiceClassConfig.__name__ else ""
    return f"{heading}\n\n{one_line(part['description'])}\n\n{table}{after}"


def kind(tree: dict[str, Any], field: dict[str, Any]) -> str:
    """Say what values a field takes."""
    if "anyOf" in field:
        some = (each for each in field["anyOf"] if each.get("type") != "null")
        return " or ".join(kind(tree, each) for each in some)
    if "$ref" in field:
        target = tree["$defs"][field["$ref"].rpartition("/")[2]]
        return "section" if "properties" in target else kind(tree, target)
    if choices := field.get("enum", [field["const"]] if "const" in field else []):
        return ", ".join(f"`{choice}`" for choice in choices)
    return plain_kind(field)


def plain_kind(field: dict[str, Any]) -> str:
    """Say what values a field takes that refers to nothing else."""
    match field.get("type"):
        case "array":
            texts = field.get("items", {}).get("type") == "string"
            return "list of texts" if texts else "list of sections"
        case "object":
            named = field["additionalProperties"].get("$ref", "").endswith("Config")
            return "sections by name" if named else "mapping"
        case "integer" | "number" as number:
            return " ".join([number, *bounds(field)])
        case "string":
            return f"text like `{field['pattern']}`" if "pattern" in field else "text"
        case _:
            return "any"


def bounds(field: dict[str, Any]) -> Iterator[str]:
    """Say between which values a number lies."""
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    given = [f"{sign} {field[name]:g}" for name, sign in signs.items() if name in field]
    if given:
        yield ", ".join(given)


def default(field: dict[str, Any], *, required: bool) -> str:
    """Say what holds when a key is absent."""
    if required:
        return "**must be given**"
    value = field.get("default")
    if value is None:
        return "see below" if "additionalProperties" in field else "–"
    return "see below" if isinstance(value, dict) and value else f"`{json.dumps(value)}`"


def meaning(tree: dict[str, Any], field: dict[str, Any]) -> str:
    """Give a field's description, or that of the section it holds."""
    if text := field.get("description"):
        return one_line(text)
    name = field.get("$ref", "").rpartition("/")[2]
    return one_line(tree["$defs"][name]["description"]) if name else ""


# --------------------------------------------------------------------------------------- catalogues


def policies() -> str:
    """List the values of `scheduler.policy`."""
    rows = [(f"`{name}`", one_line(make.__doc__ or "")) for name, make in sorted(POLICIES.items())]
    table = markdown_table(("name", "meaning"), rows)
    return f"## Policies\n\nValues of `scheduler.policy`.\n\n{table}"


def default_classes() -> str:
    """List the service classes of a configuration that names none."""
    classes = Config.model_fields["service_classes"].get_default(call_default_factory=True)
    rows = [
        (f"`{name}`", *(f"{getattr(each, key):g}" for key in type(each).model_fields))
        for name, each in classes.items()
    ]
    table = markdown_table(("name", *ServiceClassConfig.model_fields), rows)
    return f"\nWithout any in the file these are the service classes:\n\n{table}"


def accelerators() -> str:
    """List the values of `accelerator` with their figures."""
    rows = [accelerator(each) for each in CATALOGUE.values()]
    headings = ("name", "memory GiB", "bandwidth TB/s", "TFLOPS", "TDP W", "idle W", "context W")
    table = markdown_table((*headings, "estimates"), rows)
    return (
        "## Accelerators\n\nValues of `models[].variants[].accelerator`, with what [the energy"
        " model](energy.md) knows of them. *Context* is the power of one that is held by a process"
        " which does nothing. *Estimates* names the figures that nobody has confirmed; sources are"
        " in [`cluster/accelerators.py`](../cluster/accelerators.py). Figures of `cpu` are for one"
        f" core, and nominal.\n\n{table}"
    )


def accelerator(each: Accelerator) -> tuple[str, ...]:
    """Give an accelerator's row."""
    speeds = ", ".join(f"{precision} {value:g}" for precision, value in each.tflops.items())
    return (
        f"`{each.name}`",
        f"{each.memory_bytes / 2**30:.0f}",
        f"{each.bandwidth_tb_s:g}",
        speeds,
        f"{each.tdp_w:g}",
        f"{each.idle_w:g}",
        f"{each.context_w:g}",
        ", ".join(f"`{name}`" for name in sorted(each.unverified)) or "–",
    )


# ----------------------------------------------------------------------------------------- markdown


def markdown_table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Write a table; a bar inside a cell is escaped."""
    lines = [headings, tuple("---" for _ in headings), *rows]
    cells = ([re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


def one_line(text: str) -> str:
    """Join the first paragraph of a docstring."""
    return " ".join(text.strip().partition("\n\n")[0].split())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
