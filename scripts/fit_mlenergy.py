"""How well step models predict measurements they have not seen (ML.ENERGY v3, arXiv 2505.06371).

    python scripts/fit_mlenergy.py [--gpu H100]

Three questions, on the rows of dense models: how far are first principles off, with the
accelerator's constants fitted to all other models (leave one model out); how far with the
constants of the catalogue; how far is a profile that was fitted to half of a model's own
batch sizes, on the other half. Step time is batch over throughput: in the steady state of
that benchmark every step also prefills what arrives in its time.

The table is looked for in $JOULESERVE_DATA, else in ../shared/data beside the repository.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import least_squares

from cluster.accelerators import CATALOGUE
from scheduler.profiles import PrefillCost, StepPoint, fit_profile
from scheduler.steps import AcceleratorFacts, ModelShape, first_principles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

TABLE = "energy/mlenergy_v3_llm_configs.csv"
NAMES = {"H100": "h100-sxm", "B200": "b200"}


class Architecture(NamedTuple):
    """From a model's config.json: what the table does not say.

    Attributes:
        parameters: read and computed with in a step; without input embeddings.
        layers: of the decoder.
        kv_width: keys and values of a token in a layer.

    """

    parameters: float
    layers: int
    kv_width: int


ARCHITECTURES = {
    "meta-llama/Llama-3.1-8B-Instruct": Architecture(7.50e9, 32, 2 * 8 * 128),
    "meta-llama/Llama-3.3-70B-Instruct": Architecture(69.5e9, 80, 2 * 8 * 128),
    "meta-llama/Llama-3.1-405B-Instruct": Architecture(403.7e9, 126, 2 * 8 * 128),
    "meta-llama/Llama-3.1-405B-Instruct-FP8": Architecture(403.7e9, 126, 2 * 8 * 128),
    "Qwen/Qwen3-8B": Architecture(7.57e9, 36, 2 * 8 * 128),
    "Qwen/Qwen3-14B": Architecture(13.99e9, 40, 2 * 8 * 128),
    "google/gemma-3-27b-it": Architecture(27.0e9, 62, 2 * 16 * 128),
}


class Row(NamedTuple):
    """One operating point of the table.

    Attributes:
        model: as the hub names it.
        task: whose prompts and completions it ran.
        gpus: of the replica.
        precision: of the weights, as the catalogue names it.
        batch: mean.
        completion_tokens: mean.
        step_s: batch over throughput.
        token_j: energy of an output token, prefill included.

    """

    model: str
    task: str
    gpus: int
    precision: str
    batch: float
    completion_tokens: float
    step_s: float
    token_j: float


@dataclass(frozen=True, slots=True)
class Constants:
    """What a fit may move: an accelerator's speeds and energies, and the unknown workload.

    Attributes:
        memory_efficiency: for weights of 16 bits.
        fp8_memory_efficiency: for weights of 8 bits; None for the same.
        layer_overhead_s: of a layer.
        layer_reduction_s: more, when several accelerators share it.
        byte_pj: to read a byte.
        flop_pj: of an operation.
        chat_prompt_tokens: mean, in the chat task.
        gpqa_prompt_tokens: mean, in the other.
        age_share: of a completion that the mean running sequence holds already.

    """

    memory_efficiency: float = 0.85
    fp8_memory_efficiency: float | None = None
    layer_overhead_s: float = 40e-6
    layer_reduction_s: float = 20e-6
    byte_pj: float = 150.0
    flop_pj: float = 1.0
    chat_prompt_tokens: float = 300.0
    gpqa_prompt_tokens: float = 250.0
    age_share: float = 0.7

    def prompt_tokens(self, task: str) -> float:
        """Mean prompt of a task."""
        return self.chat_prompt_tokens if task == "lm-arena-chat" else self.gpqa_prompt_tokens


# How far each constant may reasonably lie from where it starts, as a share of it.
SPREAD = {
    "memory_efficiency": 0.05,
    "fp8_memory_efficiency": 0.2,
    "layer_overhead_s": 1.0,
    "layer_reduction_s": 1.0,
    "byte_pj": 0.5,
    "flop_pj": 0.5,
    "chat_prompt_tokens": 0.5,
    "gpqa_prompt_tokens": 0.3,
    "age_share": 0.25,
}


def data_folder() -> Path:
    """Where the measured tables lie."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("JOULESERVE_DATA", default))


