"""Quantize a checkpoint with llm-compressor; the result is what vLLM loads as it is.

Its own module because it is all that knows of llm-compressor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from serve.variants.job import Asked, JobError, run, tell
from serve.variants.jobs.samples import windows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SCHEMES = {"w8a8": "W8A8", "w4a16": "W4A16", "fp8": "FP8_DYNAMIC"}
_KEPT = ["lm_head"]
# Between the middle and the end of what 8 bits count, and of what 7 bits do.
_STEPS, _REDUCED_STEPS = 127.5, 63.0


def quantize(asked: Asked) -> Mapping[str, object]:
    """Write the quantized form of `base` into `into`."""
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tell("loading")
    # What is rounded twice is rounded worse: weights are computed in float32 until they are int.
    model = AutoModelForCausalLM.from_pretrained(asked["base"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(asked["base"])
    calibrated = asked["method"] != "rtn" or asked["kv_cache"] == "fp8"
    given: dict[str, Any] = {"model": model, "tokenizer": tokenizer, "recipe": _recipe(asked)}
    if calibrated:
        tell("calibrating")
        given |= {
            "dataset": _dataset(asked, tokenizer),
            "num_calibration_samples": asked["calibration"]["samples"],
            "max_seq_length": asked["calibration"]["tokens"],
            "shuffle_calibration_samples": False,
            "pipeline": "sequential",
        }
    oneshot(**given)
    if asked["reduced_range"]:
        _reduce_range(model)
    tell("writing")
    _narrow(model)
    model.save_pretrained(asked["into"], save_compressed=True)
    tokenizer.save_pretrained(asked["into"])
    return {"calibrated": calibrated}


def _reduce_range(model: torch.nn.Module) -> None:
    """Widen the scales by which weights are rounded when they are written: half as many steps."""
    for module in model.modules():
        scale = getattr(module, "weight_scale", None)
        if isinstance(scale, torch.Tensor):
            scale.data *= _STEPS / _REDUCED_STEPS


def _narrow(model: PreTrainedModel) -> None:
    """Keep in bf16 what is not rounded, as the base has it."""
    for module in model.modules():
        if not hasattr(module, "weight_scale"):
            for values in module.parameters(recurse=False):
                values.data = values.data.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16


def _recipe(asked: Asked) -> list[object]:
    """Put the modifiers together, in the order in which they act."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    common: dict[str, Any] = {"ignore": [*_KEPT, *(f"re:.*[.]{name}$" for name in asked["keep"])]}
    if asked["kv_cache"] == "fp8":
        common["kv_cache_scheme"] = {
            "num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False,
            "symmetric": True,
        }  # fmt: skip
    common |= _groups(asked)
    match asked["method"]:
        case "rtn":
            return [QuantizationModifier(**common)]
        case "gptq":
            return [GPTQModifier(**common)]
        case "smoothquant_gptq":
            return [SmoothQuantModifier(smoothing_strength=0.8), GPTQModifier(**common)]
        case "awq":
            from llmcompressor.modifiers.awq import AWQModifier

            return [AWQModifier(**common)]
        case unknown:
            raise JobError(f"no method {unknown!r}")


def _groups(asked: Asked) -> dict[str, Any]:
    from compressed_tensors.quantization import preset_name_to_scheme

    scheme = preset_name_to_scheme(_SCHEMES[asked["scheme"]], targets=["Linear"])
    if asked["scheme"] == "w4a16":
        weights = scheme.weights.model_copy(update={"group_size": asked["group_size"]})
        scheme = scheme.model_copy(update={"weights": weights})
    return {"config_groups": {"group_0": scheme}}


def _dataset(asked: Asked, tokenizer: PreTrainedTokenizerBase) -> object:
    """Cut the calibration text into samples of equal length, passage after passage."""
    from datasets import Dataset

    samples = windows(asked, tokenizer)
    rows = {"input_ids": samples.tolist(), "attention_mask": torch.ones_like(samples).tolist()}
    return Dataset.from_dict(rows)


if __name__ == "__main__":
    run(quantize)
