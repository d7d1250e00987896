"""A decoder of a given shape in plain torch, with random weights: it costs what a real one does.

Its own module because it is the only one here that imports torch. Where no serving engine is
installed, its steps are the nearest thing to one: the same matrices at the same precision, a KV
cache of the same size, and CUDA graphs where there is a GPU, so that launches cost no more than
an engine's. It fuses nothing, so that an engine is rather faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import torch
from torch.nn import functional

from serve.profiling.errors import ProfilingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from serve.profiling.decoder_shape import DecoderShape

Precision: TypeAlias = Literal["fp32", "bf16", "fp16", "int8", "fp8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16", "int8", "fp8")

_EXACT = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_EPSILON = 1e-6
_ROPE_BASE = 10_000.0
_INT8_MAX, _FP8_MAX = 127.0, 448.0
# Products of int8 on a GPU want more rows than this, and products of fp8 multiples of as many.
_ROWS = 32
# Runs before a graph is captured: they make what is made once.
_WARM_UP = 3


class Projection(Protocol):
    """Multiplies rows by a matrix."""

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Give the product in the type of the rows."""


class _Exact:
    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = weight

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        return functional.linear(rows, self._weight)


class _Int8:
    """Weights and activations of 8 bits, rounded row by row."""

    def __init__(self, weight: torch.Tensor) -> None:
        scale = weight.abs().amax(dim=1, keepdim=True).float() / _INT8_MAX
        self._weight = (weight / scale).round().to(torch.int8).t().contiguous()
        self._scale = scale.t()

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        scale = rows.abs().amax(dim=1, keepdim=True).float().clamp(min=_EPSILON) / _INT8_MAX
        narrow = _padded((rows / scale).round().to(torch.int8))
        product = torch._int_mm(narrow, self._weight)[: len(rows)]  # noqa: SLF001 (torch has no other)
        return (product * scale * self._scale).to(rows.dtype)


class _Fp8:
    """Weights and activations of 8 bits with an exponent, rounded matrix by matrix."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._scale = weight.abs().amax().float() / _FP8_MAX
        self._weight = (weight / self._scale).to(torch.float8_e4m3fn).t()

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        scale = rows.abs().amax().float().clamp(min=_EPSILON) / _FP8_MAX
        narrow = _padded((rows / scale).to(torch.float8_e4m3fn))
        product = torch._scaled_mm(  # noqa: SLF001 (torch has no other)
            narrow, self._weight, scale_a=scale, scale_b=self._scale, out_dtype=rows.dtype
        )
        return product[: len(rows)]


def _padded(rows: torch.Tensor) -> torch.Tensor:
    """Add rows of zeros where a GPU's units want more."""
    missing = -len(rows) % _ROWS
    if not rows.is_cuda or not missing:
        return rows
    return torch.cat([rows, rows.new_zeros(missing, rows.shape[1])])


