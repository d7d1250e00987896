"""A profile as people read it: what was measured, what is fitted, and what that changes.

Its own module because the live measurement and the decoder print the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from scheduler.profiles import TableSteps

if TYPE_CHECKING:
    from rich.console import Console

    from scheduler.profiles import StepPoint
    from scheduler.steps import StepModel
    from serve.profiling.fitted import Fitted
    from serve.profiling.measured import Measured

_MS, _US = 1e3, 1e6
_ABSENT = "–"
# At which prefill and context of the profile in force are compared with the new one.
_PROBE_TOKENS = 1000


def print_profile(
    console: Console, measured: Measured, fit: Fitted, in_force: StepModel | None
) -> None:
    """Print every point beside its fit, then the fit itself and what it changes.

    Args:
        console: to print on.
        measured: what was measured.
        fit: to it.
        in_force: what the scheduler believes before it learns; None where nobody knows.

    """
    console.print(_decode_table(measured, fit, in_force))
    console.print(_prompt_table(measured, fit))
    for line in (*_verdict(fit), *_watts(measured)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if in_force is not None:
        console.print(_change_table(fit, in_force))
    for remark in measured.remarks:
        console.print(f"! {remark}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _decode_table(measured: Measured, fit: Fitted, in_force: StepModel | None) -> Table:
    table = _table("decode: batch", "context", "steps", "ms", "fit", "error", "left out")
    if any(point.own_step_s for point in measured.points):
        table.add_column("engine's ms", justify="right")
    if fit.energy:
        for heading in ("W", "J", "fit", "error", "left out"):
            table.add_column(heading, justify="right")
    if in_force is not None:
        table.add_column("in force ms", justify="right")
        table.add_column("error", justify="right")
    left_out = {each.point: each for each in fit.left_out}
    for raw, point in zip(measured.points, fit.points, strict=True):
        held = left_out.get(point)
        step_s = fit.steps.decode_s(point.batch, point.context_tokens)
        row = [f"{point.batch:g}", f"{point.context_tokens / point.batch:.0f}", f"{raw.steps:.0f}"]
        row += [f"{point.step_s * _MS:.3f}", f"{step_s * _MS:.3f}", _error(step_s, point.step_s)]
        row.append(_ABSENT if held is None else f"{held.error_s:+.1%}")
        if any(each.own_step_s for each in measured.points):
            row.append(f"{raw.own_step_s * _MS:.3f}" if raw.own_step_s else _ABSENT)
        if fit.energy:
            step_j = fit.steps.decode_j(point.batch, point.context_tokens)
            row += [f"{point.step_j / point.step_s:.1f}", f"{point.step_j:.4g}", f"{step_j:.4g}"]
            row.append(_error(step_j, point.step_j))
            row.append(_ABSENT if held is None else f"{held.error_j:+.1%}")
        if in_force is not None:
            row += _in_force(in_force, point)
        table.add_row(*row)
    return table


def _in_force(in_force: StepModel, point: StepPoint) -> list[str]:
    step_s = in_force.decode_s(point.batch, point.context_tokens)
    return [f"{step_s * _MS:.3f}", _error(step_s, point.step_s)]


def _prompt_table(measured: Measured, fit: Fitted) -> Table:
    table = _table("prefill: prompt tokens", "prompts", "ms to the first token", "ms of its tokens")
    if fit.energy:
        table.add_column("J", justify="right")
    for each in measured.prompts:
        row = [f"{each.prompt_tokens:.0f}", str(each.prompts), f"{each.prompt_s * _MS:.2f}"]
        row.append(f"{fit.steps.prefill_s(each.prompt_tokens) * _MS:.2f}")
        if fit.energy and each.prompt_j is not None:
            row.append(f"{each.prompt_j:.4g}")
        table.add_row(*row)
    return table


def _verdict(fit: Fitted) -> list[str]:
    """Say which form it has, and how well it tells what was measured."""
    lines = [f"{fit.form}: {_coefficients(fit)}"]
    r2 = [
        f"{name} R² {_share(value)}"
        for name, value in (("time", fit.explained.time), ("energy", fit.explained.energy))
        if value is not None
    ]
    if fit.explained.time is None:
        r2.insert(0, "time is the same at every batch: nothing for R² to explain")
    time, energy = fit.left_out_errors
    if time is not None:
        r2.append(f"batches left out are missed by {time:.1%} in time")
    if energy is not None:
        r2[-1] += f" and {energy:.1%} in energy"
    lines.append("; ".join(r2))
    if not fit.energy:
        lines.append(
            "energy was not measured, for no counter tells it: the profile has times alone, and"
            " leaves joules to the power model"
        )
    return lines


def _coefficients(fit: Fitted) -> str:
    steps = fit.steps
    prefill = f"prefill {steps.prefill_s(1) * _US:.2f} µs/token"
    if fit.energy:
        prefill += f", {steps.prefill_j(1):.4g} J/token"
    if isinstance(steps, TableSteps):
        rows = ", ".join(
            f"{batch:g}: {step_s * _MS:.3f} ms"
            for batch, step_s in zip(steps.batches, steps.step_s, strict=True)
        )
        return f"no line holds; by batch {rows}; {prefill}"
    time = f"t0 {steps.t0_s * _MS:.4g} ms, t1 {steps.t1_s * _MS:.4g} ms"
    time += f", context {steps.context_s_per_token * _US:.4g} µs/token"
    if not fit.energy:
        return f"{time}, {prefill}"
    energy = f"e0 {steps.e0_j:.4g} J, e1 {steps.e1_j:.4g} J"
    energy += f", context {steps.context_j_per_token:.4g} J/token"
    return f"{time}; {energy}; {prefill}"


def _watts(measured: Measured) -> list[str]:
    known = [
        (measured.bare_w, "with no process on it"),
        (measured.awake_w, "awake and idle"),
        (measured.exited_w, "after its process has gone"),
    ]
    watts = [f"{value:.1f} W {when}" for value, when in known if value is not None]
    if measured.load_s is not None:
        joules = "" if measured.load_j is None else f" and {measured.load_j:.4g} J"
        watts.append(f"loading took {measured.load_s:.1f} s{joules}")
    else:
        watts.append("time and energy of a load were not measured: a client does not see them")
    return ["; ".join(watts)]


def _change_table(fit: Fitted, in_force: StepModel) -> Table:
    """Compare with the profile in force what the scheduler reckons with."""
    table = _table("what changes", "in force", "measured", "ratio")
    largest = max(fit.points, key=lambda each: (each.batch, each.context_tokens))
    least = min(fit.points, key=lambda each: (each.batch, each.context_tokens))
    for point in (least, largest):
        context = f"{point.context_tokens / point.batch:.0f}"
        name = f"step of {point.batch:g}, context {context}"
        figures = [("ms", _MS, "decode_s")] + ([("J", 1.0, "decode_j")] if fit.energy else [])
        for unit, scale, figure in figures:
            old, new = (
                scale * getattr(steps, figure)(point.batch, point.context_tokens)
                for steps in (in_force, fit.steps)
            )
            table.add_row(f"{name}, {unit}", f"{old:.4g}", f"{new:.4g}", _ratio(new, old))
    for unit, scale, old, new in (
        ("ms", _MS, in_force.prefill_s(_PROBE_TOKENS), fit.steps.prefill_s(_PROBE_TOKENS)),
        ("J", 1.0, in_force.prefill_j(_PROBE_TOKENS), fit.steps.prefill_j(_PROBE_TOKENS)),
    ):
        if unit == "ms" or fit.energy:
            name = f"prompt of {_PROBE_TOKENS}, {unit}"
            table.add_row(name, f"{old * scale:.4g}", f"{new * scale:.4g}", _ratio(new, old))
    return table


def _table(first: str, *headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, justify="right")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _error(fit: float, measured: float) -> str:
    return f"{fit / measured - 1.0:+.1%}"


def _ratio(new: float, old: float) -> str:
    return f"{new / old:.2f}" if old else _ABSENT


def _share(value: float) -> str:
    """Write R² so that 0.9997 is not 1."""
    return f"{value:.4f}"
