"""Whose joules they were: every step's energy is somebody's, and none is counted twice.

Its own module because it is the one place where the meter's total and the requests'
shares meet, under one law at every instant:

    settled + dropped + unfinished + unattributed + idle = energy_j

The replica calls, on one clock and in this order:

    admit(request_id, prompt_tokens)     before the engine gets the request
    step(step, now_s)                    after each engine step
    first_token(request_id)              when the request's first token has arrived
    settle(request_id, ...)              when it has finished; returns its energy
    drop(request_id)                     instead of settle, however else it ended
    advance(now_s)                       before `energy_j`, `idle_j` or `power_w` are reported

Each step costs constant time: a request's share of decoding is the difference of a
running integral, energy per decoding request, between its first token and its end. The
energy of prefill waits in a pool and is handed out by the number of uncached prompt
tokens, which the engine tells at the end. Where `first_token` is never called, steps are
shared by all requests that are open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.meters import ModelMeter
from serve.frames import RequestEnergy

if TYPE_CHECKING:
    from scheduler.steps import StepModel
    from serve.engine import EngineStep


@dataclass(slots=True)
class _Account:
    """An unfinished request: where the integrals stood when it joined them."""

    prompt_tokens: int
    open_mark_j: float
    decoding: bool = False
    decode_mark_j: float = 0.0
    decode_mark_steps: float = 0.0


class Ledger:
    """Attributes a replica's modelled energy to its requests.

    Attributes:
        settled_j: of requests that finished.
        dropped_j: of requests that were aborted or failed.
        unattributed_j: of steps with no request on record, and of prompt tokens that had
            to be computed twice.

    """

    def __init__(self, steps: StepModel, idle_power_w: float, method: str, boundary: str) -> None:
        """Start with no request and no joule.

        Args:
            steps: of the replica.
            idle_power_w: drawn by the replica when it does nothing.
            method: told to clients: how the energy is known.
            boundary: told to clients: what is counted.

        """
        self.settled_j = 0.0
        self.dropped_j = 0.0
        self.unattributed_j = 0.0
        self._meter = ModelMeter(steps, idle_power_w, boundary)
        self._method = method
        self._boundary = boundary
        self._accounts: dict[str, _Account] = {}
        self._decoding = 0
        self._decode_steps = 0.0
        self._context_tokens = 0.0  # Of decoding requests; less what _decode_steps adds to each.
        self._per_decoding_j = 0.0
        self._per_open_j = 0.0
        self._prompt_tokens = 0  # Of all open requests.
        self._started_tokens = 0  # Of those that have their first token.
        self._pool_j = 0.0
        self._pool_tokens = 0

    @property
    def energy_j(self) -> float:
        """Joules since the replica started, idle ones included."""
        return self._meter.energy_j

    @property
    def idle_j(self) -> float:
        """Joules that no step used."""
        return self._meter.idle_j

    @property
    def power_w(self) -> float:
        """Recent mean."""
        return self._meter.power_w

    @property
    def unfinished_j(self) -> float:
        """Joules used so far by requests that are open; takes time for each of them."""
        shares = (self._decode_share(account) for account in self._accounts.values())
        return self._pool_j + sum(shares)

    def admit(self, request_id: str, prompt_tokens: int) -> None:
        """Open an account.

        Raises:
            ValueError: one of that name is open.

        """
        if request_id in self._accounts:
            raise ValueError(f"request {request_id!r} is on the books already")
        self._accounts[request_id] = _Account(prompt_tokens, self._per_open_j)
        self._prompt_tokens += prompt_tokens

    def first_token(self, request_id: str) -> None:
        """Count the request among those that decode, from the next step on."""
        account = self._accounts.get(request_id)
        if account is None or account.decoding:
            return
        account.decoding = True
        account.decode_mark_j = self._per_decoding_j
        account.decode_mark_steps = self._decode_steps
        self._decoding += 1
        self._started_tokens += account.prompt_tokens
        self._context_tokens += account.prompt_tokens - self._decode_steps

    def step(self, step: EngineStep, now_s: float) -> None:
        """Attribute a step that has just ended."""
        context_tokens = self._context_tokens + self._decoding * self._decode_steps
        used = self._meter.step(
            step.prefill_tokens,
            step.decode_sequences,
            max(0, context_tokens),
            now_s,
            step.decode_rounds,
        )
        self._pool_j += used.prefill_j
        self._pool_tokens += step.prefill_tokens
        if self._decoding:
            self._per_decoding_j += used.decode_j / self._decoding
            self._decode_steps += step.decode_rounds
        elif self._accounts:
            self._per_open_j += used.decode_j / len(self._accounts)
        else:
            self.unattributed_j += used.decode_j
        self._skim_pool()

    def advance(self, now_s: float) -> None:
        """Let time pass, so that idle energy is up to date."""
        self._meter.advance(now_s)

    def settle(self, request_id: str, cached_tokens: int, completion_tokens: int) -> RequestEnergy:
        """Close the account of a request that has finished.

        Args:
            request_id: of an open account.
            cached_tokens: prompt tokens that the prefix cache spared.
            completion_tokens: generated; a request without any computed at most what no
                other request has used.

        Raises:
            KeyError: no such account is open.

        """
        account = self._accounts.pop(request_id)
        tokens = max(0, account.prompt_tokens - cached_tokens)
        energy = self._close(account, tokens if completion_tokens else self._unclaimed(tokens))
        self.settled_j += energy.prefill_j + energy.decode_j
        return energy

    def drop(self, request_id: str) -> None:
        """Close the account of a request that did not finish; nothing if it is not open."""
        account = self._accounts.pop(request_id, None)
        if account is not None:
            tokens = account.prompt_tokens
            energy = self._close(account, tokens if account.decoding else self._unclaimed(tokens))
            self.dropped_j += energy.prefill_j + energy.decode_j

    def _close(self, account: _Account, prefill_tokens: int) -> RequestEnergy:
        decode_j = self._decode_share(account)
        prefill_j = self._take_from_pool(prefill_tokens)
        self._prompt_tokens -= account.prompt_tokens
        if account.decoding:
            self._decoding -= 1
            self._started_tokens -= account.prompt_tokens
            self._context_tokens -= account.prompt_tokens - account.decode_mark_steps
        self._skim_pool()
        return RequestEnergy(prefill_j, decode_j, self._method, self._boundary)

    def _decode_share(self, account: _Account) -> float:
        share_j = self._per_open_j - account.open_mark_j
        if account.decoding:
            share_j += self._per_decoding_j - account.decode_mark_j
        return share_j

    def _unclaimed(self, tokens: int) -> int:
        """Bound the prompt tokens computed for a request that has produced nothing."""
        return min(tokens, max(0, self._pool_tokens - self._started_tokens))

    def _take_from_pool(self, tokens: int) -> float:
        if tokens >= self._pool_tokens:
            taken_j, self._pool_j, self._pool_tokens = self._pool_j, 0.0, 0
            return taken_j
        taken_j = self._pool_j * (tokens / self._pool_tokens)
        self._pool_j -= taken_j
        self._pool_tokens -= tokens
        return taken_j

    def _skim_pool(self) -> None:
        """Set aside what exceeds the prompts of all open requests: it was computed twice."""
        excess = self._pool_tokens - self._prompt_tokens
        if excess > 0:
            self.unattributed_j += self._take_from_pool(excess)
