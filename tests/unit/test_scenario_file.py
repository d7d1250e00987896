from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from loadtest import scenario_file
from loadtest.errors import LoadtestError, ScenarioError
from loadtest.schedule import Schedule

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = """\
arrivals:
  open: {process: poisson, rate_per_s: 4}
duration_s: 20
requests:
  - prompt: {tokens: 100}
    completion_tokens: 10
"""


def scenario_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", sorted(scenario_file.named()))
def test_every_scenario_that_comes_with_the_program_can_be_scheduled(name: str) -> None:
    scenario = scenario_file.load(name)
    schedule = Schedule(scenario, seed=1)
    assert scenario.name == name
    assert scenario.description
    assert schedule.session(0).turns


def test_a_scenario_is_named_after_its_file_unless_it_says_otherwise(tmp_path: Path) -> None:
    assert scenario_file.read(scenario_of(tmp_path, PLAIN)).name == "mine"
    assert scenario_file.read(scenario_of(tmp_path, PLAIN + "name: other\n")).name == "other"


@pytest.mark.parametrize(
    ("change", "line", "key", "words"),
    [
        (("rate_per_s: 4", "rate_per_s: -4"), 2, "arrivals.open.rate_per_s", "greater than 0"),
        (("process: poisson", "process: poison"), 2, "arrivals.open.process", "'poisson'"),
        (("tokens: 100", "tokns: 100"), 5, "requests[0].prompt.tokns", "did you mean 'tokens'"),
        (("    completion_tokens: 10\n", ""), 4, "", "requests[0] needs completion_tokens"),
        (("duration_s: 20", "duration_s: .inf"), 3, "duration_s", "finite"),
        (("duration_s: 20", "duration_s: {a: 1}"), 3, "duration_s", "number"),
        (("  open: {process: poisson, rate_per_s: 4}", "  open:"), 1, "arrivals", "exactly one of"),
        (("duration_s: 20", "duration_s: 20\nduration_s: 30"), 4, "", "given twice"),
        (("duration_s: 20", "duration_s: ["), 4, "", "no valid YAML"),
        (
            ("{tokens: 100}", "{tokens: {log_normal: {mean: 0}}}"),
            5,
            "requests[0].prompt",
            "greater",
        ),
    ],
)
def test_a_mistake_is_told_with_file_line_and_key(
    tmp_path: Path, change: tuple[str, str], line: int, key: str, words: str
) -> None:
    before, after = change
    assert before in PLAIN
    path = scenario_of(tmp_path, PLAIN.replace(before, after))
    with pytest.raises(ScenarioError) as fault:
        scenario_file.read(path)
    assert str(fault.value).startswith(f"{path}:")
    assert key in str(fault.value)
    assert words in str(fault.value)
    if key:
        assert fault.value.line == line


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "nothing"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ScenarioError, match="keys and values"):
        scenario_file.read(scenario_of(tmp_path, text))


def test_an_unknown_name_tells_the_known_ones() -> None:
    with pytest.raises(LoadtestError, match=r"agents, .*chat"):
        scenario_file.load("chatt")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"gone\.yaml: No such file"):
        scenario_file.load(str(tmp_path / "gone.yaml"))


def test_files_that_a_scenario_names_lie_beside_it(tmp_path: Path) -> None:
    (tmp_path / "asked.txt").write_text("How are you?\n\nWho is there?\n")
    text = PLAIN.replace("{tokens: 100}", "{text_file: asked.txt}")
    schedule = Schedule(scenario_file.read(scenario_of(tmp_path, text)), seed=0)
    assert [*schedule.text_lines.values()] == [("How are you?", "Who is there?")]


def test_a_malformed_line_of_a_trace_is_told_with_its_number(tmp_path: Path) -> None:
    good = '{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": [1]}\n'
    (tmp_path / "trace.jsonl").write_text(good * 3 + "{\n")
    text = PLAIN.replace("open: {process: poisson, rate_per_s: 4}", "trace: {file: trace.jsonl}")
    scenario = scenario_file.read(scenario_of(tmp_path, text))
    with pytest.raises(LoadtestError, match=r"trace\.jsonl:4: "):
        Schedule(scenario, seed=0)


def test_options_change_what_they_say_and_nothing_else(tmp_path: Path) -> None:
    plain = scenario_file.read(scenario_of(tmp_path, PLAIN))
    assert scenario_file.adjusted(plain) == plain
    faster = scenario_file.adjusted(plain, rate_per_s=9, warmup_s=3)
    assert faster.rate_per_s == 9
    assert faster.total_s == plain.duration_s + 3
    assert faster.requests == plain.requests
    closed = scenario_file.adjusted(plain, users=7).arrivals
    assert closed.open is None
    assert closed.closed is not None
    assert closed.closed.users == 7


@pytest.mark.parametrize(
    "options", [{"rate_per_s": 1, "users": 2}, {"speed": 2}, {"duration_s": -1}, {"users": 0}]
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, float]) -> None:
    plain = scenario_file.read(scenario_of(tmp_path, PLAIN))
    with pytest.raises(LoadtestError):
        scenario_file.adjusted(plain, **options)  # type: ignore[arg-type]
