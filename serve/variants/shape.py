"""What is known of a base checkpoint before anything loads it: its layers, and what it lacks.

Its own module because it reads files' first bytes only: a checkpoint that is half there is told
in a moment, whatever its size.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serve.variants.job import CONTEXT_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
_INDEX = "model.safetensors.index.json"
_TOKENIZERS = (TOKENIZER, "tokenizer.model", "vocab.json", "tekken.json")
# Of a safetensors file: the length of its header, in so many bytes.
_LENGTH_BYTES = 8


class ShapeError(Exception):
    """The checkpoint is not what a recipe can begin with; the message says why."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known of a checkpoint's layers; None where its config.json does not say.

    Attributes:
        model_type: by transformers' name.
        hidden: width of what passes from layer to layer.
        ffn: features of each feed-forward layer.
        layers: how many there are.
        head: width of each head of the attention.
        context: tokens that it can read at once.
        ffn_bias: whether feed-forward layers add something constant.
        byte_pairs: whether its tokenizer is one of byte pairs.
        projections: what layers multiply with, by the last two parts of their names.

    """

    model_type: str
    hidden: int | None
    ffn: int | None
    layers: int | None
    head: int | None
    context: int | None
    ffn_bias: bool
    byte_pairs: bool
    projections: frozenset[tuple[str, str]]

    @property
    def projection_names(self) -> frozenset[str]:
        """Without the part of the layer that they belong to."""
        return frozenset(name for _, name in self.projections)


def shape_of(base: Path) -> Shape:
    """Read the shape of a checkpoint.

    Raises:
        ShapeError: it is no complete and exact checkpoint.

    """
    config = _object(base / CONFIG)
    if "quantization_config" in config:
        raise ShapeError(f"{base} is quantized already; a recipe begins with exact weights")
    names = _tensor_names(base)
    if not any((base / name).is_file() for name in _TOKENIZERS):
        raise ShapeError(f"{base} has no tokenizer ({', '.join(_TOKENIZERS)}); put it there")
    context = _count(config, "max_position_embeddings")
    if context is not None and context < CONTEXT_TOKENS:
        raise ShapeError(
            f"{base} reads {context} tokens at once, and is measured with {CONTEXT_TOKENS}; take"
            " a base with a longer context"
        )
    return Shape(
        model_type=str(config.get("model_type", "")),
        hidden=_count(config, "hidden_size"),
        ffn=_count(config, "intermediate_size"),
        layers=_count(config, "num_hidden_layers"),
        head=_head(config),
        context=context,
        ffn_bias=bool(config.get("mlp_bias")),
        byte_pairs=_has_byte_pairs(base),
        projections=frozenset(_projections(names)),
    )


def _object(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ShapeError(f"{file} cannot be read ({error}); fetch the checkpoint again") from error
    if not isinstance(found, dict):
        raise ShapeError(f"{file} holds no JSON object; fetch the checkpoint again")
    return found


def _count(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and value > 0 else None


def _head(config: Mapping[str, Any]) -> int | None:
    given = _count(config, "head_dim")
    hidden, heads = _count(config, "hidden_size"), _count(config, "num_attention_heads")
    return given or (hidden // heads if hidden and heads else None)


def _has_byte_pairs(base: Path) -> bool:
    """Whether the tokenizer spells bytes and merges pairs of them, as GPT-2's does."""
    if not (base / TOKENIZER).is_file():
        return False
    model = _object(base / TOKENIZER).get("model")
    found = model if isinstance(model, dict) else {}
    return found.get("type") == "BPE" and not found.get("byte_fallback")


def _tensor_names(base: Path) -> set[str]:
    """Name all tensors, by the headers of the weights' files, which have to be whole."""
    files = {file.name for file in base.glob("*.safetensors")}
    if not files:
        raise ShapeError(f"{base} has no *.safetensors; convert its weights to that")
    if (base / _INDEX).is_file():
        files = set(_object(base / _INDEX).get("weight_map", {}).values())
    return {name for file in sorted(files) for name in _header(base / file)}


def _header(file: Path) -> Mapping[str, Any]:
    """Read what a file of weights says of its tensors."""
    try:
        with file.open("rb") as content:
            length = int.from_bytes(content.read(_LENGTH_BYTES), "little")
            there = file.stat().st_size - _LENGTH_BYTES
            header = json.loads(content.read(length)) if length <= there else {}
        ends = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
    except (OSError, ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise ShapeError(f"{file} cannot be read ({error}); fetch it again") from error
    if there != length + max(ends, default=0) or not ends:
        raise ShapeError(f"{file} is not whole; fetch it again")
    return header if isinstance(header, dict) else {}


def _projections(names: set[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        *_, part, module, parameter = ("", "", *name.split("."))
        if parameter == "weight" and module.endswith("_proj"):
            yield part, module
