"""Step models corrected by what replicas report of their own steps, while they serve.

Its own module because this is the only part of a step model that learns; what it knows
starts as a prior (a stored profile, or first principles) and stays near it until reports
say otherwise.

A step's time is a sum of parts: the fixed one, the sequences', the context's, the prompt
tokens'. The prior gives each part a size, and the fit gives each a factor, 1 at first:

    measured time of a window of steps  =  Σ factor_i · prior time of part i

by recursive least squares on relative errors, with forgetting. A window that fits badly
weighs less (Huber), one that is absurd nothing; factors stay positive and within bounds, and
the fit is used only while it has predicted recent windows better than the prior did.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scheduler.fleet import StepTotals
from scheduler.steps import AffineSteps

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduler.outlook import FloatArray
    from scheduler.requests import ReplicaId
    from scheduler.steps import StepModel

# A window is worth a look when it has so many steps, or took so long: the mean of fewer steps
# is noise, and on a slow machine steps are few.
WINDOW_STEPS = 16
WINDOW_S = 1.0
# A fit that has seen many windows learns little from one more: it takes every so many-th.
MANY_WINDOWS = 200
SELDOM = 8
# Windows after which the fit may be believed.
TRUSTED_WINDOWS = 8
# Of the weight of older windows that is left after each new one: some hundred are remembered.
FORGETTING = 0.99
# How far a part's size may be off in the prior, as a standard deviation.
PRIOR_SPREAD = 0.5
# Relative noise of a window's mean: at first, and the least that is assumed.
NOISE = 0.1
LEAST_NOISE = 0.02
# In standard deviations, beyond which a window weighs less.
OUTLIER = 3.0
# A window beyond this ratio to its prediction is a stall or a broken clock, not a speed.
ABSURD = 32.0
FACTOR_BOUNDS = (1.0 / 16.0, 16.0)
# Weight of the newest window in what decides between fit and prior: some twenty count.
ERROR_WEIGHT = 0.1
COUNTED_WINDOWS = 2.0 / ERROR_WEIGHT - 1.0
# In standard errors, by which the fit must have been nearer than the prior.
SURENESS = 2.0
# Relative change of a factor below which a step model is left as it is.
NOTICEABLE = 0.02
# Weight of the newest window in a replica's own pace, and how far that may move a prediction:
# what lies beyond is a stall, not a speed.
PACE_WEIGHT = 0.2
PACE_BOUNDS = (0.25, 8.0)
# Where the joules and seconds of each part are compared, if energy is not measured.
PROBE_BATCH, PROBE_CONTEXT = 32, 32_768

PARTS = 4


class Factors(NamedTuple):
    """How many times the prior's size each part of a step has."""

    fixed: float = 1.0
    sequences: float = 1.0
    context: float = 1.0
    prefill: float = 1.0


