"""A virtual cluster at the pace of a clock on the wall, under a load that never ends.

Its own module because a comparison runs as fast as it can to an end, and whoever looks at a
cluster wants to see it at work.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from loadtest import arrivals
from loadtest.errors import LoadtestError
from loadtest.lengths import LogNormalLengths
from loadtest.virtual.cluster import VirtualCluster
from loadtest.virtual.descriptions import fluid_rate
from loadtest.virtual.onlooking import RecentOutcomes, Watcher
from loadtest.virtual.planned_autoscaler import Planned, PlannerOptions
from loadtest.workloads import synthesize
from scheduler.plans import PlanSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtest.virtual.autoscalers import Observation
    from loadtest.virtual.descriptions import ClusterDescription
    from loadtest.virtual.replica_pool import Target
    from loadtest.workloads import Workload

# Wall seconds between two steps: a tenth of what a page shows in.
STEP_S = 0.1
# Requests are made for so many virtual seconds at a time.
CHUNK_S = 60.0
# What a machine cannot keep up with is not caught up with beyond this.
MOST_BEHIND_S = 1.0
# Plans before the newest that anybody may ask for.
KEPT_PLANS = 2


class WatchedPlanner(Planned):
    """The planner, with what it takes, for a run without an end.

    Attributes:
        solve_s: wall time of the newest plan.

    """

    solve_s = 0.0

    def decide(self, seen: Observation) -> Target:
        """Plan, and forget what is old."""
        began_s = time.perf_counter()
        target = super().decide(seen)
        self.solve_s = time.perf_counter() - began_s
        del self.plans[:-KEPT_PLANS]
        return target


class PacedCluster:
    """Runs a virtual cluster by the wall clock; whoever looks holds `lock` meanwhile.

    Attributes:
        description: of the cluster.
        policy: that routes.
        cluster: that runs.
        planner: that scales it.
        outcomes: what has become of requests.
        watcher: decisions and reports.
        lock: between the run and those who look.
        speed: virtual seconds in a second.

    """

    def __init__(  # noqa: PLR0913 (what a run depends on, each by its name)
        self,
        description: ClusterDescription,
        *,
        policy: str = "energy",
        load: float = 0.4,
        swing: float = 0.5,
        day_s: float = 1800.0,
        speed: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Bring it up.

        Args:
            description: of the cluster.
            policy: that routes.
            load: mean rate, as a share of what everything awake carries, chance aside.
            swing: of the rate, up and down over a day, as a share of it.
            day_s: length of a day, in virtual seconds.
            speed: virtual seconds in a second.
            seed: of everything that is left to chance.

        Raises:
            LoadtestError: the fleet cannot keep its objectives at any rate.

        """
        self.policy = policy
        self.speed = speed
        self.lock = threading.Lock()
        self._lengths = LogNormalLengths()
        self._rng = np.random.default_rng(seed)
        full = fluid_rate(description, self._lengths.prompt_tokens, self._lengths.completion_tokens)
        if full <= 0:
            raise LoadtestError(f"fleet {description.name} cannot keep its objectives at any rate")
        self._highest_per_s = load * full * (1 + swing)
        self._rate = arrivals.diurnal(load * full, swing, day_s)
        self._made_until_s = 0.0
        self.description = description
        # As live: whoever looks waits as long as the solver may take.
        self.planner = WatchedPlanner(description, PlannerOptions(settings=PlanSettings()))
        self.outcomes = RecentOutcomes(description, self.now_s)
        self.watcher = Watcher(self.now_s)
        self.cluster = VirtualCluster(
            description,
            policy,
            self.planner,
            seed,
            sample_s=math.inf,
            outcomes=self.outcomes,
            onlooker=self.watcher,
        )

    def now_s(self) -> float:
        """Seconds on the cluster's own clock."""
        return self.cluster.events.now_s

    def run(self, stopped: Callable[[], bool]) -> None:
        """Keep pace with the wall until told to stop; slower where the machine is."""
        due_s = time.monotonic()
        while not stopped():
            self.advance(STEP_S * self.speed)
            due_s = max(due_s + STEP_S, time.monotonic() - MOST_BEHIND_S)
            time.sleep(max(0.0, due_s - time.monotonic()))

    def advance(self, virtual_s: float) -> None:
        """Let so much time pass."""
        with self.lock:
            end_s = self.now_s() + virtual_s
            while self._made_until_s <= end_s:
                self.cluster.events.run_until(min(end_s, self._made_until_s))
                self.cluster.begin(self._chunk())
            self.cluster.events.run_until(end_s)
            pool = self.cluster.pool
            self.watcher.forget(self.watcher.reports.keys() - pool.replicas.keys())

    def _chunk(self) -> Workload:
        """Make the next requests."""
        start_s = self._made_until_s
        self._made_until_s += CHUNK_S
        times = arrivals.thinned(
            lambda at_s: self._rate(at_s + start_s), self._highest_per_s, CHUNK_S, self._rng
        )
        shares = self.description.shares
        made = synthesize("diurnal", times, CHUNK_S, self._lengths, shares, self._rng)
        later = tuple(each._replace(at_s=each.at_s + start_s) for each in made.requests)
        return replace(made, requests=later)
