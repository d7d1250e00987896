"""From configuration to what the scheduler knows: variants with their step models.

Its own module because it joins three things that do not know each other: what the
operator wrote, what a checkpoint's files say, and the accelerator catalogue.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.accelerators import CATALOGUE, Precision
from cluster.metering import MODELLED
from scheduler.fleet import Variant
from scheduler.profiles import limited
from scheduler.requests import ModelName, VariantName
from scheduler.steps import AffineSteps, ModelShape, first_principles
from serve.attribution import Ledger
from serve.checkpoints import HubError, materialize
from serve.config_models import CPU
from serve.energy_window import WINDOW_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.accelerators import Accelerator
    from cluster.metering import Metering
    from scheduler.profiles import TableSteps
    from serve.config import Config
    from serve.config_models import ModelConfig, VariantConfig

_GIB = 1 << 30
# Share of a GPU's memory that vLLM uses by default, and what of it is neither weights nor KV.
_MEMORY_SHARE = 0.9
_ACTIVATION_BYTES = 2 * _GIB
_BYTES = {"bfloat16": 2.0, "float16": 2.0, "float32": 4.0}
# Activations of so many bits are multiplied as they are; others as bf16.
_UNIT_BITS = 8
# Bytes of a weight that is unpacked from fewer bits than any unit multiplies.
_NARROW_BYTES = 0.5
# Prompts are looked up in the prefix cache in blocks of so many tokens; vLLM's default.
_PREFIX_BLOCK_TOKENS = 16
# Its attention kernels on CPUs take multiples of 32.
_CPU_PREFIX_BLOCK_TOKENS = 32
# Share of the way from context power to TDP that the echo engine pretends to draw.
_ECHO_BUSY_SHARE = 0.6
# Its KV cache, in full contexts for each place in the batch: never what limits it.
_ECHO_KV_CONTEXTS = 1


def variants(config: Config) -> dict[VariantName, Variant]:
    """Build every variant that the scheduler may choose from, by name.

    Blocks while a checkpoint that is not there yet is made or fetched.

    Raises:
        CheckpointError: a checkpoint cannot be had.

    """
    return {VariantName(entry.name): variant(model, entry) for model, entry in config.variants()}


def variant(model: ModelConfig, entry: VariantConfig) -> Variant:
    """Build one variant as the scheduler sees it; blocks as `variants` does."""
    checkpoint = _checkpoint(entry)
    return Variant(
        name=VariantName(entry.name),
        model=ModelName(model.name),
        quality=entry.quality,
        max_context_tokens=entry.max_context_tokens,
        max_batch=entry.max_batch,
        kv_capacity_tokens=_kv_capacity_tokens(entry, checkpoint),
        steps=_steps(entry, checkpoint),
        context_power_w=context_power_w(entry),
        prefix_block_tokens=_prefix_block_tokens(entry),
    )


def _prefix_block_tokens(entry: VariantConfig) -> int:
    """Granularity of the engine's prefix cache; 0 without one."""
    if entry.engine == "echo" or entry.engine_options.get("enable_prefix_caching") is False:
        return 0
    given = entry.engine_options.get("block_size")
    if isinstance(given, int):
        return given
    return _CPU_PREFIX_BLOCK_TOKENS if entry.accelerator == CPU else _PREFIX_BLOCK_TOKENS


def predicted_steps(entry: VariantConfig) -> AffineSteps:
    """Predict the steps of a variant from first principles; blocks as `variants` does."""
    return _estimated_steps(entry, _checkpoint(entry))


def ledger(entry: VariantConfig, metering: Metering = MODELLED) -> Ledger:
    """Make the energy ledger of a replica of a variant; blocks as `variants` does.

    Args:
        entry: the variant.
        metering: of the replica.

    """
    return Ledger(
        steps=_steps(entry, _checkpoint(entry)),
        idle_power_w=context_power_w(entry),
        method="model",
        boundary=CATALOGUE[entry.accelerator].boundary,
        counter=metering.meter,
        window_s=WINDOW_S,
        trouble=metering.trouble,
    )


def context_power_w(entry: VariantConfig) -> float:
    """Watts of a replica that is awake and does nothing."""
    return _units(entry) * CATALOGUE[entry.accelerator].context_w


# ── step models ─────────────────────────────────────────────────────────────


def _steps(entry: VariantConfig, checkpoint: dict[str, Any] | None) -> AffineSteps | TableSteps:
    """Predict steps within the power limit; that they take longer by it, replicas' reports tell."""
    steps = _unlimited_steps(entry, checkpoint)
    if entry.gpu_power_limit_w is None:
        return steps
    return limited(steps, _units(entry) * entry.gpu_power_limit_w)


