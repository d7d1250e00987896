"""`jouleserve variants`: make variants, look at them, and take them away.

Its own module because it alone knows the options of these commands and how manifests look in a
terminal.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path  # noqa: TC003 (typer reads annotations)
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from serve.checkpoints import CheckpointError, cache_directory
from serve.section_file import ConfigFileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serve.variants.front import Point
    from serve.variants.manifest import Figure, Manifest, SpeedRecord
    from serve.variants.registry import Registry

_PIPE_WIDTH = 160
_MB, _MS = 1e6, 1e3
_COMPARED_BATCH = 8
OUT = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
ERR = Console(stderr=True, width=None if sys.stderr.isatty() else _PIPE_WIDTH)

app = typer.Typer(no_args_is_help=True, help="Make variants of a model, and look at them.")

NameArgument = Annotated[str, typer.Argument(help="Of the variant.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("build")
def build(
    recipe: Annotated[Path, typer.Argument(help="YAML file.")],
    *,
    check: Annotated[bool, typer.Option("--check", help="Only say what is wrong with it.")] = False,
) -> None:
    """Make a variant by a recipe: its steps, then measured, compared with its base, and judged."""
    from serve.variants import build as pipeline
    from serve.variants.errors import BuildError
    from serve.variants.kit import Kit
    from serve.variants.recipe_file import load
    from serve.variants.registry import CannotKeepError
    from serve.variants.workshop import WorkshopError

    cache = cache_directory(os.environ)
    kit = Kit(cache, lambda text: ERR.print(text, markup=False, highlight=False))
    try:
        wanted = load(recipe)
        if check:
            pipeline.check(wanted, kit)
            return
        made = pipeline.build(wanted, kit)
        _registry().save(made)
    except ConfigFileError as error:
        ERR.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    except (BuildError, CannotKeepError, CheckpointError, WorkshopError) as error:
        ERR.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    _print_one(made)


@app.command("list")
def list_all(*, as_json: JsonOption = False) -> None:
    """List the variants that were made on this machine."""
    made = list(_registry().all())
    if as_json:
        OUT.print_json(data=[each.model_dump(mode="json") for each in made])
        return
    _print_table(made)


@app.command("show")
def show(name: NameArgument, *, as_json: JsonOption = False) -> None:
    """Show everything that is known of a variant."""
    made = _known(name)
    if as_json:
        OUT.print_json(made.model_dump_json())
        return
    _print_one(made)


@app.command("compare")
def compare(names: Annotated[list[str], typer.Argument(help="Of variants.")]) -> None:
    """Put variants side by side."""
    _print_table([_known(name) for name in names])


@app.command("remove")
def remove(name: NameArgument) -> None:
    """Forget a variant, and delete what no other one is made of."""
    _known(name)
    for directory in _registry().remove(name):
        OUT.print(f"deleted {directory}", markup=False, highlight=False)


@app.command("search")
def search(  # noqa: PLR0913 (options of a command)
    *,
    model: Annotated[str, typer.Option("--model", help="Name of the model.")],
    package: Annotated[str | None, typer.Option(help="Base: an installed package.")] = None,
    path: Annotated[Path | None, typer.Option(help="Base: a directory.")] = None,
    accelerator: Annotated[str, typer.Option(help="What it is to run on.")] = "cpu",
    batch: Annotated[int, typer.Option(min=1, help="Sequences that decode together.")] = 8,
    min_quality: Annotated[float, typer.Option(min=0, max=1, help="Least quality.")] = 0.0,
    max_tpot_s: Annotated[float | None, typer.Option(help="Longest decode step.")] = None,
    max_weight_mb: Annotated[float | None, typer.Option(help="Most weights.")] = None,
    edge: Annotated[bool, typer.Option(help="Try llama.cpp too.")] = False,
    limit_s: Annotated[float, typer.Option(help="Begin no recipe after that.")] = 3600.0,
    as_json: JsonOption = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the front into this PNG.")] = None,
    write: Annotated[Path | None, typer.Option(help="Write the configuration here.")] = None,
) -> None:
    """Try recipes, cheapest first, and give those variants that none beats in everything."""
    from serve.config_models import CheckpointConfig
    from serve.variants import search as searching
    from serve.variants import search_report
    from serve.variants.errors import BuildError
    from serve.variants.front import Objectives, choice, front
    from serve.variants.kit import Kit
    from serve.variants.registry import CannotKeepError

    kit = Kit(
        cache_directory(os.environ), lambda text: ERR.print(text, markup=False, highlight=False)
    )
    try:
        base = CheckpointConfig(package=package, path=str(path) if path else None)
        found = searching.search(
            model, base, accelerator,
            edge=edge, batch=batch, limit_s=limit_s, kit=kit, registry=_registry(),
        )  # fmt: skip
    except (BuildError, CannotKeepError, CheckpointError, ValueError) as error:
        ERR.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    best = front(found.points)
    most = int(max_weight_mb * _MB) if max_weight_mb is not None else None
    wanted = Objectives(min_quality, max_tpot_s, most)
    chosen = choice(found.points, wanted)
    if plot is not None:
        search_report.plot(plot, found.points, best, batch)
    if write is not None:
        kept = [each for each in best if wanted.met_by(each)]
        write.write_text(
            search_report.configuration(model, base, accelerator, kept), encoding="utf-8"
        )
    if as_json:
        OUT.print_json(
            data={
                "points": [asdict(each) for each in found.points],
                "front": [each.name for each in best],
                "chosen": chosen.name if chosen else None,
                "failed": found.failed,
                "skipped": list(found.skipped),
            }
        )
    else:
        _print_front(found.points, best, chosen, batch)
    if chosen is None:
        ERR.print("no variant meets the objectives: loosen one of them")
        raise typer.Exit(1)


def _registry() -> Registry:
    from serve.variants.registry import Registry

    return Registry(cache_directory(os.environ))


def _known(name: str) -> Manifest:
    from serve.variants.registry import UnknownVariantError

    try:
        return _registry().load(name)
    except UnknownVariantError as error:
        ERR.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _print_table(made: Sequence[Manifest]) -> None:
    from serve.variants.front import decoding

    table = Table("variant", "verdict", box=None)
    figures = ("weights MB", "perplexity ×", "agreement", "tasks")
    for heading in (*figures, f"step ms at {_COMPARED_BATCH}", "of base's", "mJ/token"):
        table.add_column(heading, justify="right")
    for each in made:
        step_s, token_j = decoding(each.profile, _COMPARED_BATCH)
        base_s, _ = decoding(each.base_profile, _COMPARED_BATCH)
        table.add_row(
            each.name,
            _verdict(each),
            f"{each.weight_bytes / _MB:.0f}",
            _spread(each.quality.perplexity_ratio),
            _spread(each.quality.agreement),
            f"{each.quality.tasks:.2f}",
            f"{step_s * _MS:.1f}",
            f"{step_s / base_s:.2f}",
            f"{token_j * _MS:.1f}",
        )
    OUT.print(table)


def _print_front(
    points: Sequence[Point], best: Sequence[Point], chosen: Point | None, batch: int
) -> None:
    table = Table("variant", "", box=None)
    for heading in ("quality", f"mJ/token at {batch}", "TPOT ms", "weights MB", "to make"):
        table.add_column(heading, justify="right")
    for each in sorted(points, key=lambda each: each.j_per_token):
        what = "chosen" if each is chosen else "front" if each in best else "beaten"
        table.add_row(
            each.name,
            f"{what}, refused" if each.refusals else what,
            f"{each.quality:.3f}",
            f"{each.j_per_token * _MS:.2f}",
            f"{each.tpot_s * _MS:.1f}",
            f"{each.weight_bytes / _MB:.0f}",
            f"{each.make_s:.0f} s",
        )
    OUT.print(table)


def _print_one(made: Manifest) -> None:
    _print_table([made])
    lines = [f"checkpoint {made.checkpoint}"]
    lines += [f"step {stage.kind} took {stage.took_s:.0f} s" for stage in made.stages]
    lines += [
        (
            f"perplexity {made.quality.perplexity:.2f}, the base's"
            f" {made.quality.base_perplexity:.2f}, on {made.quality.positions} tokens; tasks"
            f" {made.quality.tasks:.2f}, the base's {made.quality.base_tasks:.2f}"
        ),
        f"{_speed(made.speed)}; the base: {_speed(made.base_speed)}",
        f"measured on {made.profile.measured_on}",
    ]
    lines += [f"refused: {reason}" for reason in made.refusals()]
    for line in lines:
        OUT.print(line, markup=False, highlight=False, soft_wrap=True)


def _speed(speed: SpeedRecord) -> str:
    steps = ", ".join(
        f"{step_s * _MS:.1f} at {batch}" for batch, step_s in speed.decode_step_s.items()
    )
    return (
        f"decode steps of {steps} ms, prompts {speed.prefill_s_per_token * _MS:.2f} ms a token,"
        f" {speed.memory_bytes / _MB:.0f} MB of memory, loaded in {speed.load_s:.0f} s"
    )


def _verdict(made: Manifest) -> str:
    return "refused" if made.refusals() else "accepted"


def _spread(figure: Figure) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"
