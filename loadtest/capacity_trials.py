"""Who makes the runs of a search for a capacity: a virtual fleet, or the live generator.

Its own module because the search must not know; here a scenario is given its rate.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from loadtest.live.run import run_live
from loadtest.scenario_file import adjusted
from loadtest.virtual.scenario import run_virtual

if TYPE_CHECKING:
    from loadtest.capacity_search import RunMaker
    from loadtest.live.run import LiveOptions
    from loadtest.live.targets import TargetSettings
    from loadtest.run import Run
    from loadtest.scenario import Scenario
    from loadtest.virtual.descriptions import ClusterDescription
    from loadtest.virtual.scenario import VirtualOptions


def virtual_trials(
    scenario: Scenario, cluster: ClusterDescription, options: VirtualOptions
) -> RunMaker:
    """Make runs on a virtual fleet; the seed of the options is not used."""

    def make(rate_per_s: float, seed: int) -> Run:
        rated = adjusted(scenario, rate_per_s=rate_per_s)
        return run_virtual(rated, cluster, replace(options, seed=seed))

    return make


def live_trials(scenario: Scenario, target: TargetSettings, options: LiveOptions) -> RunMaker:
    """Make runs against a server; the seed of the options is not used."""

    def make(rate_per_s: float, seed: int) -> Run:
        rated = adjusted(scenario, rate_per_s=rate_per_s)
        return run_live(rated, target, replace(options, seed=seed))

    return make
