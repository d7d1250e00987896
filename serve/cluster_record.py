"""What this machine remembers of the cluster that `jouleserve up` started.

Its own module because `down`, `status` and `generate` run in other processes than `up`
and learn from this file, and from nothing else, what there is.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serve import processes

if TYPE_CHECKING:
    from collections.abc import Mapping


class ClusterError(Exception):
    """The cluster cannot be started, reached or deployed to; the message says what to change."""


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """A cluster that serves.

    Attributes:
        ray_address: host and port of Ray's control store.
        host: that the gateway listens on.
        grpc_port: of the gateway.
        http_port: of the gateway.
        directory: Ray's temporary files and logs; None when the Ray cluster is not ours.
        session_id: the kernel's id of its processes' session; None when it is not ours.
        mark: in the environment of its processes; empty when it is not ours.

    """

    ray_address: str
    host: str
    grpc_port: int
    http_port: int
    directory: str | None = None
    session_id: int | None = None
    mark: str = ""

    @property
    def grpc_address(self) -> str:
        """Where a client on this machine finds gRPC."""
        return f"{_reachable(self.host)}:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        """Where a browser on this machine finds the gateway."""
        return f"http://{_reachable(self.host)}:{self.http_port}"

    @property
    def openai_url(self) -> str:
        """Where a client on this machine finds the OpenAI API."""
        return f"{self.http_url}/v1"

    @property
    def log_directory(self) -> Path | None:
        """Where Ray Serve's logs lie; None when the Ray cluster is not ours."""
        return Path(self.directory, "session_latest", "logs") if self.directory else None

    def is_alive(self) -> bool:
        """Tell whether any of its processes lives; True for a cluster that is not ours."""
        return self.session_id is None or bool(processes.members(self.session_id, self.mark))


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in {"0.0.0.0", "::", ""} else host  # noqa: S104 (compared, not bound)


def record_path(environ: Mapping[str, str]) -> Path:
    """Say where the record lies: `jouleserve` in the user's state directory."""
    state = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME", "~"), ".local", "state")
    return Path(state).expanduser() / "jouleserve" / "cluster.json"


def read() -> ClusterRecord | None:
    """Give the recorded cluster, whether it still lives or not; None when there is none."""
    try:
        return ClusterRecord(**json.loads(record_path(os.environ).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write(record: ClusterRecord) -> None:
    """Remember a cluster in place of any other."""
    path = record_path(os.environ)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(asdict(record), indent=2) + "\n")
    draft.replace(path)


def forget() -> None:
    """Remove the record."""
    record_path(os.environ).unlink(missing_ok=True)
