"""Checkpoints that nothing can load, and that look whole: a shape, empty weights, a tokenizer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, models, pre_tokenizers

if TYPE_CHECKING:
    from pathlib import Path

LAYER = ("l.mlp.down_proj.weight", "l.mlp.up_proj.weight", "l.norm.weight")
SHAPE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 2048,
}


def weights(*names: str) -> bytes:
    """Give a file of weights with these tensors, each of them empty."""
    nothing = {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps(dict.fromkeys(names, nothing)).encode()
    return len(header).to_bytes(8, "little") + header


def words_tokenizer() -> str:
    """Give a tokenizer to which every word is one token."""
    model = models.BPE({"?": 0}, [], unk_token="?", fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer.to_str()


def checkpoint(directory: Path, *names: str, **shape: Any) -> Path:
    """Make a checkpoint; what is None in its shape is left out."""
    directory.mkdir()
    config = {key: value for key, value in (SHAPE | shape).items() if value is not None}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").write_bytes(weights(*(names or LAYER)))
    (directory / "tokenizer.json").write_text(words_tokenizer())
    return directory