class FactorFit:
    """Recursive least squares for the factors of one quantity, time or energy."""

    def __init__(self) -> None:
        self.windows = 0
        self._mean: FloatArray = np.ones(PARTS)
        self._covariance: FloatArray = np.eye(PARTS) * PRIOR_SPREAD**2
        self._variance = NOISE**2
        # How much nearer to a window, unseen before, the fit was than the prior: mean and square.
        self._gain = self._gain_square = 0.0

    @property
    def factors(self) -> Factors:
        """What is believed now: all 1 unless the fit has proved better than the prior."""
        return Factors(*self._mean.tolist()) if self._proved() else Factors()

    def observe(self, parts: FloatArray, measured: float) -> None:
        """Learn from a window.

        Args:
            parts: what the prior gives for each part, none negative.
            measured: of the whole window, in the same unit.

        """
        expected = float(parts.sum())
        if not (measured > 0 and expected > 0 and math.isfinite(measured)):
            return
        ratio = measured / expected
        if not 1 / ABSURD < ratio < ABSURD:
            return
        shares = parts / expected
        surprise = ratio - float(shares @ self._mean)
        self._judge(surprise / ratio, (ratio - 1.0) / ratio)
        self._learn(shares, surprise)

    def _proved(self) -> bool:
        if self.windows < TRUSTED_WINDOWS:
            return False
        variance = max(0.0, self._gain_square - self._gain**2)
        return self._gain > SURENESS * math.sqrt(variance / min(self.windows, COUNTED_WINDOWS))

    def _judge(self, fit_error: float, prior_error: float) -> None:
        weight = max(ERROR_WEIGHT, 1.0 / (self.windows + 1))
        gain = min(abs(prior_error), 1.0) - min(abs(fit_error), 1.0)
        self._gain += weight * (gain - self._gain)
        self._gain_square += weight * (gain**2 - self._gain_square)
        self.windows += 1

    def _learn(self, shares: FloatArray, surprise: float) -> None:
        reach = self._covariance @ shares
        spread = float(shares @ reach) + self._variance
        unlikely = abs(surprise) / math.sqrt(spread)
        # Huber: what lies beyond OUTLIER counts as if it lay there.
        noise = self._variance * max(1.0, unlikely / OUTLIER)
        gain = reach / (float(shares @ reach) + noise)
        self._mean = np.clip(self._mean + gain * surprise, *FACTOR_BOUNDS)
        left = (self._covariance - np.outer(gain, reach)) / FORGETTING
        # What is not observed must not be forgotten without end.
        shrink = np.minimum(1.0, PRIOR_SPREAD / np.sqrt(np.diag(left)))
        self._covariance = (left + left.T) * (0.5 * np.outer(shrink, shrink))
        typical = min(surprise**2, OUTLIER**2 * spread)
        weight = max(ERROR_WEIGHT, 1.0 / (self.windows + 1))
        self._variance = max(LEAST_NOISE**2, self._variance + weight * (typical - self._variance))


@dataclass(frozen=True, slots=True)
class FactoredSteps:
    """Another step model with each part of its time and energy multiplied.

    Attributes:
        prior: that other model.
        time: factors of its parts.
        energy: the same of its energy.

    """

    prior: StepModel
    time: Factors
    energy: Factors

    def decode_s(self, batch: float, context_tokens: float = 0.0) -> float:
        """Time of a decode step."""
        prior = self.prior
        return _decoding(
            self.time,
            prior.decode_s(0),
            prior.decode_s(batch),
            prior.decode_s(batch, context_tokens),
        )

    def decode_j(self, batch: float, context_tokens: float = 0.0) -> float:
        """Energy of a decode step."""
        prior = self.prior
        return _decoding(
            self.energy,
            prior.decode_j(0),
            prior.decode_j(batch),
            prior.decode_j(batch, context_tokens),
        )

    def prefill_s(self, tokens: float) -> float:
        """Time to compute prompt tokens."""
        return self.time.prefill * self.prior.prefill_s(tokens)

    def prefill_j(self, tokens: float) -> float:
        """Energy to compute prompt tokens."""
        return self.energy.prefill * self.prior.prefill_j(tokens)


