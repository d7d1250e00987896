"""The JSON documents that load tests leave, by name, each with its schema.

Its own module because the schemas are files of the package, for programs that know no Python:
`python -m loadtest.reports.forms` writes them anew, and a test compares.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.reports.capacity_values import Capacity
from loadtest.reports.comparison_values import Comparison
from loadtest.reports.folder import CAPACITY_FORM, COMPARISON_FORM, REPORT_FORM
from loadtest.reports.json_form import DIALECT, meanings, schema_of
from loadtest.reports.values import Report
from loadtest.run import Requests, Run, RunClass, ServerSample
from loadtest.run_records import FORMAT, RunRecord
from scheduler.requests import Objective

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = "schemas"
# Classes whose fields mean what those of another class do.
_MEANT: Mapping[str, type] = {
    "RunRecord": Run,
    "ColumnsRecord": Requests,
    "ClassRecord": RunClass,
    "SampleRecord": ServerSample,
    "ObjectiveRecord": Objective,
}


def schemas() -> dict[str, dict[str, Any]]:
    """Make all schemas, by the name of what they describe."""
    return {
        "run": _run_schema(),
        "report": schema_of(Report, REPORT_FORM),
        "comparison": schema_of(Comparison, COMPARISON_FORM),
        "capacity": schema_of(Capacity, CAPACITY_FORM),
    }


def shipped(name: str) -> str:
    """Read the schema that comes with the program; one of the names of `schemas`."""
    return (files("loadtest") / FOLDER / f"{name}.schema.json").read_text(encoding="utf-8")


def text_of(schema: dict[str, Any]) -> str:
    """Write it down as it is shipped."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _run_schema() -> dict[str, Any]:
    schema = RunRecord.model_json_schema()
    _explain(schema, "RunRecord")
    for name, part in schema["$defs"].items():
        _explain(part, name)
    return {"$schema": DIALECT, **schema, "title": FORMAT}


def _explain(part: dict[str, Any], name: str) -> None:
    kind = _MEANT[name]
    said = meanings(kind)
    part["description"] = (kind.__doc__ or "").partition("\n")[0]
    for key, schema in part["properties"].items():
        schema.pop("title", None)
        if key in said:
            schema["description"] = said[key]
    part.pop("title", None)


def _write() -> None:
    folder = Path(__file__).parents[1] / FOLDER
    folder.mkdir(exist_ok=True)
    for name, schema in schemas().items():
        (folder / f"{name}.schema.json").write_text(text_of(schema), encoding="utf-8")


if __name__ == "__main__":
    _write()
