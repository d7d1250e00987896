"""The sequences that a replica decodes together, and when each of them ends.

Its own module because every one of them gets a token in every step: what a step costs, and
who ends with it, follows from a few sums that joining and leaving keep up to date.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadtest.virtual.kv_cache import KvCache
    from loadtest.virtual.sequences import Sequence


class DecodeBatch:
    """Decoding sequences, counted.

    Attributes:
        size: sequences that decode now.
        step: decode steps so far, since the replica started.
        context_tokens: prompts and completions of all of them.
        generated_tokens: since the replica started; whoever computes prompts adds their first.
        energy_j: of decode steps, since the replica started.

    """

    __slots__ = (
        "_ends",
        "_kv",
        "_members",
        "_share_j",
        "context_tokens",
        "energy_j",
        "generated_tokens",
        "size",
        "step",
    )

    def __init__(self, kv: KvCache) -> None:
        self.size = 0
        self.step = 0
        self.context_tokens = 0
        self.generated_tokens = 0
        self.energy_j = 0.0
        self._kv = kv
        self._share_j = 0.0  # Of a sequence that decodes since the replica started.
        self._members: set[int] = set()
        # By the step with which each ends; one that has left meanwhile counts no more.
        self._ends: list[tuple[int, int, int, Sequence]] = []

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence.number in self._members

    def join(self, sequence: Sequence) -> None:
        """Decode a sequence from the next step on; its prompt and first token are there."""
        self._members.add(sequence.number)
        self.size += 1
        sequence.joined_step = self.step
        sequence.decode_mark_j = self._share_j
        self._kv.join(sequence.kv, self.step)
        self.context_tokens += sequence.context_tokens
        end = self.step + sequence.completion_tokens - sequence.generated
        heapq.heappush(self._ends, (end, sequence.number, sequence.preemptions, sequence))

    def leave(self, sequence: Sequence) -> None:
        """Decode it no more, and close its books: tokens, energy, KV cache."""
        self._members.remove(sequence.number)
        self.size -= 1
        sequence.generated += self.step - sequence.joined_step
        sequence.decode_j += self._share_j - sequence.decode_mark_j
        # The token generated last is not in the cache yet.
        self._kv.leave(sequence.kv, sequence.context_tokens - 1, self.step)
        self.context_tokens -= sequence.context_tokens

    def advance(self, steps: int, energy_j: float) -> None:
        """Decode so many steps."""
        tokens = steps * self.size
        self._kv.grow(self.step, steps)
        self.step += steps
        self.context_tokens += tokens
        self.generated_tokens += tokens
        self.charge(energy_j)

    def charge(self, energy_j: float) -> None:
        """Share energy among the sequences, without a token."""
        self.energy_j += energy_j
        self._share_j += energy_j / self.size

    def steps_left(self) -> int:
        """Steps until the next sequence ends; there must be one."""
        ends = self._ends
        while not self._holds(ends[0]):
            heapq.heappop(ends)
        return ends[0][0] - self.step

    def take_ended(self) -> list[Sequence]:
        """Let those leave that have all their tokens."""
        ended, ends = [], self._ends
        while ends and ends[0][0] <= self.step:
            entry = heapq.heappop(ends)
            if self._holds(entry):
                self.leave(entry[3])
                ended.append(entry[3])
        return ended

    def accrued_j(self, sequence: Sequence) -> float:
        """What a decoding sequence has cost since it joined."""
        return self._share_j - sequence.decode_mark_j

    def _holds(self, entry: tuple[int, int, int, Sequence]) -> bool:
        """Say whether an entry still counts: a preemption makes it void."""
        _, number, preemptions, sequence = entry
        return number in self._members and sequence.preemptions == preemptions