def _unlimited_steps(
    entry: VariantConfig, checkpoint: dict[str, Any] | None
) -> AffineSteps | TableSteps:
    """Take the measured profile; where there is none, first principles."""
    if entry.profile is None:
        return _estimated_steps(entry, checkpoint)
    cap_w = _units(entry) * CATALOGUE[entry.accelerator].tdp_w
    return entry.profile.steps(lambda: _estimated_steps(entry, checkpoint), cap_w)


def _estimated_steps(entry: VariantConfig, checkpoint: dict[str, Any] | None) -> AffineSteps:
    accelerator = CATALOGUE[entry.accelerator]
    if checkpoint is None:
        return _echo_steps(entry, accelerator)
    facts = accelerator.facts(precision(entry, checkpoint))
    return first_principles(shape(entry, checkpoint), facts, _units(entry))


def _units(entry: VariantConfig) -> float:
    """Accelerators of a replica: GPUs, or CPU cores."""
    per_rank = entry.cpus_per_replica if CATALOGUE[entry.accelerator].boundary == "cpu" else 1.0
    return entry.ranks * per_rank


def _echo_steps(entry: VariantConfig, accelerator: Accelerator) -> AffineSteps:
    """Pretend that the echo engine draws a busy accelerator's power for as long as it waits."""
    span_w = accelerator.tdp_w - accelerator.context_w
    power_w = _units(entry) * (accelerator.context_w + _ECHO_BUSY_SHARE * span_w)
    step_s = max(entry.echo.decode_step_s, 1e-6)
    prefill_s = 1.0 / entry.echo.prefill_tokens_per_s
    return AffineSteps(
        t0_s=step_s,
        t1_s=0.0,
        e0_j=power_w * step_s,
        e1_j=0.01 * power_w * step_s,
        prefill_s_per_token=prefill_s,
        prefill_j_per_token=power_w * prefill_s,
    )


# ── checkpoints ─────────────────────────────────────────────────────────────


def _checkpoint(entry: VariantConfig) -> dict[str, Any] | None:
    """Read a checkpoint's config.json, with its weights' size added; None for echo."""
    if entry.checkpoint is None or entry.engine == "echo":
        return None
    source = entry.checkpoint.source
    place = materialize(source)
    directory = Path(place)
    if not directory.is_dir():
        return _text_config(json.loads(_hub_file(place, source.revision).read_text("utf-8")))
    config = _text_config(json.loads((directory / "config.json").read_text("utf-8")))
    weight_bytes = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    return {**config, "weight_bytes": weight_bytes} if weight_bytes else config


def _hub_file(repository: str, revision: str | None) -> Path:
    """Fetch config.json of a checkpoint that the engine itself will fetch."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(repository, "config.json", revision=revision))
    except (HfHubHTTPError, OSError) as error:
        message = f"cannot read config.json of {repository}; give the variant a profile"
        raise HubError(message) from error


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    """Give the language model's part of a multimodal model."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def precision(entry: VariantConfig, checkpoint: Mapping[str, Any]) -> Precision:
    """Say what the matrix products run in: activations decide, and int4 weights are unpacked."""
    quantization = checkpoint.get("quantization_config") or {}
    for group in (quantization.get("config_groups") or {}).values():
        activations = group.get("input_activations") or {}
        if activations.get("num_bits") == _UNIT_BITS:
            return "fp8" if activations.get("type") == "float" else "int8"
    method = entry.quantization or quantization.get("quant_method") or ""
    if "fp8" in method:
        return "fp8"
    return "int4" if _weight_bytes(checkpoint) <= _NARROW_BYTES else "bf16"


def shape(entry: VariantConfig, checkpoint: Mapping[str, Any]) -> ModelShape:
    """Count what a step reads and computes, from the fields of a config.json.

    All experts of a mixture count as read, as they are at any but the smallest batches. Of
    embeddings that are not the output head's weights too, a step reads a few rows.
    """
    layers = int(checkpoint["num_hidden_layers"])
    _, active = _parameters(checkpoint)
    resident_bytes = _resident_bytes(entry, checkpoint)
    return ModelShape(
        weight_bytes=resident_bytes - min(_embedding_bytes(checkpoint), resident_bytes / 2),
        active_parameters=active,
        kv_bytes_per_token=_kv_bytes_per_token(entry, checkpoint, layers),
        layers=layers,
    )


