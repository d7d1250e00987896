"""The plan as a mixed-integer program: columns, rows, bounds and costs.

Its own module because it is the only place that knows them. Per slot s, node group k, and
pair (s, c) of slot and load:

    y_s  replicas awake         b_s  of them busy all the time      w_s ≥ y_s − awake_s
    z_k  nodes on                                                   v_k ≥ z_k − on_k
    r_sc rate on busy replicas  d_sc rate on replicas idle part of the time
    q_sc headroom               u_c, h_c  rate and headroom that nobody carries

    min  Σ idle_s·y_s + Σ busy_s·(b_s + Σ_c d_sc/duty_sc) + Σ j_sc·(r_sc + d_sc) + Σ node_k·z_k
         + Σ spare_sc·q_sc + (Σ wake_s·w_s + Σ boot_k·v_k)/horizon
    s.t. Σ_s (r_sc + d_sc) + u_c = λ_c             Σ_s q_sc + h_c = headroom_c
         Σ_c (r_sc + d_sc + q_sc)/cap_sc ≤ y_s      Σ_c r_sc/cap_sc ≤ b_s
         Σ_c d_sc/duty_sc ≤ y_s − b_s               Σ_s∈k accelerators_s·y_s ≤ accelerators_k·z_k
         power with all at their peak ≤ budget    and rows that all whole solutions obey

u and h are 0 where capacity suffices; where it does not, the least possible is found first,
requests before headroom, and watts are saved only within that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import LinearConstraint
from scipy.sparse import coo_array

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scheduler.instance import Instance

# HiGHS keeps rows within 1e-7; whatever is fixed from one run to the next gets more room.
ROOM = 1e-6


class Columns(NamedTuple):
    """Where each kind of variable begins and ends."""

    awake: slice
    busy: slice
    nodes: slice
    wakes: slice
    boots: slice
    full: slice
    duty: slice
    spare: slice
    unserved: slice
    uncovered: slice

    @property
    def width(self) -> int:
        """How many variables there are."""
        return int(self.uncovered.stop)


@dataclass(frozen=True, slots=True)
class Program:
    """Rows, bounds and costs."""

    columns: Columns
    cost: NDArray[np.float64]
    rows: LinearConstraint
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    integral: NDArray[np.float64]


def program_of(
    instance: Instance,
    floors: Sequence[int] | None,
    ceilings: Sequence[int] | None,
    *,
    whole: bool = True,
) -> Program:
    """Write an instance down.

    Args:
        instance: to be solved.
        floors: replicas of each slot at least; by default the instance's.
        ceilings: replicas of each slot at most; by default the instance's.
        whole: keep the rows that only whole solutions obey by themselves.

    """
    columns = _columns(instance)
    low, high = np.zeros(columns.width), np.full(columns.width, np.inf)
    low[columns.awake] = [t.floor for t in instance.slots] if floors is None else floors
    high[columns.awake] = [t.ceiling for t in instance.slots] if ceilings is None else ceilings
    high[columns.nodes] = [terms.group.max_nodes for terms in instance.groups]
    carried = {pair.load for pair in instance.pairs}
    for kind, wanted in (
        (columns.unserved, [load.mean for load in instance.loads]),
        (columns.uncovered, [load.headroom for load in instance.loads]),
    ):
        high[kind] = [0.0 if c in carried else rate for c, rate in enumerate(wanted)]
    integral = np.zeros(columns.width)
    for kind in (columns.awake, columns.busy, columns.nodes):
        integral[kind] = 1
    rows = _Rows(columns.width)
    _load_rows(instance, columns, rows)
    _slot_rows(instance, columns, rows)
    _group_rows(instance, columns, rows)
    _presence_rows(instance, columns, rows, whole=whole)
    return Program(columns, _costs(instance, columns), rows.constraint(), low, high, integral)


def _columns(instance: Instance) -> Columns:
    slots, groups = len(instance.slots), len(instance.groups)
    pairs, loads = len(instance.pairs), len(instance.loads)
    sizes = (slots, slots, groups, slots, groups, pairs, pairs, pairs, loads, loads)
    ends = np.cumsum(sizes)
    return Columns(
        *(slice(int(end) - size, int(end)) for end, size in zip(ends, sizes, strict=True))
    )


def _costs(instance: Instance, columns: Columns) -> NDArray[np.float64]:
    cost = np.zeros(columns.width)
    weights = [instance.groups[terms.group].weight for terms in instance.slots]
    slot_w = list(zip(weights, instance.slots, strict=True))
    cost[columns.awake] = [weight * terms.idle_w for weight, terms in slot_w]
    cost[columns.busy] = [weight * terms.busy_w for weight, terms in slot_w]
    cost[columns.wakes] = [weight * terms.wake_j / instance.horizon_s for weight, terms in slot_w]
    cost[columns.nodes] = [t.weight * t.node_w + t.price_w for t in instance.groups]
    cost[columns.boots] = [t.weight * t.group.boot_j / instance.horizon_s for t in instance.groups]
    request_j = np.array([weights[pair.slot] * pair.request_j for pair in instance.pairs])
    busy_j = [
        weights[pair.slot] * instance.slots[pair.slot].busy_w / pair.duty for pair in instance.pairs
    ]
    cost[columns.full] = request_j
    cost[columns.spare] = [weights[pair.slot] * pair.spare_j for pair in instance.pairs]
    cost[columns.duty] = request_j + np.array(busy_j)
    return cost


class _Rows:
    """A sparse matrix in the making."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._entries: list[tuple[int, int, float]] = []
        self._low: list[float] = []
        self._high: list[float] = []

    def add(self, entries: list[tuple[int, float]], low: float, high: float) -> None:
        """Bound Σ value·column from both sides."""
        row = len(self._low)
        self._entries += [(row, column, value) for column, value in entries]
        self._low.append(low)
        self._high.append(high)

    def constraint(self) -> LinearConstraint:
        """All rows, in compressed form."""
        rows, columns, values = zip(*self._entries, strict=True) if self._entries else ((), (), ())
        shape = (len(self._low), self._width)
        matrix = coo_array((values, (rows, columns)), shape=shape, dtype=float).tocsr()
        return LinearConstraint(matrix, self._low, self._high)


