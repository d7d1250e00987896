"""`jouleserve calibrate`: measures a variant on a live cluster, and writes its profile.

Its own module because it alone knows the options, and where each setting comes from when an
option is not given.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path  # noqa: TC003 (typer reads annotations)
from random import Random
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console

from serve.profiling.errors import ProfilingError
from serve.profiling.numbers import numbers

if TYPE_CHECKING:
    from protos.jouleserve.client import Model, Replica
    from scheduler.steps import StepModel
    from serve.config import Config
    from serve.config_models import ModelConfig, VariantConfig
    from serve.profiling.experiment import Settings
    from serve.profiling.measured import Measured
    from serve.profiling.place import Place
    from serve.profiling.prompts import TokenRange

_PIPE_WIDTH = 160
OUT = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
ERR = Console(stderr=True, width=None if sys.stderr.isatty() else _PIPE_WIDTH)

_USUAL_ADDRESS = "127.0.0.1:9000"
_STATUS_TIMEOUT_S = 30.0
_LARGEST_BATCH = 256
# Streams of one connection; a proxy may hold back those beyond 100.
_STREAMS = 50
_SHORT_PROMPT, _LONG_SHARE = 32, 0.5
_PREFILL_SHARES = (0.1, 0.2, 0.4, 0.8)
_LONGEST_PREFILL = 8192
# Steps that a wave has room for, at least, after the longest prompt.
_LEAST_ROOM = 64


class Known(NamedTuple):
    """What a configuration says of a variant."""

    model: ModelConfig
    entry: VariantConfig


def calibrate(  # noqa: PLR0913 (options of a command)
    *,
    variant: Annotated[str, typer.Option(help="To measure; one replica of it must be awake.")],
    write: Annotated[
        Path | None, typer.Option(help="File for the profile; a configuration names it.")
    ] = None,
    target: Annotated[
        str, typer.Option(help="Host and port of a gateway; by default the one that `up` started.")
    ] = "",
    batches: Annotated[
        str, typer.Option(help="Sequences decoded together; by default 1, 2, 4 ... max_batch.")
    ] = "",
    seconds: Annotated[
        float, typer.Option(min=0.5, help="Of decoding for each point; 20 for a GPU's counter.")
    ] = 20.0,
    prompts: Annotated[
        str, typer.Option(help="Lengths of prompts to time; by default shares of the context.")
    ] = "",
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="Of the cluster: tells the engine and the profile in force."
        ),
    ] = None,
    drawn_from: Annotated[
        str, typer.Option("--token-ids", help="LOW:HIGH, from which prompts are drawn.")
    ] = "1000:20000",
    machine: Annotated[
        str, typer.Option(help="That the replica runs on, if it is another one than this.")
    ] = "",
    seed: Annotated[
        int | None,
        typer.Option(help="Of the prompts; the same ones again are in the prefix cache."),
    ] = None,
) -> None:
    """Measure step time and energy of a live variant, and fit the profile that decides by it."""
    from serve import cluster_record
    from serve.profiling.fitted import fitted, profile_of
    from serve.profiling.profile_file import check_place
    from serve.profiling.profile_file import write as write_profile
    from serve.profiling.prompts import TokenRange
    from serve.profiling.report import print_profile

    if write is not None:
        check_place(write)
    record = cluster_record.read()
    address = target or (record.grpc_address if record else _USUAL_ADDRESS)
    known = _known(config, variant)
    wished = Wished(
        numbers(batches, "--batches"),
        seconds,
        numbers(prompts, "--prompts"),
        TokenRange.parse(drawn_from),
    )
    done = asyncio.run(_measure(address, variant, known, wished, Random(seed)))
    measured, fit = done.measured, fitted(done.measured)
    print_profile(OUT, measured, fit, _in_force(done.known))
    if write is not None:
        place = _place(address, done.subject, done.known, machine)
        write_profile(profile_of(fit, measured, place, "cluster"), write, variant)
        OUT.print(f"written to {write}", markup=False, highlight=False)


class Wished(NamedTuple):
    """What the options say; empty where they say nothing."""

    batches: tuple[int, ...]
    seconds: float
    prompts: tuple[int, ...]
    tokens: TokenRange


class Done(NamedTuple):
    """What was measured, of which replica, and what a configuration says of it."""

    measured: Measured
    subject: Replica
    known: Known | None


async def _measure(
    address: str, variant: str, known: Known | None, wished: Wished, rng: Random
) -> Done:
    from protos.jouleserve.client import AsyncClient
    from serve.profiling.experiment import Experiment
    from serve.profiling.subject import subject_of

    async with AsyncClient(address, timeout_s=_STATUS_TIMEOUT_S, resumes=0) as asking:
        subject = subject_of(await asking.status(), variant)
        if known is not None and known.model.name != subject.model:
            known = None
        settings = settings_for(subject, await asking.models(), known, wished)
    connections = 1 + max(settings.batches) // _STREAMS
    async with AsyncClient(
        address, timeout_s=_STATUS_TIMEOUT_S, resumes=0, connections=connections
    ) as client:
        experiment = Experiment(client, subject, settings, rng, _tell)
        return Done(await experiment.run(), subject, known)


def settings_for(
    subject: Replica, models: tuple[Model, ...], known: Known | None, wished: Wished
) -> Settings:
    """Decide what to measure where the options leave it open.

    Raises:
        ProfilingError: what is wished does not fit the replica.

    """
    from serve.profiling.experiment import Settings

    context = next(each.max_context_tokens for each in models if each.name == subject.model)
    if known is not None:
        context = min(context, known.entry.max_context_tokens)
    largest = subject.max_batch or (known.entry.max_batch if known else _LARGEST_BATCH)
    if wished.batches and max(wished.batches) > largest:
        raise ProfilingError(
            f"--batches: {subject.replica} decodes {largest} sequences together at most"
        )
    if wished.prompts and max(wished.prompts) >= context:
        raise ProfilingError(
            f"--prompts: {subject.model} reads {context} tokens at once, answer included"
        )
    longest = min(context - 2, _LONGEST_PREFILL)
    long_prompt = int(context * _LONG_SHARE)
    return Settings(
        batches=wished.batches or powers_up_to(min(largest, _LARGEST_BATCH)),
        seconds=wished.seconds,
        prompt_tokens=min(_SHORT_PROMPT, context // 2),
        long_prompt_tokens=long_prompt if context - long_prompt > _LEAST_ROOM else 0,
        prefill_tokens=wished.prompts or tuple(int(longest * each) for each in _PREFILL_SHARES),
        context_tokens=context,
        tokens=wished.tokens,
    )


def powers_up_to(largest: int) -> tuple[int, ...]:
    """Give 1, 2, 4 and so on, and the largest itself."""
    return tuple(sorted({1 << place for place in range(largest.bit_length())} | {largest}))


def _known(config: Path | None, variant: str) -> Known | None:
    """Find the variant in the configuration; in the embedded one if no other is given."""
    from serve import config_file
    from serve.default_config import load_default

    chosen: Config = load_default() if config is None else config_file.load(config, force=True)
    for model, entry in chosen.variants():
        if entry.name == variant:
            return Known(model, entry)
    if config is None:
        return None
    names = ", ".join(entry.name for _, entry in chosen.variants())
    raise ProfilingError(f"{config} has no variant {variant!r}; it has {names}")


def _tell(text: str) -> None:
    ERR.print(text, style="dim", markup=False, highlight=False)


def _in_force(known: Known | None) -> StepModel | None:
    from serve import catalogue
    from serve.checkpoints import CheckpointError

    if known is None:
        return None
    try:
        return catalogue.variant(*known).steps
    except CheckpointError as error:
        ERR.print(f"the profile in force is not known: {error}", markup=False, highlight=False)
        return None


def _place(address: str, subject: Replica, known: Known | None, machine: str) -> Place:
    from serve.profiling import place

    engine = known.entry.engine if known else ""
    if machine or not place.is_here(address):
        return place.elsewhere(subject.node, subject.accelerator, machine, engine)
    return place.here(subject.accelerator, engine)
