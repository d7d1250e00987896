"""What Prometheus finds at a node's port: every process's metrics once, whoever comes and goes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.telemetry_scrape import Scrape, ScrapeError, merged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.samples import Sample

ROOT = Path(__file__).parents[2]
PATIENCE_S = 20.0
REPLICA = """
import sys
from cluster import telemetry, telemetry_attributes as names, telemetry_metrics as metrics
from cluster.telemetry_requests import RequestRecord, requests

exports = telemetry.configure("replica")
name = sys.argv[1]
metrics.observe(metrics.POWER_W, lambda: 7.5, {names.REPLICA: name})
requests().record(RequestRecord(outcome="completed", model="m", variant="v", ttft_s=0.3))
print(flush=True)
input()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Give a directory whose sockets have names that are short enough."""
    with tempfile.TemporaryDirectory(prefix="js-") as name:
        yield Path(name)


@contextmanager
def replica(name: str, port: int, directory: Path) -> Iterator[subprocess.Popen[str]]:
    environ = {
        **{key: value for key, value in os.environ.items() if not key.startswith("OTEL_")},
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(directory),
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
    }
    with subprocess.Popen(
        [sys.executable, "-c", REPLICA, name],
        env=environ,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text: str = answer.read().decode()
        return text


def samples(text: str) -> list[Sample]:
    return [sample for each in text_string_to_metric_families(text) for sample in each.samples]


def replicas(port: int) -> set[str]:
    try:
        found = samples(scraped(port))
    except OSError:
        return set()
    return {
        each.labels["jouleserve_replica"]
        for each in found
        if each.name == "jouleserve_power_w_watts"
    }


def eventually(check: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + PATIENCE_S
    while not (done := check()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return done


def test_one_port_tells_of_every_process_until_the_last_one_ends(short_path: Path) -> None:
    port = free_port()
    with ExitStack() as stack:
        first = stack.enter_context(replica("a", port, short_path))
        assert eventually(lambda: replicas(port) == {"a"})
        stack.enter_context(replica("b", port, short_path))
        stack.enter_context(replica("c", port, short_path))
        assert eventually(lambda: replicas(port) == {"a", "b", "c"})
        first.send_signal(signal.SIGKILL)
        assert eventually(lambda: replicas(port) == {"b", "c"}), "another one keeps the port"


def test_what_is_scraped_has_each_metric_once_and_each_series_once(short_path: Path) -> None:
    port = free_port()
    with replica("a", port, short_path), replica("b", port, short_path):
        assert eventually(lambda: replicas(port) == {"a", "b"})
        text = scraped(port)
    heads = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(heads) == len(set(heads))
    found = samples(text)
    series = [(each.name, frozenset(each.labels.items())) for each in found]
    assert len(series) == len(set(series))
    named = {each.name for each in found}
    assert {
        "jouleserve_requests_total",
        "gen_ai_server_time_to_first_token_seconds_bucket",
        "gen_ai_server_time_to_first_token_seconds_count",
        "gen_ai_client_token_usage_sum",
        "target_info",
    } <= named
    counted = [each for each in found if each.name == "jouleserve_requests_total"]
    assert [each.value for each in counted] == [1, 1]
    assert {each.labels["service_name"] for each in counted} == {"replica"}
    answered = {
        each.labels["jouleserve_state"]: each.value
        for each in found
        if each.name == "jouleserve_scraped_processes"
    }
    assert answered == {"answered": 2, "silent": 0}


def test_a_process_that_says_nothing_is_counted_and_does_not_hold_up_the_others(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.telemetry_scrape.ANSWER_S", 0.3)
    port = free_port()
    scrape = Scrape(lambda: b"# HELP x X\n# TYPE x gauge\nx 1\n", "127.0.0.1", port, short_path)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(short_path / "1.sock"))
        mute.listen()
        assert eventually(lambda: b"x 1" in _raw(port))
        assert b'jouleserve_scraped_processes{jouleserve_state="silent"} 1' in _raw(port)
    scrape.close()
    assert _raw(port) == b""


def test_a_port_that_somebody_else_has_is_taken_when_it_is_free(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cluster.telemetry_scrape.RETRY_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        scrape = Scrape(lambda: b"# HELP x X\n# TYPE x gauge\nx 1\n", "127.0.0.1", port, short_path)
        assert eventually(lambda: "OTEL_EXPORTER_PROMETHEUS_PORT" in caplog.text)
    assert eventually(lambda: b"x 1" in _raw(port))
    scrape.close()


def _raw(port: int) -> bytes:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text: bytes = answer.read()
            return text
    except urllib.error.URLError:
        return b""


def test_only_metrics_are_at_that_port(short_path: Path) -> None:
    port = free_port()
    scrape = Scrape(lambda: b"", "127.0.0.1", port, short_path)
    assert eventually(lambda: b"scraped_processes" in _raw(port))
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10)
    scrape.close()


def test_processes_do_not_meet_where_others_can_write(short_path: Path) -> None:
    meeting = short_path / "open"
    meeting.mkdir()
    meeting.chmod(0o777)
    with pytest.raises(ScrapeError, match="remove it"):
        Scrape(lambda: b"", "127.0.0.1", free_port(), meeting)


def test_lines_of_one_metric_come_together() -> None:
    one = b"# HELP x X\n# TYPE x gauge\nx 1\n# HELP y Y\n# TYPE y counter\ny_total 2\n"
    two = b"# HELP y Y\n# TYPE y counter\ny_total 3\n# HELP z Z\n# TYPE z gauge\nz 4\n"
    assert merged([one, b"", two]).decode().splitlines() == [
        "# HELP x X", "# TYPE x gauge", "x 1",
        "# HELP y Y", "# TYPE y counter", "y_total 2", "y_total 3",
        "# HELP z Z", "# TYPE z gauge", "z 4",
    ]  # fmt: skip


def test_scrapes_at_the_same_time_see_the_same(short_path: Path) -> None:
    port = free_port()
    with replica("a", port, short_path), ThreadPoolExecutor(8) as pool:
        assert eventually(lambda: replicas(port) == {"a"})
        texts = list(pool.map(scraped, [port] * 24))
    names = [sorted(sample.name for sample in samples(text)) for text in texts]
    assert all(each == names[0] for each in names)
