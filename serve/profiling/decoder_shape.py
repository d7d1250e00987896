"""The shape of a dense decoder, as a checkpoint's config.json tells it.

Its own module because it is pure: what cannot be built is refused before torch is loaded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serve.profiling.errors import ProfilingError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG = "config.json"
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_LATENT = "kv_lora_rank"


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """What of a decoder decides the cost of its steps.

    Attributes:
        hidden: width of what passes from layer to layer.
        layers: in number.
        heads: of the attention.
        kv_heads: of these, with keys and values of their own.
        head: width of a head.
        ffn: features of each gated feed-forward layer.
        vocabulary: tokens.

    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    ffn: int
    vocabulary: int

    @property
    def parameters(self) -> int:
        """Count the weights that a step reads: every layer's, and the head's."""
        attention = 2 * self.hidden * self.head * (self.heads + self.kv_heads)
        layer = attention + 3 * self.hidden * self.ffn
        return self.layers * layer + self.vocabulary * self.hidden

    @classmethod
    def of(cls, config: Mapping[str, Any], name: str) -> DecoderShape:
        """Read the fields of a config.json.

        Args:
            config: its content.
            name: of the file, for messages.

        Raises:
            ProfilingError: it is not that of a dense decoder with ordinary attention.

        """
        text = config.get("text_config")
        given = {**config, **text} if isinstance(text, dict) else config
        if any((given.get(key) or 1) > 1 for key in _EXPERTS) or given.get(_LATENT):
            raise ProfilingError(
                f"{name} is not of a dense decoder with ordinary attention; measure it on a live"
                " cluster with jouleserve calibrate"
            )
        hidden, heads = (
            _count(given, "hidden_size", name),
            _count(given, "num_attention_heads", name),
        )
        shape = cls(
            hidden=hidden,
            layers=_count(given, "num_hidden_layers", name),
            heads=heads,
            kv_heads=_count({"num_key_value_heads": heads, **given}, "num_key_value_heads", name),
            head=_count({"head_dim": hidden // heads, **given}, "head_dim", name),
            ffn=_count(given, "intermediate_size", name),
            vocabulary=_count(given, "vocab_size", name),
        )
        if shape.heads % shape.kv_heads or shape.head % 2:
            raise ProfilingError(
                f"{name}: {shape.heads} heads of width {shape.head} cannot share"
                f" {shape.kv_heads} keys"
            )
        return shape


def shape_in(path: Path) -> DecoderShape:
    """Read the shape from a config.json, or from the directory that it lies in.

    Raises:
        ProfilingError: it cannot be read, or is of something else.

    """
    file = path / CONFIG if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProfilingError(f"{file} cannot be read: {error}; give a config.json") from error
    if not isinstance(content, dict):
        raise ProfilingError(f"{file} holds no JSON object; give a config.json")
    return DecoderShape.of(content, str(file))


def _count(given: Mapping[str, Any], key: str, name: str) -> int:
    value = given.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ProfilingError(f"{name}: {key} must be a positive number, not {value!r}")
    return value