class _Layer:
    """Attention and a gated feed-forward layer."""

    def __init__(self, shape: DecoderShape, make: Callable[[int, int], Projection]) -> None:
        width = shape.heads * shape.head
        self._shape = shape
        self._qkv = make(shape.hidden, width + 2 * shape.kv_heads * shape.head)
        self._out = make(width, shape.hidden)
        self._gate_up = make(shape.hidden, 2 * shape.ffn)
        self._down = make(shape.ffn, shape.hidden)

    def __call__(
        self, rows: torch.Tensor, cache: tuple[torch.Tensor, torch.Tensor], turn: _Turn, past: int
    ) -> torch.Tensor:
        """Pass rows on, of `len(cache)` sequences, whose keys and values join the cache."""
        shape, sequences = self._shape, len(cache[0])
        split = [each * shape.head for each in (shape.heads, shape.kv_heads, shape.kv_heads)]
        q, k, v = (
            part.view(sequences, -1, part.shape[1] // shape.head, shape.head).transpose(1, 2)
            for part in self._qkv(_normed(rows)).split(split, dim=1)
        )
        tokens = q.shape[2]
        keys, values = (each[:, :, : past + tokens] for each in cache)
        keys[:, :, past:] = turn(k, past)
        values[:, :, past:] = v
        seen = functional.scaled_dot_product_attention(
            turn(q, past), keys, values, is_causal=tokens > 1, enable_gqa=True
        )
        rows = rows + self._out(seen.transpose(1, 2).reshape(len(rows), -1))
        gate, up = self._gate_up(_normed(rows)).chunk(2, dim=1)
        return rows + self._down(functional.silu(gate) * up)


class _Turn:
    """Rotary positions."""

    def __init__(self, shape: DecoderShape, places: int, like: torch.Tensor) -> None:
        powers = torch.arange(0, shape.head, 2, device=like.device) / shape.head
        angles = torch.outer(torch.arange(places, device=like.device), _ROPE_BASE**-powers)
        self._cos, self._sin = angles.cos().to(like.dtype), angles.sin().to(like.dtype)

    def __call__(self, heads: torch.Tensor, past: int) -> torch.Tensor:
        tokens = heads.shape[2]
        cos, sin = (each[past : past + tokens] for each in (self._cos, self._sin))
        first, second = heads.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _normed(rows: torch.Tensor) -> torch.Tensor:
    return functional.rms_norm(rows, rows.shape[1:], eps=_EPSILON)


class TorchDecoder:
    """The decoder, loaded."""

    def __init__(self, shape: DecoderShape, precision: Precision, device: str, places: int) -> None:
        """Make its weights.

        Args:
            shape: of the decoder.
            precision: of weights and activations in products; what is not a product, and the
                head, is bf16 where that is narrower.
            device: `cuda` or `cpu`.
            places: tokens that a sequence may have.

        Raises:
            ProfilingError: the device does not compute in that precision.

        """
        self.device = device
        self._shape = shape
        self._type = _EXACT.get(precision, torch.bfloat16)
        with torch.inference_mode():
            kinds: dict[str, Callable[[torch.Tensor], Projection]] = {"int8": _Int8, "fp8": _Fp8}
            kind = kinds.get(precision, _Exact)
            self._layers = [
                _Layer(shape, lambda i, o: kind(self._random(o, i))) for _ in range(shape.layers)
            ]
            self._embedding = self._random(shape.vocabulary, shape.hidden)
            self._head = _Exact(self._random(shape.vocabulary, shape.hidden))
            self._turn = _Turn(shape, places, self._embedding)
            try:
                self.prefill(1)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise ProfilingError(
                    f"{precision} cannot be computed on this {device}: {reason}; choose another"
                    f" --precision of {', '.join(PRECISIONS)}"
                ) from error
        self.wait()

    def decoding(self, batch: int, context_tokens: int) -> Callable[[], None]:
        """Give a function that runs one decode step of sequences that hold so many tokens each.

        Every call computes the same step again: the newest token of each takes the last place.
        """
        with torch.inference_mode():
            cache = self._cache(batch, context_tokens)
            tokens = torch.zeros(batch, dtype=torch.long, device=self.device)

        @torch.inference_mode()
        def step() -> None:
            self._forward(tokens, cache, context_tokens - 1)

        return _graph(step) if self.device == "cuda" else step

    def prefill(self, tokens: int) -> None:
        """Compute a prompt, up to its first token."""
        with torch.inference_mode():
            ids = torch.zeros(tokens, dtype=torch.long, device=self.device)
            self._forward(ids, self._cache(1, tokens), 0)

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _forward(
        self, ids: torch.Tensor, cache: list[tuple[torch.Tensor, torch.Tensor]], past: int
    ) -> torch.Tensor:
        rows = functional.embedding(ids, self._embedding)
        for layer, held in zip(self._layers, cache, strict=True):
            rows = layer(rows, held, self._turn, past)
        last = rows.view(len(cache[0][0]), -1, self._shape.hidden)[:, -1]
        return self._head(_normed(last)).argmax(dim=1)

    def _cache(self, batch: int, tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        size = (batch, self._shape.kv_heads, tokens, self._shape.head)
        return [(self._random(*size), self._random(*size)) for _ in range(self._shape.layers)]

    def _random(self, *size: int) -> torch.Tensor:
        return torch.randn(size, dtype=self._type, device=self.device) * size[-1] ** -0.5


def _graph(step: Callable[[], None]) -> Callable[[], None]:
    """Capture a step, so that its launches cost what an engine's do."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    replay: Callable[[], None] = graph.replay
    return replay
