"""Derive an int8 W8A8 checkpoint from a bf16 one, by rounding to nearest.

Weights become int8, symmetric, one scale per output channel; activations are quantized by the
engine while it runs, one scale per token. Nothing is calibrated, so it takes about as long as
copying the file and runs in the serving environment; recipes that need data or other library
versions are an offline job elsewhere.

Its own module because it is the only writer of the compressed-tensors format.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from compressed_tensors.quantization import QuantizationScheme
    from torch import Tensor

RECIPE_VERSION = 1
"""Raised whenever the same base would give other files; part of the cache key."""

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"}


class NotQuantizableError(Exception):
    """This checkpoint cannot be quantized here; the message says what is in the way."""


@dataclass(frozen=True, slots=True)
class _Layers:
    """Names of a model's modules by what quantization does with them."""

    linear: frozenset[str]
    kept: frozenset[str]
    """Embeddings and the output head: rounding them costs the most quality and saves the least."""
    output: frozenset[str]
    """The output head, where it is a linear layer."""


def quantize_w8a8(base: Path, into: Path) -> None:
    """Write the W8A8 form of the checkpoint in `base` into the empty directory `into`.

    One shard is in memory at a time.

    Raises:
        NotQuantizableError: no safetensors, an unknown architecture, or weights outside of plain
            linear layers (mixture-of-experts tensors, convolutions).

    """
    from compressed_tensors.quantization import preset_name_to_scheme

    layers = _layers(base)
    scheme = preset_name_to_scheme("W8A8", targets=["Linear"])
    shards = _shards(base)
    shard_of: dict[str, str] = {}
    size_bytes = 0
    for shard in shards:
        tensors = _quantized_shard(base / shard, layers, scheme)
        _save(tensors, into / shard)
        shard_of |= dict.fromkeys(tensors, shard)
        size_bytes += sum(tensor.nbytes for tensor in tensors.values())
    _require_all_quantized(layers, shard_of)
    _copy_the_rest(base, into)
    _write_config(base, into, scheme, ignored=sorted(layers.output))
    if len(shards) > 1:
        index = {"metadata": {"total_size": size_bytes}, "weight_map": shard_of}
        (into / _INDEX).write_text(json.dumps(index, indent=2, sort_keys=True))


def _layers(base: Path) -> _Layers:
    """Sort the model's modules, from its configuration alone: no weight is read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(base)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (ValueError, KeyError, OSError) as error:
        raise NotQuantizableError(f"transformers cannot build this model: {error}") from error
    head = model.get_output_embeddings()
    modules = dict(model.named_modules())
    output = {name for name, module in modules.items() if module is head}
    linear = {name for name, module in modules.items() if isinstance(module, torch.nn.Linear)}
    embeddings = {
        name for name, module in modules.items() if isinstance(module, torch.nn.Embedding)
    }
    return _Layers(
        linear=frozenset(linear - output),
        kept=frozenset(embeddings | output),
        output=frozenset(linear & output),
    )


def _shards(base: Path) -> list[str]:
    """Name the weight files that belong to the checkpoint."""
    if (base / _INDEX).is_file():
        weight_map: dict[str, str] = json.loads((base / _INDEX).read_text())["weight_map"]
        return sorted(set(weight_map.values()))
    if (base / _SINGLE).is_file():
        return [_SINGLE]
    raise NotQuantizableError(
        f"{base} has neither {_SINGLE} nor {_INDEX}; convert it to safetensors first"
    )


def _quantized_shard(shard: Path, layers: _Layers, scheme: QuantizationScheme) -> dict[str, Tensor]:
    """Read one weight file with each linear weight replaced by its int8 form and scale."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        exact = load_file(shard)
    except (SafetensorError, OSError) as error:
        raise NotQuantizableError(f"{shard} cannot be read: {error}") from error
    result: dict[str, Tensor] = {}
    for name, tensor in exact.items():
        module, _, parameter = name.rpartition(".")
        if parameter == "weight" and module in layers.linear:
            compressed = _quantized_weight(tensor, scheme)
            result |= {f"{module}.{key}": value for key, value in compressed.items()}
        elif tensor.ndim > 1 and module not in layers.kept:
            raise NotQuantizableError(
                f"{name} is of no linear layer or embedding; only dense models can be quantized"
            )
        else:
            result[name] = tensor
    return result


def _quantized_weight(weight: Tensor, scheme: QuantizationScheme) -> dict[str, Tensor]:
    """Round a matrix of output × input channels to `weight` (int8) and `weight_scale` (float32)."""
    import torch
    from compressed_tensors.compressors.naive_quantized import IntQuantizationCompressor
    from compressed_tensors.quantization.utils import calculate_qparams

    exact = weight.to(torch.float32)
    low, high = exact.aminmax(dim=1, keepdim=True)
    scale, _ = calculate_qparams(low, high, scheme.weights)
    compressed: dict[str, Tensor] = IntQuantizationCompressor.compress(
        {"weight": exact, "weight_scale": scale}, scheme
    )
    return compressed


def _save(tensors: dict[str, Tensor], shard: Path) -> None:
    from safetensors.torch import save_file

    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, shard, {"format": "pt"}
    )


def _require_all_quantized(layers: _Layers, written: dict[str, str]) -> None:
    """Refuse a result in which the engine would look for int8 weights in vain."""
    missing = sorted(name for name in layers.linear if f"{name}.weight_scale" not in written)
    if missing:
        raise NotQuantizableError(
            f"the checkpoint names its tensors otherwise than the model: no {missing[0]}.weight"
            f" ({len(missing)} of {len(layers.linear)} linear layers are missing)"
        )


def _copy_the_rest(base: Path, into: Path) -> None:
    """Copy tokenizer, chat template and generation defaults: everything that holds no weights."""
    for file in base.iterdir():
        if (
            file.is_file()
            and file.suffix not in _WEIGHT_SUFFIXES
            and not file.name.endswith(".index.json")
        ):
            shutil.copy2(file, into / file.name)


def _write_config(base: Path, into: Path, scheme: QuantizationScheme, ignored: list[str]) -> None:
    """Tell the engine, in config.json, how to read the weights."""
    import compressed_tensors
    from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus

    quantization: dict[str, Any] = QuantizationConfig(
        config_groups={"group_0": scheme},
        format="int-quantized",
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=ignored,
    ).model_dump(mode="json")
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = quantization | {"version": compressed_tensors.__version__}
    (into / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