def dense_rows(gpu: str, folder: Path) -> list[Row]:
    """Read the rows of known dense models on one accelerator."""
    with (folder / TABLE).open(encoding="utf-8") as file:
        return [
            _row(cells)
            for cells in csv.DictReader(file)
            if cells["gpu_model"] == gpu and cells["model_id"] in ARCHITECTURES
        ]


def _row(cells: Mapping[str, str]) -> Row:
    batch = float(cells["avg_batch_size"])
    return Row(
        cells["model_id"],
        cells["task"],
        int(cells["num_gpus"]),
        "fp8" if cells["weight_precision"] == "fp8" else "bf16",
        batch,
        float(cells["avg_output_len"]),
        batch / float(cells["output_throughput_tokens_per_sec"]),
        float(cells["energy_per_token_joules"]),
    )


def predict(row: Row, facts: AcceleratorFacts, constants: Constants) -> tuple[float, float]:
    """Give step time and J/token of a row from first principles."""
    architecture = ARCHITECTURES[row.model]
    shape = ModelShape(
        weight_bytes=architecture.parameters * (1.0 if row.precision == "fp8" else 2.0),
        active_parameters=architecture.parameters,
        kv_bytes_per_token=architecture.kv_width * architecture.layers * 2.0,
        layers=architecture.layers,
    )
    steps = first_principles(shape, facts, row.gpus)
    prompt_tokens = constants.prompt_tokens(row.task)
    context = row.batch * (prompt_tokens + constants.age_share * row.completion_tokens)
    arriving = row.batch * prompt_tokens / row.completion_tokens
    step_s = steps.decode_s(row.batch, context) + steps.prefill_s(arriving)
    step_j = steps.decode_j(row.batch, context) + steps.prefill_j(arriving)
    return step_s, step_j / row.batch


def with_constants(gpu: str, precision: str, constants: Constants) -> AcceleratorFacts:
    """Put the constants in the place of the catalogue's."""
    efficiency = constants.memory_efficiency
    if precision == "fp8" and constants.fp8_memory_efficiency is not None:
        efficiency = constants.fp8_memory_efficiency
    return replace(
        CATALOGUE[NAMES[gpu]].facts("fp8" if precision == "fp8" else "bf16"),
        memory_efficiency=efficiency,
        layer_overhead_s=constants.layer_overhead_s,
        layer_reduction_s=constants.layer_reduction_s,
        byte_j=constants.byte_pj * 1e-12,
        flop_j=constants.flop_pj * 1e-12,
    )


def fit(gpu: str, rows: Sequence[Row]) -> Constants:
    """Fit the constants to rows: robust, in relative errors, drawn to where they start."""
    start = Constants()
    if any(row.precision == "fp8" for row in rows):
        start = replace(start, fp8_memory_efficiency=start.memory_efficiency)
    names = [name for name in SPREAD if getattr(start, name) is not None]

    def at(z: Iterable[float]) -> Constants:
        moved = {
            name: getattr(start, name) * np.exp(SPREAD[name] * value)
            for name, value in zip(names, z, strict=True)
        }
        return replace(start, **moved)

    def residuals(z: np.ndarray) -> np.ndarray:
        constants = at(z)
        facts = {p: with_constants(gpu, p, constants) for p in ("bf16", "fp8")}
        logs = []
        for row in rows:
            step_s, token_j = predict(row, facts[row.precision], constants)
            logs += [np.log(step_s / row.step_s), np.log(token_j / row.token_j)]
        return np.concatenate([np.array(logs) / 0.1, z])

    return at(least_squares(residuals, np.zeros(len(names)), loss="soft_l1").x)


