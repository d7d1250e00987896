"""The keys that clients show, in a file.

Its own module because whoever may call is decided in one place for gRPC and HTTP, and because a
key is never kept, compared or logged as it is.
"""

from __future__ import annotations

import hashlib
import logging
import time
from typing import TYPE_CHECKING

from serve.errors import UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

logger = logging.getLogger("jouleserve.serve")

# Kubernetes gives a changed Secret to its pods within about a minute anyway.
RENEW_S = 10.0
_SCHEME = "bearer "
_REFUSED = (
    "show an API key of this cluster: authorization: Bearer KEY (the clients take api_key, or"
    " JOULESERVE_API_KEY)"
)


class ApiKeys:
    """The keys in a file, one a line; lines that begin with # say whose they are."""

    def __init__(self, file: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Read them.

        Args:
            file: None lets everybody in.
            clock: monotonic, in seconds.

        Raises:
            ValueError: it cannot be read, or has no key.

        """
        self._file = file
        self._clock = clock
        self._known = frozenset() if file is None else _read(file)
        self._read_at_s = clock()

    def check(self, authorization: str | None) -> None:
        """Let pass who shows a key.

        Args:
            authorization: as HTTP and gRPC carry it.

        Raises:
            UnauthenticatedError: no key, or none of these.

        """
        if self._file is None:
            return
        self._renew(self._file)
        shown = (authorization or "").strip()
        if not shown.lower().startswith(_SCHEME):
            raise UnauthenticatedError(_REFUSED)
        # Of digests, how long a comparison takes says nothing about the keys.
        if _digest(shown[len(_SCHEME) :].strip()) not in self._known:
            raise UnauthenticatedError(f"this API key is not known here; {_REFUSED}")

    def _renew(self, file: Path) -> None:
        now_s = self._clock()
        if now_s - self._read_at_s < RENEW_S:
            return
        self._read_at_s = now_s
        try:
            self._known = _read(file)
        except ValueError as error:
            logger.warning("%s; the keys read before still hold", error)


def _read(file: Path) -> frozenset[bytes]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"gateway.api_keys_file: {file} cannot be read: {error}") from error
    keys = frozenset(_digest(line) for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ValueError(f"gateway.api_keys_file: {file} has no key; write one on each line")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
