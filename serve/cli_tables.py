"""Answers of a gateway as people read them.

Its own module because the commands and the demo print the same things.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from protos.jouleserve.client import ClusterStatus, Decision, Finish, Model, Objective, Plan
    from protos.jouleserve.plans import PlannedDemand

_MS = 1e3
MOST_ACCOUNTS = 20


def print_status(console: Console, status: ClusterStatus) -> None:
    """Print every replica, the gateway's counters, and what is wrong."""
    table = _table("model", "variant", "replica", "accelerator", "state")
    for heading in ("running", "waiting", "KV", "tok/s", "step ms", "W", "J", "by"):
        table.add_column(heading, justify="right")
    for heading in ("leases", "age s"):
        table.add_column(heading, justify="right")
    for each in status.replicas:
        table.add_row(
            each.model,
            each.variant,
            each.replica,
            each.accelerator,
            each.state,
            str(each.running_requests),
            str(each.waiting_requests),
            f"{each.kv_cache_usage:.0%}",
            f"{each.decode_tokens_per_s:.1f}",
            f"{each.step_time_s * _MS:.1f}",
            f"{each.power_w:.1f}",
            f"{each.energy_j:.1f}",
            each.energy_method,
            str(each.leases),
            f"{each.age_s:.1f}",
        )
    console.print(table)
    counters = status.counters
    _say(
        console,
        f"gateway {status.gateway}, policy {status.policy}: {counters.accepted} accepted ="
        f" {counters.completed} completed + {counters.cancelled} cancelled + {counters.failed}"
        f" failed + {counters.in_flight} in flight; {counters.rejected} rejected,"
        f" {counters.leases} leases",
    )
    _print_promises(console, status)
    _print_accounts(console, status)
    _print_decisions(console, status)
    for trouble in status.troubles:
        _say(console, f"! {trouble.subject}: {trouble.reason}", style="yellow")


def _print_promises(console: Console, status: ClusterStatus) -> None:
    """Print what requests have met lately, class by class."""
    for each in status.service_classes:
        _say(
            console,
            f"{each.service_class}: of {each.requests} requests within {each.window_s:g} s,"
            f" {each.within_both} met their objectives ({each.within_ttft} that of TTFT,"
            f" {each.within_tpot} that of TPOT)",
        )


def _print_decisions(console: Console, status: ClusterStatus) -> None:
    """Print where requests went, and why, as far as anybody asked."""
    for each in status.decisions:
        _say(
            console,
            f"{each.age_s:.1f} s ago {each.request_id} ({each.service_class}) to {each.replica},"
            f" one of {each.eligible} that could: {each.reason}",
        )


def _print_accounts(console: Console, status: ClusterStatus) -> None:
    """Print whose joules they were, and what the grid emits, as far as anybody asked."""
    largest = sorted(status.accounts, key=lambda each: each.energy_j, reverse=True)
    if any(each.tenant for each in largest):
        table = _table("tenant", "class", "variant")
        for heading in ("requests", "tokens", "J", "gCO2e"):
            table.add_column(heading, justify="right")
        for each in largest[:MOST_ACCOUNTS]:
            table.add_row(
                each.tenant,
                each.service_class,
                each.variant,
                str(each.requests),
                str(each.completion_tokens),
                f"{each.energy_j:.1f}",
                f"{each.gco2e:.4f}",
            )
        console.print(table)
        if len(largest) > MOST_ACCOUNTS:
            _say(console, f"and {len(largest) - MOST_ACCOUNTS} smaller accounts")
    carbon = status.carbon
    if carbon is not None:
        _say(
            console,
            f"grid: {carbon.gco2e_per_kwh:g} gCO2e/kWh ({carbon.source}), PUE {carbon.pue:g}",
        )


