"""What a report says of runs whose figures are known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from loadtest.errors import RunFileError
from loadtest.reports import intervals
from loadtest.reports.measures import report_of
from loadtest.run import Ending
from loadtest.run_file import load_run, save_run
from tests.run_fakes import DURATION_S, counters, one_at_a_time, plain_requests, plain_run

if TYPE_CHECKING:
    from pathlib import Path

AT_S = np.arange(0.05, DURATION_S, 0.1, dtype=np.float64)


def test_latencies_are_those_of_numpy() -> None:
    rng = np.random.default_rng(1)
    first_s = AT_S + rng.lognormal(-2, 1, AT_S.size)
    report = report_of(plain_run(plain_requests(AT_S, first_token_at_s=first_s)))
    told = report.overall.ttft_s
    wanted = np.percentile(first_s - AT_S, [50, 90, 95, 99, 99.9])
    assert [told.p50_s, told.p90_s, told.p95_s, told.p99_s, told.p999_s] == pytest.approx(wanted)
    assert told.p99_interval_s.low < told.p99_s < told.p99_interval_s.high
    assert report.overall.tpot_s.p99_s == pytest.approx(0.01)
    assert report.overall.outside_ttft_s.count == AT_S.size


def test_intervals_hold_the_truth_nineteen_times_of_twenty() -> None:
    medians = shares = 0
    for seed in range(200):
        values = np.random.default_rng(seed).exponential(0.1, 500)
        median = intervals.quantile_interval(values, 0.5)
        medians += median.low <= 0.1 * math.log(2) <= median.high
        share = intervals.share_interval(values < 0.3)
        shares += share.low <= 1 - math.exp(-3) <= share.high
    assert medians >= 180
    assert shares >= 180


def test_latencies_count_from_the_schedule_and_a_late_sender_is_told() -> None:
    late_s = np.where(np.arange(AT_S.size) % 50 == 0, 0.5, 0.0)
    requests = plain_requests(AT_S, sent_at_s=AT_S + late_s, first_token_at_s=AT_S + late_s + 0.1)
    report = report_of(plain_run(requests))
    assert report.overall.ttft_s.max_s == pytest.approx(0.6)
    assert not report.sender.kept_schedule
    assert "did not keep its schedule: p99 lateness is 500 ms" in report.sender.verdict
    assert report.sender.verdict in report.warnings
    assert report_of(plain_run(plain_requests(AT_S))).sender.kept_schedule


def test_energy_is_all_that_counters_show_and_tokens_are_of_the_same_seconds() -> None:
    report = report_of(plain_run(plain_requests(AT_S), samples=counters(50.0)))
    energy = report.energy
    assert energy.source == "counter"
    assert energy.energy_j == pytest.approx(50.0 * DURATION_S)
    assert energy.mean_power_w == pytest.approx(50.0)
    # Ten requests of ten tokens each second; those of the last tenth of one end after it.
    assert energy.completion_tokens == pytest.approx(10_000, rel=0.01)
    assert energy.joules_per_token == pytest.approx(0.5, rel=0.01)
    # Replies say 2 J each, ten in a second.
    assert energy.unattributed_share == pytest.approx(0.6, abs=0.01)
    assert energy.gco2e == pytest.approx(5000 * 400 / 3.6e6, rel=1e-6)


def test_energy_falls_back_to_replies_and_says_so() -> None:
    report = report_of(plain_run(plain_requests(AT_S)))
    assert report.energy.source == "attributed"
    assert report.energy.joules_per_token == pytest.approx(0.2)
    assert any("without idle" in line for line in report.warnings)
    samples = list(counters(50.0))
    samples[50] = replace(samples[50], energy_j=0.0)
    backwards = report_of(plain_run(plain_requests(AT_S), samples=tuple(samples)))
    assert backwards.energy.source == "attributed"
    assert any("went backwards" in line for line in backwards.warnings)
    silent = plain_requests(AT_S, energy_j=np.full(AT_S.size, np.nan))
    unknown = report_of(plain_run(silent)).energy
    assert unknown.source == "none"
    assert math.isnan(unknown.joules_per_token)


def test_good_tokens_cost_all_the_energy() -> None:
    slow_s = np.where(np.arange(AT_S.size) % 2 == 0, 0.9, 0.1)
    report = report_of(
        plain_run(plain_requests(AT_S, first_token_at_s=AT_S + slow_s), samples=counters(50.0))
    )
    assert report.overall.slo_attainment == pytest.approx(0.5)
    assert report.overall.ttft_attainment == pytest.approx(0.5)
    assert report.overall.tpot_attainment == 1
    assert report.overall.goodput == pytest.approx(5, rel=0.01)
    twice = 2 * report.energy.joules_per_token
    assert report.energy.joules_per_good_token == pytest.approx(twice, rel=0.02)


def test_a_window_without_requests_is_said_and_nothing_is_divided() -> None:
    run = plain_run(plain_requests(AT_S), steady_begin_s=200.0, steady_end_s=200.0)
    report = report_of(run)
    assert report.overall.requests == 0
    assert math.isnan(report.overall.goodput)
    assert any("nothing to measure" in line for line in report.warnings)


def test_classes_without_objectives_are_left_out_of_goodput() -> None:
    classes = np.where(np.arange(AT_S.size) % 2 == 0, 0, 2).astype(np.int16)
    report = report_of(plain_run(plain_requests(AT_S, service_class=classes)))
    assert report.overall.judged == AT_S.size / 2
    assert any("no objectives are known of unknown" in line for line in report.warnings)
    assert [each.service_class for each in report.objectives] == ["interactive", "batch"]


def test_a_broken_run_is_measured_up_to_its_end() -> None:
    ending = np.where(AT_S < 40, Ending.COMPLETED, Ending.UNSENT).astype(np.int8)
    sent_s = np.where(AT_S < 40, AT_S, np.nan)
    requests = plain_requests(AT_S, ending=ending, sent_at_s=sent_s)
    report = report_of(plain_run(requests, partial="the server is gone", ended_at_s=40.0))
    assert report.end_s == 40
    assert report.overall.unsent == 0
    assert report.overall.slo_attainment == 1
    assert "the server is gone" in report.warnings[0]


def test_a_server_that_does_not_keep_up_is_told() -> None:
    slow = one_at_a_time(AT_S, np.full(AT_S.size, 0.15))
    overloaded = report_of(plain_run(plain_requests(AT_S, first_token_at_s=slow)))
    assert overloaded.backlog.grows
    assert any("does not keep up" in line for line in overloaded.warnings)
    fast = one_at_a_time(AT_S, np.full(AT_S.size, 0.09))
    assert not report_of(plain_run(plain_requests(AT_S, first_token_at_s=fast))).backlog.grows


def test_a_rate_that_rises_is_no_backlog() -> None:
    """Requests that take 4 s each, and come ever faster: more are in flight, and none waits."""
    at_s = DURATION_S * np.sqrt(np.linspace(0.001, 1, 1_500, endpoint=False))
    window = {"steady_begin_s": DURATION_S / 4}
    backlog = report_of(
        plain_run(plain_requests(at_s, first_token_at_s=at_s + 4), **window)
    ).backlog
    assert backlog.at_end > 2 * backlog.at_begin
    assert not backlog.grows
    # The same, and each takes longer than the one before.
    waiting = plain_requests(at_s, first_token_at_s=at_s * 1.3)
    assert report_of(plain_run(waiting, **window)).backlog.grows


def test_gaps_of_several_histograms_are_merged() -> None:
    histograms = {}
    for name, gap_us in (("interactive", 10_000), ("batch", 50_000)):
        histogram = HdrHistogram(1, 3_600_000_000, 3)
        for _ in range(100):
            histogram.record_value(gap_us)
        histograms[name] = histogram.encode().decode()
    report = report_of(plain_run(plain_requests(AT_S), itl=histograms))
    assert report.overall.itl_s.count == 200
    assert report.overall.itl_s.p50_s == pytest.approx(0.01, rel=1e-2)
    assert report.overall.itl_s.p99_s == pytest.approx(0.05, rel=1e-2)
    assert report.classes[0].itl_s.max_s == pytest.approx(0.01, rel=1e-2)


def test_files_that_are_no_runs_are_refused_with_their_fault(tmp_path: Path) -> None:
    good = tmp_path / "run.json"
    save_run(plain_run(plain_requests(AT_S)), good)
    document = json.loads(good.read_text())

    def refused(fault: str, text: str, name: str = "bad.json") -> None:
        bad = tmp_path / name
        bad.write_text(text)
        with pytest.raises(RunFileError, match=fault):
            load_run(bad)

    refused("Invalid JSON", "no JSON")
    refused("damaged|cannot be read", "no gzip", "bad.json.gz")
    refused("format", json.dumps({**document, "format": "other/1"}))
    refused("seed: Field required", json.dumps({k: v for k, v in document.items() if k != "seed"}))
    requests = document["requests"]
    short = {**requests, "tenant": requests["tenant"][1:]}
    refused("differ in length", json.dumps({**document, "requests": short}))
    lost = {**requests, "variant": [7] * AT_S.size}
    refused("variant points to entry 7 of 2", json.dumps({**document, "requests": lost}))
    refused("itl.interactive", json.dumps({**document, "itl": {"interactive": "HISTxx"}}))
    with pytest.raises(RunFileError, match="cannot be read"):
        load_run(tmp_path / "absent.json")
