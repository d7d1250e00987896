"""What an operator says of models: their variants, where the weights come from, how they run.

Its own module because variants are what recipes, catalogues and plans are made of, and most of
those need nothing else of a configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints

from cluster.accelerators import CATALOGUE
from serve.checkpoints import CheckpointSource, InvalidSourceError, Quantization
from serve.config_section import Fault, Section
from serve.step_profiles import StepProfile

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU = "cpu"
"""The accelerator of a replica that uses no GPU."""

# A variant's name is also the name of its Ray Serve deployment; "Gateway" stays free.
VariantNameText = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
ModelNameText = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w./:-]{0,126}$")]
PositiveSeconds = Annotated[float, Field(gt=0)]


class CheckpointConfig(Section):
    """Where a variant's weights come from: exactly one of `path`, `package` and `hub`."""

    path: str | None = None
    """Directory with config.json, tokenizer, *.safetensors; relative to the configuration file."""
    package: str | None = None
    """Installed Python distribution that carries the weights as one GGUF file."""
    hub: str | None = None
    """Repository on the Hugging Face hub, as organisation/name."""
    revision: str | None = None
    """Branch, tag or commit of `hub`; by default the repository's own default branch."""
    quantize: Quantization | None = None
    """Precision to derive from the checkpoint before it is served; by default none."""

    @property
    def source(self) -> CheckpointSource:
        """The same as the value that `serve.checkpoints` works on."""
        from pathlib import Path

        return CheckpointSource(
            path=Path(self.path) if self.path else None,
            package=self.package,
            hub=self.hub,
            revision=self.revision,
            quantize=self.quantize,
        )

    def find_faults(self) -> Iterator[Fault]:
        """Yield a source that names none or several places."""
        try:
            _ = self.source
        except InvalidSourceError as error:
            yield Fault("", str(error))


class EchoConfig(Section):
    """How fast the echo engine pretends to be."""

    decode_step_s: Annotated[float, Field(ge=0)] = 0.01
    """Seconds of a decode step; by default that of an 8B model on one data-centre GPU."""
    prefill_tokens_per_s: Annotated[float, Field(gt=0)] = 20_000.0
    """Prompt tokens computed per second; by default that of the same model and GPU."""


