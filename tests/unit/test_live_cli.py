"""The command line of a load test: what cannot be is told in one line, with its exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from loadtest.commands.loadtest import app
from loadtest.live.targets import target_of

if TYPE_CHECKING:
    from pathlib import Path

NOWHERE = "127.0.0.1:9"
PLAIN = """\
arrivals:
  open: {rate_per_s: 4}
requests:
  - prompt: {PROMPT}
    completion_tokens: 10
"""


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["run", *map(str, arguments)])
    return done.exit_code, done.output


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(PLAIN.replace("PROMPT", "tokens: 10"))
    return path


def test_scenarios_are_listed_with_what_they_are() -> None:
    done = CliRunner().invoke(app, ["scenarios"])
    assert done.exit_code == 0
    names = [line.split()[0] for line in done.output.splitlines()]
    assert names == sorted(
        ["agents", "batch-at-night", "chat", "code", "flash-crowd", "mixed-tenants"]
    )


def test_a_server_that_is_not_there_ends_a_run_with_exit_code_1(scenario: Path) -> None:
    code, told = run(scenario, "--target", NOWHERE)
    assert code == 1
    assert f"partial: nothing answers at {NOWHERE}" in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "nowhere"], "no port in 'nowhere'"),
        (["--target", "ftp://host:1"], "no address: 'ftp://host:1'"),
        (["--target", "host:port"], "no port"),
        (["--rate", "2", "--users", "2"], "give one of a rate"),
        (["--speed", "2"], "only a trace has a speed"),
        (["--api-key-file", "not-there"], "not-there: No such file"),
    ],
)
def test_options_that_cannot_be_used_are_told_with_exit_code_2(
    scenario: Path, options: list[str], words: str
) -> None:
    code, told = run(scenario, *options)
    assert code == 2
    assert "error: " in told
    assert words in told


def test_a_malformed_trace_is_told_with_its_line(scenario: Path, tmp_path: Path) -> None:
    trace = tmp_path / "day.csv"
    trace.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:01:51.1600000,374,44\n"
        "2023-11-16 18:01:52.0000000,many,44\n"
    )
    scenario.write_text(PLAIN.replace("PROMPT", "trace: day.csv"))
    code, told = run(scenario, "--target", NOWHERE)
    assert code == 2
    assert f"{trace}:3: " in told


def test_words_have_no_token_ids(scenario: Path, tmp_path: Path) -> None:
    (tmp_path / "asked.txt").write_text("Who is there?\n")
    scenario.write_text(PLAIN.replace("PROMPT", "text_file: asked.txt"))
    code, told = run(scenario, "--target", NOWHERE, "--as", "tokens")
    assert code == 2
    assert "send it as chat or as text" in told
    code, told = run(scenario, "--target", NOWHERE)
    assert code == 1


@pytest.mark.parametrize(
    ("given", "address", "protocol"),
    [
        ("127.0.0.1:9000", "127.0.0.1:9000", "grpc"),
        ("grpcs://gateway.example:443", "gateway.example:443", "grpc"),
        ("http://h:8000", "http://h:8000/v1", "openai"),
        ("http://h:8000/v1/", "http://h:8000/v1", "openai"),
        ("https://h/some/v1", "https://h/some/v1", "openai"),
    ],
)
def test_an_address_says_which_protocol_it_speaks(given: str, address: str, protocol: str) -> None:
    target = target_of(given, "m")
    assert target.address == address
    assert target.protocol == protocol
    assert target.tls == given.startswith("grpcs")


def test_a_key_is_found_where_it_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JOULESERVE_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    assert target_of("http://h:1", "m").api_key == "theirs"
    assert not target_of("h:1", "m").api_key
    monkeypatch.setenv("JOULESERVE_API_KEY", "ours")
    assert target_of("http://h:1", "m").api_key == "ours"
    assert target_of("h:1", "m").api_key == "ours"
    assert target_of("h:1", "m", api_key="own").api_key == "own"
