"""What goes over the wire: prompts of the lengths asked for, shared where a trace shares them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.live import token_pools
from loadtest.live.grpc_bodies import GrpcBodies
from loadtest.live.openai_bodies import OpenaiBodies
from loadtest.live.targets import target_of
from loadtest.scenario import Scenario
from loadtest.schedule import Schedule
from protos.jouleserve.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from pathlib import Path

    from loadtest.live.targets import Dialect, Form, TargetSettings

IDS, WORDS = token_pools.varints(0), token_pools.words(0)


def settings_of(address: str, form: Form, variant: str = "") -> TargetSettings:
    return target_of(address, "m", form=form, api_key="", variant=variant)


def scenario_of(**kind: Any) -> Scenario:
    plain = {"prompt": {"tokens": 40}, "completion_tokens": 5, "service_class": "c", "tenant": "t"}
    return Scenario.model_validate(
        {
            "arrivals": {"open": {"process": "constant", "rate_per_s": 2}},
            "duration_s": 10,
            "requests": [plain | kind],
        }
    )


def asked(scenario: Scenario, form: Form, number: int = 0, turn: int = 0) -> pb.GenerateRequest:
    schedule = Schedule(scenario, seed=0)
    bodies = GrpcBodies(scenario, schedule, settings_of("h:1", form, "v"), salt=9)
    answers: list[bytes | str] = [b"\x05\x06" if form == "tokens" else "yes "] * turn
    return pb.GenerateRequest.FromString(bodies.body(schedule.session(number), turn, answers))


def posted(scenario: Scenario, form: Form, turn: int = 0, dialect: Dialect = "jouleserve") -> Any:
    schedule = Schedule(scenario, seed=0)
    target = replace(settings_of("http://h:1", form), dialect=dialect)
    bodies = OpenaiBodies(scenario, schedule, target, salt=9)
    return json.loads(bodies.body(schedule.session(0), turn, ["yes "] * turn))


@given(st.integers(0, 2**64 - 1), st.integers(0, 200_000))
@settings(max_examples=50, deadline=None)
def test_a_cut_has_as_many_units_as_asked_for(number: int, count: int) -> None:
    assert len(WORDS.cut(number, count).split()) == count
    assert len(IDS.cut(number, count)) == 2 * count


@given(st.sets(st.integers(0, 2**64 - 1), min_size=2, max_size=200), st.integers(8, 40))
@settings(max_examples=50, deadline=None)
def test_different_numbers_give_different_cuts(numbers: set[int], count: int) -> None:
    assert len({IDS.cut(number, count) for number in numbers}) == len(numbers)
    assert len({WORDS.cut(number, count) for number in numbers}) == len(numbers)


def test_varints_are_the_ids_that_decimals_spell() -> None:
    ids = pb.TokenIds(ids=[token_pools.FIRST_TOKEN, token_pools.LAST_TOKEN]).SerializeToString()
    assert len(ids) == 2 + 2 * 2
    decimals = token_pools.decimals(0).cut(77, 3).strip(",").split(",")
    assert all(token_pools.FIRST_TOKEN <= int(each) <= token_pools.LAST_TOKEN for each in decimals)


def test_token_ids_have_their_exact_number_and_everything_else_is_said() -> None:
    request = asked(scenario_of(prompt={"tokens": 40, "shared_prefix_tokens": 10}), "tokens")
    assert len(request.prompt_token_ids.ids) == 50
    assert request.model == "m"
    assert request.service_class == "c"
    assert request.tenant == "t"
    assert request.variant == "v"
    assert request.sampling.max_tokens == 5
    assert request.sampling.ignore_eos


def test_a_common_prefix_is_common_and_the_rest_is_not() -> None:
    scenario = scenario_of(prompt={"tokens": 40, "shared_prefix_tokens": 10})
    one, other = (asked(scenario, "tokens", number).prompt_token_ids.ids for number in (0, 1))
    assert one[:10] == other[:10]
    assert one[10:] != other[10:]


def test_runs_of_different_salt_share_no_prompt() -> None:
    scenario = scenario_of()
    schedule = Schedule(scenario, seed=0)
    target = settings_of("h:1", "tokens")
    one, other, same = (
        GrpcBodies(scenario, schedule, target, salt).body(schedule.session(0), 0, ())
        for salt in (1, 2, 1)
    )
    assert one == same
    assert one != other


def test_a_turn_carries_all_that_was_said() -> None:
    scenario = scenario_of(turns=3, prompt={"tokens": 40, "shared_prefix_tokens": 10})
    first, second = (asked(scenario, "tokens", turn=turn).prompt_token_ids.ids for turn in (0, 1))
    assert list(second[: len(first)]) == list(first)
    assert list(second[len(first) : len(first) + 2]) == [5, 6]
    assert len(second) == len(first) + 2 + 40


def test_a_chat_has_its_roles_in_turn() -> None:
    scenario = scenario_of(turns=3, prompt={"tokens": 40, "shared_prefix_tokens": 10})
    roles = ["system", "user", "assistant", "user", "assistant", "user"]
    assert [each.role for each in asked(scenario, "chat", turn=2).chat.messages] == roles
    messages = posted(scenario, "chat", turn=2)["messages"]
    assert [each["role"] for each in messages] == roles
    assert messages[2]["content"] == "yes "
    assert len(messages[1]["content"].split()) == 40


def test_openai_prompts_are_json_of_the_length_asked_for() -> None:
    scenario = scenario_of()
    assert len(posted(scenario, "tokens")["prompt"]) == 40
    assert len(posted(scenario, "text")["prompt"].split()) == 40


@pytest.mark.parametrize(
    ("dialect", "own"),
    [("jouleserve", {"ignore_eos", "service_class", "tenant"}), ("vllm", {"ignore_eos"})],
)
def test_a_server_gets_only_fields_that_it_knows(dialect: Dialect, own: set[str]) -> None:
    common = {"model", "max_tokens", "stream", "stream_options", "messages"}
    assert set(posted(scenario_of(), "chat", dialect=dialect)) == common | own
    assert set(posted(scenario_of(), "chat", dialect="plain")) == common


def test_lines_of_a_text_file_are_asked_as_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "asked.txt"
    file.write_text('Who said "é"?\n')
    scenario = scenario_of(prompt={"text_file": file})
    assert posted(scenario, "chat")["messages"] == [{"role": "user", "content": 'Who said "é"?'}]
    assert asked(scenario, "text").prompt == 'Who said "é"?'


def test_equal_hash_ids_give_equal_blocks_and_lengths_are_those_of_the_trace(
    tmp_path: Path,
) -> None:
    rows = [(1100, [4, 5, 6]), (1500, [4, 5, 7]), (700, [8, 5])]
    lines = [
        {"timestamp": 1000 * at, "input_length": n, "output_length": 3, "hash_ids": ids}
        for at, (n, ids) in enumerate(rows)
    ]
    file = tmp_path / "trace.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    scenario = Scenario.model_validate(
        {"arrivals": {"trace": {"file": file}}, "duration_s": 12, "requests": [{}]}
    )
    prompts = [list(asked(scenario, "tokens", n).prompt_token_ids.ids) for n in range(6)]
    assert [len(each) for each in prompts] == [1100, 1500, 700, 1100, 1500, 700]
    assert prompts[0][:1024] == prompts[1][:1024]
    assert prompts[0][1024:] != prompts[1][1024:1100]
    assert prompts[2][:512] != prompts[0][:512]
    # Another round is another population: it finds nothing in a cache of the first.
    assert prompts[3][:512] != prompts[0][:512]
    assert prompts[3][:1024] == prompts[4][:1024]


def test_no_key_is_ever_shown() -> None:
    target = target_of("h:1", "m", api_key="very-secret")
    assert "very-secret" not in repr(target)
    assert "very-secret" not in target.label
