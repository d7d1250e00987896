"""The program that Ray Serve runs in place of HAProxy's binary."""

from __future__ import annotations

import os
import subprocess

from serve import haproxy


def test_it_is_haproxy_and_does_not_find_itself() -> None:
    ran = subprocess.run(
        [haproxy.program(), "-vv"],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, haproxy.BINARY_VARIABLE: haproxy.program()},
    )
    assert ran.stdout.startswith("HAProxy version 2.8")
