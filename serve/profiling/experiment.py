"""The measurement of a live replica: which batches, which contexts, which prompts, in order.

Its own module because it is a protocol of its own, written down once: everything that it needs
(load, counter, prompts) is somebody else's.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

from protos.jouleserve.client import BadRequestError, OverloadedError
from serve.profiling.errors import ProfilingError, SubjectError, TooLittleError
from serve.profiling.measured import DecodePoint, Measured, PromptPoint
from serve.profiling.watch import Watch, power_w, within
from serve.profiling.waves import Target, Wave, Window, wave, window_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from protos.jouleserve.client import AsyncClient, Replica
    from serve.profiling.prompts import TokenRange

# Tokens of the wave that comes before those that count: it pays for what is made once for a
# batch, and tells how long a step takes.
PROBE_TOKENS = 12
# A probe in which the first had ended before the last began is made so many times longer, so
# often: prompts are computed one after another, while those before them decode.
PROBE_GROWTH, PROBES = 6, 4
# Of a wave, at least, beyond what its prompts take: fewer steps are as much of its ends.
LEAST_TOKENS = 24
MOST_WAVES = 64
MOST_PROMPTS = 2000
LEAST_PROMPTS = 3
# Until a probe has ended whose steps nobody knows, and beyond what is expected of a wave.
PROBE_LIMIT_S = 600.0
SLACK = 8.0
# After a load, until the replica is idle again.
IDLE_LIMIT_S = 30.0
_MS = 1e3
# How full the KV cache may be: beyond, sequences are put off and the batch is not what it seems.
MOST_KV_USAGE = 0.97
# Of a point's time, what prompts of one length take; at least so long where a counter has to be
# read twice meanwhile.
PROMPT_SHARE, LEAST_METERED_S = 0.25, 2.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure.

    Attributes:
        batches: ascending.
        seconds: of decoding at each batch and context.
        prompt_tokens: before the tokens of a wave: the short context.
        long_prompt_tokens: before those of a second wave, at every third batch and the last, so
            that the cost of context can be told; 0 for none.
        prefill_tokens: lengths of prompts whose computation is timed.
        context_tokens: that a request may have, prompt and completion.
        tokens: to draw prompts from.

    """

    batches: tuple[int, ...]
    seconds: float
    prompt_tokens: int
    long_prompt_tokens: int
    prefill_tokens: tuple[int, ...]
    context_tokens: int
    tokens: TokenRange


