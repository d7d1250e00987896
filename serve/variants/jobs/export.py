"""Write a model as one GGUF file, for llama.cpp and whatever is built on it at the edge.

Its own module because it is all that knows of GGUF's names.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import torch
from gguf.quants import quantize as rounded

from serve.variants.job import Asked, JobError, run, tell

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

TYPES = {
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}
_MATRIX = 2


def export(asked: Asked) -> Mapping[str, object]:
    """Write `base` into `into` as model.gguf, beside its tokenizer and config.json."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tell("loading")
    model = AutoModelForCausalLM.from_pretrained(asked["base"], dtype=torch.float32)
    config = model.config
    if config.model_type != "llama":
        raise JobError(f"only models like Llama can be exported; this one is {config.model_type!r}")
    kind, file_type = TYPES[asked["precision"]]
    file = Path(asked["into"]) / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    _describe(writer, config, Path(asked["base"]).name)
    writer.add_file_type(file_type)
    tokenizer = AutoTokenizer.from_pretrained(asked["base"])
    _add_tokenizer(writer, tokenizer, Path(asked["base"]), config)
    tell("rounding")
    for name, values in _tensors(model, config):
        exact = values.ndim < _MATRIX or values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]
        chosen = gguf.GGMLQuantizationType.F32 if exact else kind
        writer.add_tensor(name, rounded(values, chosen), raw_dtype=chosen)
    tell("writing")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tokenizer.save_pretrained(asked["into"])
    config.save_pretrained(asked["into"])
    return {"bytes": file.stat().st_size}


def _describe(writer: gguf.GGUFWriter, config: Any, name: str) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, base: Path, config: Any) -> None:
    """Write a byte-pair tokenizer; its pieces are already in the spelling that GGUF has too."""
    by_id = {number: piece for piece, number in tokenizer.get_vocab().items()}
    special = set(tokenizer.all_special_ids)
    pieces = [by_id.get(number, f"[PAD{number}]") for number in range(config.vocab_size)]
    kinds = [
        gguf.TokenType.UNUSED
        if number not in by_id
        else gguf.TokenType.CONTROL
        if number in special
        else gguf.TokenType.NORMAL
        for number in range(config.vocab_size)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    gguf.SpecialVocab(base, load_merges=True, n_vocab=len(pieces)).add_to_gguf(writer)


def _tensors(model: Any, config: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """Give every tensor under the name and in the order of rows that llama.cpp has."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    tied = bool(config.tie_word_embeddings)
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise JobError(f"GGUF has no name for {name}")
        count = heads.get(name.split(".")[-2], 0)
        yield found, (_turned(tensor, count) if count else tensor).numpy()


def _turned(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Put rows of each head in the order of llama.cpp's rotary embedding: pairs are neighbours."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns).contiguous()


if __name__ == "__main__":
    run(export)
