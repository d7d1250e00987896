"""Make every configured checkpoint before replicas need it, in a process of its own.

Its own module because making one loads torch and takes up to half a minute: done here it
is seen, done by replicas it would be done blindly; and the memory goes with the process.
"""

from __future__ import annotations

import multiprocessing
import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from serve.checkpoints import CheckpointError, materialize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from multiprocessing.connection import Connection

    from serve.checkpoints import CheckpointSource
    from serve.config import Config


class _Step(NamedTuple):
    text: str


class _Failure(NamedTuple):
    text: str


def sources(config: Config) -> list[CheckpointSource]:
    """List what has to be made or fetched, each once, in the order of the configuration."""
    given = (variant.checkpoint for _, variant in config.variants() if variant.checkpoint)
    return list(dict.fromkeys(checkpoint.source for checkpoint in given))


def make_all(wanted: Iterable[CheckpointSource], report: Callable[[str], None]) -> None:
    """Make what is not there yet; returns when all of it is.

    Args:
        wanted: as `sources` gives them.
        report: told, in one line, before each long step.

    Raises:
        CheckpointError: one of them cannot be had.

    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(list(wanted), sender), daemon=True)
    process.start()
    sender.close()
    try:
        _follow(receiver, report)
        process.join()
    finally:
        process.kill()
    if process.exitcode:
        raise CheckpointError(f"making checkpoints ended with exit code {process.exitcode}")


def _follow(receiver: Connection, report: Callable[[str], None]) -> None:
    with suppress(EOFError):
        while True:
            match receiver.recv():
                case _Step(text):
                    report(text)
                case _Failure(text):
                    raise CheckpointError(text)


def _work(wanted: list[CheckpointSource], sender: Connection) -> None:
    # Progress bars and warnings of the libraries would tear the live view apart.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        for source in wanted:
            materialize(source, report=lambda text: sender.send(_Step(text)))
    except CheckpointError as error:
        sender.send(_Failure(str(error)))
    except Exception as error:  # noqa: BLE001 (it crosses to the other process as text)
        sender.send(_Failure(f"{type(error).__name__}: {error}"))
