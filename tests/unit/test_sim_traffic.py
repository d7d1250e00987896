from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from loadtest import arrivals
from loadtest.errors import TraceError
from loadtest.lengths import FixedLengths, LogNormalLengths, TraceLengths
from loadtest.traces import MOONCAKE_BLOCK_TOKENS, Trace, TraceRequest, read_trace
from loadtest.workloads import replay, synthesize

if TYPE_CHECKING:
    from pathlib import Path

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""
MOONCAKE = """{"timestamp": 0, "input_length": 1030, "output_length": 5, "hash_ids": [0, 1, 2]}
{"timestamp": 2500, "input_length": 600, "output_length": 7, "hash_ids": [0, 3]}
"""
HOUR_S = 3600.0


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# ── traces ──────────────────────────────────────────────────────────────────


def test_azure_trace(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, "azure.csv", AZURE))
    assert trace.name == "azure"
    assert trace.requests[0] == TraceRequest(0.0, 374, 44)
    assert trace.requests[1].at_s == pytest.approx(4.314579)
    assert trace.mean_prompt_tokens == 385


def test_mooncake_trace(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, "mooncake.jsonl", MOONCAKE))
    assert trace.block_tokens == MOONCAKE_BLOCK_TOKENS
    assert trace.requests[1] == TraceRequest(2.5, 600, 7, (0, 3))


@pytest.mark.parametrize(
    ("name", "text", "line", "words"),
    [
        ("a.csv", "WHEN,A,B\n", 1, "columns"),
        ("a.csv", AZURE + "2023-11-16 18:15:51.0,1\n", 4, "2 columns"),
        ("a.csv", AZURE + "yesterday,1,2\n", 4, "yesterday"),
        ("a.csv", AZURE + "2023-11-16 18:15:51.0,0,2\n", 4, "no prompt"),
        ("a.csv", AZURE + "2023-11-16 18:15:41.0,1,2\n", 4, "before"),
        ("a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n", 0, "no request"),
        ("m.jsonl", MOONCAKE + "{}\n", 3, "lacks 'timestamp'"),
        ("m.jsonl", MOONCAKE + "{\n", 3, "is no request"),
        ("m.jsonl", MOONCAKE + "7\n", 3, "is no request"),
        ("m.parquet", "", 0, "known: .csv, .jsonl"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line(
    tmp_path: Path, name: str, text: str, line: int, words: str
) -> None:
    path = written(tmp_path, name, text)
    with pytest.raises(TraceError, match=words) as caught:
        read_trace(path)
    assert caught.value.line == line
    assert str(caught.value).startswith(f"{path}:{line}:" if line else f"{path}:")


def test_a_missing_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file"):
        read_trace(tmp_path / "none.csv")


# ── arrivals ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "times",
    [
        arrivals.constant(10, HOUR_S),
        arrivals.poisson(10, HOUR_S, rng()),
        arrivals.gamma(10, 0.5, HOUR_S, rng()),
        arrivals.gamma(10, 3.0, HOUR_S, rng()),
        arrivals.thinned(arrivals.diurnal(10, period_s=HOUR_S), 16, HOUR_S, rng()),
    ],
)
def test_processes_keep_their_mean_rate(times: arrivals.Times) -> None:
    assert times.size == pytest.approx(10 * HOUR_S, rel=0.05)
    assert np.all(np.diff(times) >= 0)
    assert times[0] >= 0
    assert times[-1] < HOUR_S


def test_gamma_gaps_have_the_wanted_burstiness() -> None:
    gaps = np.diff(arrivals.gamma(10, 2.0, 10 * HOUR_S, rng()))
    assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.05)


def test_a_crowd_multiplies_the_rate_while_it_is_there() -> None:
    crowd = arrivals.flash_crowd(5.0, 4.0, start_s=1000, length_s=600)
    assert crowd(np.array([0, 900, 1015, 1300, 1700])) == pytest.approx([5, 5, 12.5, 20, 5])


def test_a_rate_above_its_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="above 9/s"):
        arrivals.thinned(arrivals.diurnal(10, period_s=HOUR_S), 9, HOUR_S, rng())


# ── workloads ───────────────────────────────────────────────────────────────


def trace_of(count: int, gap_s: float = 1.0) -> Trace:
    requests = tuple(
        TraceRequest(n * gap_s, 1000 + n % 7, 100, (0, n + 1), "") for n in range(count)
    )
    return Trace("t", requests, MOONCAKE_BLOCK_TOKENS)


@pytest.mark.parametrize("rate", [0.2, 1.0, 7.3])
def test_a_replay_has_the_wanted_rate_and_order(rate: float) -> None:
    workload = replay(trace_of(1000), rate, 2000.0, {"a": 1.0, "b": 3.0}, rng())
    assert len(workload.requests) == pytest.approx(rate * 2000, rel=0.1)
    times = [each.at_s for each in workload.requests]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] < 2000
    share = sum(each.service_class == "b" for each in workload.requests) / len(times)
    assert share == pytest.approx(0.75, abs=0.1)


def test_copies_share_prefixes_among_themselves_only() -> None:
    workload = replay(trace_of(100), 3.0, 99.5, {"a": 1.0}, rng())
    firsts = {each.hash_ids[0] for each in workload.requests}
    assert len(firsts) in {3, 4}
    assert len({each.hash_ids[1] for each in workload.requests}) == len(workload.requests)


def test_synthesized_requests_have_both_sides() -> None:
    times = arrivals.poisson(20, 100, rng())
    workload = synthesize("x", times, 100.0, FixedLengths(10, 20), {"a": 1.0}, rng())
    assert [each.at_s for each in workload.requests] == times.tolist()
    assert {each[1:] for each in workload.requests} == {(10, 20, (), "a")}


def test_lengths() -> None:
    drawn = LogNormalLengths(500, 100).draw(20_000, rng())
    assert np.mean([each.prompt_tokens for each in drawn]) == pytest.approx(500, rel=0.05)
    assert min(each.completion_tokens for each in drawn) >= 1
    trace = trace_of(5)
    replayed = TraceLengths(trace).draw(12, rng())
    ids = [each.hash_ids[1] for each in replayed]
    assert all((b - a) % 5 == 1 for a, b in itertools.pairwise(ids))
