"""Variants come out of configuration, checkpoint and accelerator as they should."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from serve import catalogue
from serve.config import Config
from serve.engine import EngineStep

if TYPE_CHECKING:
    from pathlib import Path

LLAMA_8B: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
W8A8 = {
    "config_groups": {
        "group_0": {
            "weights": {"num_bits": 8, "type": "int"},
            "input_activations": {"num_bits": 8, "type": "int"},
        }
    },
    "quant_method": "compressed-tensors",
}
W4A16 = {
    "config_groups": {"group_0": {"weights": {"num_bits": 4}, "input_activations": None}},
    "quant_method": "compressed-tensors",
}


def write(directory: Path, weight_bytes: int, **changes: object) -> str:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**LLAMA_8B, **changes}))
    (directory / "tokenizer.json").write_text("{}")
    with (directory / "model.safetensors").open("wb") as file:
        file.truncate(weight_bytes)
    return str(directory)


def configure(*variants: dict[str, Any]) -> Config:
    return Config.model_validate({"models": [{"name": "m", "variants": list(variants)}]})


def test_a_checkpoint_on_a_gpu_gives_a_first_principles_model(tmp_path: Path) -> None:
    path = write(tmp_path / "bf16", 16_060_000_000)
    entry = {"name": "bf16", "checkpoint": {"path": path}, "accelerator": "h100-sxm"}
    built = catalogue.variants(configure(entry))
    (variant,) = built.values()
    assert variant.name == "bf16"
    assert variant.model == "m"
    assert variant.context_power_w == pytest.approx(119.7)
    assert variant.steps.decode_s(1) == pytest.approx(6.69e-3, rel=0.1)
    assert variant.steps.decode_j(0) == pytest.approx(3.04, rel=0.1)
    # (0.9 × 80 GiB − 16 GB of weights − activations) at 128 KiB a token.
    assert variant.kv_capacity_tokens == pytest.approx(450_000, rel=0.05)


def test_shape_counts_what_the_model_card_says(tmp_path: Path) -> None:
    path = write(tmp_path / "bf16", 0)
    config = configure({"name": "v", "checkpoint": {"path": path}, "accelerator": "h100-sxm"})
    shape = catalogue.shape(config.variant("v")[1], LLAMA_8B)
    assert shape.weight_bytes == pytest.approx(2 * 7.50e9, rel=0.01)  # Less input embeddings.
    assert shape.active_parameters == pytest.approx(7.5e9, rel=0.01)
    assert shape.kv_bytes_per_token == 131_072
    moe = {**LLAMA_8B, "num_local_experts": 8, "num_experts_per_tok": 2}
    mixture = catalogue.shape(config.variant("v")[1], moe)
    assert mixture.weight_bytes > 5 * shape.weight_bytes
    assert mixture.active_parameters < 2 * shape.active_parameters


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [(None, "bf16"), (W8A8, "int8"), (W4A16, "int4"), ({"quant_method": "fp8"}, "fp8")],
)
def test_activations_decide_the_precision(
    tmp_path: Path, quantization: dict[str, Any] | None, expected: str
) -> None:
    path = write(tmp_path / "v", 1)
    config = configure({"name": "v", "checkpoint": {"path": path}, "accelerator": "h100-sxm"})
    checkpoint = {**LLAMA_8B, "quantization_config": quantization} if quantization else LLAMA_8B
    assert catalogue.precision(config.variant("v")[1], checkpoint) == expected


def test_an_int8_variant_costs_less_than_bf16_on_a_cpu(tmp_path: Path) -> None:
    common = {"accelerator": "cpu", "kv_cache_gib": 1}
    bf16 = write(tmp_path / "bf16", 16_000_000_000)
    int8 = write(tmp_path / "int8", 9_000_000_000, quantization_config=W8A8)
    built = catalogue.variants(
        configure(
            {"name": "bf16", "checkpoint": {"path": bf16}, **common},
            {"name": "int8", "checkpoint": {"path": int8}, "quality": 0.98, **common},
        )
    )
    plain, quantized = built.values()
    assert quantized.steps.decode_j(1) < plain.steps.decode_j(1)
    assert quantized.steps.prefill_j(1) < plain.steps.prefill_j(1)
    assert quantized.quality == 0.98
    assert plain.kv_capacity_tokens == 8192


def test_a_measured_profile_goes_before_estimates(tmp_path: Path) -> None:
    path = write(tmp_path / "v", 1)
    profile = {
        "t0_s": 0.01,
        "t1_s": 0.001,
        "e0_j": 2.0,
        "e1_j": 0.5,
        "prefill_s_per_token": 0.001,
        "prefill_j_per_token": 0.1,
        "measured_on": "a test",
    }
    entry = {
        "name": "v",
        "checkpoint": {"path": path},
        "accelerator": "h100-sxm",
        "profile": profile,
    }
    (variant,) = catalogue.variants(configure(entry)).values()
    assert variant.steps.decode_j(2) == 3.0
    assert variant.steps.decode_s(2) == 0.012
    assert variant.steps.prefill_j(10) == 1.0


def test_the_echo_engine_costs_what_its_pretended_accelerator_would() -> None:
    entry = {
        "name": "echo",
        "engine": "echo",
        "accelerator": "cpu",
        "echo": {"decode_step_s": 0.02, "prefill_tokens_per_s": 1000},
    }
    (variant,) = catalogue.variants(configure(entry)).values()
    assert variant.steps.decode_s(5) == 0.02
    assert variant.steps.prefill_s(1000) == pytest.approx(1.0)
    assert 0 < variant.steps.decode_j(1) / 0.02 <= 5.0


def test_a_ledger_has_the_variants_model_and_boundary() -> None:
    entry = {"name": "echo", "engine": "echo", "accelerator": "cpu", "cpus_per_replica": 2}
    config = configure(entry)
    books = catalogue.ledger(config.variant("echo")[1])
    books.advance(0.0)
    books.advance(10.0)
    assert books.idle_j == pytest.approx(2 * 1.5 * 10)
    books.admit("a", 10)
    books.step(EngineStep(0.01, 10, 0, 0, 1, 0, 0.0), 10.0)
    books.first_token("a")
    energy = books.settle("a", 0, 1)
    assert energy.method == "model"
    assert energy.boundary == "cpu"
    assert energy.prefill_j > 0
