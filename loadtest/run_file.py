"""A run of load as a file: JSON, packed by gzip where its name ends in `.gz`.

Its own module because what is kept of a run outlives the program that made it: everything
that is read passes through here, and is refused with words when it is no run.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from loadtest.errors import RunFileError
from loadtest.reports import gaps
from loadtest.run import Requests, Run, RunClass, ServerSample
from loadtest.run_records import FORMAT, RunRecord
from scheduler.requests import Objective

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from loadtest.run_records import ClassRecord, ColumnsRecord, ObjectiveRecord

# Of a damaged or foreign file, so many faults are told.
_FAULTS_TOLD = 3
# All other columns are of 64-bit floats.
_INTEGERS: dict[str, type[np.signedinteger[Any]]] = {
    "ending": np.int8,
    "error": np.int16,
    "service_class": np.int16,
    "tenant": np.int16,
    "variant": np.int16,
    "session": np.int32,
    "turn": np.int16,
    "prompt_tokens": np.int32,
    "cached_tokens": np.int32,
    "completion_tokens": np.int32,
}
# Columns that point into a list of names, and that list; the second may hold −1.
_INDICES = {
    "service_class": "classes",
    "tenant": "tenants",
    "variant": "variants",
    "error": "errors",
}


def save_run(run: Run, path: Path) -> None:
    """Write a run; what is there already is replaced only when the new file is whole."""
    text = json.dumps(_as_json(run), allow_nan=False, separators=(",", ":")) + "\n"
    content = text.encode()
    if path.suffix == ".gz":
        content = gzip.compress(content, compresslevel=6, mtime=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def load_run(path: Path) -> Run:
    """Read a run.

    Raises:
        RunFileError: there is none in that file.

    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except OSError as error:
        raise RunFileError(path, f"cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise RunFileError(path, f"is damaged: {error}") from error
    try:
        record = RunRecord.model_validate_json(content)
    except ValidationError as error:
        raise RunFileError(path, _words(error)) from error
    for fault in _contradictions(record):
        raise RunFileError(path, fault)
    return _run_of(record)


def _as_json(run: Run) -> dict[str, Any]:
    columns = {name: getattr(run.requests, name) for name in Requests.__slots__}
    plain = {
        name: getattr(run, name)
        for name in Run.__slots__
        if name not in {"classes", "requests", "samples", "itl"}
    }
    return {
        "format": FORMAT,
        **plain,
        "classes": [
            {"name": each.name, "objective": _objective_as_json(each.objective)}
            for each in run.classes
        ],
        "requests": {name: _listed(column) for name, column in columns.items()},
        "itl": dict(run.itl),
        "samples": [
            {name: _finite(getattr(each, name)) for name in ServerSample.__slots__}
            for each in run.samples
        ],
    }


def _objective_as_json(objective: Objective | None) -> dict[str, float | None] | None:
    if objective is None:
        return None
    return {
        "ttft_s": _finite(objective.ttft_s),
        "tpot_s": _finite(objective.tpot_s),
        "min_quality": objective.min_quality,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _listed(column: NDArray[Any]) -> list[Any]:
    values: list[Any] = column.tolist()
    if np.issubdtype(column.dtype, np.integer) or np.isfinite(column).all():
        return values
    return [value if math.isfinite(value) else None for value in values]


def _run_of(record: RunRecord) -> Run:
    plain = {
        name: getattr(record, name)
        for name in Run.__slots__
        if name not in {"classes", "requests", "samples", "tenants", "variants", "errors"}
    }
    return Run(
        **plain,
        classes=tuple(_class_of(each) for each in record.classes),
        tenants=tuple(record.tenants),
        variants=tuple(record.variants),
        errors=tuple(record.errors),
        requests=_requests_of(record.requests),
        samples=tuple(
            ServerSample(
                at_s=each.at_s,
                energy_j=_number(each.energy_j, math.nan),
                power_w=_number(each.power_w, math.nan),
                awake_replicas=each.awake_replicas,
                running_requests=each.running_requests,
                waiting_requests=each.waiting_requests,
            )
            for each in record.samples
        ),
    )


def _class_of(record: ClassRecord) -> RunClass:
    return RunClass(record.name, _objective_of(record.objective))


def _objective_of(record: ObjectiveRecord | None) -> Objective | None:
    if record is None:
        return None
    return Objective(
        _number(record.ttft_s, math.inf), _number(record.tpot_s, math.inf), record.min_quality
    )


def _number(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _requests_of(record: ColumnsRecord) -> Requests:
    # numpy takes None for NaN where it is told to make floats.
    return Requests(
        *(
            np.array(getattr(record, name), dtype=_INTEGERS.get(name, np.float64))
            for name in Requests.__slots__
        )
    )


def _contradictions(record: RunRecord) -> Iterator[str]:
    """Say what does not fit together."""
    columns = {name: getattr(record.requests, name) for name in Requests.__slots__}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        yield f"columns of requests differ in length: {lengths}"
    for name, kind in _INTEGERS.items():
        most = max(columns[name], default=0)
        if most > np.iinfo(kind).max:
            yield f"requests.{name} holds {most}, above {np.iinfo(kind).max}"
    for name, names in _INDICES.items():
        most, known = max(columns[name], default=-1), len(getattr(record, names))
        if most >= known:
            yield f"requests.{name} points to entry {most} of {known} {names}"
    at_s = [each.at_s for each in record.samples]
    if at_s != sorted(at_s):
        yield "samples are not in the order of their time"
    if record.steady_end_s < record.steady_begin_s:
        yield "steady_end_s lies before steady_begin_s"
    for name, histogram in record.itl.items():
        try:
            gaps.distribution([histogram])
        except gaps.GapsError as error:
            yield f"itl.{name}: {error}"


def _words(error: ValidationError) -> str:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    told = [
        f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}"
        for fault in faults[:_FAULTS_TOLD]
    ]
    more = len(faults) - len(told)
    rest = f"; and {more} more" if more > 0 else ""
    return (
        f"is no run of `loadtest run`, `simulate --report` or `capacity`: {'; '.join(told)}{rest}"
    )
