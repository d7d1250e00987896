"""`jouleserve calibrate-decoder`: measures a model's shape in plain torch, and writes its profile.

Its own module because it alone knows the options, and asks for no cluster.
"""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 (typer reads annotations)
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from serve.profiling.errors import ProfilingError
from serve.profiling.numbers import numbers

if TYPE_CHECKING:
    from serve.profiling.torch_decoder import Precision

_PIPE_WIDTH = 160
OUT = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def calibrate_decoder(  # noqa: PLR0913 (options of a command)
    shape: Annotated[Path, typer.Argument(help="A config.json, or the directory that has one.")],
    *,
    precision: Annotated[
        list[str] | None, typer.Option(help="fp32, bf16, fp16, int8 or fp8; may be repeated.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(help="Directory for PRECISION.yaml, a profile each.")
    ] = None,
    device: Annotated[str, typer.Option(help="cuda or cpu; by default what there is.")] = "",
    accelerator: Annotated[
        str, typer.Option(help="As configurations name it; for people, in the profile.")
    ] = "",
    batches: Annotated[str, typer.Option(help="Sequences decoded together.")] = "1,2,4,8,16,32,64",
    context: Annotated[
        int, typer.Option(min=64, help="Tokens that sequences hold; an eighth of them, too.")
    ] = 1024,
    prompts: Annotated[str, typer.Option(help="Lengths of prompts.")] = "128,256,512,1024",
    seconds: Annotated[
        float, typer.Option(min=0.1, help="For each point; 20 for a GPU's counter.")
    ] = 20.0,
) -> None:
    """Measure a decoder of a model's shape in plain torch, where no engine can serve it."""
    from serve.profiling import place
    from serve.profiling.decoder_measurement import DecoderSettings, measure
    from serve.profiling.decoder_shape import shape_in
    from serve.profiling.fitted import fitted, profile_of
    from serve.profiling.profile_file import write as write_profile
    from serve.profiling.report import print_profile

    found = shape_in(shape)
    on = _device(device)
    for each in _precisions(precision or ["bf16"]):
        settings = DecoderSettings(
            shape=found,
            precision=each,
            device=on,
            batches=numbers(batches, "--batches"),
            contexts=(context // 8, context),
            prefill_tokens=numbers(prompts, "--prompts"),
            seconds=seconds,
        )
        OUT.print(f"{each}, {found.parameters / 1e6:.0f}M weights, on {on}", highlight=False)
        measured = measure(settings)
        fit = fitted(measured)
        print_profile(OUT, measured, fit, None)
        if write is not None:
            write.mkdir(parents=True, exist_ok=True)
            where = place.here(accelerator or on, "torch")
            file = write / f"{each}.yaml"
            write_profile(profile_of(fit, measured, where, "torch decoder"), file, each)
            OUT.print(f"written to {file}", markup=False, highlight=False)


def _precisions(given: list[str]) -> list[Precision]:
    """Refuse names that are none, before anything is loaded for the others."""
    known: tuple[Precision, ...] = ("fp32", "bf16", "fp16", "int8", "fp8")
    chosen = [each for name in given for each in known if each == name]
    if len(chosen) != len(given):
        unknown = ", ".join(name for name in given if name not in known)
        raise ProfilingError(f"--precision: {unknown} is none of {', '.join(known)}")
    return chosen


def _device(given: str) -> Literal["cuda", "cpu"]:
    """Decide where to compute: on a GPU where its driver is, if nobody says otherwise."""
    from serve.profiling import place

    match given or ("cuda" if place.driver() else "cpu"):
        case "cuda":
            return "cuda"
        case "cpu":
            return "cpu"
        case other:
            raise ProfilingError(f"--device: {other!r} is neither cuda nor cpu")
