"""Recipes that cannot work are refused at once, in a line that names the key and what to change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from serve.variants import workshop
from serve.variants.cli import app

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


CASES = {
    "no YAML": (GOOD + "  - [", "recipe.yaml:"),
    "an unknown key": (GOOD + "gates: {}\n", "gate"),
    "a key twice": (GOOD + "name: other\n", "name"),
    "no name": (GOOD.replace("name: good", ""), "name"),
    "a name like no file's": (GOOD.replace("name: good", "name: ../Good"), "name"),
    "no base": (GOOD.replace("base: {path: base}", ""), "base"),
    "two bases": (GOOD.replace("path: base", "path: base, hub: a/b"), "base: a checkpoint takes"),
    "a base that is not there": (GOOD.replace("path: base", "path: nowhere"), "nowhere"),
    "a base that is no checkpoint": (GOOD.replace("path: base", "path: empty"), "config.json"),
    "a base whose shape is no JSON": (GOOD.replace("path: base", "path: broken"), "config.json"),
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
    "learning rates below zero": (
        steps("  - distill: {learning_rate: -1}\n"),
        "steps[0].distill.learning_rate",
    ),
    "a text that is too short to learn from": (
        steps("  - distill: {tokens: 4000}\n"),
        "steps[0].distill.tokens: 4000 are more than the tenth of calibration.text",
    ),
    "a calibration text that is not there": (
        GOOD.replace("text.txt", "none.txt"),
        "none.txt cannot be read",
    ),
    "an empty calibration text": (GOOD.replace("text.txt", "empty.txt"), "has 0 characters"),
    "a calibration text in no encoding": (
        GOOD.replace("text.txt", "latin.txt"),
        "latin.txt cannot be read",
    ),
    "a gate that nothing passes": (GOOD + "gate: {min_agreement: 2}\n", "gate.min_agreement"),
    "a gate below what can be": (GOOD + "gate: {max_perplexity_ratio: 0.5}\n", "gate.max_perplex"),
}


def weights(*names: str) -> bytes:
    nothing = {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps(dict.fromkeys(names, nothing)).encode()
    return len(header).to_bytes(8, "little") + header


def checkpoint(directory: Path, config: str, *names: str) -> None:
    directory.mkdir()
    (directory / "config.json").write_text(config)
    (directory / "model.safetensors").write_bytes(weights(*names))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a directory with bases and texts, good and bad; no job may be started."""
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    layer = ("l.mlp.down_proj.weight", "l.mlp.up_proj.weight", "l.norm.weight")
    checkpoint(tmp_path / "base", json.dumps(shape), *layer)
    checkpoint(tmp_path / "quantized", json.dumps({**shape, "quantization_config": {}}), *layer)
    checkpoint(tmp_path / "gpt2", json.dumps({"n_embd": 128}), "h.mlp.c_proj.weight")
    checkpoint(tmp_path / "broken", "{", *layer)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("some words " * 1000)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 1000)
    monkeypatch.setenv("JOULESERVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(workshop, "python", lambda *_: pytest.fail("the environment was made"))
    monkeypatch.setattr(workshop, "work", lambda *_: pytest.fail("a job was started"))
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
    assert "Traceback" not in output
    assert not (place / "cache" / "variants").exists()
