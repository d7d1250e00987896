"""GuideLLM's own command, with the back end `jouleserve_grpc` added to it.

Its own module because GuideLLM looks for no plug-ins: somebody has to import the back end before
its command line is read.

    python -m loadtest.adapters.guidellm run --backend kind=jouleserve_grpc,target=HOST:PORT ...
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run GuideLLM."""
    # Each of its processes draws the same gaps from the same seed, so that arrivals are a
    # Poisson process with one of them only.
    os.environ.setdefault("GUIDELLM__MAX_WORKER_PROCESSES", "1")
    register()
    from guidellm.cli import cli

    cli(prog_name="guidellm", args=sys.argv[1:])


def register() -> None:
    """Make the back end known; GuideLLM's own models list what is known when they are imported."""
    from loadtest.adapters import guidellm_backend  # noqa: F401


if __name__ == "__main__":
    main()
