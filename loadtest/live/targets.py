"""The server that is asked: where it is, what it speaks, and who we say we are.

Its own module because the command line, the workers and whoever runs a load from a program
hand this one value on; a key is in it, and never in what is printed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import urlsplit

from loadtest.errors import LoadtestError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Protocol: TypeAlias = Literal["grpc", "openai"]
Form: TypeAlias = Literal["tokens", "text", "chat"]
Dialect: TypeAlias = Literal["jouleserve", "vllm", "plain"]

_KEYS = {"grpc": ("JOULESERVE_API_KEY",), "openai": ("JOULESERVE_API_KEY", "OPENAI_API_KEY")}


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """A server.

    Attributes:
        address: host and port of a gRPC server, or the URL of an OpenAI server up to `/v1`.
        protocol: that it speaks.
        model: to be asked.
        form: of prompts: token ids of exact number, plain text, or a conversation.
        tls: the gRPC server wants it; an OpenAI server's URL says so itself.
        api_key: to be shown; empty for none. Never printed.
        status_address: of the gRPC API of a Jouleserve cluster, for its own view; empty for none.
        variant: to serve from, and no other; empty leaves it to the server.
        dialect: which fields an OpenAI server takes beside OpenAI's own.
        extra: further fields of each OpenAI request.

    """

    address: str
    protocol: Protocol
    model: str
    form: Form
    tls: bool = False
    api_key: str = field(default="", repr=False)
    status_address: str = ""
    variant: str = ""
    dialect: Dialect = "plain"
    extra: Mapping[str, object] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """For reports."""
        return f"{self.address} ({self.protocol}, {self.form})"


def target_of(  # noqa: PLR0913 (options of a command)
    address: str,
    model: str,
    *,
    form: Form | None = None,
    api_key: str | None = None,
    status_address: str = "",
    variant: str = "",
) -> TargetSettings:
    """Tell from an address what it is the address of.

    Args:
        address: `host:port` and `grpcs://host:port` speak gRPC; `http://` and `https://` OpenAI.
        model: to be asked.
        form: of prompts; by default tokens for gRPC, chat for OpenAI.
        api_key: by default what JOULESERVE_API_KEY or OPENAI_API_KEY says.
        status_address: where the cluster tells of itself; by default the target itself, if gRPC.
        variant: to serve from.

    Raises:
        LoadtestError: it is no address.

    """
    parts = urlsplit(address if "://" in address else f"grpc://{address}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or parts.scheme not in {"grpc", "grpcs", "http", "https"}:
        raise LoadtestError(f"no address: {address!r}; give host:port (gRPC) or http://host:port")
    protocol: Protocol = "grpc" if parts.scheme.startswith("grpc") else "openai"
    if protocol == "grpc" and port is None:
        raise LoadtestError(f"no port in {address!r}; give host:port")
    if api_key is None:
        api_key = next((key for name in _KEYS[protocol] if (key := os.environ.get(name))), "")
    if protocol == "grpc":
        chosen, status_address = parts.netloc, status_address or parts.netloc
    else:
        chosen = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}/v1"
    return TargetSettings(
        address=chosen,
        protocol=protocol,
        model=model,
        form=form or ("tokens" if protocol == "grpc" else "chat"),
        tls=parts.scheme == "grpcs",
        api_key=api_key,
        status_address=status_address,
        variant=variant,
    )


def key_in(file: Path) -> str:
    """Read a key from a file: its first line that is neither empty nor a comment.

    Raises:
        LoadtestError: there is none.

    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise LoadtestError(f"{file}: {reason}") from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise LoadtestError(f"{file}: holds no key")
    return keys[0]