def print_plan(console: Console, plan: Plan) -> None:
    """Print what is planned, what is there, what is expected, and why."""
    if not plan.planned:
        _say(console, "no plan has been made yet")
        return
    replicas = _table("variant", "nodes")
    for heading in ("wanted", "awake", "starting", "draining"):
        replicas.add_column(heading, justify="right")
    replicas.add_column("remarks")
    for each in plan.replicas:
        remark = "; ".join(filter(None, ("pinned" if each.pinned else "", each.trouble)))
        counts = (each.wanted, each.awake, each.starting, each.draining)
        replicas.add_row(each.variant, each.group, *map(str, counts), escape(remark))
    console.print(replicas)
    for node in plan.nodes:
        trouble = f": {node.trouble}" if node.trouble else ""
        booting = f", {node.booting} boot" if node.booting else ""
        _say(
            console,
            f"nodes {node.group}: {node.wanted} wanted, {node.ready} ready{booting}{trouble}",
        )
    for demand in plan.demands:
        unserved = demand.unserved_requests_per_s
        short = f"; {unserved:.3g}/s find nobody" if unserved else ""
        _say(
            console,
            f"{demand.model} {demand.service_class}{_wish(demand)}:"
            f" {demand.requests_per_s:.3g} requests/s expected,"
            f" hardly more than {demand.upper_requests_per_s:.3g},"
            f" of {demand.prompt_tokens:.0f} + {demand.completion_tokens:.0f} tokens{short}",
        )
    for candidate in plan.candidates:
        _say(console, f"candidate {candidate.variant} is {candidate.phase}: {candidate.reason}")
    for action in plan.actions:
        what = f"{action.count} {action.variant or 'node' + 's' * (action.count > 1)}"
        _say(console, f"{action.kind} {what} on {action.group}: {action.reason}")
    if not plan.actions:
        _say(console, "nothing is to change")
    if plan.rejected:
        _say(console, f"the newest plan was not carried out: {plan.rejected}")
    _say(console, _watts(plan))


def _wish(demand: PlannedDemand) -> str:
    """Say what sets requests apart from others of their service class."""
    floor = f" of quality {demand.min_quality:.3g}" if demand.min_quality else ""
    return f"{floor} on {demand.variant}" if demand.variant else floor


def _watts(plan: Plan) -> str:
    bound = f", {plan.bound_w:.0f} W at least" if plan.bound_w else ""
    budget = "" if plan.power_budget_w is None else f", of {plan.power_budget_w:.0f} W allowed"
    now = "" if plan.replicas_w is None else f"; replicas say they draw {plan.replicas_w:.0f} W now"
    return (
        f"{plan.predicted_w:.0f} W predicted (model){bound}{budget}{now}; {plan.solver},"
        f" {plan.solve_s * _MS:.0f} ms, {plan.age_s:.0f} s ago"
    )


def print_models(console: Console, models: Sequence[Model]) -> None:
    """Print every variant of every model, then the service classes."""
    table = _table("model", "context", "variant", "dtype", "quantization", "accelerator")
    for heading in ("quality", "awake"):
        table.add_column(heading, justify="right")
    for model in models:
        for each in model.variants:
            table.add_row(
                model.name,
                str(model.max_context_tokens),
                each.name,
                each.dtype,
                each.quantization or "–",
                each.accelerator,
                f"{each.quality:.3f}",
                str(each.awake_replicas),
            )
    console.print(table)
    classes = {
        each.name: _objective(each.objective) for model in models for each in model.service_classes
    }
    for name, objective in classes.items():
        _say(console, f"{name}: {objective}")


def print_finish(console: Console, finish: Finish) -> None:
    """Print who answered, why, and what it cost."""
    _say(console, describe(finish), style="dim")
    if finish.decision is not None:
        print_decision(console, finish.decision)


def describe(finish: Finish) -> str:
    """Say who answered, why, and what it cost."""
    usage, latency, energy = finish.usage, finish.usage.latency, finish.usage.energy
    tpot = f"TPOT {latency.tpot_s * _MS:.1f} ms" if latency.tpot_s else "TPOT –"
    return (
        f"{finish.variant} on {finish.replica}: {finish.reason}\n"
        f"TTFT {latency.ttft_s * _MS:.0f} ms, {tpot},"
        f" {usage.prompt_tokens} + {usage.completion_tokens} tokens"
        f" ({usage.cached_tokens} cached), {energy.energy_j:.2f} J"
        f" ({energy.boundary}, method: {energy.method}), {finish.finish_reason}"
    )


def print_decision(console: Console, decision: Decision) -> None:
    """Print every candidate with its score and what it is made of."""
    table = _table("variant", "replica")
    table.add_column("score", justify="right")
    table.add_column("made of")
    for each in decision.candidates:
        terms = ", ".join(f"{name} {value:.3g}" for name, value in each.terms.items())
        score = "–" if each.excluded else f"{each.score:.4g}"
        table.add_row(each.variant, each.replica, score, escape(each.excluded or terms))
    console.print(table)


def _objective(objective: Objective) -> str:
    parts = (
        ("TTFT ≤ {:g} s", objective.ttft_s),
        ("TPOT ≤ {:g} s", objective.tpot_s),
        ("quality ≥ {:g}", objective.min_quality),
    )
    return ", ".join(text.format(value) for text, value in parts if value is not None)


def _table(*headings: str) -> Table:
    return Table(*headings, box=None, pad_edge=False)


def _say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is: brackets and numbers in it mean nothing, and it is not broken."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)
