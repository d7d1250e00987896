"""Every joule is somebody's: settled + dropped + unfinished + unattributed + idle = total."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from scheduler.steps import AffineSteps
from serve.attribution import Ledger
from serve.engine import EngineStep

STEPS = AffineSteps(0.03, 0.003, 0.25, 0.03, 0.0015, 0.015, 1e-6, 2e-5, 12.0)
ids = st.sampled_from(list("abcdef"))


class Books(RuleBasedStateMachine):
    """Drives a ledger with any order of calls, sensible or not."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(STEPS, 3.0, "model", "cpu")
        self.open: dict[str, int] = {}
        self.charged_j = 0.0
        self.now_s = 0.0
        self.ledger.advance(self.now_s)

    @rule(request=ids, prompt=st.integers(1, 4000))
    def admit(self, request: str, prompt: int) -> None:
        if request not in self.open:
            self.ledger.admit(request, prompt)
            self.open[request] = prompt

    @rule(request=ids)
    def first_token(self, request: str) -> None:
        self.ledger.first_token(request)

    @rule(
        passed_s=st.floats(0, 3),
        prefill=st.integers(0, 3000),
        sequences=st.integers(0, 8),
    )
    def step(self, passed_s: float, prefill: int, sequences: int) -> None:
        self.now_s += passed_s
        self.ledger.step(
            EngineStep(passed_s, prefill, sequences, sequences, sequences, 0, 0.1), self.now_s
        )

    @rule(passed_s=st.floats(0, 30))
    def idle(self, passed_s: float) -> None:
        self.now_s += passed_s
        self.ledger.advance(self.now_s)

    @rule(request=ids, share=st.floats(0, 1), completion=st.integers(0, 100))
    def settle(self, request: str, share: float, completion: int) -> None:
        if request in self.open:
            cached = int(share * self.open.pop(request))
            energy = self.ledger.settle(request, cached, completion)
            assert energy.prefill_j >= 0
            assert energy.decode_j >= -1e-9
            self.charged_j += energy.prefill_j + energy.decode_j

    @rule(request=ids)
    def drop(self, request: str) -> None:
        self.open.pop(request, None)
        self.ledger.drop(request)
        self.ledger.drop(request)

    @invariant()
    def every_joule_is_somebodys(self) -> None:
        ledger = self.ledger
        parts = (
            ledger.settled_j,
            ledger.dropped_j,
            ledger.unfinished_j,
            ledger.unattributed_j,
            ledger.idle_j,
        )
        assert all(part >= -1e-9 for part in parts)
        assert sum(parts) == pytest.approx(ledger.energy_j, rel=1e-9, abs=1e-9)
        assert ledger.settled_j == pytest.approx(self.charged_j, rel=1e-9, abs=1e-9)

    @invariant()
    def nothing_is_left_when_nobody_is(self) -> None:
        if not self.open:
            assert self.ledger.unfinished_j == pytest.approx(0.0, abs=1e-9)

    @invariant()
    def power_is_never_below_idle_power(self) -> None:
        assert self.ledger.energy_j >= 3.0 * self.now_s * (1 - 1e-9)


TestBooks = Books.TestCase
