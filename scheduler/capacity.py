"""What one replica of a variant can carry of one demand, and what power that takes.

Its own module because planner, bounds and validation reckon in whole replicas, while a
step model speaks of batches: this is the bridge from one to the other.

With s(B) the time of a decode step at batch B and the demand's mean context, p the time to
prefill an uncached prompt and L the tokens of a completion, a replica that always holds B
sequences completes

    r(B)    = B / (L·s(B) + B·p)           requests/s: prefill steals p of every request's time
    TPOT(B) = s(B) + B·p/L                 for all B sequences wait while one prompt is computed
    TTFT(B) = p + s(B) + p·u/(1 − u)       u = r·p, waits as in M/M/1: lengths of prompts vary

so that B* is the largest batch that keeps both objectives, the KV cache and `max_batch`, and
r_max = r(B*). Its power is that of the steps plus that of prefill,

    P(B) = (1 − u)·E(B)/s(B) + r·q = P0 + j·r

which for an affine step model is a straight line: j = q + m·L − p·P0, with P0 and m those of
`scheduler.steps.power_line`. Below one sequence a replica alternates between P_ctx and P(1).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from scipy.optimize import brentq

if TYPE_CHECKING:
    from scheduler.fleet import Variant
    from scheduler.plans import Demand

# Sequences beyond which a replica with Poisson arrivals is idle for less than 2 % of the time.
HARDLY_IDLE = 4.0
# Shares of a sequence that are none.
NEGLIGIBLE = 1e-6


class Capability(NamedTuple):
    """What one replica can carry of one demand.

    Attributes:
        requests_per_s: highest rate that keeps the objectives (r_max).
        batch: sequences that it decodes together then (B*).
        residence_s: of a request then, queueing aside.
        duty_per_s: rate below which it is idle part of the time.
        idle_w: awake and idle (P_ctx).
        busy_w: of being busy at all (P0).
        request_j: that one more request adds while busy (j).

    """

    requests_per_s: float
    batch: float
    residence_s: float
    duty_per_s: float
    idle_w: float
    busy_w: float
    request_j: float

    def power_w(self, requests_per_s: float) -> float:
        """Mean power at a rate up to `requests_per_s`."""
        busy = min(1.0, requests_per_s / self.duty_per_s)
        return self.idle_w + (self.busy_w - self.idle_w) * busy + self.request_j * requests_per_s

    def joules_per_request(self) -> float:
        """Energy of a request at the highest rate: the least that this replica can reach."""
        return self.busy_w / self.requests_per_s + self.request_j


class _Point(NamedTuple):
    """A replica that always holds the same number of sequences."""

    requests_per_s: float
    tpot_s: float
    ttft_s: float
    power_w: float


def unfit(variant: Variant, demand: Demand) -> str:
    """Say why a variant can never carry a demand; empty if it can."""
    return _unwanted(variant, demand) or _unable(variant, demand)


def _unwanted(variant: Variant, demand: Demand) -> str:
    """Say what else a demand asks for."""
    objective = demand.objective
    if variant.model != demand.model:
        return f"it serves {variant.model}"
    if demand.variant not in {None, variant.name}:
        return f"only {demand.variant} may serve it"
    if variant.quality < objective.min_quality:
        return f"quality {variant.quality:.3g} is below {objective.min_quality:.3g}"
    return ""


def _unable(variant: Variant, demand: Demand) -> str:
    """Say what even a replica that does nothing else cannot keep."""
    objective = demand.objective
    tokens = demand.prompt_tokens + demand.completion_tokens
    if tokens > min(variant.max_context_tokens, variant.kv_capacity_tokens):
        return f"{tokens:.0f} tokens do not fit its context"
    alone = _point(variant, demand, 1.0)
    step_s = variant.steps.decode_s(1.0, _context_tokens(demand))
    if step_s > objective.tpot_s:
        return f"TPOT alone is {step_s:.3g} s of {objective.tpot_s:.3g} s"
    first_s = alone.ttft_s - _wait_s(variant, demand, 1.0)
    if first_s > objective.ttft_s:
        return f"TTFT alone is {first_s:.3g} s of {objective.ttft_s:.3g} s"
    return ""


def capability(variant: Variant, demand: Demand, *, cautious: bool = True) -> Capability | None:
    """Find the most that a replica carries of a demand, with the power that takes.

    Args:
        variant: that the replica serves.
        demand: whose objective and lengths count; its rate does not.
        cautious: count the wait of prompts behind one another, and every sequence's own
            copy of its prefix in the KV cache; without it, what luck could give.

    Returns:
        None where the variant cannot carry it at all (see `unfit`).

    """
    if unfit(variant, demand):
        return None
    batch = _best_batch(variant, demand, cautious=cautious)
    alone, full = _point(variant, demand, 1.0), _point(variant, demand, batch)
    # Below a batch of 1, the replica is idle in between rather than slower.
    rate = full.requests_per_s if batch > 1 else alone.requests_per_s * batch
    busy_w, request_j = _line(alone, full if batch > 1 else _point(variant, demand, 2.0))
    return Capability(
        requests_per_s=rate,
        batch=batch,
        residence_s=full.tpot_s * _completion(demand) + full.ttft_s,
        duty_per_s=min(alone.requests_per_s, rate),
        idle_w=variant.context_power_w,
        busy_w=max(busy_w, variant.context_power_w),
        request_j=request_j,
    )


def floor_of(capability: Capability) -> Capability:
    """Bound a replica's power from below, whatever the moments at which requests arrive.

    With Poisson arrivals a replica that holds N sequences on average is idle for e^−N of the
    time, so that at a few sequences it draws a little less than the fluid model says. Two
    chords of that concave curve lie below it everywhere: up to N = 4, and from there to the
    highest rate, where both models agree.
    """
    alone = capability.duty_per_s
    sequences = min(HARDLY_IDLE, capability.requests_per_s / alone)
    corner = alone * sequences
    missing = math.exp(-sequences) * (capability.busy_w - capability.idle_w)
    beyond = capability.requests_per_s - corner
    steeper_j = missing / beyond if beyond > NEGLIGIBLE * alone else 0.0
    return capability._replace(
        duty_per_s=corner,
        busy_w=capability.busy_w - missing - steeper_j * corner,
        request_j=capability.request_j + steeper_j,
    )


def headroom(demand: Demand, residence_s: float) -> float:
    """Requests/s to be kept free above a demand's mean.

    Arrivals are Poisson, so the number of requests in service has mean and variance λ·S,
    with S the residence of a request: a batch averages over just that long, shorter bursts
    it absorbs. Room for λ·S + z·√(λ·S) of them is room for a rate of λ + z·√(λ/S)
    (square-root staffing). λ is the forecast's upper rate where it gives one. What the
    forecast may miss and what chance brings are independent: they add up in squares.
    """
    rate = max(demand.requests_per_s, demand.upper_requests_per_s)
    missed = rate - demand.requests_per_s
    return math.hypot(missed, demand.risk * math.sqrt(rate / residence_s))


def _point(variant: Variant, demand: Demand, batch: float) -> _Point:
    """Operate a replica at a constant batch."""
    steps, tokens = variant.steps, _completion(demand)
    context = batch * _context_tokens(demand)
    step_s, step_j = steps.decode_s(batch, context), steps.decode_j(batch, context)
    prompt = _uncached(demand)
    prefill_s, prefill_j = steps.prefill_s(prompt), steps.prefill_j(prompt)
    rate = batch / (tokens * step_s + batch * prefill_s)
    decoding = 1.0 - rate * prefill_s
    return _Point(
        requests_per_s=rate,
        tpot_s=step_s + batch * prefill_s / tokens,
        ttft_s=prefill_s + step_s + _wait_s(variant, demand, batch),
        power_w=decoding * step_j / step_s + rate * prefill_j,
    )


def _wait_s(variant: Variant, demand: Demand, batch: float) -> float:
    """Wait of a prompt for those before it: p·u/(1 − u), where u/(1 − u) = B·p/(L·s)."""
    prefill_s = variant.steps.prefill_s(_uncached(demand))
    step_s = variant.steps.decode_s(batch, batch * _context_tokens(demand))
    return prefill_s * batch * prefill_s / (_completion(demand) * step_s)


def _best_batch(variant: Variant, demand: Demand, *, cautious: bool) -> float:
    """The largest batch that keeps the objectives, the KV cache and the engine's bound."""
    objective = demand.objective

    def excess(batch: float) -> float:
        point = _point(variant, demand, batch)
        wait_s = 0.0 if cautious else _wait_s(variant, demand, batch)
        slower = max(point.tpot_s / objective.tpot_s, (point.ttft_s - wait_s) / objective.ttft_s)
        return slower - 1.0

    prompt = demand.prompt_tokens if cautious else _uncached(demand)
    held = prompt + demand.completion_tokens / 2
    most = min(float(variant.max_batch), variant.kv_capacity_tokens / max(held, 1.0))
    if excess(most) <= 0:
        return most
    least = 1e-3
    # A lone request meets its objectives (see `unfit`); only others' prefills are in its way.
    return float(brentq(excess, least, most, xtol=1e-6)) if excess(least) < 0 else least


def _line(low: _Point, high: _Point) -> tuple[float, float]:
    """Draw the line of power against requests/s through two points."""
    gain = high.requests_per_s - low.requests_per_s
    request_j = max(0.0, (high.power_w - low.power_w) / gain) if gain > 0 else 0.0
    return low.power_w - request_j * low.requests_per_s, request_j


def _completion(demand: Demand) -> float:
    return max(1.0, demand.completion_tokens)


def _uncached(demand: Demand) -> float:
    return demand.prompt_tokens * (1.0 - demand.cached_share)


def _context_tokens(demand: Demand) -> float:
    """Mean context of a sequence while it is decoded."""
    return demand.prompt_tokens + demand.completion_tokens / 2
