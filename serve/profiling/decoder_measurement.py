"""The measurement of a decoder in plain torch: time and energy of its steps.

Its own module because it is the work of a process of its own: what the accelerator draws before
that process is there, and after it has gone, is asked from outside.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from multiprocessing import get_context
from statistics import median
from typing import TYPE_CHECKING, NamedTuple, Protocol

from cluster.energy_counters import CounterError
from cluster.nvml import Nvml
from serve.profiling.errors import ProfilingError
from serve.profiling.measured import DecodePoint, Measured, PromptPoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from serve.profiling.decoder_shape import DecoderShape
    from serve.profiling.torch_decoder import Precision, TorchDecoder

LEAST_STEPS = 5
LEAST_PROMPTS = 3
# Of a point's time, what prompts of one length take.
PROMPT_SHARE = 0.25
# Over which the power of an accelerator at rest is taken, at most.
REST_S = 10.0
# A process whose accelerator hangs is given up after the time that all of its points should
# take, and so many times that.
SLACK = 20.0
START_S = 600.0
# Until a process that has answered is gone.
END_S = 10.0


class Counter(Protocol):
    """A counter of energy."""

    def read_nj(self, now_s: float) -> int:
        """Read it."""


@dataclass(frozen=True, slots=True)
class DecoderSettings:
    """What to measure.

    Attributes:
        shape: of the decoder.
        precision: of its products.
        device: `cuda` or `cpu`.
        batches: ascending.
        contexts: tokens that each sequence holds; a second one at every third batch and the last.
        prefill_tokens: lengths of prompts.
        seconds: at each point.

    """

    shape: DecoderShape
    precision: Precision
    device: str
    batches: tuple[int, ...]
    contexts: tuple[int, int]
    prefill_tokens: tuple[int, ...]
    seconds: float

    @property
    def limit_s(self) -> float:
        """Within which all of it has to be done."""
        points = 2 * len(self.batches) + len(self.prefill_tokens)
        return START_S + SLACK * self.seconds * points


def measure(settings: DecoderSettings) -> Measured:
    """Measure a decoder in a process of its own, and what its accelerator draws without it.

    Raises:
        ProfilingError: it cannot be computed here, or its process was killed or does not end.

    """
    counter = _counter(settings.device)
    bare_w = _rest_w(counter, settings)
    measured = _apart(settings)
    if counter is None:
        return measured
    return replace(measured, bare_w=bare_w, exited_w=_rest_w(counter, settings))


def _apart(settings: DecoderSettings) -> Measured:
    """Measure it in a process of its own, which is gone afterwards whatever happens."""
    spawning = get_context("spawn")
    answers, answer = spawning.Pipe(duplex=False)
    process = spawning.Process(target=_answer, args=(settings, answer), daemon=True)
    process.start()
    answer.close()
    try:
        if not answers.poll(settings.limit_s):
            raise ProfilingError(
                f"the decoder was not done within {settings.limit_s:.0f} s; give fewer points"
            )
        found = answers.recv()
    except EOFError as error:
        raise ProfilingError(
            "the decoder's process ended without an answer, most often for want of memory; take"
            " fewer --batches or a shorter --context"
        ) from error
    finally:
        answers.close()
        # One that has answered has only to leave.
        process.join(END_S if process.is_alive() else None)
        process.kill()
        process.join()
    if isinstance(found, Measured):
        return found
    raise ProfilingError(str(found))


def _answer(settings: DecoderSettings, answer: Connection) -> None:
    """Send what was measured, or what is to be changed."""
    try:
        answer.send(_measured(settings))
    except ProfilingError as error:
        answer.send(str(error))


def _measured(settings: DecoderSettings) -> Measured:
    """Measure it in this process."""
    from serve.profiling.torch_decoder import TorchDecoder

    counter = _counter(settings.device)
    loading = _Span(counter)
    places = max(*settings.contexts, *settings.prefill_tokens)
    decoder = TorchDecoder(settings.shape, settings.precision, settings.device, places)
    loaded = loading.until_now()
    awake_w = _rest_w(counter, settings)
    remarks: list[str] = []
    prompts = tuple(_prompts(decoder, counter, each, settings) for each in settings.prefill_tokens)
    points = tuple(_points(decoder, counter, settings, remarks))
    return Measured(
        points,
        prompts,
        "model" if counter is None else "nvml",
        "" if counter is None else "gpu",
        awake_w=awake_w,
        load_s=loaded.seconds,
        load_j=loaded.joules,
        remarks=tuple(remarks),
    )


def _points(
    decoder: TorchDecoder,
    counter: Counter | None,
    settings: DecoderSettings,
    remarks: list[str],
) -> list[DecodePoint]:
    short, long = settings.contexts
    points: list[DecodePoint] = []
    for place, batch in enumerate(settings.batches):
        twice = place % 3 == 2 or place == len(settings.batches) - 1  # noqa: PLR2004
        for context in (short, long) if twice else (short,):
            try:
                step = decoder.decoding(batch, context)
            except RuntimeError as error:  # Torch's own for memory that is not there, too.
                reason = str(error).splitlines()[0]
                remarks.append(f"batch {batch} with {context} tokens each: {reason}")
                return points
            span, steps = _repeated(step, decoder.wait, counter, settings.seconds, LEAST_STEPS)
            points.append(
                DecodePoint(
                    batch,
                    float(batch * context),
                    span.seconds / steps,
                    None if span.joules is None else span.joules / steps,
                    float(steps),
                )
            )
    return points


def _prompts(
    decoder: TorchDecoder, counter: Counter | None, tokens: int, settings: DecoderSettings
) -> PromptPoint:
    times_s: list[float] = []

    def prompt() -> None:
        began_s = time.perf_counter()
        decoder.prefill(tokens)
        decoder.wait()
        times_s.append(time.perf_counter() - began_s)

    seconds = PROMPT_SHARE * settings.seconds
    span, prompts = _repeated(prompt, decoder.wait, counter, seconds, LEAST_PROMPTS)
    joules = None if span.joules is None else span.joules / prompts
    return PromptPoint(float(tokens), median(times_s), joules, prompts)


def _repeated(
    work: Callable[[], None],
    wait: Callable[[], None],
    counter: Counter | None,
    seconds: float,
    least: int,
) -> tuple[Taken, int]:
    """Do something for so long and at least so often; give what it took, and how often it was."""
    work()
    wait()
    span, times = _Span(counter), 0
    while True:
        for _ in range(least):
            work()
        wait()
        times += least
        taken = span.until_now()
        if taken.seconds >= seconds:
            return taken, times


class Taken(NamedTuple):
    """Time and energy of something; no energy without a counter."""

    seconds: float
    joules: float | None


class _Span:
    """Takes time and energy from when it was made."""

    def __init__(self, counter: Counter | None) -> None:
        self._counter = counter
        self._began_nj = 0 if counter is None else counter.read_nj(time.monotonic())
        self._began_s = time.perf_counter()

    def until_now(self) -> Taken:
        seconds = time.perf_counter() - self._began_s
        if self._counter is None:
            return Taken(seconds, None)
        energy_nj = self._counter.read_nj(time.monotonic()) - self._began_nj
        return Taken(seconds, energy_nj * 1e-9)


def _counter(device: str) -> Counter | None:
    """Give the counter of the first GPU; None for a CPU, and where the driver keeps none."""
    if device != "cuda":
        return None
    try:
        nvml = Nvml()
        # The one that torch takes if it is not told otherwise.
        (gpu,) = nvml.gpus([os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]])
        return nvml.counter(gpu.card)
    except CounterError:
        return None


def _rest_w(counter: Counter | None, settings: DecoderSettings) -> float | None:
    """Power while nothing is done; None without a counter."""
    if counter is None:
        return None
    span = _Span(counter)
    time.sleep(min(REST_S, settings.seconds))
    taken = span.until_now()
    return None if taken.joules is None else taken.joules / taken.seconds
