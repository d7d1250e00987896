"""Our own log lines in Ray Serve's log of the process.

Its own module because every deployment does it once, and nothing else knows where logs go.
"""

from __future__ import annotations

import logging

_OURS, _SERVES = "jouleserve", "ray.serve"


def join_serve_log() -> None:
    """Write what our modules log where Ray Serve writes for this replica."""
    ours = logging.getLogger(_OURS)
    ours.setLevel(logging.INFO)
    for handler in logging.getLogger(_SERVES).handlers:
        if handler not in ours.handlers:
            ours.addHandler(handler)
    # The root logger's handlers would write warnings a second time.
    ours.propagate = not ours.handlers
