"""An engine replica that exists as arithmetic: continuous batching without the tokens.

Its own module because it stands in for vLLM in the virtual cluster. It schedules a step
as vLLM does: running sequences first, each decoding one token or computing a chunk of its
prompt, then waiting ones while the token budget, the batch and the KV cache allow; when
the KV cache is full, the sequence that came last gives its blocks up and begins anew. Time
and energy of a step are those of the step model, as the live meter counts them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from loadtest.virtual.decode_batch import DecodeBatch
from loadtest.virtual.events import LAST, EventQueue
from loadtest.virtual.kv_cache import KvCache
from loadtest.virtual.replica_load import ReplicaLoad
from loadtest.virtual.step_runs import StepRun, decode_run

if TYPE_CHECKING:
    from loadtest.virtual.sequences import Sequence
    from scheduler.fleet import ReplicaReport, Variant
    from scheduler.requests import ReplicaId


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How engines schedule.

    Attributes:
        max_batched_tokens: that a step computes, decoded and prompt tokens together.
        block_tokens: of a KV block.
        totals: let reports carry sums over steps, for gateways that calibrate by them.
        leap: take equal steps at once; False only to test that it makes no difference.

    """

    max_batched_tokens: int = 8192
    block_tokens: int = 16
    totals: bool = False
    leap: bool = True


class ReplicaListener(Protocol):
    """Whoever is told what a replica has done."""

    def finished(self, replica: SimulatedReplica, sequences: list[Sequence]) -> None:
        """Take sequences that ended with this step."""

    def emptied(self, replica: SimulatedReplica) -> None:
        """Note that the replica has nothing left to do."""


class ReplicaEnergy(NamedTuple):
    """Where a replica's joules went, up to an instant.

    Attributes:
        prefill_j: computing prompts.
        decode_j: decoding.
        idle_j: being awake with nothing to do.

    """

    prefill_j: float
    decode_j: float
    idle_j: float

    @property
    def total_j(self) -> float:
        """All of it: what a meter would show."""
        return self.prefill_j + self.decode_j + self.idle_j