class VariantConfig(Section):
    """One way to serve a model: checkpoint, precision, accelerator, parallelism."""

    name: VariantNameText
    """Unique in the whole configuration; seen by clients in every reply."""
    engine: Literal["vllm", "llamacpp", "tensorrt", "echo"] = "vllm"
    """What produces the tokens; `llamacpp` serves a GGUF file, `tensorrt` is TensorRT-LLM, each an
    extra of its own; `echo` repeats the prompt and is for tests."""
    checkpoint: CheckpointConfig | None = None
    """The weights. Of the echo engine, the tokenizer alone: with it, it takes and gives text."""
    manifest: str | None = None
    """Name of a variant that `jouleserve variants build` has made: its checkpoint, its quality and
    its profile. One that its gate has refused is served with `up --force` only."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Precision of unquantized weights and of activations; by default the checkpoint's own,
    and float32 on processors that imitate bfloat16."""
    quantization: str | None = None
    """vLLM's name of the quantization method; by default read from the checkpoint."""
    kv_cache_dtype: Literal["auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"] = "auto"
    """Precision of the KV cache; by default that of the activations."""
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    """Accelerators of one node that share every layer; a model that fits one wants no more."""
    pipeline_parallel_size: Annotated[int, Field(ge=1)] = 1
    """Groups of layers, each on accelerators of its own; for models larger than a node."""
    accelerator: str
    """Name in the accelerator catalogue; no default, for a guess would cost money or speed."""
    max_context_tokens: Annotated[int, Field(ge=16)] = 4096
    """Prompt and completion together; a chat of many turns fits, and the KV cache of a batch."""
    max_batch: Annotated[int, Field(ge=1, le=4096)] = 128
    """Sequences decoded together; beyond it an 8B model on an H100 saves little per token."""
    kv_cache_gib: Annotated[float, Field(gt=0)] | None = None
    """GiB of KV cache for each rank; by default a GPU's free memory, on a CPU it must be given."""
    engine_options: dict[str, JsonValue] = Field(default_factory=dict)
    """Further engine arguments of vLLM, by their names in AsyncEngineArgs."""
    min_replicas: Annotated[int, Field(ge=0)] = 1
    """Replicas that are always awake; with 0 the variant sleeps while nobody needs it."""
    max_replicas: Annotated[int, Field(ge=1)] | None = None
    """Most replicas that may be awake; by default `min_replicas`, a fixed number. In between the
    planner decides, or the autoscaler that `planner.autoscaler` names."""
    candidate: bool = False
    """Not trusted yet: it sleeps until the planner has found that the traffic is served with less
    energy by it, and may try it (`planner.adapt`); it is withdrawn when that does not come true."""
    start_s: PositiveSeconds = 60.0
    """From the decision to wake a replica until it serves, before any start was seen."""
    quality: Annotated[float, Field(gt=0, le=1)] = 1.0
    """1 is the unmodified model; for others e.g. the ratio of perplexities, original to variant."""
    profile: StepProfile | None = None
    """Measured step time and energy; by default estimated from checkpoint and accelerator."""
    profile_file: str | None = None
    """File that `jouleserve calibrate` has written, in place of `profile`; relative to the
    configuration file."""
    cpus_per_replica: Annotated[float, Field(gt=0)] = 1.0
    """CPU cores asked of Ray for each rank; one feeds a GPU."""
    gpu_power_limit_w: Annotated[float, Field(gt=0)] | None = None
    """Watts of each GPU while a replica has it, where the driver permits; by default its own."""
    drain_timeout_s: PositiveSeconds = 120.0
    """Longest that a replica on its way down goes on with its streams; few last longer."""
    echo: EchoConfig = EchoConfig()
    """Read by the echo engine only."""

    @property
    def ranks(self) -> int:
        """Accelerators of one replica."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def units(self) -> float:
        """What one replica takes of a node's accelerators: GPUs, or CPU cores."""
        return self.ranks * (self.cpus_per_replica if self.accelerator == CPU else 1.0)

    @property
    def scalable(self) -> bool:
        """Whether the number of its replicas may change."""
        return self.max_replicas not in {None, self.min_replicas}

    def find_faults(self) -> Iterator[Fault]:
        """Yield what this variant's settings contradict in each other."""
        if self.accelerator not in CATALOGUE:
            known = ", ".join(sorted(CATALOGUE))
            yield Fault("accelerator", f"no accelerator {self.accelerator!r}; known: {known}")
        if self.min_replicas == 0 and self.max_replicas is None:
            yield Fault("max_replicas", "must be given where min_replicas is 0, e.g. 1")
        if self.max_replicas is not None and self.min_replicas > self.max_replicas:
            yield Fault(
                "min_replicas", f"{self.min_replicas} is more than max_replicas {self.max_replicas}"
            )
        if self.profile_file is not None:
            yield Fault("profile_file", "is read with a configuration file; give profile itself")
        if self.candidate and self.min_replicas:
            yield Fault("min_replicas", "a candidate sleeps until it is tried: give 0")
        yield from self._engine_faults()
        if self.accelerator == CPU:
            yield from self._cpu_faults()

    def _engine_faults(self) -> Iterator[Fault]:
        if self.engine != "echo" and self.checkpoint is None:
            yield Fault(
                "checkpoint", f"the engine {self.engine} needs one; give path, package or hub"
            )
        for key in UNREAD[self.engine]:
            if getattr(self, key) != type(self).model_fields[key].get_default(
                call_default_factory=True
            ):
                yield Fault(key, f"the engine {self.engine} does not read it; remove it")

    def _cpu_faults(self) -> Iterator[Fault]:
        for key in ("tensor_parallel_size", "pipeline_parallel_size"):
            if (size := getattr(self, key)) > 1:
                yield Fault(key, f"{size} ranks need as many GPUs; accelerator is 'cpu'")
        if self.gpu_power_limit_w is not None:
            yield Fault("gpu_power_limit_w", "is of a GPU; accelerator is 'cpu'")
        if self.engine == "vllm" and self.kv_cache_gib is None:
            yield Fault("kv_cache_gib", "must be given where accelerator is 'cpu', e.g. 1")


UNREAD: dict[str, tuple[str, ...]] = {
    "vllm": ("echo",),
    "tensorrt": ("echo", "gpu_power_limit_w", "quantization"),
    "llamacpp": (
        "echo",
        "dtype",
        "engine_options",
        "gpu_power_limit_w",
        "kv_cache_dtype",
        "kv_cache_gib",
        "quantization",
    ),
    "echo": ("engine_options", "gpu_power_limit_w", "quantization"),
}
"""By engine, what it has no use for."""


class ModelConfig(Section):
    """A name that clients use, and the variants that stand behind it."""

    name: ModelNameText
    """What clients write as `model`."""
    variants: Annotated[tuple[VariantConfig, ...], Field(min_length=1)]
    """The scheduler chooses among them for every request."""
    default_service_class: str = "standard"
    """For requests that name none."""
    tool_call_parser: str | None = None
    """vLLM's name of the parser that finds tool calls in the text; by default none."""
    reasoning_parser: str | None = None
    """vLLM's name of the parser that separates reasoning from the answer; by default none."""
    chat_template: str | None = None
    """Jinja template, or path of one; by default the checkpoint's own."""