def _load_rows(instance: Instance, columns: Columns, rows: _Rows) -> None:
    for index, load in enumerate(instance.loads):
        pairs = [row for row, pair in enumerate(instance.pairs) if pair.load == index]
        carried = [
            (kind.start + row, 1.0) for row in pairs for kind in (columns.full, columns.duty)
        ]
        spare = [(columns.spare.start + row, 1.0) for row in pairs]
        rows.add([*carried, (columns.unserved.start + index, 1.0)], load.mean, load.mean)
        rows.add([*spare, (columns.uncovered.start + index, 1.0)], load.headroom, load.headroom)


def _slot_rows(instance: Instance, columns: Columns, rows: _Rows) -> None:
    awake, busy, wakes = columns.awake.start, columns.busy.start, columns.wakes.start
    full, duty, spare = columns.full.start, columns.duty.start, columns.spare.start
    for index, terms in enumerate(instance.slots):
        pairs = [(row, pair) for row, pair in enumerate(instance.pairs) if pair.slot == index]
        taken = [
            (kind + row, 1.0 / pair.capacity) for row, pair in pairs for kind in (full, duty, spare)
        ]
        rows.add([*taken, (awake + index, -1.0)], -np.inf, 0.0)
        always = [(full + row, 1.0 / pair.capacity) for row, pair in pairs]
        rows.add([*always, (busy + index, -1.0)], -np.inf, 0.0)
        partly = [(duty + row, 1.0 / pair.duty) for row, pair in pairs]
        rows.add([*partly, (busy + index, 1.0), (awake + index, -1.0)], -np.inf, 0.0)
        rows.add([(awake + index, 1.0), (wakes + index, -1.0)], -np.inf, terms.awake)


def _group_rows(instance: Instance, columns: Columns, rows: _Rows) -> None:
    awake, nodes, boots = columns.awake.start, columns.nodes.start, columns.boots.start
    for index, terms in enumerate(instance.groups):
        taken = [
            (awake + row, slot.accelerators)
            for row, slot in enumerate(instance.slots)
            if slot.group == index
        ]
        held = float(terms.group.accelerators_per_node)
        rows.add([*taken, (nodes + index, -held)], -np.inf, 0.0)
        rows.add([(nodes + index, 1.0), (boots + index, -1.0)], -np.inf, terms.on)
    if np.isfinite(instance.budget_w):
        rows.add(_reserved_power(instance, columns), -np.inf, instance.budget_w)


def _reserved_power(instance: Instance, columns: Columns) -> list[tuple[int, float]]:
    """Power with every awake replica at its peak."""
    return [
        *((columns.awake.start + i, t.idle_w + t.peak_w) for i, t in enumerate(instance.slots)),
        *((columns.nodes.start + i, t.node_w) for i, t in enumerate(instance.groups)),
    ]


def _presence_rows(instance: Instance, columns: Columns, rows: _Rows, *, whole: bool) -> None:
    """Whatever is served at all needs whole nodes and replicas; last, so as to be left out.

    Whole solutions obey these rows anyway; they bring divisible ones closer to them.
    """
    suits = [{p.slot for p in instance.pairs if p.load == c} for c in range(len(instance.loads))]
    most = [
        max((p.capacity for p in instance.pairs if p.load == c), default=np.inf)
        for c in range(len(instance.loads))
    ]
    for index, load in enumerate(instance.loads):
        groups = {instance.slots[slot].group for slot in suits[index]}
        if groups and load.mean > 0:
            rows.add([(columns.nodes.start + group, 1.0) for group in groups], 1.0, np.inf)
        # Loads that fit nowhere else need at least as many replicas as the strongest would do.
        within = [c for c, slots in enumerate(suits) if slots and slots <= suits[index]]
        least = sum((instance.loads[c].mean + instance.loads[c].headroom) / most[c] for c in within)
        if within and whole:
            awake = [(columns.awake.start + slot, 1.0) for slot in suits[index]]
            rows.add(awake, max(1.0, float(np.ceil(least - ROOM))), np.inf)


def without_presence(program: Program) -> LinearConstraint:
    """The rows that hold even if a load is not served."""
    rows = program.rows
    kept = np.isfinite(rows.ub)
    return LinearConstraint(rows.A[kept], rows.lb[kept], rows.ub[kept])