class SimulatedReplica:
    """Serves sequences in steps.

    Attributes:
        replica: its name.
        variant: what it really is, whatever the scheduler believes.
        draining: it is given no new work.
        ended: it is gone; what still comes from it is of no interest.
        started_at_s: when it began to serve.
        kv: its KV cache.
        load: what its reports say.
        settled_j: of sequences that ended, however they did.
        reported_at_s: when the report sent last reaches each gateway.

    """

    def __init__(
        self,
        replica: ReplicaId,
        variant: Variant,
        settings: EngineSettings,
        events: EventQueue,
        listener: ReplicaListener,
    ) -> None:
        self.replica = replica
        self.variant = variant
        self.draining = False
        self.ended = False
        self.started_at_s = events.now_s
        self.kv = KvCache(variant.kv_capacity_tokens, settings.block_tokens)
        self.load = ReplicaLoad(events.now_s, totalled=settings.totals)
        self.settled_j = 0.0
        self.reported_at_s: list[float] = []
        self._settings = settings
        self._events = events
        self._listener = listener
        self._waiting: deque[Sequence] = deque()
        # In the order of admission: prefilling and decoding ones, and the former alone.
        self._running: dict[int, Sequence] = {}
        self._prefilling: dict[int, Sequence] = {}
        self._chunks: list[tuple[Sequence, int]] = []
        self._batch = DecodeBatch(self.kv)
        self._run: StepRun | None = None
        self._version = 0
        self._idle_since_s = events.now_s
        self._prefill_j = 0.0
        self._idle_j = 0.0

    # ── what is asked of it ─────────────────────────────────────────────────

    @property
    def requests(self) -> int:
        """Accepted and not ended."""
        return len(self._running) + len(self._waiting)

    @property
    def running(self) -> int:
        """In the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Accepted and not in the batch."""
        return len(self._waiting)

    def submit(self, sequence: Sequence) -> bool:
        """Accept a sequence for the next step that has room for it; False if none ever has."""
        most_tokens = sequence.prompt_tokens + sequence.completion_tokens
        if self.kv.blocks(most_tokens) > self.kv.capacity_blocks:
            return False
        self._waiting.append(sequence)
        self.load.pending_tokens += sequence.prompt_tokens - sequence.expected_cached_tokens
        if self._run is None:
            self._begin()
        elif len(self._waiting) == 1 and len(self._running) < self.variant.max_batch:
            self._cut()
        return True

    def fail(self) -> list[Sequence]:
        """Die at once; give what it had, with the tokens that each has got."""
        now_s = self._events.now_s
        run = self._run
        if run is not None:
            self._fail_run(run, now_s)
        else:
            self._idle_j += self.variant.context_power_w * (now_s - self._idle_since_s)
        self._idle_since_s = now_s
        self._version += 1
        lost = [*self._running.values(), *self._waiting]
        for sequence in self._running.values():
            if sequence in self._batch:
                self._batch.leave(sequence)
            self.kv.release(sequence.kv)
        for sequence in lost:
            self.settled_j += sequence.energy_j
        self._running.clear()
        self._prefilling.clear()
        self._waiting.clear()
        return lost

    # ── what it says ────────────────────────────────────────────────────────

    def report(self, seen_at_s: float) -> ReplicaReport:
        """Give the totals of this instant, as of the last step that has ended.

        Args:
            seen_at_s: when the report will reach the gateway.

        """
        now_s, run, kv, batch = self._events.now_s, self._run, self.kv, self._batch
        energy_j = self._prefill_j + batch.energy_j + self._idle_j
        used, steps = kv.used_blocks, 0
        if run is None:
            energy_j += self.variant.context_power_w * (now_s - self._idle_since_s)
        else:
            steps = run.completed(now_s)
            if steps and batch.size:
                energy_j += run.decode_j(steps)
                used += kv.growth(batch.step, steps)
        return self.load.report(
            now_s,
            seen_at_s,
            running=len(self._running),
            waiting=len(self._waiting),
            kv_cache_usage=used / kv.capacity_blocks,
            energy_j=energy_j,
            run=run,
            steps=steps,
            batch=batch,
        )

    def energy(self, now_s: float) -> ReplicaEnergy:
        """Give what its meter shows at an instant from the latest event on."""
        run = self._run
        if run is None:
            idle_j = self.variant.context_power_w * (now_s - self._idle_since_s)
            return ReplicaEnergy(self._prefill_j, self._batch.energy_j, self._idle_j + idle_j)
        prefill_j, decode_j = _spent(run, now_s, run.completed(now_s))
        return ReplicaEnergy(
            self._prefill_j + prefill_j, self._batch.energy_j + decode_j, self._idle_j
        )

    def unfinished_j(self, now_s: float) -> float:
        """What its present sequences have cost up to an instant from the latest event on."""
        prefill_j, decode_j = self._under_way(now_s)
        accounts_j = sum(sequence.energy_j for sequence in self._waiting)
        for sequence in self._running.values():
            accounts_j += sequence.energy_j
            if sequence in self._batch:
                accounts_j += self._batch.accrued_j(sequence)
        return accounts_j + prefill_j + decode_j

    def _under_way(self, now_s: float) -> tuple[float, float]:
        """Give the joules of prefill and decode that the present run has used."""
        run = self._run
        return (0.0, 0.0) if run is None else _spent(run, now_s, run.completed(now_s))

    def completion_tokens(self, now_s: float) -> int:
        """Tokens that it has generated up to an instant from the latest event on."""
        steps = 0 if self._run is None else self._run.completed(now_s)
        return self._batch.generated_tokens + steps * self._batch.size

    # ── steps ───────────────────────────────────────────────────────────────

    def _begin(self) -> None:
        """Schedule a step, or a run of equal ones; be idle if there is nothing to do."""
        now_s = self._events.now_s
        if self._idle_since_s < now_s:
            self._idle_j += self.variant.context_power_w * (now_s - self._idle_since_s)
            self._idle_since_s = now_s
        preempted = self._make_room()
        if self._prefilling or self._waiting:
            self._schedule_prefill(admitting=not preempted)
        if self._chunks:
            self._run = self._mixed_step(now_s)
        elif self._batch.size:
            # Whoever waits after a preemption may find room in the very next step.
            self._run = self._decode_steps(now_s, leap=self._settings.leap and not preempted)
        else:
            self._listener.emptied(self)
            return
        self._version += 1
        self._events.at(self._run.ends_at_s, partial(self._end, self._version), LAST)

    def _mixed_step(self, now_s: float) -> StepRun:
        steps, batch = self.variant.steps, self._batch.size
        tokens = sum(chunk for _, chunk in self._chunks)
        step_s, prefill_j, step_j = steps.prefill_s(tokens), steps.prefill_j(tokens), 0.0
        if batch:
            step_s += steps.decode_s(batch, self._batch.context_tokens)
            step_j = steps.decode_j(batch, self._batch.context_tokens)
        return StepRun(now_s, 1, step_s, step_j, prefill_j=prefill_j, prefill_tokens=tokens)

    def _decode_steps(self, now_s: float, *, leap: bool) -> StepRun:
        batch, most = self._batch, 1
        if leap:
            most = self.kv.affordable(batch.step, batch.steps_left())
        return decode_run(self.variant.steps, now_s, batch.size, batch.context_tokens, most)

    def _cut(self) -> None:
        """Look at the queue again when the step under way has ended."""
        run = self._run
        if run is not None and run.cut(self._events.now_s):
            self._version += 1
            self._events.at(run.ends_at_s, partial(self._end, self._version), LAST)

    def _end(self, version: int) -> None:
        """Close the books of a run, and begin the next."""
        run = self._run
        if version != self._version or run is None:
            return
        batch = self._batch
        self.load.ended(run, batch)
        if batch.size:
            batch.advance(run.steps, run.decode_j(run.steps))
        self._run, self._idle_since_s = None, self._events.now_s
        finished = batch.take_ended()
        if self._chunks:
            finished += self._end_prefill(run)
        for sequence in finished:
            self._finish(sequence)
        if finished:
            self._listener.finished(self, finished)
        self._begin()

    def _end_prefill(self, run: StepRun) -> list[Sequence]:
        """Let prompts that are complete produce their next token; give those that end so."""
        finished = []
        self._prefill_j += run.prefill_j
        per_token_j = run.prefill_j / run.prefill_tokens
        for sequence, chunk in self._chunks:
            sequence.prefill_j += chunk * per_token_j
            self.load.pending_tokens -= chunk
            if sequence.kv.tokens < sequence.context_tokens:
                continue
            del self._prefilling[sequence.number]
            sequence.generated += 1
            self._batch.generated_tokens += 1
            if sequence.generated == 1:
                sequence.first_token_at_s = self._events.now_s
            if sequence.generated >= sequence.completion_tokens:
                finished.append(sequence)
            else:
                self._batch.join(sequence)
        self._chunks.clear()
        return finished

    def _finish(self, sequence: Sequence) -> None:
        del self._running[sequence.number]
        self.kv.release(sequence.kv)
        self.settled_j += sequence.energy_j

    def _fail_run(self, run: StepRun, now_s: float) -> None:
        """Book what a run did until the replica died within it."""
        prefill_j, decode_j = _spent(run, now_s, run.completed(now_s))
        self._prefill_j += prefill_j
        for sequence, chunk in self._chunks:
            sequence.prefill_j += prefill_j * chunk / run.prefill_tokens
        if self._batch.size:
            steps = run.completed(now_s)
            self._batch.advance(steps, run.decode_j(steps))
            self._batch.charge(decode_j - run.decode_j(steps))
        self._chunks.clear()
        self._run = None

    # ── who is in the next step ─────────────────────────────────────────────

    def _make_room(self) -> bool:
        """Give every decoding sequence its next block; say whether one had to go for it."""
        preempted = False
        while self._batch.size and self.kv.growth(self._batch.step, 1) > self.kv.free_blocks:
            self._preempt(next(reversed(self._running.values())))
            preempted = True
        return preempted

    def _schedule_prefill(self, *, admitting: bool) -> None:
        """Fill the token budget with prompts: those begun first, then waiting ones."""
        # Decoding sequences take their blocks after prompts have: keep these free.
        self.kv.reserved_blocks = self.kv.growth(self._batch.step, 1)
        budget = self._settings.max_batched_tokens - self._batch.size
        for sequence in self._prefilling.values():
            if not budget:
                break
            chunk = min(sequence.context_tokens - sequence.kv.tokens, budget)
            if not self.kv.extend(sequence.kv, sequence.kv.tokens + chunk):
                admitting = False  # It came before all who wait.
                break
            self._chunks.append((sequence, chunk))
            budget -= chunk
        while admitting and budget and self._waiting:
            chunk = self._admit(budget)
            if not chunk:
                break
            budget -= chunk
        self.kv.reserved_blocks = 0

    def _admit(self, budget: int) -> int:
        """Take the first waiting sequence into the batch; 0 if there is no room."""
        if len(self._running) >= self.variant.max_batch:
            return 0
        sequence = self._waiting[0]
        found = self.kv.admit(sequence.kv, sequence.context_tokens, budget)
        if found is None:
            return 0
        self._waiting.popleft()
        if sequence.cached_tokens < 0:
            sequence.cached_tokens = found
        self.load.pending_tokens -= found - sequence.expected_cached_tokens
        sequence.expected_cached_tokens = 0
        self._running[sequence.number] = self._prefilling[sequence.number] = sequence
        chunk = sequence.kv.tokens - found
        self._chunks.append((sequence, chunk))
        return chunk

    def _preempt(self, sequence: Sequence) -> None:
        """Take a sequence's blocks; it waits at the head of the queue to be computed anew."""
        del self._running[sequence.number]
        computed = sequence.kv.tokens
        if self._prefilling.pop(sequence.number, None) is None:
            self._batch.leave(sequence)
            computed = sequence.context_tokens
        self.kv.release(sequence.kv)
        sequence.preemptions += 1
        self.load.pending_tokens += computed
        self._waiting.appendleft(sequence)


def _spent(run: StepRun, now_s: float, steps: int) -> tuple[float, float]:
    """Give the joules of prefill and decode of a run's ended steps and of the one under way."""
    share = run.share(now_s, steps)
    if run.prefill_tokens:
        share = 1.0 if steps else share
        return run.prefill_j * share, run.first_j * share
    here_j = run.first_j + run.slope_j * steps
    return 0.0, run.decode_j(steps) + share * here_j