class Experiment:
    """Measures one replica."""

    def __init__(
        self,
        client: AsyncClient,
        subject: Replica,
        settings: Settings,
        rng: Random,
        tell: Callable[[str], None],
    ) -> None:
        """Measure nothing yet.

        Args:
            client: of the replica's cluster, with enough connections for the largest batch.
            subject: the replica.
            settings: what to measure.
            rng: draws prompts.
            tell: is told what is measured next, and what came of it.

        """
        self._client = client
        self._target = Target(client, subject.model, subject.variant)
        self._subject = subject
        self._settings = settings
        self._rng = rng
        self._tell = tell
        self._remarks: list[str] = []
        self._metered = subject.energy_method != "model" and not subject.meter_trouble
        if subject.meter_trouble:
            self._remarks.append(f"energy is left to the model: {subject.meter_trouble}")

    async def run(self) -> Measured:
        """Measure everything.

        Raises:
            SubjectError: the replica has changed, or was disturbed.
            TooLittleError: it could not be measured at two batches and two lengths of prompts.
            JouleserveClientError: a request failed.

        """
        awake_w = await self._idle_w() if self._metered else None
        prompts = [await self._prefill(tokens) for tokens in self._settings.prefill_tokens]
        points: list[DecodePoint] = []
        for batch in self._settings.batches:
            found = await self._batch(batch)
            if not found:
                break
            points += found
        if len({point.batch for point in points}) < 2:  # noqa: PLR2004 (a line has two ends)
            raise TooLittleError(
                "fewer than two batches could be measured"
                + "".join(f"; {remark}" for remark in self._remarks)
            )
        return Measured(
            tuple(points),
            tuple(prompts),
            self._subject.energy_method if self._metered else "model",
            self._subject.energy_boundary,
            awake_w=awake_w,
            remarks=tuple(self._remarks),
        )

    # ── decoding ────────────────────────────────────────────────────────────

    async def _batch(self, batch: int) -> list[DecodePoint]:
        """Measure a batch at each of its contexts; nothing if it cannot be had."""
        settings = self._settings
        place = settings.batches.index(batch)
        found = []
        if (short := await self._decode(batch, settings.prompt_tokens)) is not None:
            found.append(short)
        # Not those that are left out of a fit to judge it: what remains must tell contexts.
        twice = place % 3 == 2 or place == len(settings.batches) - 1  # noqa: PLR2004
        if found and twice and settings.long_prompt_tokens:
            long = await self._decode(batch, settings.long_prompt_tokens)
            found += [] if long is None else [long]
        return found

    async def _decode(self, batch: int, prompt_tokens: int) -> DecodePoint | None:
        """Measure decode steps at one batch and context; None with a remark if it cannot be."""
        self._tell(f"batch {batch}, prompts of {prompt_tokens} tokens")
        what = f"batch {batch} after prompts of {prompt_tokens} tokens"
        try:
            async with self._watch(batch) as watch:
                windows = await self._windows(batch, prompt_tokens, watch)
        except OverloadedError as error:
            self._remarks.append(f"{what} is refused: {error.message}")
            return None
        if not windows:
            self._remarks.append(f"{what} never decoded together: it does not fit the replica")
            return None
        point = self._point(batch, windows, watch, what)
        if point is not None:
            self._tell(f"  {point.step_s * _MS:.3f} ms, mean of {point.steps:.0f} steps")
        return point

    async def _windows(self, batch: int, prompt_tokens: int, watch: Watch) -> list[Window]:
        """Send waves until they have decoded together for as long as is asked."""
        room = self._settings.context_tokens - prompt_tokens - 1
        windows: list[Window] = []
        probe, tokens = None, 0
        for growth in range(PROBES):
            tokens = min(room, PROBE_TOKENS * PROBE_GROWTH**growth)
            sent = await self._wave(batch, prompt_tokens, tokens, PROBE_LIMIT_S)
            watch.check()
            if (probe := window_of(sent.streams)) is not None or tokens == room:
                break
        while probe is not None and len(windows) < MOST_WAVES:
            left_s = self._settings.seconds - _seconds(windows)
            if left_s <= 0:
                break
            wanted = tokens + max(LEAST_TOKENS, math.ceil(left_s / probe.step_s) + 1)
            wanted = min(wanted, room)
            limit_s = PROBE_LIMIT_S + SLACK * wanted * probe.step_s
            sent = await self._wave(batch, prompt_tokens, wanted, limit_s)
            watch.check()
            window = window_of(sent.streams)
            if window is None:
                break
            windows.append(window)
        return windows

    def _point(
        self, batch: int, windows: Sequence[Window], watch: Watch, what: str
    ) -> DecodePoint | None:
        steps = sum(window.steps for window in windows)
        step_s = _seconds(windows) / sum(_span(window) / window.step_s for window in windows)
        context = sum(window.context_tokens * window.steps for window in windows) / steps
        inside = [
            glimpse
            for window in windows
            for glimpse in within(watch.glimpses, window.begin_s, window.end_s)
        ]
        if max((glimpse.kv_cache_usage for glimpse in inside), default=0.0) > MOST_KV_USAGE:
            self._remarks.append(f"{what} fills the KV cache: sequences are put off")
            return None
        # Its own mean still has prompts in it when a window begins.
        own_s = median([glimpse.step_time_s for glimpse in inside]) if inside else 0.0
        return DecodePoint(
            batch, context, step_s, self._energy(windows, watch, step_s, what), steps, own_s
        )

    def _energy(
        self, windows: Sequence[Window], watch: Watch, step_s: float, what: str
    ) -> float | None:
        """Energy of a step: its time at the mean power of the windows that tell one."""
        if not self._metered:
            return None
        powers = [
            (power, _span(window))
            for window in windows
            if (power := power_w(watch.glimpses, window.begin_s, window.end_s)) is not None
        ]
        if not powers:
            self._remarks.append(f"{what}: too short for the energy counter; raise --seconds")
            return None
        return step_s * sum(w * s for w, s in powers) / sum(s for _, s in powers)

    # ── prefill ─────────────────────────────────────────────────────────────

    async def _prefill(self, tokens: int) -> PromptPoint:
        """Time prompts of one length, one after another, of which no token is kept."""
        self._tell(f"prompts of {tokens} tokens")
        await self._wave(1, tokens, 1, PROBE_LIMIT_S)
        first_s: list[float] = []
        computed: list[float] = []
        async with self._watch(1) as watch:
            began_s = asyncio.get_running_loop().time()
            least_s = PROMPT_SHARE * self._settings.seconds
            least_s = max(least_s, LEAST_METERED_S) if self._metered else least_s
            while len(first_s) < LEAST_PROMPTS or (
                asyncio.get_running_loop().time() - began_s < least_s
                and len(first_s) < MOST_PROMPTS
            ):
                sent_s = asyncio.get_running_loop().time()
                done = await self._wave(1, tokens, 1, PROBE_LIMIT_S)
                first_s.append(done.streams[0].at_s[0] - sent_s)
                (usage,) = done.usages
                computed.append(usage.prompt_tokens - usage.cached_tokens)
            ended_s = asyncio.get_running_loop().time()
            watch.check()
        power = power_w(watch.glimpses, began_s, ended_s) if self._metered else None
        if self._metered and power is None:
            self._remarks.append(
                f"prompts of {tokens} tokens: too short for the energy counter; raise --seconds"
            )
        self._tell(f"  {median(first_s) * _MS:.2f} ms, median of {len(first_s)}")
        prompt_j = None if power is None else power * (ended_s - began_s) / len(first_s)
        return PromptPoint(fmean(computed), median(first_s), prompt_j, len(first_s))

    # ── the cluster ─────────────────────────────────────────────────────────

    async def _wave(self, batch: int, prompt_tokens: int, tokens: int, limit_s: float) -> Wave:
        drawn = [self._settings.tokens.draw(self._rng, prompt_tokens) for _ in range(batch)]
        try:
            done = await wave(self._target, drawn, tokens, limit_s)
        except BadRequestError as error:
            raise ProfilingError(
                f"the gateway refuses a prompt of {prompt_tokens} tokens: {error.message}. Give"
                " --token-ids of the model's vocabulary, or shorter prompts"
            ) from error
        if others := done.replicas - {self._subject.replica}:
            raise SubjectError(
                f"requests went to {', '.join(sorted(others))} instead of"
                f" {self._subject.replica}; keep the number of replicas with jouleserve plan --pin"
            )
        return done

    def _watch(self, running: int) -> Watch:
        return Watch(self._client, self._subject, running)

    async def _idle_w(self) -> float | None:
        """Power of the replica while it does nothing."""
        self._tell("power of the idle replica")
        async with self._watch(0) as watch:
            began_s = asyncio.get_running_loop().time()
            await asyncio.sleep(min(self._settings.seconds, IDLE_LIMIT_S))
            watch.check()
            return power_w(watch.glimpses, began_s, asyncio.get_running_loop().time())


def _span(window: Window) -> float:
    return window.end_s - window.begin_s


def _seconds(windows: Sequence[Window]) -> float:
    return sum(_span(window) for window in windows)