class Errors(NamedTuple):
    """Mean absolute relative errors over rows."""

    step_s: float
    token_j: float
    rows: int


def errors(
    rows: Sequence[Row], facts: Callable[[Row], AcceleratorFacts], constants: Constants
) -> Errors:
    """Compare predictions with rows."""
    pairs = [(row, predict(row, facts(row), constants)) for row in rows]
    return Errors(
        float(np.mean([abs(step_s / row.step_s - 1) for row, (step_s, _) in pairs])),
        float(np.mean([abs(token_j / row.token_j - 1) for row, (_, token_j) in pairs])),
        len(rows),
    )


def leave_one_model_out(gpu: str, rows: Sequence[Row]) -> dict[str, Errors]:
    """Fit the constants without each model in turn, and predict that model."""
    found = {}
    for model in sorted({row.model for row in rows}):
        constants = fit(gpu, [row for row in rows if row.model != model])
        found[model] = errors(
            [row for row in rows if row.model == model],
            lambda row, fitted=constants: with_constants(gpu, row.precision, fitted),  # type: ignore[misc]
            constants,
        )
    return found


def with_catalogue(gpu: str, rows: Sequence[Row]) -> Errors:
    """Predict with the constants of the catalogue; only the workload is fitted."""
    workload = fit(gpu, rows)
    entry = CATALOGUE[NAMES[gpu]]
    return errors(
        rows, lambda row: entry.facts("fp8" if row.precision == "fp8" else "bf16"), workload
    )


def fitted_halves(rows: Sequence[Row]) -> dict[tuple[str, str, int], Errors]:
    """Fit a profile to every other batch size of a configuration, and predict the others."""
    groups: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.model, row.task, row.gpus].append(row)
    found = {}
    for key, members in groups.items():
        ordered = sorted(members, key=lambda row: row.batch)
        pairs = [
            (row, fit_points(ordered[half::2]))
            for half in (0, 1)
            if len(ordered[half::2]) > 1
            for row in ordered[1 - half :: 2]
        ]
        found[key] = Errors(
            float(np.mean([abs(s.decode_s(r.batch) / r.step_s - 1) for r, s in pairs])),
            float(np.mean([abs(s.decode_j(r.batch) / r.batch / r.token_j - 1) for r, s in pairs])),
            len(pairs),
        )
    return found


def fit_points(rows: Sequence[Row]):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """Fit a profile to rows; the table's steps contain their prefill."""
    points = [StepPoint(row.batch, row.step_s, row.token_j * row.batch) for row in rows]
    return fit_profile(points, PrefillCost(0.0, 0.0))


def over_rows(found: Iterable[Errors]) -> Errors:
    """Mean over all rows."""
    found = list(found)
    rows = sum(each.rows for each in found)
    return Errors(
        sum(each.step_s * each.rows for each in found) / rows,
        sum(each.token_j * each.rows for each in found) / rows,
        rows,
    )


def show(title: str, found: Mapping[object, Errors]) -> None:
    """Print errors line by line, and their mean."""
    print(f"\n{title}")
    for name, each in {**found, "all rows": over_rows(found.values())}.items():
        label = name if isinstance(name, str) else " ".join(map(str, name))  # type: ignore[call-overload]
        print(f"  {label:58} step time {each.step_s:6.1%}   J/token {each.token_j:6.1%}", end="")
        print(f"   {each.rows:3} rows")


def main() -> None:
    """Print the three answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", choices=sorted(NAMES), default="H100")
    gpu = parser.parse_args().gpu
    rows = dense_rows(gpu, data_folder())
    print(f"constants fitted to all rows: {fit(gpu, rows)}")
    show("first principles, model left out of the fit", leave_one_model_out(gpu, rows))  # type: ignore[arg-type]
    show("first principles, constants of the catalogue", {"": with_catalogue(gpu, rows)})
    show("profile fitted to every other batch size", fitted_halves(rows))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
