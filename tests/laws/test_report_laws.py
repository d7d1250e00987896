"""Laws of reports: whatever a run was, its report adds up and can be written and read."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.reports import forms, intervals
from loadtest.reports.differences import compare_runs
from loadtest.reports.folder import COMPARISON_FORM, REPORT_FORM
from loadtest.reports.json_form import written
from loadtest.reports.measures import report_of
from loadtest.run import Requests, Run
from loadtest.run_file import load_run, save_run
from tests.run_fakes import runs

if TYPE_CHECKING:
    from pathlib import Path

    from loadtest.reports.values import Group

SCHEMAS = {
    name: jsonschema.Draft202012Validator(json.loads(forms.shipped(name)))
    for name in forms.schemas()
}


def same(one: Any, two: Any) -> bool:
    """Equal, where NaN is equal to NaN."""
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, two, equal_nan=one.dtype.kind == "f"))
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(two)
    return bool(one == two)


@given(runs())
@settings(deadline=None, max_examples=30)
def test_every_request_of_the_window_is_counted_once(run: Run) -> None:
    report = report_of(run)

    def total(group: Group) -> int:
        return group.completed + group.shed + group.failed + group.cut_off + group.unsent

    groups = [report.overall, *report.classes, *report.tenants, *report.variants]
    assert all(total(group) == group.requests for group in groups)
    assert sum(each.requests for each in report.classes) == report.overall.requests
    assert sum(each.requests for each in report.tenants) == report.overall.requests
    assert report.overall.requests <= report.planned == len(run.requests.ending)
    not_completed = sum(each.count for each in report.errors)
    assert not_completed == int((run.requests.ending != 0).sum())


@given(runs())
@settings(deadline=None, max_examples=30)
def test_goodput_is_a_part_of_throughput(run: Run) -> None:
    report = report_of(run)
    for group in (report.overall, *report.classes, *report.tenants, *report.variants):
        if not group.judged:
            assert math.isnan(group.goodput)
            continue
        if report.end_s > report.begin_s:
            assert group.goodput <= group.completed_per_s + 1e-9
            assert group.completed_per_s <= group.requests_per_s + 1e-9
        assert group.slo_attainment <= min(group.ttft_attainment, group.tpot_attainment) + 1e-9
        low, high = group.slo_attainment_interval.low, group.slo_attainment_interval.high
        assert 0 <= low <= group.slo_attainment + 1e-9
        assert group.slo_attainment - 1e-9 <= high <= 1
    energy = report.energy
    if not math.isnan(energy.good_tokens):
        assert 0 <= energy.good_tokens <= energy.completion_tokens + 1e-9
        if energy.good_tokens > 0:
            assert energy.joules_per_good_token >= energy.joules_per_token - 1e-12


@given(runs())
@settings(deadline=None, max_examples=30)
def test_percentiles_rise(run: Run) -> None:
    for group in (report_of(run).overall, *report_of(run).classes):
        for each in (group.ttft_s, group.tpot_s, group.e2e_latency_s, group.longest_gap_s):
            values = [each.p50_s, each.p90_s, each.p95_s, each.p99_s, each.p999_s, each.max_s]
            assert each.count or all(math.isnan(value) for value in values)
            assert not each.count or values == sorted(values)


@given(runs())
@settings(deadline=None, max_examples=15)
def test_a_report_is_what_its_schema_says(run: Run) -> None:
    document = json.loads(written(report_of(run), REPORT_FORM))
    SCHEMAS["report"].validate(document)


@pytest.mark.parametrize("suffix", ["json", "json.gz"])
@given(run=runs())
@settings(deadline=None, max_examples=30)
def test_what_is_read_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, run: Run
) -> None:
    path: Path = tmp_path_factory.mktemp("run") / f"run.{suffix}"
    save_run(run, path)
    back = load_run(path)
    for name in Requests.__slots__:
        one, two = getattr(run.requests, name), getattr(back.requests, name)
        assert one.dtype == two.dtype, name
        assert same(one, two), name
    for field in fields(Run):
        if field.name != "requests":
            assert getattr(run, field.name) == getattr(back, field.name), field.name
    if suffix == "json":
        SCHEMAS["run"].validate(json.loads(path.read_text()))


@given(runs())
@settings(deadline=None, max_examples=8)
def test_a_run_does_not_differ_from_itself(run: Run) -> None:
    comparison = compare_runs([("one", run), ("two", run)])
    SCHEMAS["comparison"].validate(json.loads(written(comparison, COMPARISON_FORM)))
    (against,) = comparison.against
    assert against.paired != run.closed_loop
    for each in against.differences:
        assert each.difference == 0 or math.isnan(each.difference)
        if against.paired:
            assert each.verdict in {"no difference shown", "not known"}


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_an_interval_holds_its_quantile(values: list[float], share: float) -> None:
    column = np.array(values)
    bounds = intervals.quantile_interval(column, share)
    middle = float(np.quantile(column, share))
    assert math.isnan(bounds.low) or bounds.low <= middle + 1e-9
    assert math.isnan(bounds.high) or bounds.high >= middle - 1e-9


def test_shipped_schemas_are_those_of_the_classes() -> None:
    for name, schema in forms.schemas().items():
        assert forms.shipped(name) == forms.text_of(schema), "python -m loadtest.reports.forms"
        jsonschema.Draft202012Validator.check_schema(schema)
