"""Commands: exit codes, one line for an error, and what they leave in the state directory."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING

import pytest
import yaml
from rich.console import Console

from protos.jouleserve.client import Completion, Energy, Finish, Latency, Usage
from serve import cli, cli_tables, cluster_record, live_view
from serve.cluster_record import ClusterRecord

if TYPE_CHECKING:
    from pathlib import Path

GOOD = "models: [{name: m, variants: [{name: a, engine: echo, accelerator: cpu}]}]\n"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["jouleserve", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def test_a_good_file_is_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(GOOD)
    assert run(monkeypatch, "config", "check", str(file), "--show") == 0
    assert "default_service_class: standard" in capsys.readouterr().out


def test_a_bad_file_gives_lines_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(GOOD + "gatewy: {}\n")
    assert run(monkeypatch, "config", "check", str(file)) == 1


def test_the_schema_is_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "config", "schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Config"


def test_what_ray_serve_is_told_can_be_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(GOOD)
    assert run(monkeypatch, "config", "ray", "--config", str(file)) == 0
    told = yaml.safe_load(capsys.readouterr().out)
    assert [each["name"] for each in told["applications"]] == ["jouleserve"]
    assert told["grpc_options"]["port"] == 9000


def test_an_absent_gateway_is_an_error_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "status", "--address", "127.0.0.1:1") == 1


def test_down_without_a_cluster_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "down") == 0


def test_equal_ports_are_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(GOOD)
    assert run(monkeypatch, "up", "--config", str(file), "--grpc-port", "8000") == 2


def test_a_record_is_read_back_until_it_is_forgotten(state: Path) -> None:
    record = ClusterRecord("127.0.0.1:1", "0.0.0.0", 9000, 8000)
    assert cluster_record.read() is None
    cluster_record.write(record)
    assert cluster_record.read() == record
    assert record.grpc_address == "127.0.0.1:9000"
    cluster_record.forget()
    assert cluster_record.read() is None


def test_endpoints_are_told_as_they_are_opened() -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=100)
    live_view.print_endpoints(console, ClusterRecord("127.0.0.1:1", "0.0.0.0", 9000, 8000))
    told = dict(line.rsplit(maxsplit=1) for line in shown.getvalue().splitlines())
    assert told == {
        "gRPC": "127.0.0.1:9000",
        "OpenAI HTTP": "http://127.0.0.1:8000/v1",
        "dashboard": "http://127.0.0.1:8000/dashboard",
    }


def test_a_record_that_is_no_json_counts_as_none(state: Path) -> None:
    path = cluster_record.record_path({"XDG_STATE_HOME": str(state)})
    path.parent.mkdir()
    path.write_text("{")
    assert cluster_record.read() is None


def test_an_answer_is_described_with_its_method_of_measurement() -> None:
    usage = Usage(5, 0, 7, 0, Latency(0.1, 0.02, 0.3), Energy(1.5, 0.5, 1.0, "model", "cpu"))
    finish = Finish("id", "stop", usage, "int8", "r1", "least marginal energy")
    text = cli_tables.describe(Completion("x", (1,), finish).finish)
    for part in ("int8 on r1", "least marginal energy", "TTFT 100 ms", "1.50 J", "method: model"):
        assert part in text
