"""Whose joules they were: every step's energy is somebody's, and none is counted twice.

Its own module because it is the one place where the meter's total and the requests'
shares meet, under one law at every instant, exact to the nanojoule:

    settled + dropped + unfinished + unattributed + idle + pending = energy

The replica calls, on one clock and in this order:

    admit(request_id, prompt_tokens)     before the engine gets the request
    step(step, now_s)                    after each engine step
    first_token(request_id)              when the request's first token has arrived
    settle(request_id, ...)              when it has finished; returns its energy
    drop(request_id)                     instead of settle, however else it ended
    advance(now_s)                       before energies or power are reported

Each step costs constant time: requests that decode share its decoding equally (`shares`), and
the energy of prefill waits in a pool that is handed out by the number of uncached prompt
tokens, which the engine tells at the end (`prefill_pool`). Where `first_token` is never
called, steps are shared by all requests that are open. What a counter says of all this comes
later, window by window (`energy_window`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.meters import WorkModel, joules
from serve.energy_parts import EnergyParts
from serve.energy_window import EnergyWindow
from serve.frames import RequestEnergy
from serve.prefill_pool import PrefillPool
from serve.shares import EqualShares, Portion

if TYPE_CHECKING:
    from cluster.meters import CountingMeter
    from scheduler.steps import StepModel
    from serve.engine import EngineStep


@dataclass(slots=True)
class _Account:
    """An unfinished request: where the books stood when it came."""

    prompt_tokens: int
    energy_nj: int
    modelled: int
    admitted_s: float
    decode_mark_steps: float = 0.0


class Ledger:
    """Attributes a replica's energy to its requests.

    Attributes:
        method: how energy is known: "model", "nvml" or "rapl".
        boundary: what is counted.
        devices: that are read; none where energy is modelled.
        counted: whether a counter is read at all.

    """

    def __init__(  # noqa: PLR0913 (what the books are about)
        self,
        steps: StepModel,
        idle_power_w: float,
        method: str,
        boundary: str,
        counter: CountingMeter | None = None,
        *,
        window_s: float = 0.0,
        trouble: str = "",
    ) -> None:
        """Start with no request and no joule.

        Args:
            steps: of the replica.
            idle_power_w: drawn by the replica when it does nothing.
            method: told to clients: how the energy is known, unless it is counted.
            boundary: told to clients: what is counted, unless the counter says it.
            counter: of the hardware; None where the model is all there is.
            window_s: time after which what was used is shared out; 0 does it at every look.
            trouble: why there is no counter; empty if none is missed.

        """
        self.method = method if counter is None else counter.method
        self.boundary = boundary if counter is None else counter.boundary
        self.devices = () if counter is None else counter.devices
        self.counted = counter is not None
        self._trouble = trouble
        self._model = WorkModel(steps, idle_power_w)
        self._window = EnergyWindow(self._model, counter, window_s)
        self._accounts: dict[str, _Account] = {}
        self._decoding = EqualShares()
        self._waiting = EqualShares()  # Shares steps while nobody is known to decode.
        self._prefill = PrefillPool()
        self._nobodys_nj = 0  # Weight of steps in the open window.
        self._settled_nj = self._dropped_nj = self._unattributed_nj = self._idle_nj = 0
        self._decode_steps = 0.0
        self._context_tokens = 0.0  # Of decoding requests; less what _decode_steps adds to each.
        self._prompt_tokens = 0  # Of all open requests.
        self._started_tokens = 0  # Of those that have their first token.
        self._measured_nj: int | None = None
        self._now_s = 0.0

    # ── totals ──────────────────────────────────────────────────────────────

    @property
    def energy_j(self) -> float:
        """Joules since the replica started, idle ones included."""
        return joules(self._window.energy_nj)

    @property
    def idle_j(self) -> float:
        """Of these, what belongs to no request, as far as that is known: idle, unattributed."""
        nobodys_nj = self._idle_nj + self._unattributed_nj
        if self._rests():
            nobodys_nj += self._window.energy_nj - self._window.booked_nj
        return joules(nobodys_nj)

    @property
    def residual_j(self) -> float:
        """Joules that are on no account, or on two; 0 unless these books are wrong."""
        return joules(self.parts().residual_nj)

    @property
    def power_w(self) -> float:
        """Recent mean."""
        return self._window.power.power_w

    @property
    def trouble(self) -> str:
        """What is wrong with the meter; empty if nothing is."""
        return self._window.trouble or self._trouble

    def take_measured_j(self) -> float | None:
        """Give what all steps have used that were shared out since the previous call.

        None if there were none, or nothing is counted.
        """
        measured_nj, self._measured_nj = self._measured_nj, None
        return None if measured_nj is None else joules(measured_nj)

    def parts(self) -> EnergyParts:
        """Say whose all energy is; takes time for each request that is open."""
        # Once: a meter's thread may have a newer reading a moment later.
        energy_nj = self._window.energy_nj
        return EnergyParts(
            energy_nj=energy_nj,
            settled_nj=self._settled_nj,
            dropped_nj=self._dropped_nj,
            unfinished_nj=self._prefill.booked_nj
            + self._decoding.booked_nj
            + self._waiting.booked_nj,
            unattributed_nj=self._unattributed_nj,
            idle_nj=self._idle_nj,
            pending_nj=energy_nj - self._window.charged_total_nj,
        )

    # ── requests ────────────────────────────────────────────────────────────

    def admit(self, request_id: str, prompt_tokens: int, now_s: float | None = None) -> None:
        """Open an account.

        Args:
            request_id: of the request.
            prompt_tokens: that may have to be computed.
            now_s: the instant; None is the latest that was told.

        Raises:
            ValueError: one of that name is open.

        """
        if request_id in self._accounts:
            raise ValueError(f"request {request_id!r} is on the books already")
        self._now_s = max(self._now_s, now_s or 0.0)
        if self._rests():
            self._window.tell(self._now_s)
            self._close()  # What comes from here on is told apart.
        self._accounts[request_id] = _Account(
            prompt_tokens, self._window.energy_nj, self._window.modelled, self._now_s
        )
        self._waiting.join(request_id)
        self._prompt_tokens += prompt_tokens

    def first_token(self, request_id: str) -> None:
        """Count the request among those that decode, from the next step on."""
        account = self._accounts.get(request_id)
        if account is None or request_id in self._decoding:
            return
        self._decoding.join(request_id)
        account.decode_mark_steps = self._decode_steps
        self._started_tokens += account.prompt_tokens
        self._context_tokens += account.prompt_tokens - self._decode_steps

    def step(self, step: EngineStep, now_s: float) -> None:
        """Attribute a step that has just ended."""
        if self._rests():
            self._close()
        context_tokens = self._context_tokens + len(self._decoding) * self._decode_steps
        work = self._model.step(
            step.prefill_tokens, step.decode_sequences, max(0, context_tokens), step.decode_rounds
        )
        self._prefill.add(step.prefill_tokens, work.prefill_nj)
        if self._decoding:
            self._decoding.accrue(work.decode_nj)
            self._decode_steps += step.decode_rounds
        elif self._waiting:
            self._waiting.accrue(work.decode_nj)
        else:
            self._nobodys_nj += work.decode_nj
        self._now_s = max(self._now_s, now_s)
        self._window.step(work, step.duration_s, now_s)
        self._skim_pool()

    def advance(self, now_s: float) -> None:
        """Let time pass, and share out what was counted if it is time to."""
        self._now_s = max(self._now_s, now_s)
        self._window.tell(now_s)
        if self._window.due():
            self._close()

    def settle(
        self,
        request_id: str,
        cached_tokens: int,
        completion_tokens: int,
        now_s: float | None = None,
    ) -> RequestEnergy:
        """Close the account of a request that has finished.

        Args:
            request_id: of an open account.
            cached_tokens: prompt tokens that the prefix cache spared.
            completion_tokens: generated; a request without any computed at most what no
                other request has used.
            now_s: the instant; None is the latest that was told.

        Raises:
            KeyError: no such account is open.

        """
        account = self._accounts[request_id]
        self._now_s = max(self._now_s, now_s or 0.0)
        tokens = max(0, account.prompt_tokens - cached_tokens)
        prefill_nj, decode_nj = self._end(
            request_id, tokens if completion_tokens else self._unclaimed(tokens)
        )
        self._settled_nj += prefill_nj + decode_nj
        return self._energy(account, prefill_nj, decode_nj)

    def drop(self, request_id: str, now_s: float | None = None) -> RequestEnergy | None:
        """Close the account of a request that did not finish; None if it is not open."""
        account = self._accounts.get(request_id)
        if account is None:
            return None
        self._now_s = max(self._now_s, now_s or 0.0)
        tokens = account.prompt_tokens
        started = request_id in self._decoding
        prefill_nj, decode_nj = self._end(
            request_id, tokens if started else self._unclaimed(tokens)
        )
        self._dropped_nj += prefill_nj + decode_nj
        return self._energy(account, prefill_nj, decode_nj)

    def _end(self, request_id: str, prefill_tokens: int) -> tuple[int, int]:
        """Take a request off the books; gives its energies of prefill and decode."""
        account = self._accounts.pop(request_id)
        decoded = self._waiting.leave(request_id)
        if request_id in self._decoding:
            own = self._decoding.leave(request_id)
            decoded = Portion(decoded.booked_nj + own.booked_nj, decoded.open_nj + own.open_nj)
            self._started_tokens -= account.prompt_tokens
            self._context_tokens -= account.prompt_tokens - account.decode_mark_steps
        computed = self._prefill.take(prefill_tokens)
        self._prompt_tokens -= account.prompt_tokens
        self._skim_pool()
        return self._charged(computed), self._charged(decoded)

    def _charged(self, portion: Portion) -> int:
        ahead_nj = self._window.charge(portion.open_nj) if portion.open_nj else 0
        return portion.booked_nj + ahead_nj

    def _energy(self, account: _Account, prefill_nj: int, decode_nj: int) -> RequestEnergy:
        energy_nj = prefill_nj + decode_nj
        whole_nj = self._window.energy_nj - account.energy_nj
        spent_s = self._now_s - account.admitted_s
        counted = self._window.modelled == account.modelled and self._window.counts
        return RequestEnergy(
            joules(prefill_nj),
            joules(decode_nj),
            self.method if counted else "model",
            self.boundary,
            min(1.0, energy_nj / whole_nj) if whole_nj > 0 else float(energy_nj > 0),
            joules(energy_nj) / spent_s if spent_s > 0 else 0.0,
        )

    def _unclaimed(self, tokens: int) -> int:
        """Bound the prompt tokens computed for a request that has produced nothing."""
        return min(tokens, max(0, self._prefill.tokens - self._started_tokens))

    def _skim_pool(self) -> None:
        """Set aside what exceeds the prompts of all open requests: it was computed twice."""
        excess = self._prefill.take(self._prefill.tokens - self._prompt_tokens)
        self._unattributed_nj += excess.booked_nj
        self._nobodys_nj += excess.open_nj

    def _rests(self) -> bool:
        """Whether all that was used since the last window was closed is idle."""
        return not self._accounts and not self._window.worked

    # ── windows ─────────────────────────────────────────────────────────────

    def _close(self) -> None:
        """Share out the energy of the window by what the model says that each has used."""
        closed = self._window.close()
        if self.counted:
            self._measured_nj = (self._measured_nj or 0) + closed.work_nj
        self._idle_nj += closed.idle_nj
        shared = (self._prefill.open_nj, self._decoding.weight_nj, self._waiting.weight_nj)
        whole_nj = sum(shared) + self._nobodys_nj
        prefill_nj, decoding_nj, waiting_nj = (
            closed.shared_nj * weight // whole_nj if whole_nj else 0 for weight in shared
        )
        self._prefill.close(prefill_nj)
        left_nj = closed.shared_nj - prefill_nj - decoding_nj - waiting_nj
        left_nj += self._decoding.close(decoding_nj) + self._waiting.close(waiting_nj)
        self._unattributed_nj += left_nj
        self._nobodys_nj = 0