class Calibration:
    """The step model of one variant, as its replicas' reports correct it.

    Attributes:
        prior: what was believed before any report.
        steps: what is believed now.

    """

    def __init__(self, prior: StepModel, standing_w: float) -> None:
        """Believe the prior.

        Args:
            prior: a stored profile or first principles.
            standing_w: power of a replica however little it does; where energy is not
                measured, a step that takes longer than the prior says costs this much more.

        """
        self.prior = prior
        self.steps = prior
        self._standing_w = standing_w
        self._time = FactorFit()
        self._energy = FactorFit()
        self._used = (Factors(), Factors())
        self._windows = 0
        self._latest: dict[ReplicaId, StepTotals] = {}
        self._paces: dict[ReplicaId, float] = {}

    def observe(self, replica: ReplicaId, totals: StepTotals) -> bool:
        """Learn from a replica's newest totals; true if `steps` is another model now."""
        before = self._latest.get(replica)
        if before is None or totals.steps < before.steps:
            self._latest[replica] = totals
            return False
        steps = totals.steps - before.steps
        if not steps or (steps < WINDOW_STEPS and totals.busy_s - before.busy_s < WINDOW_S):
            return False
        window = totals.since(before)
        self._latest[replica] = totals
        self._windows += 1
        if self._windows > MANY_WINDOWS and self._windows % SELDOM:
            self._keep_pace(replica, window)
            return False
        prior = self.prior
        self._time.observe(_parts(prior.decode_s, prior.prefill_s, window), window.busy_s)
        if window.busy_j > 0:
            self._energy.observe(_parts(prior.decode_j, prior.prefill_j, window), window.busy_j)
        if self._adopt():
            self._paces.clear()
            return True
        self._keep_pace(replica, window)
        return False

    def pace(self, replica: ReplicaId) -> float:
        """Time that a replica's own steps lately took, over what `steps` says; 1 if unknown."""
        low, high = PACE_BOUNDS
        return min(high, max(low, self._paces.get(replica, 1.0)))

    def forget(self, replica: ReplicaId) -> None:
        """Expect no more reports of a replica; what it has taught stays."""
        self._latest.pop(replica, None)
        self._paces.pop(replica, None)

    def _keep_pace(self, replica: ReplicaId, window: StepTotals) -> None:
        predicted_s = float(_parts(self.steps.decode_s, self.steps.prefill_s, window).sum())
        ratio = window.busy_s / predicted_s if predicted_s > 0 else 0.0
        if 1 / ABSURD < ratio < ABSURD:
            pace = self._paces.get(replica, 1.0)
            self._paces[replica] = pace + PACE_WEIGHT * (ratio - pace)

    def _adopt(self) -> bool:
        """Use the newest factors, unless they are hardly other ones."""
        time = self._time.factors
        energy = self._energy.factors if self._energy.windows else self._implied(time)
        if not any(
            abs(new / old - 1.0) > NOTICEABLE
            for new_ones, old_ones in zip((time, energy), self._used, strict=True)
            for new, old in zip(new_ones, old_ones, strict=True)
        ):
            return False
        self._used = (time, energy)
        self.steps = rescale(self.prior, time, energy)
        return True

    def _implied(self, time: Factors) -> Factors:
        """Charge standing power for the time that a part takes beyond the prior's."""
        probe = StepTotals(1, 1, PROBE_BATCH, PROBE_CONTEXT, PROBE_CONTEXT)
        seconds = _parts(self.prior.decode_s, self.prior.prefill_s, probe)
        joules = _parts(self.prior.decode_j, self.prior.prefill_j, probe)
        return Factors(
            *(
                max(FACTOR_BOUNDS[0], 1.0 + self._standing_w * s * (factor - 1.0) / j) if j else 1.0
                for factor, s, j in zip(time, seconds.tolist(), joules.tolist(), strict=True)
            )
        )


def rescale(prior: StepModel, time: Factors, energy: Factors) -> StepModel:
    """Multiply the parts of a step model; an affine one stays affine."""
    if not isinstance(prior, AffineSteps):
        return FactoredSteps(prior, time, energy)
    return replace(
        prior,
        t0_s=prior.t0_s * time.fixed,
        t1_s=prior.t1_s * time.sequences,
        context_s_per_token=prior.context_s_per_token * time.context,
        prefill_s_per_token=prior.prefill_s_per_token * time.prefill,
        e0_j=prior.e0_j * energy.fixed,
        e1_j=prior.e1_j * energy.sequences,
        context_j_per_token=prior.context_j_per_token * energy.context,
        prefill_j_per_token=prior.prefill_j_per_token * energy.prefill,
    )


def _decoding(factors: Factors, empty: float, bare: float, whole: float) -> float:
    """Add up a decode step: the fixed part, that of sequences, that of context."""
    return (
        factors.fixed * empty
        + factors.sequences * (bare - empty)
        + factors.context * (whole - bare)
    )


def _parts(
    decode: Callable[[float, float], float],
    prefill: Callable[[float], float],
    window: StepTotals,
) -> FloatArray:
    """Give what a step model says of each part of a window's steps, none negative."""
    steps, prefilled = window.decode_steps, prefill(window.prefill_tokens)
    if not steps:
        return np.array([0.0, 0.0, 0.0, prefilled])
    batch, context = window.sequences / steps, window.context_tokens / steps
    empty, bare, whole = decode(0.0, 0.0), decode(batch, 0.0), decode(batch, context)
    parts: FloatArray = steps * np.array([empty, bare - empty, whole - bare, prefilled / steps])
    return parts.clip(min=0.0)