def _resident_bytes(entry: VariantConfig, checkpoint: Mapping[str, Any]) -> float:
    """Bytes of all weights in memory."""
    online_fp8 = "fp8" in (entry.quantization or "") and "quantization_config" not in checkpoint
    total, _ = _parameters(checkpoint)
    weight_bytes = checkpoint.get("weight_bytes") or total * _weight_bytes(checkpoint)
    return float(weight_bytes / 2 if online_fp8 else weight_bytes)


def _embedding_bytes(checkpoint: Mapping[str, Any]) -> float:
    """Bytes of input embeddings that serve for nothing else; they are never quantized."""
    if checkpoint.get("tie_word_embeddings"):
        return 0.0
    size = _BYTES.get(str(checkpoint.get("torch_dtype") or checkpoint.get("dtype")), 2.0)
    return size * float(checkpoint["vocab_size"]) * float(checkpoint["hidden_size"])


def _parameters(checkpoint: Mapping[str, Any]) -> tuple[float, float]:
    """Count all parameters, and those that take part in one token."""
    hidden = checkpoint["hidden_size"]
    heads = checkpoint["num_attention_heads"]
    head_dim = checkpoint.get("head_dim") or hidden // heads
    kv_heads = checkpoint.get("num_key_value_heads") or heads
    attention = 2 * hidden * head_dim * (heads + kv_heads)
    experts = checkpoint.get("num_local_experts") or checkpoint.get("num_experts") or 1
    chosen = checkpoint.get("num_experts_per_tok") or 1
    width = checkpoint.get("moe_intermediate_size") if experts > 1 else None
    expert = 3 * hidden * (width or checkpoint["intermediate_size"])
    head = checkpoint["vocab_size"] * hidden
    embeddings = head if checkpoint.get("tie_word_embeddings") else 2 * head
    layers = checkpoint["num_hidden_layers"]
    total = embeddings + layers * (attention + experts * expert)
    return total, head + layers * (attention + min(chosen, experts) * expert)


def _weight_bytes(checkpoint: Mapping[str, Any]) -> float:
    """Bytes of a weight where the files are not at hand."""
    quantization = checkpoint.get("quantization_config") or {}
    bits = [
        group["weights"]["num_bits"]
        for group in (quantization.get("config_groups") or {}).values()
        if group.get("weights")
    ]
    if bits:
        return float(bits[0]) / 8
    if quantization.get("bits"):
        return float(quantization["bits"]) / 8
    if "fp8" in str(quantization.get("quant_method", "")):
        return 1.0
    return _BYTES.get(str(checkpoint.get("torch_dtype") or checkpoint.get("dtype")), 2.0)


# ── KV cache ────────────────────────────────────────────────────────────────


def _kv_bytes_per_token(entry: VariantConfig, checkpoint: Mapping[str, Any], layers: int) -> float:
    if entry.kv_cache_dtype.startswith("fp8"):
        size = 1.0
    else:
        named = entry.kv_cache_dtype if entry.kv_cache_dtype != "auto" else entry.dtype
        size = _BYTES.get(named, 2.0)
    if checkpoint.get("kv_lora_rank"):
        # Multi-head latent attention keeps one compressed vector instead of keys and values.
        width = int(checkpoint["kv_lora_rank"]) + int(checkpoint["qk_rope_head_dim"])
        return layers * size * width
    heads = int(checkpoint["num_attention_heads"])
    head_dim = int(checkpoint.get("head_dim") or checkpoint["hidden_size"] // heads)
    return 2.0 * layers * size * head_dim * int(checkpoint.get("num_key_value_heads") or heads)


def _kv_capacity_tokens(entry: VariantConfig, checkpoint: Mapping[str, Any] | None) -> int:
    """Tokens that fit the KV cache; at least one full context, else the engine would not start."""
    if checkpoint is None:
        return entry.max_batch * entry.max_context_tokens * _ECHO_KV_CONTEXTS
    facts = shape(entry, checkpoint)
    if entry.kv_cache_gib is not None:
        room_bytes = entry.ranks * entry.kv_cache_gib * _GIB
    else:
        memory_bytes = _MEMORY_SHARE * CATALOGUE[entry.accelerator].memory_bytes
        room_bytes = entry.ranks * (memory_bytes - _ACTIVATION_BYTES)
        room_bytes -= _resident_bytes(entry, checkpoint)
    return max(entry.max_context_tokens, int(room_bytes / facts.kv_bytes_per_token))
