"""What every job does: read what is asked, say how far it is, and end with whoever asked.

Its own module because the workshop speaks with all jobs in the same few words.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CONTEXT_TOKENS = 1024
"""That an engine has while a checkpoint is measured or tried."""

HELD_BACK = 0.1
"""Of a text, what a student does not learn from: it shows when more no longer helps."""

Asked = dict[str, Any]
"""The settings of a step, with `base` (checkpoint), `into` (an empty directory) and `texts`."""


class JobError(Exception):
    """It cannot be done; the message says what to change."""


def run(work: Callable[[Asked], Mapping[str, object]]) -> None:
    """Do what standard input's first line asks for; say the outcome on standard output."""
    asked: Asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_asker, daemon=True).start()
    try:
        outcome = work(asked)
    except JobError as error:
        _say({"error": str(error)})
        sys.exit(1)
    _say({"outcome": dict(outcome)})


def tell(text: str) -> None:
    """Say how far it is, in one line."""
    _say({"progress": text})


def passages(file: str) -> list[str]:
    """Read the passages of a text file; an empty line parts them."""
    return parted(Path(file).read_text(encoding="utf-8"))


def parted(text: str) -> list[str]:
    """Give the passages of a text."""
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]


def _end_with_asker() -> None:
    """Whoever asked holds the other end of standard input; nobody wants the result without them."""
    sys.stdin.read()
    os._exit(1)


def _say(message: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
