"""A board keeps the prefix index in step with the fleet, and learns from reports."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.board import FleetBoard
from scheduler.fleet import ReplicaReport, Sleeper, StepTotals, Variant
from scheduler.leases import LeaseBook
from scheduler.prefixes import PrefixIndex
from scheduler.requests import ModelName, ReplicaId, VariantName
from scheduler.steps import AffineSteps

A, B = ReplicaId("a"), ReplicaId("b")
VARIANT = Variant(
    VariantName("v"),
    ModelName("m"),
    1.0,
    4096,
    64,
    1600,
    AffineSteps(0.01, 1e-4, 3.0, 0.05, 1e-4, 0.02),
    100.0,
    prefix_block_tokens=16,
)
PLAIN = replace(VARIANT, name=VariantName("plain"), prefix_block_tokens=0)
VARIANTS = {each.name: each for each in (VARIANT, PLAIN)}


def report(steps: int = 0, step_s: float = 0.0) -> ReplicaReport:
    totals = StepTotals(steps, steps, steps * 8, steps * 8000, 0, steps * step_s)
    return ReplicaReport(0.0, totals=totals)


def test_replicas_with_a_prefix_cache_have_a_place_in_the_index_while_they_are_there() -> None:
    prefixes = PrefixIndex()
    board = FleetBoard(VARIANTS, LeaseBook(), prefixes=prefixes)
    board.report(A, VARIANT.name, report())
    board.report(B, PLAIN.name, report())
    assert (prefixes.row(A), prefixes.row(B)) == (0, -1)
    prefixes.stored(A, tuple(range(200)))
    assert len(prefixes) == 100  # What its KV cache holds.
    fleet = board.snapshot(0.0)
    assert fleet.prefixes is prefixes
    assert fleet.columns is not None
    assert fleet.columns[VARIANT.model].prefix_rows is not None
    board.leave(A)
    assert (prefixes.row(A), len(prefixes)) == (-1, 0)


def test_reports_correct_the_step_model_of_their_variant_alone() -> None:
    board = FleetBoard(VARIANTS, LeaseBook(), calibrated=True)
    before = board.variants
    for number in range(40):
        board.report(A, VARIANT.name, report(number * 20, 2 * VARIANT.steps.decode_s(8)))
        board.report(B, PLAIN.name, report(number * 20, PLAIN.steps.decode_s(8)))
    fleet = board.snapshot(0.0)
    assert before[VARIANT.name] == VARIANT
    learnt = fleet.variants[VARIANT.name]
    assert learnt.steps.decode_s(8) == pytest.approx(2 * VARIANT.steps.decode_s(8), rel=0.05)
    assert fleet.variants[PLAIN.name] == PLAIN
    assert fleet.columns is not None
    columns = fleet.columns[VARIANT.model]
    assert columns.variant(columns.replicas.index(A)) == learnt


def test_a_board_that_is_not_calibrated_believes_what_it_was_told() -> None:
    board = FleetBoard(VARIANTS, LeaseBook())
    for number in range(40):
        board.report(A, VARIANT.name, report(number * 20, 1.0))
    assert board.snapshot(0.0).variants == VARIANTS


def test_what_could_be_woken_travels_with_the_fleet() -> None:
    board = FleetBoard(VARIANTS, LeaseBook())
    board.sleepers = (Sleeper(VARIANT.name, 60.0, 1e4),)
    assert board.snapshot(0.0).sleepers == board.sleepers


def test_a_replica_has_a_pace_of_its_own() -> None:
    board = FleetBoard(VARIANTS, LeaseBook(), calibrated=True)
    for number in range(4):
        for replica, factor in ((A, 1.5), (B, 1.0)):
            told = report(number * 20, factor * VARIANT.steps.decode_s(8, 8000))
            board.report(replica, VARIANT.name, told)
    paces = {view.replica: view.pace for view in board.snapshot(0.0).replicas}
    assert paces[A] > 1.1
    assert paces[B] == pytest.approx(1.0)


def test_prompts_for_each_decoded_token_are_counted_over_the_replicas_of_a_model() -> None:
    board = FleetBoard(VARIANTS, LeaseBook())
    for replica, prefilled in ((A, 3000.0), (B, 1000.0)):
        rates = ReplicaReport(0.0, prefill_tokens_per_s=prefilled, decode_tokens_per_s=475.0)
        board.report(replica, VARIANT.name, rates)
    columns = board.snapshot(0.0).columns
    assert columns is not None
    assert columns[VARIANT.model].prefill_ratio == pytest.approx(4000 / (950 + 50))
    board.leave(A)
    columns = board.snapshot(0.0).columns
    assert columns is not None
    assert columns[VARIANT.model].prefill_ratio == pytest.approx(1000 / (475 + 50))
