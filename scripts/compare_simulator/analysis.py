"""The comparison itself: fit to one run, simulate the other.

Its own module because it is the whole of it in one function, from values to values.
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from loadtest.virtual.simulated_replica import EngineSettings
from scripts.compare_simulator.figures import errors_of, figures_of
from scripts.compare_simulator.fit import calibrate
from scripts.compare_simulator.runs import ComparisonError, check
from scripts.compare_simulator.simulation import calibrated, simulate_cluster, simulate_pinned

if TYPE_CHECKING:
    from scripts.compare_simulator.runs import Run, Setup

# Simulated minus measured over measured, at most.
TARGETS = {"ttft_p50_s": 0.20, "tpot_p50_s": 0.20, "tokens_per_s": 0.10}


def analyse(setup: Setup, calibration_run: Run, test_run: Run) -> dict[str, Any]:
    """Fit to one run and compare on the other; gives what the JSON file says of it.

    Raises:
        ComparisonError: a run cannot be used.

    """
    check(test_run)
    fitted = calibrate(calibration_run, setup)
    missing = {each.variant for each in test_run.served} - set(fitted.steps)
    if missing:
        raise ComparisonError(f"the calibration trace never reached {sorted(missing)}")
    engine = EngineSettings(max_batched_tokens=setup.max_batched_tokens)
    variants = calibrated(setup, fitted.steps)
    pinned_times = simulate_pinned(test_run.served, variants, engine, fitted.network_s)
    expected = statistics.fmean(each.completion_tokens for each in calibration_run.served)
    routed, counts = simulate_cluster(test_run, setup, fitted, expected, test_run.seed)
    real, pinned = figures_of(test_run.served), figures_of(test_run.served, pinned_times)
    errors = errors_of(routed, real)
    return {
        "calibration": asdict(fitted),
        "measured": real._asdict(),
        "simulated": routed._asdict(),
        "simulated_pinned": pinned._asdict(),
        "errors": errors,
        "errors_pinned": errors_of(pinned, real),
        "targets": TARGETS,
        "met": {name: abs(errors[name]) <= most for name, most in TARGETS.items()},
        "served_by": dict(Counter(each.variant for each in test_run.served)),
        "simulated_served_by": counts,
        "largest_lateness_s": max(each.late_s for each in test_run.served),
        "cached_tokens": sum(each.cached_tokens for each in test_run.served),
    }
