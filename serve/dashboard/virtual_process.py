"""A virtual cluster in a process of its own, for a dashboard that has no other to show.

Its own module because this room may not import the one that simulates, and because arithmetic
that fills a core must not stand in the way of the page.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from serve.cluster_record import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_STOP_S = 5.0


@contextmanager
def virtual_cluster(fleet: Path, options: Sequence[str] = ()) -> Iterator[str]:
    """Run a fleet while inside; give its gRPC address.

    Args:
        fleet: YAML description.
        options: further ones of `jouleserve virtual`.

    Raises:
        ClusterError: it does not come up.

    """
    # Attached to a pipe that breaks with this process, it ends with it, however that goes.
    fixed = ("--listen", "127.0.0.1:0", "--attached")
    command = [sys.executable, "-m", "serve.cli", "virtual", "--fleet", str(fleet), *fixed]
    with subprocess.Popen(  # noqa: S603 (our own command)
        [*command, *options], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as process:
        try:
            # It says where it is, or it ends and has said why.
            line = "" if process.stdout is None else process.stdout.readline()
            if not line:
                raise ClusterError(f"the virtual cluster of {fleet} has not come up; see above")
            yield line.split()[-1]
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
