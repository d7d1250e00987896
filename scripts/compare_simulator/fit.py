"""Step models, fitted to a run.

Its own module because it is a search, with constants and a cost of its own.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import least_squares, minimize

from loadtest.virtual.simulated_replica import EngineSettings
from scheduler.steps import AffineSteps
from scripts.compare_simulator.runs import Calibration, ComparisonError, check
from scripts.compare_simulator.simulation import calibrated, simulate_pinned

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Sequence as Many

    from numpy.typing import NDArray

    from scripts.compare_simulator.figures import Times
    from scripts.compare_simulator.runs import Run, Served, Setup

    Floats = NDArray[np.float64]

# Steps of the numerical derivative, in logarithms: requests that wait for a step to end make
# the cost jagged, and a wide step sees past that. What remains is searched without derivatives.
STEPS = (0.2, 0.05)
SIMPLEX = 0.1
# A slope begins as good as absent.
SLOPE_SIMPLEX = 3.0
MOST_TRIALS = 700
# Residual that counts as a disturbance rather than as noise.
DISTURBANCE = 0.1
# Pull towards the starting point, for parameters that the trace says nothing about.
RIDGE = 0.02
# A context slope stays in the model if it makes the cost this much smaller.
WORTH = 0.02
_NETWORK_S = 0.003
_NO_ENERGY = AffineSteps(1.0, 0.0, 1.0, 0.0, 1.0, 1.0)


class _Start(NamedTuple):
    """Where the search begins; read off the data."""

    t0_s: float
    t1_s: float
    prefill_s_per_token: float
    context_s_per_token: float


def calibrate(run: Run, setup: Setup) -> Calibration:
    """Fit step models and the network time to a run.

    The residuals are the logarithms of simulated over measured TTFT and TPOT of each request;
    a soft absolute loss keeps single disturbances from mattering. A context slope is kept
    where the data ask for it.

    Raises:
        ComparisonError: too much was lost, or nothing was served.

    """
    check(run)
    served = run.served
    names = sorted({each.variant for each in served})
    engine = EngineSettings(max_batched_tokens=setup.max_batched_tokens)
    starts = {name: _start([each for each in served if each.variant == name]) for name in names}
    plain = _fit(served, setup, engine, starts)
    sloped = _fit(served, setup, engine, starts, plain)
    best = sloped if sloped.cost < (1.0 - WORTH) * plain.cost else plain
    times = simulate_pinned(served, calibrated(setup, best.steps), engine, best.network_s)
    ttft_s, tpot_s = _measured(served)
    return Calibration(
        best.steps,
        best.network_s,
        float(np.nanmedian(np.abs(times.ttft_s / ttft_s - 1.0))),
        float(np.nanmedian(np.abs(_tpot(served, times) / tpot_s - 1.0))),
    )


class _Fit(NamedTuple):
    x: Floats
    cost: float
    steps: dict[str, AffineSteps]
    network_s: float


def _fit(
    served: Many[Served],
    setup: Setup,
    engine: EngineSettings,
    starts: Mapping[str, _Start],
    plain: _Fit | None = None,
) -> _Fit:
    """Search for the parameters; with context slopes from a fit without them on."""
    ttft_s, tpot_s = _measured(served)
    paired = ~np.isnan(tpot_s)
    width = 3 if plain is None else 4

    def steps_of(x: Floats) -> dict[str, AffineSteps]:
        factors = np.exp(x)
        found = {}
        for row, (name, start) in enumerate(starts.items()):
            own = factors[1 + row * width : 1 + (row + 1) * width].tolist()
            nominal = setup.variants[name].steps
            energies = nominal if isinstance(nominal, AffineSteps) else _NO_ENERGY
            found[name] = replace(
                energies,
                t0_s=start.t0_s * own[0],
                t1_s=start.t1_s * own[1],
                prefill_s_per_token=start.prefill_s_per_token * own[2],
                context_s_per_token=start.context_s_per_token * own[3] if plain else 0.0,
            )
        return found

    def residuals(x: Floats) -> Floats:
        network_s = _NETWORK_S * math.exp(x[0])
        times = simulate_pinned(served, calibrated(setup, steps_of(x)), engine, network_s)
        of_ttft = np.log(times.ttft_s / ttft_s)
        of_tpot = np.log(_tpot(served, times)[paired] / tpot_s[paired])
        return np.concatenate([of_ttft, of_tpot, RIDGE * x])

    def jacobian(x: Floats, step: float) -> Floats:
        shifts = step * np.eye(x.size)
        columns = [residuals(x + shift) - residuals(x - shift) for shift in shifts]
        return np.stack(columns, axis=1) / (2 * step)

    def cost(x: Floats) -> float:
        return float(np.sum(np.sqrt(1.0 + (residuals(x) / DISTURBANCE) ** 2) - 1.0))

    x: Floats = np.zeros(1 + width * len(starts))
    if plain is not None:
        x = np.concatenate(
            [plain.x[:1], *(np.append(own, 0.0) for own in np.split(plain.x[1:], len(starts)))]
        )
    for step in STEPS if plain is None else ():
        x = least_squares(
            residuals,
            x,
            jac=partial(jacobian, step=step),
            bounds=(-5.0, 5.0),
            loss="soft_l1",
            f_scale=DISTURBANCE,
            max_nfev=10,
        ).x
    spans = np.full(x.size, SIMPLEX)
    if plain is not None:
        spans[width::width] = SLOPE_SIMPLEX
    simplex = np.vstack([x, x + np.diag(spans)])
    found = minimize(
        cost,
        x,
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "maxfev": MOST_TRIALS, "adaptive": True},
    )
    network_s = _NETWORK_S * math.exp(float(found.x[0]))
    return _Fit(found.x, float(found.fun), steps_of(found.x), network_s)


def _start(served: Many[Served]) -> _Start:
    tpots = [each.tpot_s for each in served if not math.isnan(each.tpot_s)]
    if not tpots:
        raise ComparisonError("no completion of two tokens on a variant that served")
    step_s = float(np.quantile(tpots, 0.1))
    prefill_s = float(np.quantile([each.ttft_s / each.prompt_tokens for each in served], 0.1))
    return _Start(0.9 * step_s, 0.05 * step_s, 0.8 * prefill_s, 1e-5 * step_s)


def _measured(served: Many[Served]) -> tuple[Floats, Floats]:
    ttft_s = np.array([each.ttft_s for each in served])
    return ttft_s, np.array([each.tpot_s for each in served])


def _tpot(served: Many[Served], times: Times) -> Floats:
    gaps = np.array([each.completion_tokens - 1 for each in served], dtype=np.float64)
    gaps[gaps == 0] = np.nan
    tpot_s: Floats = (times.e2e_s - times.ttft_s) / gaps
    return tpot_s
