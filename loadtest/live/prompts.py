"""The prompt of each turn: made up, from a text file, or with the shared prefixes of a trace.

Its own module because a prompt is the same whichever server is asked; how it is put on the wire
is a matter of `loadtest.live.grpc_bodies` and `loadtest.live.openai_bodies`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, AnyStr, Generic, cast

from loadtest.workloads import COPY_STRIDE

if TYPE_CHECKING:
    from loadtest.live.token_pools import Pool
    from loadtest.scenario import Scenario
    from loadtest.schedule import Schedule, Turn
    from loadtest.traces import Trace, TraceRequest

# Numbers of prompts, of common prefixes and of trace blocks stay apart by these.
_PREFIXES = 1 << 52
_BLOCKS = 1 << 53


class Prompts(Generic[AnyStr]):
    """Prompts of one form: token ids, or text.

    Args:
        scenario: whose requests these are.
        schedule: with the traces and texts that the scenario names.
        pool: that prompts are cut from.
        salt: of 64 bits; runs with different ones share no prompt, so that a server's prefix
            cache knows nothing of an earlier run.

    """

    def __init__(
        self, scenario: Scenario, schedule: Schedule, pool: Pool[AnyStr], salt: int
    ) -> None:
        self._scenario = scenario
        self._schedule = schedule
        self._pool: Pool[AnyStr] = pool
        self._salt = salt
        self._traces = [schedule.trace_of(number) for number in range(len(scenario.requests))]

    def prefix(self, kind: int) -> AnyStr:
        """Give what all requests of a kind begin with; empty if nothing."""
        prompt = self._scenario.requests[kind].prompt
        tokens = 0 if prompt is None else prompt.shared_prefix_tokens
        return self._cut(_PREFIXES + kind, tokens)

    def prompt(self, kind: int, turn: Turn) -> AnyStr:
        """Give what is new in a turn."""
        trace = self._traces[kind]
        if trace is not None:
            rounds, row = divmod(turn.key, len(trace.requests))
            return self._traced(trace, trace.requests[row], turn, rounds)
        prompt = self._scenario.requests[kind].prompt
        if prompt is not None and prompt.text_file is not None:
            # Never asked for token ids: `loadtest.live.run` refuses that before the run.
            lines = self._schedule.text_lines[prompt.text_file]
            said: Any = lines[turn.key % len(lines)]
            return cast("AnyStr", said)
        return self._cut(turn.key, turn.prompt_tokens)

    def _traced(self, trace: Trace, request: TraceRequest, turn: Turn, rounds: int) -> AnyStr:
        """Put a prompt together from blocks; equal hash ids give equal blocks."""
        if not request.hash_ids:
            return self._cut(turn.key, request.prompt_tokens)
        pieces: list[AnyStr] = []
        left = request.prompt_tokens
        last = len(request.hash_ids) - 1
        for number, hash_id in enumerate(request.hash_ids):
            tokens = left if number == last else min(left, trace.block_tokens)
            pieces.append(self._cut(_BLOCKS + hash_id + rounds * COPY_STRIDE, tokens))
            left -= tokens
        return self._pool.empty.join(pieces)

    def _cut(self, number: int, tokens: int) -> AnyStr:
        return self._pool.cut(number ^ self._salt, tokens)
